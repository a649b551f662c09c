"""A call as the arguments of the kernels: tuples with names. What a call does not have is None, and costs nothing when compiled.

Triton specialises a kernel on which of them are None; integers and tensors do not recompile it. Strides lie in a tuple of their
own, and Triton 3.6 loses a stride of 1 in there (a constant, to it) if no constant of the outer tuple follows: hence `end`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from strobe.backends.triton.listing import list_blocks
from strobe.backends.triton.sizes import boxes as by_boxes
from strobe.backends.triton.sizes import WHOLE, Tile, listable, padded, section
from strobe.backends.triton.tiles import DENSE, PACKED, PAGED, RANGED
from strobe.layouts import Dense as Keys
from strobe.layouts import Packed, PackedKeys, Paged, Ranged
from strobe.masks import Blocks, Dense, Documents, Prefix, Tree, split
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides, per_token
from strobe.terms import Scaled

NOWHERE = (0, 0, 0, 0)
FAR = 2**30  # of a window's reach: no sequence is longer, and sums with positions stay below 2³¹


class Rows(NamedTuple):
    """An array of queries, results or gradients: its first element and the strides of sequence, token, head."""

    data: Any
    strides: Any


class Side(NamedTuple):
    """Keys or values: the same, or page, token, head; narrow ones have scales."""

    data: Any
    strides: Any
    scale: Any = None
    scale_strides: Any = NOWHERE[:3]
    end: Any = None


class Layout(NamedTuple):
    """Which rows belong to a sequence: its queries, its keys, and the position of its first query."""

    kind: Any
    T: Any
    S: Any
    offsets: Any = None  # of packed queries
    starts: Any = None
    lengths: Any = None
    table: Any = None
    table_stride: Any = 0
    page_tokens: Any = 1
    pages: Any = 0
    firsts: Any = None
    first: Any = None


class Seen(NamedTuple):
    """The mask: a causal window as numbers, and at most one of each array."""

    before: Any = None
    after: Any = None
    prefix: Any = None
    prefixes: Any = None
    q_documents: Any = None
    k_documents: Any = None
    document_strides: Any = NOWHERE
    blocks: Any = None
    block_strides: Any = NOWHERE
    block_rows: Any = 1
    block_columns: Any = 1
    tree: Any = None
    tree_strides: Any = NOWHERE[:3]
    nodes: Any = 0
    dense: Any = None
    dense_strides: Any = NOWHERE
    end: Any = None


class Lists(NamedTuple):
    """Blocks that a mask keeps, `[B or 1, H or 1, rows, columns]`: of each row of blocks those kept, first ones first, and how many
    they are; for gradients of keys, of each column."""

    blocks: Any = None
    strides: Any = NOWHERE[:3]
    counts: Any = None
    count_strides: Any = NOWHERE[:3]
    end: Any = None


class Terms(NamedTuple):
    """What makes a score of a product, and a weight of a score."""

    scale: Any  # of a product; with 1 / limit in it, or, unless something is added in natural units, 1 / ln 2
    plain: Any = None  # 1 where the scale, above 0, is all that meets a product, so that it can wait until after the greatest
    limit: Any = None  # of a cap; with 1 / ln 2 in it unless something is added
    fast: Any = None  # 1 where a cap may be off by 2⁻¹¹: less than what bfloat16 rounds
    bias: Any = None
    bias_strides: Any = NOWHERE
    slopes: Any = None
    slope_strides: Any = NOWHERE[:2]
    sink: Any = None
    threshold: Any = None
    seed_low: Any = 0
    seed_high: Any = 0
    keep_scale: Any = 1.0
    end: Any = None


def tokens(call: Call) -> Tensor:
    """The queries, packed or not."""
    return call.q.tokens if isinstance(call.q, Packed) else call.q


def data(side: Any) -> Tensor:
    """The array of keys or values, narrow or not."""
    return side.data if isinstance(side, Scaled) else side


def strides(x: Tensor) -> tuple[int, ...]:
    """(sequence or page, token, head); packed tokens have no sequences."""
    found = x.stride()
    return (0, *found[:2]) if x.dim() == 3 else found[:3]


class Box(TensorDescriptor):
    """An array for the copy engine, looked at by `boxes` and not again: that would take longer than the launch."""

    def __post_init__(self) -> None:
        """Nothing is left to look at."""


def placed(x: Tensor, like: dict[str, Any]) -> Box:
    """A box of an array that lies as another did."""
    found = Box.__new__(Box)
    found.__dict__ = like.copy()
    found.__dict__["base"] = x
    return found


def boxes(plan: Plan, *asked: tuple[Any, int, int]) -> tuple[Box, ...]:
    """The arrays `[B, N, heads, width]`, or packed, as the copy engine of a GPU takes them, by sequence, head, token, width: tiles
    of so many rows of a head, so wide. None if it need not, or can't: it makes 16-byte steps from a 16-byte address."""
    if not fixed(plan).by_box:
        return ()
    made = []
    for x, rows, width in asked:
        shape, strides = x.shape, x.stride()
        if len(shape) == 3:
            shape, strides = (1, *shape), (0, *strides)
        (B, N, H, _), (batch, token, head, _) = shape, strides
        steps = width if B == 1 else batch, width if H == 1 else head, width if N == 1 else token  # some are never taken
        if x.data_ptr() % 16 or not B * N * H or min(steps) <= 0 or (steps[0] | steps[1] | steps[2]) % 8:
            return ()
        made.append(Box(x, [B, H, N, width], [*steps, 1], [1, 1, rows, padded(width)]))
    return tuple(made)


