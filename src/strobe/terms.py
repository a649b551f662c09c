"""What else enters the softmax: soft cap, ALiBi, sinks, dropout; and narrow numbers with scales.

The order is the contract's: `softmax(mask(cap(scale · q kᵀ) + bias + alibi), sink)`, then dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from strobe.errors import Invalid
from strobe.masks import ARRAY


def _real(value: Any) -> bool:
    """Whether it is a number: an array of one number, or text, would only be met where a kernel takes it for one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class SoftCap:
    """Bounds the scores smoothly: `limit · tanh(score / limit)` (Gemma 2, arXiv:2408.00118, section 2)."""

    limit: float

    def __post_init__(self) -> None:
        if not _real(self.limit) or not (math.isfinite(self.limit) and self.limit > 0):
            raise Invalid(f"SoftCap(limit) is a finite number above 0; got {self.limit!r}. For no cap leave it out")


@dataclass(frozen=True)
class Alibi:
    """Adds `−slope · |position of query − position of key|` to the score (arXiv:2108.12409, section 3).

    `slopes` is float32, `[H]` or `[B, H]`; it may ask for a gradient.
    """

    slopes: Any = field(metadata=ARRAY)


@dataclass(frozen=True)
class Sink:
    """One more logit a query head in the softmax's denominator, with no value behind it (gpt-oss).

    `logits` is `[H]`; it may ask for a gradient. The lse of the result includes it.
    """

    logits: Any = field(metadata=ARRAY)


@dataclass(frozen=True)
class Dropout:
    """Drops each weight with probability `p` and scales the others by `1 / (1 − p)`.

    The weight of (b, h, t, s) is kept if Philox4x32-10 with key (seed's low and high 32 bits) and counter
    (s, t, h, b) gives a first word of at least ⌊p · 2³²⌋ (Salmon et al., SC 2011): the same on every device.
    """

    p: float
    seed: int

    def __post_init__(self) -> None:
        if not _real(self.p) or not 0.0 <= self.p < 1.0:
            raise Invalid(f"Dropout(p) is a probability of at least 0 and below 1; got {self.p!r}")
        if not _real(self.seed) or isinstance(self.seed, float) or not 0 <= self.seed < 2**64:
            raise Invalid(f"Dropout(seed) is an integer of 64 bits, 0 … 2**64 − 1; got {self.seed!r}")


@dataclass(frozen=True)
class Scaled:
    """Queries, keys or values in narrow numbers with their scales: the formula is that of `data · scale`.

    Keys and values are int8, int4 or float8. `data` is `[…, heads, width]`, `scale` float32 `[…, heads]`: one scale a
    token and head; or, beside arrays `[B, S, heads, width]`, `[B, 1, heads]`: one a sequence and head. Of int4, whole
    numbers −8 … 7, a byte holds two: `data` is uint8 `[…, heads, width / 2]`, number 2i in the low half of byte i,
    number 2i + 1 in its high half, each in two's complement.

    Queries are float8 e4m3 beside keys and values of the same dtype; products are then of float8 numbers, weights may be
    rounded to it too, and results are bfloat16. Scales are 0 or more.
    """

    data: Any = field(metadata=ARRAY)
    scale: Any = field(metadata=ARRAY)
