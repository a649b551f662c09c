"""Two states over different keys become one: `merge.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.merging import Merge
from strobe.plan import Plan
from strobe.state import State


def launch(plan: Plan, a: State, b: State) -> State:
    """The merged state."""
    problem, machine = plan.problem, plan.machine
    assert isinstance(problem, Merge)
    rows, width = problem.rows, problem.V
    outs = [_rows(x.out, (rows, width)) for x in (a, b)]
    lses = [_rows(x.lse, (rows,)) for x in (a, b)]
    out, lse = torch.empty_like(a.out, memory_format=torch.contiguous_format), torch.empty(a.lse.shape, dtype=torch.float32)
    lib.run(
        "strobe_merge_states",
        lib.MERGE,
        lib.MERGE.pack(
            lib.MERGE.size, lib.INTERFACE, lib.ISAS[machine.arch], machine.units, lib.DTYPES_BY_NAME[problem.dtype], 0,
            1, rows, 1, width, *(x.data_ptr() for x in (*outs, *lses)), out.data_ptr(), lse.data_ptr(),
            *(n for x in outs for n in (0, x.stride(0), 0)), 0, width, 0,
            *(n for x in lses for n in (0, x.stride(0), 0)), 0, 1, 0,
            *lib.NO_FAULT,
        ),
    )  # fmt: skip
    return State(out, lse)


def _rows(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A row a state; copied only where no stride says so."""
    return x.reshape(shape)