def bias_box(call: Call, tile: Tile) -> Box | None:
    """The bias `[B or 1, H or 1, T, S]` as the copy engine takes it, in tiles of rows and keys; None if it can't."""
    x = call.bias
    assert x is not None
    shape, strides = [1] * (4 - x.dim()) + list(x.shape), [0] * (4 - x.dim()) + list(x.stride())
    steps = [8 if n == 1 else s for n, s in zip(shape, strides, strict=True)][:3]  # some are never taken
    if x.data_ptr() % 16 or not x.numel() or min(steps) <= 0 or any(s % 8 for s in steps) or strides[3] != 1:
        return None
    return Box(x, shape, [*steps, 1], [1, 1, tile.rows, tile.keys])


def rows(x: Tensor) -> Rows:
    """Rows of a width: `[B, T, H, width]`, or packed `[N, H, width]`."""
    return Rows(x, strides(x))


def numbers(x: Tensor) -> Rows:
    """One number a row: `[B, T, H]`, or packed `[N, H]`."""
    found = x.stride()
    return Rows(x, (0, *found) if len(found) == 2 else found)


def side(x: Any) -> Side:
    """Keys or values, narrow or not."""
    if not isinstance(x, Scaled):
        return Side(x, strides(x))
    scale = per_token(x)
    return Side(x.data, strides(x.data), scale, strides(scale[..., None]))


def wide(*arrays: Tensor) -> bool:
    """Whether an element of an array may lie 2³¹ elements or more from its first."""
    large = [x for x in arrays if x.numel() and x.untyped_storage().nbytes() >= 2**31]  # nothing lies outside the storage
    return any(sum((n - 1) * abs(s) for n, s in zip(x.shape, x.stride(), strict=True)) >= 2**31 for x in large)


def broadcast(x: Tensor) -> tuple[int, ...]:
    """Strides over [B, H, T, S] of an array that broadcasts to it: 0 where it has one row for all."""
    found = [0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True)]
    return (*(0,) * (4 - len(found)), *found)


class Fixed(NamedTuple):
    """What a plan knows before it sees an array: made once."""

    listed: bool  # a mask of blocks comes as lists of them
    by_box: bool  # tiles come through the copy engine, if the arrays are aligned
    section: int
    unseen: bool  # a tile may hold keys that a row of it does not see
    sizes: dict[str, Any]
    seen: Seen | None  # a mask of numbers alone
    terms: Terms | None  # a scale alone
    layout: Layout | None  # dense arrays whose last query stands at the last key


