"""What is asked for, and how it ended. Plain values, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from strobe import Invalid


class Finished(str, Enum):
    """Why a request ended."""

    STOP = "stop"  # the model's end-of-text token, a stop token, or a stop string
    LENGTH = "length"  # max_tokens, the model's context, or the cache's end
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The default is greedy: always the likeliest.

    The order is: repetition penalty, temperature, top-k, top-p, min-p, one draw.

    max_tokens          new tokens at most; None: as many as the context and the cache hold
    temperature         0 is greedy; above 1 flattens, below 1 sharpens
    top_k               only the k likeliest; None: all
    top_p               only the likeliest whose probabilities sum to top_p; 1: all
    min_p               only those at least min_p times as likely as the likeliest; 0: all
    repetition_penalty  logits of tokens already there are divided by it (multiplied, where negative); 1: none
    seed                same seed, same prompt: same tokens, whatever else is in the batch; None: a fresh one
    stop                texts that end the answer and are not part of it
    stop_token_ids      tokens that end it, beside the model's own end of text
    ignore_eos          the model's own end of text does not end it

    Raises:
        Invalid: a number out of its range.

    >>> Sampling(temperature=0.8, top_p=0.95, seed=1).greedy
    False
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k"):
            value = getattr(self, name)
            if value is not None and (not _whole(value) or value < 1):
                raise Invalid(f"{name} is an integer, 1 or more, or None; got {value!r}")
        if not _finite(self.temperature) or self.temperature < 0:
            raise Invalid(f"temperature is a finite number, 0 (greedy) or more; got {self.temperature!r}")
        if not _finite(self.top_p) or not 0 < self.top_p <= 1:
            raise Invalid(f"top_p is above 0 and at most 1 (1 keeps every token); got {self.top_p!r}")
        if not _finite(self.min_p) or not 0 <= self.min_p <= 1:
            raise Invalid(f"min_p is 0 (keeps every token) to 1; got {self.min_p!r}")
        if not _finite(self.repetition_penalty) or self.repetition_penalty <= 0:
            raise Invalid(f"repetition_penalty is a finite number above 0 (1 changes nothing); got {self.repetition_penalty!r}")
        if self.seed is not None and (not _whole(self.seed) or not 0 <= self.seed < 2**63):
            raise Invalid(f"seed is an integer, 0 … 2**63 − 1, or None; got {self.seed!r}")
        if not isinstance(self.stop, (tuple, list)) or not all(isinstance(text, str) and text for text in self.stop):
            raise Invalid(f"stop is a tuple of texts, none of them empty; got {self.stop!r}")
        if any(halved(text) for text in self.stop):
            raise Invalid(f"a stop text holds half of a character (a lone surrogate): it was not UTF-8; got {self.stop!r}")
        if not isinstance(self.stop_token_ids, (tuple, list)) or not all(_whole(token) and token >= 0 for token in self.stop_token_ids):
            raise Invalid(f"stop_token_ids is a tuple of integers, 0 or more; got {self.stop_token_ids!r}")
        if not isinstance(self.ignore_eos, bool):
            raise Invalid(f"ignore_eos is True or False; got {self.ignore_eos!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken without a draw."""
        return self.temperature == 0


def halved(text: str) -> bool:
    """Whether it holds lone surrogates, as which Python keeps bytes that were no UTF-8. No tokenizer takes them."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Piece:
    """What one step added to one request: `text` may be empty while a character or a stop string is undecided."""

    request: int
    text: str
    tokens: tuple[int, ...] = ()
    finished: Finished | None = None


@dataclass(frozen=True)
class Answer:
    """A finished request: all its tokens (stop tokens too) and its text (without stop strings)."""

    request: int
    tokens: tuple[int, ...]
    text: str
    finished: Finished
