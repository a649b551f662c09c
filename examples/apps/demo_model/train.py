"""Trains the demo model: a small Llama-shaped model that tells stories and remembers what happened in them.

    python examples/apps/demo_model/train.py --out build/demo --minutes 8      # on a GPU
    python examples/apps/demo_model/train.py --out build/smoke --smoke         # on a CPU, under a minute

The schedule is made of time, not of steps: learning rate and context length follow the share of `--minutes` that has passed,
so that a run ends when it was told to. No text is stored; worker processes write it while the model learns.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
import torch
from tokens import Encoder, build_tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Plan:
    """What a run does. `phases` are (share of the time at which it ends, context length)."""

    minutes: float
    steps: int | None
    phases: tuple[tuple[float, int], ...]
    batch_tokens: int
    layers: int
    workers: int
    questions: int
    rate: float = 4e-3
    warmup_steps: int = 150
    steady: float = 0.45

    def length(self, done: float) -> int:
        return next((length for end, length in self.phases if done < end), self.phases[-1][1])

    def rate_at(self, done: float, step: int) -> float:
        """Up, steady, and down to a fiftieth in a straight line."""
        down = 1.0 if done < self.steady else 0.02 + 0.98 * max(0.0, 1 - done) / (1 - self.steady)
        return self.rate * min(1.0, (step + 1) / self.warmup_steps) * down


def full(minutes: float, workers: int, questions: int) -> Plan:
    return Plan(minutes, None, ((0.58, 2048), (0.84, 8192), (1.0, 16384)), 131072, layers=7, workers=workers, questions=questions)


def onward(minutes: float, workers: int, questions: int) -> Plan:
    """For a model that was trained before; the lengths are long enough to keep what it can recall."""
    phases = ((0.6, 4096), (0.85, 8192), (1.0, 16384))
    return Plan(minutes, None, phases, 131072, layers=7, workers=workers, questions=questions, rate=2e-3, steady=0.1)


def smoke() -> Plan:
    return Plan(1.0, 30, ((1.0, 256),), 1024, layers=2, workers=0, questions=0, warmup_steps=5)


class Batches(IterableDataset):
    """Batches of tokens and their weights, without end; each worker has its own part of the seeds."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plan: Plan, length: int, seed: int) -> None:
        self.tokenizer, self.rows, self.length, self.seed = tokenizer, max(1, plan.batch_tokens // length), length, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        encoder, info = Encoder(self.tokenizer), get_worker_info()
        rng = random.Random(f"train {self.seed} {self.length} {info.id if info else 0}")
        while True:
            rows = [encoder.row(rng, self.length + 1) for _ in range(self.rows)]
            tokens = torch.stack([torch.frombuffer(tokens, dtype=torch.int16) for tokens, _ in rows])
            weights = torch.stack([torch.frombuffer(weights, dtype=torch.uint8) for _, weights in rows])
            yield tokens, weights


def batches(tokenizer: PreTrainedTokenizerFast, plan: Plan, length: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    many = {"num_workers": plan.workers, "prefetch_factor": 6, "pin_memory": torch.cuda.is_available()} if plan.workers else {}
    return iter(DataLoader(Batches(tokenizer, plan, length, seed), batch_size=None, **many))


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int) -> LlamaForCausalLM:
    """About 5.7 million parameters in seven layers: in bfloat16 they weigh 11.4 MB."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=16384, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon turns the update of each matrix into a rotation, which learns faster; embeddings and norms take AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def weighted_loss(
    hidden: torch.Tensor, head: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean to learn from, and the plain mean to look at; in nats per token."""
    loss = torch.nn.functional.cross_entropy((hidden @ head.T).flatten(0, 1).float(), tokens.flatten(), reduction="none")
    weights = weights.flatten().float()
    return (loss * weights).sum() / weights.sum(), loss.mean().detach()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan, seed: int) -> list[dict[str, float]]:
    """Trains in place; returns the loss curve."""
    device = model.device
    head_loss = weighted_loss
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        # Layer by layer: all seven share one compiled graph, so a new context length costs seconds.
        for layer in model.model.layers:
            layer.compile(dynamic=False)
        head_loss = torch.compile(weighted_loss, dynamic=False)
    opts, curve, seen, recent = optimizers(model), [], 0, []
    length, source, step, begin = 0, None, 0, time.monotonic()
    bar = tqdm(total=100, unit="%", mininterval=5.0)
    while True:
        done = step / plan.steps if plan.steps else (time.monotonic() - begin) / (60 * plan.minutes)
        if done >= 1:
            break
        if plan.length(done) != length:
            length = plan.length(done)
            source = batches(tokenizer, plan, length, seed)
        tokens, weights = (t.to(device, non_blocking=True) for t in next(source))
        tokens = tokens.long()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
            loss, plain = head_loss(hidden, model.lm_head.weight, tokens[:, 1:], weights[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = plan.rate_at(done, step)
            opt.step()
            opt.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + tokens[:, 1:].numel()
        recent.append(plain)
        if step % 20 == 0 or step == 1 or plan.steps == step:
            value, recent = torch.stack(recent).mean().item(), []
            assert math.isfinite(value), f"the loss is {value} at step {step}"
            seconds = time.monotonic() - begin
            curve.append({"step": step, "tokens": seen, "seconds": round(seconds, 1), "length": length, "loss": round(value, 4)})
            bar.update(round(100 * done, 1) - bar.n)
            bar.set_postfix_str(f"step {step} length {length} loss {value:.3f} {seen / seconds / 1e6:.2f} M tokens/s", refresh=False)
    bar.close()
    return curve


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where checkpoint, tokenizer and loss.json go")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long to train")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that write text")
    parser.add_argument("--questions", type=int, default=128, help="how many to ask at each distance afterwards")
    parser.add_argument("--start", type=Path, help="a checkpoint of an earlier run, to go on with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="thirty steps of a model of two layers, to see that everything runs")
    args = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() and not args.smoke else "cpu"
    plan = smoke() if args.smoke else (onward if args.start else full)(args.minutes, args.workers, args.questions)
    tokenizer = AutoTokenizer.from_pretrained(args.start) if args.start else build_tokenizer(documents=60 if args.smoke else 1500)
    model = build_model(tokenizer, plan.layers)
    if args.start:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32).state_dict())
    model.to(device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters on {device}", flush=True)
    curve = train(model, tokenizer, plan, args.seed)

    args.out.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=600)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out, save_jinja_files=False)
    # What was saved is measured, not what was trained: bfloat16, and without compiled layers.
    saved = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.bfloat16).to(device)
    result = {
        "machine": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "versions": {"torch": torch.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "command": f"train.py --minutes {args.minutes:g} --seed {args.seed}{' --start ...' if args.start else ''}",
        "parameters": sum(p.numel() for p in saved.parameters()),
        "curve": curve,
        **(measure.report(saved, tokenizer, plan.questions) if plan.questions else {}),
    }
    (args.out / "loss.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({key: result[key] for key in ("accuracy", "loss", "samples") if key in result}, indent=1, ensure_ascii=False))
    return result


if __name__ == "__main__":
    main()
