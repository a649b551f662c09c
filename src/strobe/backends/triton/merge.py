"""States over different keys become one: two that a caller has, or the parts of a split.

    lse = ln Σ exp(lse_i)          out = Σ exp(lse_i − lse) · out_i

A state that saw no key (out 0, lse −∞) changes nothing. Source: Dao et al., 2023, Flash-Decoding; the law is `strobe.state`'s.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.backends.triton.parts import EVEN, FIXED, RAGGED, WHOLE, slots_of
from strobe.backends.triton.sizes import padded, tiles
from strobe.backends.triton.splitting import Split, reach
from strobe.backends.triton.starting import start
from strobe.backends.triton.tiles import LN_2, LOG2_E, sequence
from strobe.plan import Plan
from strobe.problem import Problem
from strobe.state import State

HELD = 2048  # numbers of out that a program holds, at most
AT_ONCE = 16  # parts that are read together


@triton.jit
def fold(b_top, b_l, b_acc, b_lse, b_sum, p_out, o_m, m_m, V: tl.constexpr, BV: tl.constexpr):
    """(greatest score, sum of weights, weighted sum) of [BM] rows with one more state in them, whose greatest score and sum of
    weights these are; scores in base 2. An lse is the greatest score of a sum of 1."""
    o_v = tl.arange(0, BV)
    b_out = tl.load(p_out + o_m[:, None] * V + o_v[None, :], mask=m_m[:, None] & (o_v < V)[None, :], other=0.0).to(tl.float32)
    b_new = tl.maximum(b_top, b_lse)
    b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
    b_decay = tl.exp2(b_top - b_base)
    b_weight = tl.exp2(b_lse - b_base) * b_sum
    # a state without keys has weight 0, and its out may be anything
    b_acc = b_acc * b_decay[:, None] + tl.where((b_lse == float("-inf"))[:, None], 0.0, b_out * b_weight[:, None])
    return b_new, b_l * b_decay + b_weight, b_acc


@triton.jit
def end(b_top, b_l, b_acc, p_out, p_lse, o_m, m_m, V: tl.constexpr, BV: tl.constexpr):
    """Stores the rows."""
    o_v = tl.arange(0, BV)
    some = b_l != 0.0
    b_divisor = tl.where(some, b_l, 1.0)
    b_out = (b_acc / b_divisor[:, None]).to(p_out.dtype.element_ty)
    tl.store(p_out + o_m[:, None] * V + o_v[None, :], b_out, mask=m_m[:, None] & (o_v < V)[None, :])
    tl.store(p_lse + o_m, tl.where(some, (b_top + tl.log2(b_divisor)) * LN_2, float("-inf")).to(p_lse.dtype.element_ty), mask=m_m)


@triton.jit(do_not_specialize=["splits", "reach", "B"])  # no compiling anew for another batch
def merge_parts(
    p_parts, p_tops, p_sums, p_out, p_lse, layout, splits, reach, B, H: tl.constexpr, V: tl.constexpr, BV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, AT_ONCE: tl.constexpr, SPLIT: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Rows of the parts of a sequence, [slots, T, H, V] and [slots, T, H], as rows of one state. Parts tell their greatest score and sum
    of weights apart: an lse would round both away."""
    i_b = tl.program_id(1)
    q_first, queries, _, _, _ = sequence(i_b, layout)
    first, count = slots_of(i_b, layout, B, splits, reach, SPLIT, BATCH, BN)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)  # query and head
    m_m = o_m < queries * H
    o_v = tl.arange(0, BV)
    b_top = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, BV], tl.float32)
    for i in range(0, count, AT_ONCE):
        o_i = i + tl.arange(0, AT_ONCE)
        m_i = (o_i < count)[:, None] & m_m[None, :]
        o_part = (first + o_i).to(tl.int64)[:, None] * (layout.T * H) + o_m[None, :]  # [AT_ONCE, BM]
        b_tops = tl.load(p_tops + o_part, mask=m_i, other=float("-inf"))
        b_sums = tl.load(p_sums + o_part, mask=m_i, other=0.0)
        m_parts = m_i[:, :, None] & (o_v < V)[None, None, :]
        b_parts = tl.load(p_parts + o_part[:, :, None] * V + o_v[None, None, :], mask=m_parts, other=0.0)
        b_new = tl.maximum(b_top, tl.max(b_tops, 0))
        b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_decay = tl.exp2(b_top - b_base)
        b_weight = tl.exp2(b_tops - b_base[None, :]) * b_sums
        b_l = b_l * b_decay + tl.sum(b_weight, 0)
        # a part without keys has weight 0, and its sums may be anything
        b_parts = tl.where((b_sums == 0.0)[:, :, None], 0.0, b_parts * b_weight[:, :, None])
        b_acc = b_acc * b_decay[:, None] + tl.sum(b_parts, 0)
        b_top = b_new
    o_row = o_m.to(tl.int64) + q_first * H
    if layout.offsets is None:
        o_row += i_b.to(tl.int64) * layout.T * H
    end(b_top, b_l, b_acc, p_out, p_lse, o_row, m_m, V, BV)


