"""A call as the C struct of `interface.h`: pointers and strides of its tensors, and its numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.backends.cpu.extras import Extras, has_extras
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import split
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State


class Prepared(NamedTuple):
    """What of the struct the plan alone decides: its head, its sizes, and the mask with scale and cap."""

    head: tuple[Any, ...]
    sizes: tuple[int, ...]
    tail: tuple[Any, ...]
    more: bool  # than most calls have


@lru_cache(maxsize=4096)
def prepared(plan: Plan) -> Prepared:
    """Computed once a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    before, after = (lib.UNBOUNDED if bound is None else min(bound, lib.UNBOUNDED) for bound in split(problem.call.mask)[:2])
    cap = 0.0 if problem.call.cap is None else problem.call.cap.limit
    return Prepared(
        (lib.ATTENTION.size, lib.INTERFACE, lib.ISAS[plan.machine.arch], plan.machine.units, lib.DTYPES_BY_NAME[problem.dtype]),
        (problem.H, problem.G, problem.D, problem.V),
        (before, after, problem.scale, cap),
        has_extras(problem.call),
    )


def attend(function: str, plan: Plan, call: Call) -> State:
    """Runs `strobe_forward` or `strobe_decode`."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    head, sizes, tail, more = prepared(plan)
    packed = isinstance(call.q, Packed)
    q = call.q.tokens if packed else call.q
    T = q.shape[0] if packed else problem.T
    out = q.new_empty((*q.shape[:-1], problem.V))
    lse = torch.empty(q.shape[:-1], dtype=torch.float32)
    k, v, layout, S, index = _keys(call.keys, problem)
    sink = None if call.sink is None else call.sink.logits.float().contiguous()
    slopes = None if call.alibi is None else call.alibi.slopes.float().contiguous()
    extras = Extras(call) if more else None
    first = call.first
    placed = isinstance(first, int)
    lib.run(
        function,
        lib.ATTENTION,
        lib.ATTENTION.pack(
            *head, layout, problem.B, T, S, *sizes,
            q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(),
            *strides(q), *strides(k), *strides(v), *strides(out), *strides(lse, 0),
            call.q.offsets.data_ptr() if packed else 0, *index,
            first.data_ptr() if isinstance(first, Tensor) else 0, first if placed else 0, placed, 0,
            *tail,
            0 if sink is None else sink.data_ptr(),
            0 if slopes is None else slopes.data_ptr(), 0 if slopes is None or slopes.dim() == 1 else slopes.shape[1],
            0 if extras is None else extras.address,
            *lib.NO_FAULT,
        ),
    )  # fmt: skip
    return State(out, lse)


def strides(x: Tensor, last: int = 1) -> tuple[int, ...]:
    """(batch or page, token, head); `last` more axes follow. Packed tokens have no batch."""
    found = x.stride()
    return found[:3] if len(found) == 3 + last else (0, *found[:2])


def _keys(keys: Any, problem: Problem) -> tuple[Tensor, Tensor, int, int, tuple[int, ...]]:
    """(keys, values, layout, S, the index arrays from `starts` to `Z`)."""
    if isinstance(keys, Dense):
        return keys.k, keys.v, lib.DENSE, problem.S, (0, 0, 0, 0, 0, 0, 0)
    if isinstance(keys, Paged):
        table = keys.table
        index = (0, keys.lengths.data_ptr(), table.data_ptr(), table.stride(0), table.shape[1], *keys.keys.shape[:2])
        return keys.keys, keys.values, lib.PAGED, keys.longest, index
    if isinstance(keys, Ranged):
        return keys.k, keys.v, lib.RANGED, keys.k.shape[1], (keys.starts.data_ptr(), keys.lengths.data_ptr(), 0, 0, 0, 0, 0)
    assert isinstance(keys, PackedKeys)
    return keys.k, keys.v, lib.PACKED, keys.k.shape[0], (keys.offsets.data_ptr(), 0, 0, 0, 0, 0, 0)
