"""The gradient of a sink: it has a weight in each row, and its value is 0.

    d logit[h] = −Σ exp(logit[h] − lse[row, h]) · δ[row, h]
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.backends.triton.tiles import LOG2_E

AT_ONCE = 1024  # rows


@triton.jit(do_not_specialize=["rows", "R"])
def d_sink_of(p_logits, p_base, p_delta, p_found, rows, R, N: tl.constexpr):
    """One head; what `prepare` wrote lies by head. Terms may cancel, so they are added in float64."""
    i_h = tl.program_id(0)
    logit = tl.load(p_logits + i_h).to(tl.float32) * LOG2_E
    at = i_h.to(tl.int64) * R
    b_sum = tl.zeros([N], tl.float64)
    for start in range(0, rows, N):
        o_row = start + tl.arange(0, N)
        b_base = tl.load(p_base + at + o_row, mask=o_row < rows, other=float("inf"))
        b_delta = tl.load(p_delta + at + o_row, mask=o_row < rows, other=0.0)
        b_sum += tl.exp2(logit - b_base).to(tl.float64) * b_delta.to(tl.float64)
    tl.store(p_found + i_h, (-tl.sum(b_sum, 0)).to(p_found.dtype.element_ty))


def gradient(logits: Tensor, base: Tensor, delta: Tensor, rows: int) -> Tensor:
    """`[H]`, of lse in base 2 and δ `[H, R]`, the first `rows` of each head."""
    logits = logits.contiguous()
    found = torch.empty_like(logits)
    with torch.cuda.device_of(base):
        d_sink_of[(len(logits),)](logits, base, delta, found, rows, base.shape[1], AT_ONCE, num_warps=8)
    return found
