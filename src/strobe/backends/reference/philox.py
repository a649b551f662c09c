"""Philox4x32-10: which weights dropout keeps, the same on every device (Salmon et al., SC 2011, section 3.3).

    counter (s, t, h, b), key (low, high 32 bits of the seed); the weight is kept if the first word ≥ ⌊p · 2³²⌋
"""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.terms import Dropout

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key each round
WORD = 0xFFFFFFFF


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """(high, low) 32 bits of a 32 × 32-bit product; int64 wraps, which keeps the low 64 bits right."""
    full = a * b
    return (full >> 32) & WORD, full & WORD


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (in int64) for each counter of four 32-bit words.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [hex(int(word)) for word in philox((zero,) * 4, (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high_a, low_a = _product(a, MULTIPLIERS[0])
        high_c, low_c = _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return a, b, c, d


def kept(dropout: Dropout, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Whether the weight of (b, h, t, s) is kept; indices broadcast."""
    shape = torch.broadcast_shapes(b.shape, h.shape, t.shape, s.shape)
    counter = tuple(index.expand(shape).long() for index in (s, t, h, b))
    first = philox(counter, (dropout.seed & WORD, dropout.seed >> 32))[0]  # type: ignore[arg-type]
    return first >= int(dropout.p * 2**32)
