"""A call as the C struct of `interface.h`. What the plan decides is written once a plan, pointers and strides once a call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.backends.cpu.extras import Extras, has_extras
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import split
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides, per_token
from strobe.state import State
from strobe.terms import Scaled


class Prepared(NamedTuple):
    """What the plan alone decides: the struct but for its tensors, and what the results are made like."""

    form: lib.Form
    out: Tensor
    lse: Tensor
    more: bool  # than most calls have
    scaled: bool  # keys and values


@lru_cache(maxsize=4096)
def prepared(name: str, plan: Plan) -> Prepared:
    """Computed once a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    call = problem.call
    before, after = (lib.UNBOUNDED if bound is None else min(bound, lib.UNBOUNDED) for bound in split(call.mask)[:2])
    packed = isinstance(call.q, Packed)
    lse = (call.q.tokens if packed else call.q).shape[:-1]  # [B, T, H], or [N, H]
    H, V = problem.H, problem.V
    layout, S, paged = _layout(call.keys, problem)
    placed = isinstance(call.first, int)
    by_sequence = call.alibi is not None and len(call.alibi.slopes.shape) == 2
    form = lib.ATTENTION.pack(
        lib.ATTENTION.size, lib.INTERFACE, lib.ISAS[plan.machine.arch], plan.machine.units, lib.DTYPES_BY_NAME[problem.dtype],
        layout, problem.B, lse[0] if packed else problem.T, S, H, problem.G, problem.D, V,
        0, 0, 0, 0, 0, *[0] * 9, 0 if packed else problem.T * H * V, H * V, V, 0 if packed else problem.T * H, H, 1,
        0, 0, 0, 0, 0, *paged, 0, call.first if placed else 0, placed, problem.invariant,
        _keys_dtype(problem), 0,
        before, after, problem.scale, 0.0 if call.cap is None else call.cap.limit,
        0, 0, H if by_sequence else 0, 0, *[0] * 8, *lib.NO_FAULT,
    )  # fmt: skip
    out = _like((*lse, V), getattr(torch, problem.dtype))
    return Prepared(lib.Form(name, lib.ATTENTION, form), out, _like(lse, torch.float32), has_extras(call), problem.scaled)


def _like(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What `empty_like` makes tensors of a shape from, in a third of the time that reading a tuple takes: one element,
    spread over the shape."""
    spread = torch.empty((), dtype=dtype).expand(shape)
    return spread if spread.numel() else torch.empty(shape, dtype=dtype)


def _layout(keys: Any, problem: Problem) -> tuple[int, int, tuple[int, int, int]]:
    """(layout, S, (table_width, P, Z)) of described keys."""
    none = (0, 0, 0)
    if isinstance(keys, Dense):
        return lib.DENSE, problem.S, none
    if isinstance(keys, Paged):
        return lib.PAGED, problem.S, (keys.table.shape[1], *_data(keys.keys).shape[:2])
    if isinstance(keys, Ranged):
        return lib.RANGED, problem.S, none
    assert isinstance(keys, PackedKeys)
    return lib.PACKED, _data(keys.k).shape[0], none


def _data(side: Any) -> Any:
    """The array of keys or values, narrow or not."""
    return side.data if isinstance(side, Scaled) else side


def _keys_dtype(problem: Problem) -> int:
    side = key_sides(problem.call.keys)[0]
    return lib.NARROW_BY_NAME[side.data.dtype] if isinstance(side, Scaled) else lib.DTYPES_BY_NAME[side.dtype]


def attend(name: str, plan: Plan, call: Call) -> State:
    """Runs `strobe_forward` or `strobe_decode`."""
    known = prepared(name, plan)
    state = State(torch.empty_like(known.out), torch.empty_like(known.lse))
    struct, _held = filled(known, call, state)
    known.form.run(struct)
    return state


def kept(name: str, plan: Plan) -> Callable[[Tensor, Tensor, Tensor], State] | None:
    """The same for a plan that is run many times, on arrays that are what it was made for; None where a call has more than
    dense queries, keys and values. Half of a short call's time is Python's, so this does nothing twice."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    q, keys, _, _, _, _, alibi, sink, _, first = problem.call
    form, like_out, like_lse, more, scaled = prepared(name, plan)
    if type(keys) is not Dense or type(q) is Packed or more or scaled or not (alibi is sink is None) or not isinstance(first, int | None):
        return None
    at, write = lib.TENSORS
    empty_like = torch.empty_like

    def run(q: Tensor, k: Tensor, v: Tensor) -> State:
        out, lse = empty_like(like_out), empty_like(like_lse)
        struct = form.copy()
        write(
            struct, at, q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(),
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        )  # fmt: skip
        form.run(struct)
        return State(out, lse)

    return run


def filled(known: Prepared, call: Call, state: State) -> tuple[Any, tuple[Any, ...]]:
    """The struct of a call whose results are, or will be, `state`; and what has to live until a kernel has read it."""
    form, _, _, more, scaled = known
    out, lse = state
    q, keys, _, _, _, _, alibi, to_sink, _, first = call
    packed = type(q) is Packed
    if packed:
        q = q.tokens
    k, v = key_sides(keys)
    sink = slopes = extras = None
    struct = form.copy()
    if scaled:
        at, write = lib.SCALES
        k_scale, v_scale = per_token(k), per_token(v)
        write(struct, at, k_scale.data_ptr(), v_scale.data_ptr(), *_scale_strides(k_scale), *_scale_strides(v_scale))
        k, v = k.data, v.data
    at, write = lib.TENSORS
    write(
        struct, at, q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(),
        *strides(q), *strides(k), *strides(v),
    )  # fmt: skip
    if packed or type(keys) is not Dense:
        at, write = lib.INDEX
        write(struct, at, call.q.offsets.data_ptr() if packed else 0, *_index(keys))
    if isinstance(first, Tensor):
        at, write = lib.FIRST
        write(struct, at, first.data_ptr())
    if to_sink is not None or alibi is not None:
        sink = None if to_sink is None else to_sink.logits.float().contiguous()
        slopes = None if alibi is None else alibi.slopes.float().contiguous()
        at, write = lib.TERMS
        write(struct, at, 0 if sink is None else sink.data_ptr(), 0 if slopes is None else slopes.data_ptr())
    if more:
        extras = Extras(call)
        at, write = lib.MORE
        write(struct, at, extras.address)
    return struct, (sink, slopes, extras)


def strides(x: Tensor) -> tuple[int, ...]:
    """(batch or page, token, head); the width's is 1. Packed tokens have no batch."""
    found = x.stride()
    return found[:3] if len(found) == 4 else (0, *found[:2])


def _scale_strides(scale: Tensor) -> tuple[int, ...]:
    """(batch or page, token, head)."""
    found = scale.stride()
    return found if len(found) == 3 else (0, *found)


def _index(keys: Any) -> tuple[int, int, int, int]:
    """(starts, lengths, table, table_stride)."""
    if isinstance(keys, Paged):
        return 0, keys.lengths.data_ptr(), keys.table.data_ptr(), keys.table.stride(0)
    if isinstance(keys, Ranged):
        return keys.starts.data_ptr(), keys.lengths.data_ptr(), 0, 0
    return keys.offsets.data_ptr() if isinstance(keys, PackedKeys) else 0, 0, 0, 0
