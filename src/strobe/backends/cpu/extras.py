"""What few calls have, as the C struct `strobe_extras`: masks that are no interval of keys, bias, dropout."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.masks import Blocks, Dense, Documents, Mask, Prefix, Tree, split
from strobe.problem import Call

DOCUMENTS, BLOCKS, TREE, DENSE = range(4)
MOST_MARKS = 4
_NO_MARK = (0, 0, 0, 0, *(0,) * 4, 0, 0, 1, 1)


def has_extras(call: Call) -> bool:
    """Whether a call, or its description, has any."""
    return bool(split(call.mask)[2]) or call.bias is not None or call.dropout is not None


class Extras:
    """The struct of one call, with the arrays it points into; they live as long as it does."""

    def __init__(self, call: Call) -> None:
        rest = split(call.mask)[2]
        prefix, everywhere = _prefix([part.length for part in rest if isinstance(part, Prefix)])
        marks = [_mark(part) for part in rest if not isinstance(part, Prefix)]
        bias = call.bias
        if bias is not None and bias.dtype == torch.float64:
            bias = bias.float()
        dropout = call.dropout
        self._arrays = (prefix, bias)
        packed = lib.EXTRAS.pack(
            lib.EXTRAS.size, lib.INTERFACE,
            0 if prefix is None else prefix.data_ptr(), everywhere,
            len(marks), 0 if bias is None else lib.DTYPES_BY_NAME[str(bias.dtype).removeprefix("torch.")],
            *(value for mark in marks + [_NO_MARK] * (MOST_MARKS - len(marks)) for value in mark),
            *((0,) * 5 if bias is None else (bias.data_ptr(), *broadcast(bias))),
            *((0, 0, 1.0) if dropout is None else (dropout.seed, int(dropout.p * 2**32), 1 / (1 - dropout.p))),
        )  # fmt: skip
        self._buffer = ctypes.create_string_buffer(packed, lib.EXTRAS.size)
        self.address = ctypes.addressof(self._buffer)


def _prefix(lengths: list[Any]) -> tuple[Tensor | None, int]:
    """(`[B]` lengths or None, the length of all or −1): of several prefixes the shortest counts."""
    numbers = [length for length in lengths if isinstance(length, int)]
    arrays = [length for length in lengths if not isinstance(length, int)]
    if not arrays:
        return None, min(numbers, default=-1)
    shortest = arrays[0]
    for other in arrays[1:]:
        shortest = torch.minimum(shortest, other)
    return (shortest.clamp(max=min(numbers)) if numbers else shortest).contiguous(), -1


def _mark(part: Mask) -> tuple[int, ...]:
    """A `strobe_mark`."""
    if isinstance(part, Documents):
        b, t = part.queries.stride()
        return DOCUMENTS, 0, part.queries.data_ptr(), part.keys.data_ptr(), b, 0, t, 0, *part.keys.stride(), 1, 1
    if isinstance(part, Blocks):
        return BLOCKS, 0, part.kept.data_ptr(), 0, *broadcast(part.kept), 0, 0, part.rows, part.columns
    if isinstance(part, Tree):
        b, t, s = part.visible.stride()
        return TREE, 0, part.visible.data_ptr(), 0, b if part.visible.shape[0] > 1 else 0, 0, t, s, 0, 0, 1, part.visible.shape[2]
    assert isinstance(part, Dense), "split leaves no other"
    return DENSE, 0, part.visible.data_ptr(), 0, *broadcast(part.visible), 0, 0, 1, 1


def broadcast(x: Tensor) -> tuple[int, ...]:
    """Strides over (batch, head, query, key), 0 along axes of length 1 and those that are not there."""
    found = [step if n > 1 else 0 for n, step in zip(x.shape, x.stride(), strict=True)]
    return (0,) * (4 - len(found)) + tuple(found)
