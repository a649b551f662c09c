"""New keys, turned if asked, and values written into pages: `append.cpp`. Token t of T of sequence b stands at lengths[b] − T + t."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from strobe.appending import Append, Rotary
from strobe.backends.cpu import library as lib
from strobe.backends.cpu.arguments import strides
from strobe.layouts import Packed, Paged
from strobe.plan import Plan
from strobe.terms import Scaled


@lru_cache(maxsize=1024)
def prepared(plan: Plan) -> lib.Form:
    """What of the struct the plan alone decides; computed once a plan."""
    problem, machine = plan.problem, plan.machine
    assert isinstance(problem, Append)
    form = lib.APPEND.pack(
        lib.APPEND.size, lib.INTERFACE, lib.ISAS[machine.arch], machine.units,
        lib.DTYPES_BY_NAME[problem.dtype], (lib.DTYPES_BY_NAME | lib.NARROW_BY_NAME)[problem.page_dtype],
        problem.B, *[0] * 42, problem.rotated, problem.interleaved, 0, *lib.NO_FAULT,
    )  # fmt: skip
    return lib.Form("strobe_append_tokens", lib.APPEND, form)


def launch(plan: Plan, pages: Paged, k: Any, v: Tensor, rotary: Rotary | None = None) -> None:
    """Writes in place; nothing is written if any token has no place."""
    packed = isinstance(k, Packed)
    tokens = k.tokens if packed else k
    keys, values, table, scales = pages.keys, pages.values, pages.table, (0,) * 8
    if isinstance(keys, Scaled):
        scales = (keys.scale.data_ptr(), values.scale.data_ptr(), *keys.scale.stride(), *values.scale.stride())
        keys, values = keys.data, values.data
    form = prepared(plan)
    struct = form.copy()
    at, write = lib.APPENDED
    write(
        struct, at, tokens.shape[0 if packed else 1], *tokens.shape[-2:], v.shape[-1],
        tokens.data_ptr(), v.data_ptr(), keys.data_ptr(), values.data_ptr(),
        *strides(tokens), *strides(v), *strides(keys), *strides(values),
        k.offsets.data_ptr() if packed else 0, table.data_ptr(), pages.lengths.data_ptr(),
        table.stride(0), table.shape[1], *keys.shape[:2], *scales,
    )  # fmt: skip
    if rotary is not None:
        cos, sin, positions = rotary.cos, rotary.sin, rotary.positions
        at, write = lib.TURNED
        write(
            struct, at, cos.data_ptr(), sin.data_ptr(), 0 if positions is None else positions.data_ptr(),
            cos.stride(0), sin.stride(0), 0 if packed or positions is None else positions.stride(0), cos.shape[0],
        )  # fmt: skip
    form.run(struct)
