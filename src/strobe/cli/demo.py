"""`strobe demo`: a story as it is told, a question about the first of many stories, and what a token costs as the context grows."""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from strobe.cli.bench import numbers
from strobe.cli.generate import Answered, answer, cache_bytes
from strobe.cli.opening import Spoken, checkpoint, demo_folder, load_quietly, readable
from strobe.cli.screen import progress, show_table, waiting
from strobe.errors import Broken

if TYPE_CHECKING:
    from strobe.engine.engine import Engine

WISH = "Tell me a story about a fox and a lantern."
# A story of the world that the model learned, told here and not by the model, so that the answer is known.
FIRST = """\
Far away, in the crooked village, there was a house with a blue door. In it lived a heron named Velvet, who was careful. "At last I \
will go to the western village," said Velvet. "I want to pick blue berries." But to get there one had to pass a cave, and inside it \
was pitch dark. "I need a light," thought Velvet.

Velvet walked on until she came to the white canyon. There stood a mouse named Rimwick. "Well, well," he said. The heron told Rimwick \
everything. "Take this," said Rimwick, and handed over a black lantern. "But you must promise me something: to keep the secret for \
ever." Velvet gave her word.

With the black lantern in hand, Velvet went into the dark. The shadows jumped back. Soon there was daylight ahead. "I am here!" cried \
the heron when she reached the western village. Until the sun went down she was free to pick blue berries."""
HEARD = "I have read it."
QUESTION = "What did Velvet the heron promise Rimwick?"
ANSWER = "secret"  # the word that a right answer holds
WHO = ("badger", "otter", "owl", "goose", "bear", "swan", "robin", "mole", "turtle", "hare", "cat", "crow", "seal", "duck")
WHAT = ("key", "kite", "bell", "drum", "map", "boat", "ring", "clock", "apple pie", "violin", "rope", "letter", "hat", "cup")
LONG = 5000  # tokens of the long context
AT_ONCE = 28  # stories told together to fill it
TOKENS, ROUNDS = 12, 2  # of the comparison


def run(arguments: argparse.Namespace) -> int:
    """The three parts; 1 if transformers and Strobe disagree in float32."""
    contexts = numbers(arguments.contexts, "--contexts")
    folder = checkpoint(None)
    print("The demonstration model: 5.7 million parameters, trained on stories of a small world. It knows nothing else.\n")
    with waiting("loading"):
        (model, tokenizer), (other, _) = (load_quietly(folder, "float32") for _ in (0, 1))
    from strobe.engine.engine import Engine
    from strobe.lab.engine import reached

    reached(other, contexts, TOKENS)
    engine = Engine(model, tokenizer)
    story(engine)
    ids = question(engine)
    engine.model.undo()
    return comparison((model, other, tokenizer), contexts, ids)


def story(engine: Engine) -> None:
    """One story, streamed."""
    from strobe.engine.request import Sampling

    print(f"1. {WISH}\n", flush=True)
    _, tokens = Spoken(engine.tokenizer).asked(WISH)
    answered = Answered(WISH, tokens)
    if not answer(engine, Sampling(max_tokens=500), answered, loud=True):
        raise KeyboardInterrupt


def question(engine: Engine) -> list[int]:
    """A question about the first story of a long conversation; the conversation's tokens."""
    from strobe.engine.request import Sampling

    spoken = Spoken(engine.tokenizer)
    _remember(spoken, f"Please read this story.\n\n{FIRST}", HEARD)
    told = shipped() or _stories(engine)
    for wish, text in told:
        if len(spoken.tokens) < LONG and "Velvet" not in text and "Rimwick" not in text:
            _remember(spoken, wish, text)
    behind = len(spoken.tokens)
    _, tokens = spoken.asked(QUESTION)
    others = len(spoken.messages) // 2 - 1
    print(f"\n2. A story of a heron named Velvet, then {others} others, {behind:,} tokens in all. Then:\n\n   {QUESTION}\n", flush=True)
    answered = Answered(QUESTION, tokens)
    if not answer(engine, Sampling(max_tokens=60), answered, loud=True):
        raise KeyboardInterrupt
    verdict = "right" if ANSWER in answered.text else f"wrong: the story says “to keep the {ANSWER} for ever”"
    print(f"   ({verdict}; the cache holds {cache_bytes(engine, len(tokens)) / 2**20:.0f} MiB for these tokens)")
    return tokens


def _remember(spoken: Spoken, said: str, answered: str) -> None:
    """A turn that nobody generated."""
    text, tokens = spoken.asked(said)
    spoken.answered(said, text, tokens, answered, spoken.tokenizer.encode(answered, add_special_tokens=False))


def _stories(engine: Engine) -> list[tuple[str, str]]:
    """Stories by the model itself, many at once: each step computes one token of every one of them."""
    from strobe.engine.request import Sampling

    draw = random.Random(0)
    pairs = zip((WHO * 2)[:AT_ONCE], draw.sample(WHAT * 2, AT_ONCE), strict=True)
    wishes = [f"Tell me a story about a {who} and a {what}." for who, what in pairs]
    start = time.perf_counter()
    with waiting(f"the model tells {AT_ONCE} stories at once"):
        every = [
            engine.submit(Spoken(engine.tokenizer).asked(wish)[1], Sampling(max_tokens=300, temperature=0.7, top_p=0.95, seed=i))
            for i, wish in enumerate(wishes)
        ]
        answers = [engine.answer(number) for number in every]
    seconds, count = time.perf_counter() - start, sum(len(a.tokens) for a in answers)
    print(f"— {AT_ONCE} stories told at once: {count:,} tokens in {seconds:.1f} s, {count / seconds:.0f} tokens/s", file=sys.stderr)
    return [(wish, a.text) for wish, a in zip(wishes, answers, strict=True)]


def shipped() -> list[tuple[str, str]]:
    """The stories of `long.txt`, an empty line between paragraphs and a line of dashes between stories; none if it is not there."""
    path = demo_folder() / "long.txt"
    if not path.exists():
        return []
    texts = readable(path.read_text(encoding="utf-8"), path.name).split("\n---\n")
    return [(f"Please read this story.\n\n{text.strip()}", HEARD) for text in texts]


def comparison(models: tuple[Any, Any, Any], contexts: tuple[int, ...], text: list[int]) -> int:
    """The table: a token's time as the context grows, and whether the tokens are the same."""
    from strobe.lab.engine import STROBE, prompt_of, race
    from strobe.lab.report import us

    ours, theirs, tokenizer = models
    peer = "transformers sdpa"
    print("\n3. A token's time as the context grows, float32, the likeliest token each time:\n", flush=True)
    lines, same = [], True
    with progress(len(contexts)) as advance:
        for context in contexts:
            found = race(ours, theirs, tokenizer, prompt_of(tokenizer.vocab_size, context, 0, text), ("sdpa",), TOKENS, ROUNDS)
            slow, fast = found.ms(peer), found.ms(STROBE)
            place = found.different.get(peer)
            same = same and place is None
            verdict = "same" if place is None else f"differ at {place + 1}"
            size = found.cache_bytes[STROBE] / 2**20
            lines.append([f"{context:,}", us(1e3 * slow), us(1e3 * fast), f"{slow / fast:.1f} ×", f"{size:.1f} MiB", verdict])
            advance(f"{context:,} tokens")
    show_table(["context", "transformers", "strobe", "faster", "cache", "tokens"], lines)
    print("\ntransformers: generate, sdpa attention, a cache that grows by copying. Strobe: pages that stay where they are.")
    if not same:
        raise Broken("the two ways chose different tokens in float32")
    return 0
