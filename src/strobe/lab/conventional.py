"""The path that Strobe's engine is compared with: transformers' `generate`, a cache that grows by copying, and its own attention."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from strobe.models.attend import cache_argument

ATTENTIONS = ("sdpa", "eager")


@dataclass
class Told:
    """One answer: its tokens, when each came (seconds after the start), and the bytes of the cache at its end."""

    tokens: list[int] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    cache_bytes: int = 0

    @property
    def token_s(self) -> list[float]:
        """Seconds of each token after the first."""
        return [b - a for a, b in zip(self.came, self.came[1:], strict=False)]


class _Ear:
    """What `generate` streams to: notes tokens and times. The first call brings the prompt."""

    def __init__(self) -> None:
        self.told, self.prompt, self.start = Told(), True, time.perf_counter()

    def put(self, value: Any) -> None:
        if not self.prompt:
            self.told.tokens += value.flatten().tolist()
            self.told.came.append(time.perf_counter() - self.start)
        self.prompt = False

    def end(self) -> None:
        """Nothing is left to note."""


@torch.inference_mode()
def prefilled(model: Any, ids: list[int], attention: str) -> Any:
    """A cache that holds all of the prompt but its last token, computed at once, as `generate` does, with one of `ATTENTIONS`."""
    from transformers import DynamicCache

    model.set_attn_implementation(attention)
    cache = DynamicCache(config=model.config)
    given = torch.tensor([ids[:-1]], device=model.device)
    model(input_ids=given, use_cache=True, logits_to_keep=1, **{cache_argument(model): cache})
    return cache


def generate(model: Any, ids: list[int], count: int, attention: str = "eager", cache: Any = None, stop: tuple[int, ...] = ()) -> Told:
    """The likeliest `count` tokens after a prompt, fewer if one of `stop` comes.

    Args:
        model: a transformers model that is not the engine's: its attention is set here.
        attention: one of `ATTENTIONS`.
        cache: what `prefilled` returned for the same prompt; it is copied, so that it serves again.
    """
    from transformers import DynamicCache, GenerationConfig

    model.set_attn_implementation(attention)
    # the checkpoint's own taste (temperature, penalties) has no place in a comparison of likeliest tokens
    config = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=list(stop) or None, pad_token_id=0, use_cache=True)
    grown = DynamicCache(config=model.config) if cache is None else copy.deepcopy(cache)
    given = torch.tensor([ids], device=model.device)
    named = {cache_argument(model): grown}
    ear = _Ear()
    model.generation_config, before = config, model.generation_config
    try:
        model.generate(given, attention_mask=torch.ones_like(given), generation_config=config, streamer=ear, **named)
    finally:
        model.generation_config = before
    ear.told.cache_bytes = cache_bytes(grown)
    return ear.told


def cache_bytes(cache: Any) -> int:
    """Keys and values that a transformers cache holds."""
    return sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values) if x is not None)


def first_difference(a: list[int], b: list[int]) -> int | None:
    """The first place where two answers differ, None if they are the same.

    >>> first_difference([1, 2, 3], [1, 2, 4]), first_difference([1], [1, 2]), first_difference([1], [1])
    (2, 1, None)
    """
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return None if len(a) == len(b) else min(len(a), len(b))
