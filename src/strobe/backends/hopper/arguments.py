"""A call as the arguments of the kernels: arrays as the copy engine takes them, and numbers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from strobe.backends.hopper.forms import Form, form, section
from strobe.layouts import Packed, PackedKeys, Ranged
from strobe.masks import Prefix, split
from strobe.plan import Plan
from strobe.problem import Call, Problem

FAR = 2**30  # of a window's reach: no sequence is longer, and sums with positions stay below 2³¹


class Box(TensorDescriptor):
    """An array for the copy engine. `boxed` has looked at it; a second look would take longer than the launch."""

    def __post_init__(self) -> None:
        """Nothing is left to look at."""


def tokens(call: Call) -> Tensor:
    """The queries, packed or not."""
    return call.q.tokens if isinstance(call.q, Packed) else call.q


def steps(x: Tensor) -> tuple[int, int, int]:
    """Strides of sequence, token and head; those that are never taken are a row's width."""
    shape, strides = x.shape, x.stride()
    if len(shape) == 3:
        shape, strides = (1, *shape), (0, *strides)
    width = shape[3]
    return tuple(width if n == 1 else step for n, step in zip(shape[:3], strides[:3], strict=True))  # type: ignore[return-value]


def aligned(x: Tensor) -> Tensor:
    """The array, or a copy of it where the copy engine cannot read it: it takes steps of 16 bytes, forwards, from such an address."""
    taken = steps(x)
    if x.data_ptr() % 16 or min(taken) <= 0 or (taken[0] | taken[1] | taken[2]) % 8:
        return x.clone(memory_format=torch.contiguous_format)
    return x


@lru_cache(maxsize=256)
def _layout(rows: int, heads: int, width: int, dtype: str) -> Any:
    return gl.NVMMASharedLayout.get_default_for([1, rows, heads, width], getattr(gl, dtype))


def boxed(x: Tensor, rows: int, heads: int, width: int, dtype: str) -> Box:
    """Boxes of so many tokens and heads, so wide, of an aligned array `[B, N, heads, width]`, or packed."""
    shape = list(x.shape) if x.dim() == 4 else [1, *x.shape]
    return Box(x, shape, [*steps(x), 1], [1, rows, heads, width], _layout(rows, heads, width, dtype))


class Fixed(NamedTuple):
    """What a plan knows before it sees an array."""

    form: Form
    units: int  # pairs of a sequence, if they are not packed, and `pack` heads
    units_of: int  # of a sequence
    section: int
    prefix: int
    before: int
    after: int
    scale: float  # of scores, to base 2
    inner: float  # of products, before a soft cap


@lru_cache(maxsize=4096)
def fixed(plan: Plan) -> Fixed:
    """What is the same in every call of a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    made, call = form(problem), problem.call
    before, after, rest = split(call.mask)
    prefix = next((part.length for part in rest if isinstance(part, Prefix)), 0)
    units_of = problem.H // made.pack
    scale, inner = (problem.scale, 1.0) if call.cap is None else (call.cap.limit, problem.scale / call.cap.limit)
    return Fixed(
        form=made,
        units=units_of if made.packed else units_of * problem.B,
        units_of=units_of,
        section=section(problem, made),
        prefix=min(prefix, FAR) if isinstance(prefix, int) else 0,
        before=min(before or 0, FAR),
        after=min(after or 0, FAR),
        scale=scale / math.log(2.0),
        inner=inner,
    )


class Where(NamedTuple):
    """Arrays that tell where sequences lie; None where numbers do."""

    offsets: Tensor | None  # of packed queries
    starts: Tensor | None  # of ranges, or offsets of packed keys
    lengths: Tensor | None
    firsts: Tensor | None
    first: int | None
    prefixes: Tensor | None


def where(call: Call) -> Where:
    """Where the sequences of a call lie."""
    keys, first = call.keys, call.first
    prefix = next((part.length for part in split(call.mask)[2] if isinstance(part, Prefix)), 0)
    return Where(
        offsets=call.q.offsets if isinstance(call.q, Packed) else None,
        starts=keys.starts if isinstance(keys, Ranged) else keys.offsets if isinstance(keys, PackedKeys) else None,
        lengths=keys.lengths if isinstance(keys, Ranged) else None,
        firsts=first if isinstance(first, Tensor) else None,
        first=first if isinstance(first, int) else None,
        prefixes=prefix if isinstance(prefix, Tensor) else None,
    )
