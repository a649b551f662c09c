"""A call as the arguments of the kernels: arrays as the copy engine takes them, and numbers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from strobe.backends.hopper.forms import Form, form, places, section, sharing
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import Documents, Prefix, Tree, split
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.terms import Scaled

FAR = 2**30  # of a window's reach: no sequence is longer, and sums with positions stay below 2³¹

NEAR = 2**28  # the same for the merge, which adds three of them


class Box(TensorDescriptor):
    """An array for the copy engine. `boxed` has looked at it; a second look would take longer than the launch."""

    def __post_init__(self) -> None:
        """Nothing is left to look at."""


def tokens(call: Call) -> Tensor:
    """The queries, packed or not, narrow ones without their scales."""
    q = call.q
    return q.tokens if isinstance(q, Packed) else q.data if isinstance(q, Scaled) else q


Steps = tuple[int, int, int]


def steps(x: Tensor) -> Steps:
    """Strides of sequence, token and head; those that are never taken are a row's width."""
    if x.dim() == 3:
        (N, H, width), (token, head, _) = x.shape, x.stride()
        return width, width if N == 1 else token, width if H == 1 else head
    (B, N, H, width), (batch, token, head, _) = x.shape, x.stride()
    return width if B == 1 else batch, width if N == 1 else token, width if H == 1 else head


