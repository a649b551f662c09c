"""What the demo model can do: its loss at each length, its answers at each distance, a few stories."""

import random
from collections.abc import Iterable

import torch
from tokens import Encoder
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from world import Question, Talker, Turn, is_right

PROMPTS = (
    "Tell me a story about a fox and a lantern.",
    "Please write a sad story about a robot named Zeno and a music box.",
    "Could you tell me a long story about two old friends, a bear and a heron?",
    "Tell me a story about a dragon who finds a spaceship.",
    "Who are you?",
)


def distant_question(rng: random.Random, encoder: Encoder, distance: int) -> tuple[list[Turn], Question, int]:
    """A conversation that ends by asking about its first story, `distance` tokens or a little more after that story's end."""
    talker = Talker(rng)
    turns = talker.pasted() if talker.chance(0.5) else talker.requested()
    facts, size = talker.told[0], 0
    while size < distance:
        more = talker.pasted() if talker.chance(0.3) else talker.requested()
        turns += more
        size += len(encoder.turns(more)[0])
    talker.told = [facts]
    question = talker.question()
    return [*turns, Turn("user", question.question)], question, size


def prompt(encoder: Encoder, turns: list[Turn]) -> list[int]:
    """The tokens after which the assistant speaks."""
    return [*encoder.turns(turns)[0], encoder.assistant]


@torch.no_grad()
def greedy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], tokens: int) -> list[str]:
    """The likeliest continuation of each prompt; the prompts run as one batch, filled up on the left."""
    longest = max(map(len, prompts))
    device = model.device
    ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)


def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, distance: int, seeds: Iterable[int], batch: int = 16
) -> tuple[float, list[dict]]:
    """The share of questions `distance` tokens back that are answered right, and every answer."""
    encoder, cases = Encoder(tokenizer), []
    for seed in seeds:
        turns, question, _ = distant_question(random.Random(f"held out {distance} {seed}"), encoder, distance)
        cases.append((prompt(encoder, turns), question))
    answers = []
    for i in range(0, len(cases), batch):
        some = cases[i : i + batch]
        for (_, question), said in zip(some, greedy(model, tokenizer, [p for p, _ in some], 40), strict=True):
            right = is_right(said, question.keys)
            answers.append({"question": question.question, "expected": question.answer, "said": said, "right": right})
    return sum(answer["right"] for answer in answers) / len(answers), answers


@torch.no_grad()
def loss_at(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int, rows: int) -> dict[str, float]:
    """The mean loss per token, in nats, over held-out rows of `length` tokens; `answers` counts the answers alone."""
    encoder, total, answers = Encoder(tokenizer), [], []
    for i in range(rows):
        tokens, weights = encoder.row(random.Random(f"held out {length} {i}"), length + 1)
        ids = torch.tensor([list(tokens)], device=model.device)
        loss = cross_entropy(model(ids[:, :-1]).logits[0].float(), ids[0, 1:], reduction="none")
        total.append(loss.mean().item())
        answers.append(loss[torch.tensor(list(weights[1:]), device=loss.device) > 1])
    return {"all": sum(total) / rows, "answers": torch.cat(answers).mean().item()}


@torch.no_grad()
def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int = 1) -> list[dict[str, str]]:
    """What the model says to each of a few requests, drawn as its generation_config.json says; not chosen and not edited."""
    encoder, said = Encoder(tokenizer), []
    for text in PROMPTS:
        ids = torch.tensor([prompt(encoder, [Turn("user", text)])], device=model.device)
        torch.manual_seed(seed)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True)
        said.append({"user": text, "assistant": tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)})
    return said


def report(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: int) -> dict:
    """Everything above as one object of plain numbers and texts."""
    result: dict = {"loss": {}, "accuracy": {}, "answers": {}, "questions": questions}
    for length in (512, 2048, 8192, 16000):
        result["loss"][length] = loss_at(model, tokenizer, length, max(4, 65536 // length // 4))
    for distance in (500, 2000, 4000, 8000, 12000):
        right, answers = accuracy(model, tokenizer, distance, range(questions), batch=8 if distance > 4000 else 16)
        result["accuracy"][distance] = right
        result["answers"][distance] = answers[:4] + [answer for answer in answers[4:] if not answer["right"]]
        print(f"{distance:6d} tokens back: {right:.1%} of {questions} questions answered right", flush=True)
    result["samples"] = samples(model, tokenizer)
    return result
