"""One tiny Llama and its tokenizer, for tests of the engine itself."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from strobe.engine.engine import Engine
from strobe.engine.request import Sampling

from ..models.families import build, eager, prompts, tokenizer


@lru_cache(maxsize=1)
def model() -> Any:
    return build("llama")


@lru_cache(maxsize=1)
def words() -> Any:
    return tokenizer()


def engine(*, pages: int = 64, page_size: int = 4, budget: int = 32, running: int = 8) -> Engine:
    return Engine(model(), words(), pages=pages, page_size=page_size, budget=budget, running=running)


def greedy(tokens: int, **more: Any) -> Sampling:
    return Sampling(max_tokens=tokens, **more)


__all__ = ["eager", "engine", "greedy", "model", "prompts", "words"]