def readable(x: Tensor, taken: Steps) -> bool:
    """Whether the copy engine can read it: it takes steps of 16 bytes, forwards, from such an address."""
    return x.data_ptr() % 16 == 0 and min(taken) > 0 and (taken[0] | taken[1] | taken[2]) % (16 // x.itemsize) == 0


def aligned(x: Tensor) -> tuple[Tensor, Steps]:
    """The array with its steps, or a copy where the copy engine cannot read it."""
    taken = steps(x)
    if not readable(x, taken):
        x = x.clone(memory_format=torch.contiguous_format)
        return x, steps(x)
    return x, taken


class Shape(NamedTuple):
    """The shape of a box, and how it lies in shared memory."""

    block: list[int]
    layout: Any


def _shape(tokens: int, heads: int, width: int, dtype: str) -> Shape:
    block = [1, tokens, heads, width]
    return Shape(block, gl.NVMMASharedLayout.get_default_for(block, gl.float8e4nv if dtype == "float8_e4m3fn" else getattr(gl, dtype)))


def boxed(x: Tensor, taken: Steps, shape: Shape) -> Box:
    """Boxes of an aligned array `[B, N, heads, width]`, or packed."""
    lies = x.shape if x.dim() == 4 else (1, *x.shape)
    return Box(x, list(lies), [*taken, 1], shape.block, shape.layout)


def placed(x: Tensor, like: dict[str, Any]) -> Box:
    """A box of an array that lies as another did."""
    found = Box.__new__(Box)
    found.__dict__ = like.copy()
    found.__dict__["base"] = x
    return found


class Fixed(NamedTuple):
    """What a plan knows before it sees an array."""

    form: Form
    q: Shape
    k: Shape
    v: Shape
    out: Shape
    units: int  # pairs of a sequence, if they are not packed, and the heads of a tile
    units_of: int  # of a sequence
    section: int
    prefix: int
    before: int
    after: int
    scale: float  # of scores, to base 2
    inner: float  # of products, before a soft cap
    places: int  # rows of all parts of the keys


@lru_cache(maxsize=4096)
def fixed(plan: Plan) -> Fixed:
    """What is the same in every call of a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    made, call = sharing(problem, form(problem, plan.offer.splits > 1), plan.machine.units), problem.call
    before, after, rest = split(call.mask)
    prefix = next((part.length for part in rest if isinstance(part, Prefix)), 0)
    units_of = problem.H // made.heads
    scale, inner = (problem.scale, 1.0) if call.cap is None else (call.cap.limit, problem.scale / call.cap.limit)
    return Fixed(
        form=made,
        q=_shape(made.tokens, made.pack, made.width, problem.dtype),
        k=_shape(made.box, 1, made.columns, problem.dtype),
        v=_shape(made.value_rows if made.narrow else made.box, 1, made.value_columns, problem.dtype),
        out=_shape(made.tokens, made.pack, made.value_width, problem.result_dtype),
        units=units_of if made.packed else units_of * problem.B,
        units_of=units_of,
        section=section(problem, made),
        prefix=min(prefix, FAR) if isinstance(prefix, int) else 0,
        before=FAR if before is None and made.documents else min(before or 0, FAR),
        after=problem.T - 1 if made.tree else FAR if after is None and made.documents else min(after or 0, FAR),
        scale=scale / math.log(2.0),
        inner=inner,
        places=places(problem, made, plan.offer.splits, plan.machine.units),
    )


class Where(NamedTuple):
    """Arrays that tell where sequences lie; None where numbers do."""

    offsets: Tensor | None  # of packed queries
    starts: Tensor | None  # of ranges, or offsets of packed keys
    lengths: Tensor | None
    firsts: Tensor | None
    first: int | None
    prefixes: Tensor | None
    tree: Tensor | None  # bytes of which queries see which
    q_documents: Tensor | None  # each query's, and each key's
    k_documents: Tensor | None
    table: Tensor | None  # of pages


NOWHERE = Where(None, None, None, None, None, None, None, None, None, None)


def where(call: Call) -> Where:
    """Where the sequences of a call lie."""
    keys, first = call.keys, call.first
    if first is None and call.mask.plain and type(keys) is Dense and not isinstance(call.q, Packed):
        return NOWHERE
    rest = split(call.mask)[2]
    prefix = next((part.length for part in rest if isinstance(part, Prefix)), 0)
    documents = next((part for part in rest if isinstance(part, Documents)), None)
    return Where(
        offsets=call.q.offsets if isinstance(call.q, Packed) else None,
        starts=keys.starts if isinstance(keys, Ranged) else keys.offsets if isinstance(keys, PackedKeys) else None,
        lengths=keys.lengths if isinstance(keys, Ranged | Paged) else None,
        firsts=first if isinstance(first, Tensor) else None,
        first=first if isinstance(first, int) else None,
        prefixes=prefix if isinstance(prefix, Tensor) else None,
        tree=call.mask.visible.contiguous().view(torch.uint8) if isinstance(call.mask, Tree) else None,
        q_documents=None if documents is None else documents.queries.contiguous(),
        k_documents=None if documents is None else documents.keys.contiguous(),
        table=keys.table if isinstance(keys, Paged) else None,
    )


def paged(plan: Plan, at: Where) -> tuple[Tensor | None, int | None, int | None]:
    """(table, stride of its rows, pages there are); None where keys do not lie in pages."""
    if at.table is None:
        return None, None, None
    assert isinstance(plan.problem, Problem)
    return at.table, at.table.stride(0), key_sides(plan.problem.call.keys)[0].shape[0]


def told(
    plan: Plan, at: Where, listed: Tensor | None = None, count: Tensor | None = None, spans: Tensor | None = None
) -> tuple[Any, ...]:  # fmt: skip
    """The kernel's arguments behind the counter, in its order."""
    problem, known = plan.problem, fixed(plan)
    assert isinstance(problem, Problem)
    tree_step = None if at.tree is None else problem.T * problem.T if len(at.tree) > 1 else 0
    return (
        problem.T, problem.S, problem.H, known.units, known.section, known.units_of, problem.group,
        at.offsets, at.starts, at.lengths, at.firsts, at.first, known.prefix, at.prefixes, at.tree, tree_step,
        at.q_documents, at.k_documents, spans,
        *paged(plan, at), listed, count,
        known.before, known.after, plan.offer.splits, known.scale, known.inner,
    )  # fmt: skip


def reach(call: Call) -> tuple[int | None, int | None, int | None]:
    """(position of the first query, how far a query sees back, and forward) as the merge of parts is told; None where none is given."""
    before, after, _ = split(call.mask)
    first = max(-NEAR, min(call.first, NEAR)) if isinstance(call.first, int) else None
    return first, None if before is None else min(before, NEAR), None if after is None else min(after, NEAR)
