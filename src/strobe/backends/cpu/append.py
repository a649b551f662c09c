"""New keys and values written into pages: `append.cpp`. Token t of T of sequence b stands at lengths[b] − T + t."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from strobe.appending import Append
from strobe.backends.cpu import library as lib
from strobe.backends.cpu.arguments import strides
from strobe.layouts import Packed, Paged
from strobe.plan import Plan


def launch(plan: Plan, pages: Paged, k: Any, v: Tensor) -> None:
    """Writes in place; nothing is written if any token has no place."""
    problem, machine = plan.problem, plan.machine
    assert isinstance(problem, Append)
    packed = isinstance(k, Packed)
    tokens = k.tokens if packed else k
    keys, values, table = pages.keys, pages.values, pages.table
    lib.run(
        "strobe_append_tokens",
        lib.APPEND,
        lib.APPEND.pack(
            lib.APPEND.size, lib.INTERFACE, lib.ISAS[machine.arch], machine.units,
            lib.DTYPES_BY_NAME[problem.dtype], lib.DTYPES_BY_NAME[problem.page_dtype],
            problem.B, tokens.shape[0] if packed else problem.T, problem.G, problem.D, problem.V,
            tokens.data_ptr(), v.data_ptr(), keys.data_ptr(), values.data_ptr(),
            *strides(tokens), *strides(v), *strides(keys), *strides(values),
            k.offsets.data_ptr() if packed else 0, table.data_ptr(), pages.lengths.data_ptr(),
            table.stride(0), table.shape[1], *keys.shape[:2], *lib.NO_FAULT,
        ),
    )  # fmt: skip
