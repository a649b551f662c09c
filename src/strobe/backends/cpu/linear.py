"""A linear layer for 1 to 16 rows, its weights read once, in place: `linear.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.errors import Broken
from strobe.machine import Machine

NUMBERS = {torch.int8: lib.NARROW_BY_NAME["int8"]} | {getattr(torch, name): number for name, number in lib.DTYPES_BY_NAME.items()}


def launch(machine: Machine, x: Tensor, weights: Tensor, bias: Tensor | None = None, scales: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, `[M, K]` and `[N, K]` to `[M, N]`, in the dtype of x.

    weights: contiguous, of x's dtype; or int8 with float32 scales `[N]`, row n counting scales[n].
    """
    (M, K), (N, width), kind = x.shape, weights.shape, x.dtype
    if width != K or not weights.is_contiguous():
        raise Broken(f"weights {list(weights.shape)} in strides {weights.stride()} are not {K} numbers a row, one behind the other")
    for row, wanted in ((bias, kind), (scales, torch.float32)):
        if row is not None and (row.shape != (N,) or row.dtype is not wanted or not row.is_contiguous()):
            raise Broken(f"bias and scales are {N} neighbours, of the dtype of x and float32; got {list(row.shape)}, {row.dtype}")
    if x.stride(1) != 1:
        x = x.contiguous()
    y = x.new_empty(M, N)
    lib.run(
        "strobe_linear",
        lib.LINEAR,
        lib.LINEAR.pack(
            lib.LINEAR.size, lib.INTERFACE, lib.ISAS[machine.arch], machine.units, NUMBERS[kind], NUMBERS[weights.dtype],
            M, N, K, x.stride(0), x.data_ptr(), weights.data_ptr(), 0 if scales is None else scales.data_ptr(),
            0 if bias is None else bias.data_ptr(), y.data_ptr(), *lib.NO_FAULT,
        ),
    )  # fmt: skip
    return y
