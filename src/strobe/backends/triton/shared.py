"""The gradient of a bias that a few sequences share: the pass of queries leaves one of each sequence, and they are added up here.

    d bias[h, t, s] = Σ_b d score[b, h, t, s]

That takes room for so many gradients, so more sequences go another way (`d_bias_of` in backward.py), which computes scores anew.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.backends.triton import arguments, sizes
from strobe.backends.triton.tiles import keys_seen, sequence
from strobe.layouts import Dense
from strobe.plan import Plan
from strobe.problem import Call, Problem

MOST = 4  # sequences, and so gradients that there is room for


@triton.jit
def add_up(
    p_each, p_sum, s_each, s_sum, layout, mask, T, S, B: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """The tile of a head's bias that a tile of rows of `d_queries` and a tile of keys make; zeros where it visited none."""
    i_n = tl.program_id(0)
    i_m = tl.program_id(1)
    i_h = tl.program_id(2)
    q_first, queries, k_first, length, first = sequence(i_n.to(tl.int64) * 0, layout)
    t_low = i_m * BM // GROUP
    t_high = tl.minimum(queries - 1, (i_m * BM + BM - 1) // GROUP)
    low, high, full_low, full_high = keys_seen(first + t_low, first + t_high, first, length, mask.prefix, mask, False, BN)
    o_t = t_low + tl.arange(0, BM // GROUP)
    o_n = i_n * BN + tl.arange(0, BN)
    m = (o_t < T)[:, None] & (o_n < S)[None, :]
    at = i_h.to(tl.int64) * s_each[1] + o_t.to(tl.int64)[:, None] * s_each[2] + o_n[None, :]
    b_sum = tl.zeros([BM // GROUP, BN], tl.float32)
    if (i_n * BN >= low) & (i_n * BN < high):
        for _ in tl.static_range(B):
            b_sum += tl.load(p_each + at, mask=m, other=0.0).to(tl.float32)
            p_each += s_each[0]
    to = i_h.to(tl.int64) * s_sum[1] + o_t.to(tl.int64)[:, None] * s_sum[2] + o_n[None, :] * s_sum[3]
    tl.store(p_sum + to, b_sum.to(p_sum.dtype.element_ty), mask=m)


@triton.jit
def zeros_beside(d_bias, i_b, b_t, b_h, b_row, low, high, S, BN: tl.constexpr):
    """Zeros for a tile of rows and the keys that none of its rows sees: those before `low`, and after the tile that ends at `high`."""
    s = d_bias.strides
    at = d_bias.data + i_b * s[0] + b_h * s[1] + b_t.to(tl.int64) * s[2]
    zeros = tl.zeros([b_t.shape[0], BN], d_bias.data.dtype.element_ty)
    seen = tl.maximum(tl.cdiv(high, BN) * BN - low, 0)
    for i in tl.range(0, S - seen, BN):
        n = tl.where(i < low, i, i + seen)
        o_n = (n + tl.arange(0, BN))[None, :]
        tl.store(at + o_n * s[3], zeros, mask=b_row & (o_n < S))


def by_numbers(plan: Plan, call: Call) -> bool:
    """Whether it follows from numbers which tiles of a bias with a number for each head and pair the pass of queries visits."""
    problem, bias = plan.problem, call.bias
    assert isinstance(problem, Problem)
    if bias is None or min(problem.T, problem.S) < 2 or tuple(bias.shape)[-3:] != (problem.H, problem.T, problem.S):
        return False
    known = arguments.fixed(plan)
    by_array = known.listed or known.sizes["BY_ELEMENT"] or known.seen is None or isinstance(call.first, Tensor)
    return isinstance(call.keys, Dense) and isinstance(call.q, Tensor) and not by_array


def rest(plan: Plan, call: Call) -> bool:
    """Whether the pass of queries writes a sequence's whole bias gradient, zeros too."""
    problem, bias = plan.problem, call.bias
    assert isinstance(problem, Problem)
    return bias is not None and bias.numel() == problem.B * problem.H * problem.T * problem.S and by_numbers(plan, call)


def one_of_each(plan: Plan, call: Call) -> bool:
    """Whether the gradient of the call's bias is added up from those of a few sequences that share it."""
    problem, bias = plan.problem, call.bias
    assert isinstance(problem, Problem)
    if bias is None or not 1 < problem.B <= MOST or problem.group not in (1, 2, 4, 8, 16):
        return False
    return bias.shape[:-3] in ((), (1,)) and by_numbers(plan, call)


def room_for_each(problem: Problem, bias: Tensor) -> Tensor:
    """`[B, H, T, S]`."""
    return bias.new_empty(problem.B, problem.H, problem.T, problem.S)


def add(plan: Plan, call: Call, each: Tensor, found: Tensor, tile: sizes.Tile) -> None:
    """Adds `each` up to `found`, by the tiles of the pass of queries."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    grid = sizes.tiles(problem.S, tile.keys), sizes.tiles(problem.T * problem.group, tile.rows), problem.H
    layout, mask = arguments.layout(plan, call), arguments.seen(plan, call)
    with torch.cuda.device_of(each):
        add_up[grid](
            each, found, each.stride(), arguments.broadcast(found), layout, mask, problem.T, problem.S, problem.B, problem.group, tile.rows,
            tile.keys, num_warps=8,
        )  # fmt: skip