@triton.jit(do_not_specialize=["rows"])
def merge_two(p_a, p_a_lse, p_b, p_b_lse, p_out, p_lse, rows, V: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr):
    """Rows of two states as rows of one."""
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    m_m = o_m < rows
    b_top = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, BV], tl.float32)
    b_a = tl.load(p_a_lse + o_m, mask=m_m, other=float("-inf")).to(tl.float32) * LOG2_E
    b_b = tl.load(p_b_lse + o_m, mask=m_m, other=float("-inf")).to(tl.float32) * LOG2_E
    b_top, b_l, b_acc = fold(b_top, b_l, b_acc, b_a, 1.0, p_a, o_m, m_m, V, BV)
    b_top, b_l, b_acc = fold(b_top, b_l, b_acc, b_b, 1.0, p_b, o_m, m_m, V, BV)
    end(b_top, b_l, b_acc, p_out, p_lse, o_m, m_m, V, BV)


def tile(rows: int, V: int) -> dict[str, int]:
    """Rows of a program: few enough that every multiprocessor has some."""
    BM = max(1, min(triton.next_power_of_2(max(1, rows // 256)), HELD // padded(V)))
    held = BM * padded(V)
    return {"V": V, "BV": padded(V), "BM": BM, "num_warps": 8 if held > 1024 else 4 if held > 256 else 1}


def rule(how: Split, B: int) -> dict[str, int]:
    """How keys are cut, as the kernels are told."""
    kind = {"whole": WHOLE, "even": EVEN, "ragged": RAGGED, "fixed": FIXED}[how.kind].value
    return {"SPLIT": kind, "BATCH": max(32, triton.next_power_of_2(B)) if how.kind == "ragged" else 1}


def join(
    state: State, parts: tuple[Tensor, Tensor, Tensor], layout: Any, problem: Problem, how: Split, keys: int, like: Any
) -> None:  # fmt: skip
    """Writes the parts [slots, T, H, V], merged by their greatest scores and sums of weights [slots, T, H], into the state; all are
    contiguous."""
    rows, V = problem.T * problem.H, problem.V
    # fixed, a row's parts are added in one order, whatever rows there are beside it
    BM = 1 if how.kind == "fixed" or rows * problem.B <= 1024 else max(1, min(4, HELD // padded(V)))
    held = AT_ONCE * BM * padded(V)
    size = {"H": problem.H, "V": V, "BV": padded(V), "BM": BM, "BN": keys, "AT_ONCE": AT_ONCE, **rule(how, problem.B),
            "num_warps": 8 if held > 8192 else 4 if held > 2048 else 1}  # fmt: skip
    with torch.cuda.device_of(state.out):
        args = *parts, *state, layout, how.parts, reach(problem), problem.B
        start(merge_parts, (tiles(rows, BM), problem.B), args, size, like)


def launch(plan: Plan, a: State, b: State) -> State:
    """The merged state."""
    out = torch.empty_like(a.out, memory_format=torch.contiguous_format)
    lse = torch.empty_like(a.lse, memory_format=torch.contiguous_format)
    if out.numel():
        arrays = tuple(x.contiguous() for x in (*a, *b))
        rows, size = lse.numel(), tile(lse.numel(), out.shape[-1])
        with torch.cuda.device_of(out):
            start(merge_two, (tiles(rows, size["BM"]),), (*arrays, out, lse, rows), size, None)
    return State(out, lse)