@lru_cache(maxsize=4096)
def fixed(plan: Plan) -> Fixed:
    """What is the same in every call of a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    call = problem.call
    plain = call.cap is call.bias is call.alibi is call.sink is call.dropout is None
    dense = isinstance(call.keys, Keys) and not isinstance(call.q, Packed) and call.first is None
    listed = listable(problem)
    made_for = {
        "BY_ELEMENT": not listed and any(isinstance(part, Documents | Blocks | Dense) for part in split(call.mask)[2]),
        "GROUP": problem.group, "D": problem.D, "V": problem.V, "BD": padded(problem.D), "BV": padded(problem.V),
        "WIDEN": knobs.runtime.interpret and problem.dtype == "bfloat16",
    }  # fmt: skip
    return Fixed(
        listed=listed,
        by_box=by_boxes(problem, plan.machine),
        section=section(problem),
        unseen=split(call.mask) != (None, None, ()) or not isinstance(call.keys, Keys),
        sizes=made_for,
        seen=_seen(call) if call.mask.plain else None,
        terms=_terms(plan, call) if plain else None,
        layout=_layout(problem, call) if dense else None,
    )


def sizes(plan: Plan, call: Call) -> dict[str, Any]:
    """What a kernel is compiled for, but for its tile."""
    k, v = key_sides(call.keys)
    return fixed(plan).sizes | {"WIDE": wide(data(k), data(v))}


def one_array(problem: Problem, k: Any, v: Any) -> bool:
    """Whether the values are the first 512 numbers of keys that are wider, as latent attention keeps them: read once for both."""
    if problem.D <= WHOLE or problem.V != WHOLE or problem.scaled:
        return False
    return bool(k.data_ptr() == v.data_ptr() and k.stride() == v.stride())


def options(tile: Tile) -> dict[str, int]:
    """What a kernel is compiled with."""
    found = {"BM": tile.rows, "BN": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}
    return found if tile.registers is None else found | {"maxnreg": tile.registers}


def layout(plan: Plan, call: Call) -> Layout:
    """Where the queries and keys of each sequence lie."""
    assert isinstance(plan.problem, Problem)
    return fixed(plan).layout or _layout(plan.problem, call)


def _layout(problem: Problem, call: Call) -> Layout:
    keys, first = call.keys, call.first
    found = Layout(
        DENSE, problem.T, problem.S,
        offsets=call.q.offsets if isinstance(call.q, Packed) else None,
        firsts=first if isinstance(first, Tensor) else None,
        first=first if isinstance(first, int) else None,
    )  # fmt: skip
    if isinstance(keys, Ranged):
        return found._replace(kind=RANGED, starts=keys.starts, lengths=keys.lengths)
    if isinstance(keys, PackedKeys):
        return found._replace(kind=PACKED, starts=keys.offsets)
    if isinstance(keys, Paged):
        pages, page_tokens = data(keys.keys).shape[:2]
        return found._replace(
            kind=PAGED, lengths=keys.lengths, table=keys.table, table_stride=keys.table.stride(0), page_tokens=page_tokens, pages=pages
        )
    return found


def seen(plan: Plan, call: Call) -> Seen:
    """The mask."""
    return fixed(plan).seen or _seen(call)


def _seen(call: Call) -> Seen:
    before, after, parts = split(call.mask)
    found = Seen(before=None if before is None else min(before, FAR), after=None if after is None else min(after, FAR))
    for part in parts:
        if isinstance(part, Prefix):
            found = found._replace(prefix=part.length) if isinstance(part.length, int) else found._replace(prefixes=part.length)
        elif isinstance(part, Documents):
            q, k = part.queries, part.keys
            found = found._replace(q_documents=q, k_documents=k, document_strides=(*q.stride(), *k.stride()))
        elif isinstance(part, Blocks):
            at = (*broadcast(part.kept)[:2], *part.kept.stride()[2:])
            found = found._replace(blocks=part.kept, block_strides=at, block_rows=part.rows, block_columns=part.columns)
        elif isinstance(part, Tree):
            by_sequence = part.visible.stride(0) if part.visible.shape[0] > 1 else 0
            at = (by_sequence, *part.visible.stride()[1:])
            found = found._replace(tree=part.visible, tree_strides=at, nodes=part.visible.shape[-1])
        elif isinstance(part, Dense):
            found = found._replace(dense=part.visible, dense_strides=broadcast(part.visible))
    return found


def lists(plan: Plan, call: Call, of_keys: bool) -> Lists:
    """The blocks to visit, without those that a causal window hides whole; none where the mask is no mask of blocks, or is read
    by element."""
    if not fixed(plan).listed:
        return Lists()
    problem = plan.problem
    assert isinstance(problem, Problem)
    before, after, parts = split(call.mask)
    part = next(part for part in parts if isinstance(part, Blocks))
    first = problem.S - problem.T if call.first is None else call.first
    return Lists(*list_blocks(part, problem.T, first, before, after, of_keys))


def terms(plan: Plan, call: Call) -> Terms:
    """The terms of the score."""
    return fixed(plan).terms or _terms(plan, call)


def _terms(plan: Plan, call: Call) -> Terms:
    problem = plan.problem
    assert isinstance(problem, Problem)
    natural = call.bias is not None or call.alibi is not None
    unit = 1.0 if natural else 1.0 / math.log(2.0)
    if call.cap is None:
        found = Terms(problem.scale * unit, 1 if problem.scale > 0 and not natural else None)
    else:
        fast = problem.dtype == "bfloat16" and plan.machine.arch.startswith("sm") and not knobs.runtime.interpret
        found = Terms(problem.scale / call.cap.limit, limit=call.cap.limit * unit, fast=1 if fast else None)
    if call.bias is not None:
        found = found._replace(bias=call.bias, bias_strides=broadcast(call.bias))
    if call.alibi is not None:
        slopes = call.alibi.slopes
        found = found._replace(slopes=slopes, slope_strides=(0, *slopes.stride())[-2:])
    if call.sink is not None:
        found = found._replace(sink=call.sink.logits.contiguous())
    if call.dropout is not None:
        low, high = call.dropout.seed & 0xFFFFFFFF, call.dropout.seed >> 32
        keep = 1.0 / (1.0 - call.dropout.p)
        found = found._replace(threshold=int(call.dropout.p * 2**32), seed_low=low, seed_high=high, keep_scale=keep)
    return found
