"""`strobe generate`: prompts in, text out as it comes; with `--compare`, beside what transformers says."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from strobe.cli.opening import Opened, asked, cache_of, device_of, open_model, read_prompts, readable, weights_of
from strobe.cli.screen import Waiting, waiting
from strobe.errors import Invalid

if TYPE_CHECKING:
    from strobe.engine.engine import Engine
    from strobe.engine.request import Sampling

INTERRUPTED = 130


@dataclass
class Answered:
    """What came of one prompt."""

    prompt: str
    ids: list[int]
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: str = "interrupted"
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    cache_bytes: int = 0

    def closing(self) -> str:
        """The closing line."""
        parts = [f"{len(self.tokens)} tokens ({self.ended})"]
        if self.first_token_s is not None:
            parts.append(f"first after {self.first_token_s:.2f} s")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        parts.append(f"cache {self.cache_bytes / 2**20:.2f} MiB for {len(self.ids) + len(self.tokens)} tokens")
        return "— " + " · ".join(parts)


def run(arguments: argparse.Namespace) -> int:
    """Generates; 130 after Control-C, 1 if `--compare` found a difference that there may not be."""
    prompts = gathered(arguments)
    sampling = sampling_of(arguments)
    if arguments.compare and not sampling.greedy:
        raise Invalid("--compare compares the likeliest tokens; leave --temperature out")
    opened = open_model(arguments.model, arguments.dtype, device_of(arguments.device))
    from strobe.engine.engine import Engine

    engine = Engine(opened.model, opened.tokenizer, weights=weights_of(arguments.weights), cache=cache_of(arguments.cache))
    every = [Answered(prompt, asked(opened.tokenizer, [{"role": "user", "content": prompt}], arguments.raw)) for prompt in prompts]
    other = None
    worst = 0
    for answered in every:
        if not answer(engine, sampling, answered, loud=not arguments.json, titled=len(every) > 1):
            return INTERRUPTED
        compared = None
        if arguments.compare:
            other = other or _beside(opened, arguments)
            compared = compare(other, engine, answered)
            worst = max(worst, int(compared["wrong"]))
        if arguments.json:
            print(json.dumps(_document(answered, compared), ensure_ascii=False), flush=True)
        elif compared is not None:
            print(compared["report"])
    return worst


def gathered(arguments: argparse.Namespace) -> list[str]:
    """The prompts of the command line and of `--file`, each readable."""
    prompts = [readable(prompt, "the prompt") for prompt in arguments.prompt]
    if arguments.file is not None:
        prompts += read_prompts(arguments.file)
    if not prompts:
        raise Invalid("there is no prompt: give one, or a file of them with --file")
    return prompts


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """How tokens are chosen, checked before a model is loaded."""
    from strobe.engine.request import Sampling

    return Sampling(
        max_tokens=arguments.max_tokens, temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p,
        seed=arguments.seed, stop=tuple(arguments.stop),
    )  # fmt: skip


def answer(engine: Engine, sampling: Sampling, answered: Answered, loud: bool, titled: bool = False) -> bool:
    """Generates one answer into `answered`, streaming it if `loud`; False if Control-C ended it."""
    with waiting(f"reading {len(answered.ids)} tokens") as sign:
        number = engine.submit(answered.ids, sampling, progress=sign.show)
        clock = engine.clock(number)
        if titled and loud:
            print(f"\n> {answered.prompt}\n", flush=True)
        whole = True
        try:
            _stream(engine, number, answered, sign, loud)
        except KeyboardInterrupt:
            whole = False
    answered.first_token_s, answered.tokens_per_s = clock.first_token_s, clock.tokens_per_s
    held = len(answered.ids) + max(0, len(answered.tokens) - 1)  # the last token is never computed
    answered.cache_bytes = cache_bytes(engine, held)
    if loud:
        print(flush=True)
    if loud or not whole:
        print(answered.closing(), file=sys.stderr)
    return whole


def _stream(engine: Engine, number: int, answered: Answered, sign: Waiting, loud: bool) -> None:
    for piece in engine.pieces(number):
        sign.stop()
        answered.tokens += piece.tokens
        answered.text += piece.text
        if piece.finished is not None:
            answered.ended = piece.finished.value
        if loud:
            print(piece.text, end="", flush=True)


def cache_bytes(engine: Engine, tokens: int) -> int:
    """The pages that so many tokens take."""
    stats = engine.stats
    return math.ceil(tokens / stats.page_tokens) * (stats.cache_bytes // stats.cache_pages)


def _beside(opened: Opened, arguments: argparse.Namespace) -> Any:
    """The same model once more, for transformers: the engine keeps its own."""
    from strobe.cli.opening import load_quietly

    return load_quietly(opened.folder, arguments.dtype, device_of(arguments.device))[0]


def compare(model: Any, engine: Engine, answered: Answered) -> dict[str, Any]:
    """transformers' eager path on the same tokens, and where it first says something else."""
    import torch

    from strobe.cache.formats import AsComputed
    from strobe.lab import conventional
    from strobe.models.linears import Int8

    with waiting("transformers"):
        told = conventional.generate(model, answered.ids, max(1, len(answered.tokens)), "eager", stop=tuple(engine.model.stop_tokens))
    place = conventional.first_difference(answered.tokens, told.tokens)
    decode = engine.tokenizer.decode
    lines = [f"\ntransformers, eager:\n{decode(told.tokens, skip_special_tokens=True)}\n"]
    if place is None:
        lines.append(f"{len(told.tokens)} tokens, all the same")
    else:
        ours, theirs = (_shown(decode, tokens, place) for tokens in (answered.tokens, told.tokens))
        lines.append(f"the first difference is at token {place + 1} of {len(answered.tokens)}: strobe {ours}, transformers {theirs}")
    if told.token_s:
        lines.append(f"transformers: {1 / (sum(told.token_s) / len(told.token_s)):.1f} tokens/s, cache {told.cache_bytes / 2**20:.2f} MiB")
    rounded = [what for what, is_so in (("int8 weights", isinstance(engine.model.weights, Int8)),
                                        ("a narrow cache", not isinstance(engine.cache, AsComputed))) if is_so]  # fmt: skip
    wrong = place is not None and engine.model.dtype == torch.float32 and not rounded
    if place is not None and not wrong:
        kind = str(engine.model.dtype).removeprefix("torch.")
        rounding = f"with {' and '.join(rounded)}" if rounded else f"in {kind}"
        decides = "--weights as-loaded --cache as-computed" if rounded else "--dtype float32"
        lines.append(f"{rounding} two right answers may differ; {decides} decides")
    return {"tokens": told.tokens, "first_difference": place, "wrong": wrong, "report": "\n".join(lines)}


def _shown(decode: Any, tokens: list[int], place: int) -> str:
    return f"{decode([tokens[place]])!r} ({tokens[place]})" if place < len(tokens) else "nothing"


def _document(answered: Answered, compared: dict[str, Any] | None) -> dict[str, Any]:
    """What `--json` prints, one object a line."""
    found = {
        "prompt": answered.prompt, "text": answered.text, "tokens": answered.tokens, "prompt_tokens": len(answered.ids),
        "finished": answered.ended, "first_token_s": answered.first_token_s, "tokens_per_s": answered.tokens_per_s,
        "cache_bytes": answered.cache_bytes,
    }  # fmt: skip
    if compared is not None:
        found["transformers"] = {"tokens": compared["tokens"], "first_difference": compared["first_difference"]}
    return found
