"""Parts of a split become rows of one state: each part tells its greatest score, its sum of weights and its weighted sum of values.

    top = max topᵢ      sum = Σ exp2(topᵢ − top) · sumᵢ      out = Σ exp2(topᵢ − top) · accᵢ / sum      lse = (top + log2 sum) · ln 2

Started while the parts are still being made (programmatic dependent launch): what does not depend on them is computed before it waits.
Which parts a row has follows from the lengths, by the functions that cut them (`parts.py`). Source: Dao et al., 2023, Flash-Decoding.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.hopper.forms import Form
from strobe.backends.hopper.parts import EVEN, FAR, STREAM, even, parts_of, parts_within, sequence, span, stream_slot
from strobe.backends.hopper.starting import start
from strobe.problem import Problem

LOG2_E = tl.constexpr(1.4426950408889634)  # 1 / ln 2
LN_2 = tl.constexpr(0.6931471805599453)
ROWS = 4  # that a program of `join` merges


@triton.jit(do_not_specialize=["B", "G", "T", "S", "splits", "places", "first", "before", "after"])
def merge_parts(
    p_work, p_out, p_lse, p_lengths, p_starts, p_firsts, p_sinks, B, G, T, S, splits, places, first, before, after,
    TREE: tl.constexpr, GROUP: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, EACH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SPLIT: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, AT_ONCE: tl.constexpr, FAR: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a tile of rows of one key head of one sequence, so many parts AT_ONCE; rows of fewer than LEAST parts are there
    already."""
    rows = T * GROUP
    H = G * GROUP
    held = tl.minimum(rows, BM)
    blocks = (held + ROWS - 1) // ROWS
    lanes = G * ((rows + BM - 1) // BM)
    i_r = tl.program_id(0) % blocks
    lane = tl.program_id(0) // blocks % lanes
    i_b = tl.program_id(0) // blocks // lanes
    i_g = lane % G
    i_m = lane // G
    _, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
    low, high, tiles = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
    early = low * 0  # places before the first part in what is added at once
    if SPLIT == STREAM:
        o_b = tl.arange(0, BATCH)
        _, o_length, o_at = sequence(tl.minimum(o_b, B - 1), p_lengths, p_starts, p_firsts, first, S, T, FAR)
        _, _, o_tiles = span(o_length, o_at, i_m, T, before, after, TREE, GROUP, BM, BN)
        tiles_before = tl.sum(tl.where(o_b < i_b, o_tiles, 0), 0)
        first_program, parts = parts_of(tiles_before, tiles, tl.sum(tl.where(o_b < B, o_tiles, 0), 0), splits)
        slot = stream_slot(lane, first_program, i_b, splits, B)
    else:
        slot = (i_b * lanes + lane) * splits
        if SPLIT == EVEN:
            parts, _, _ = even(tiles, 0, splits)
        else:
            first_part, parts = parts_within(low, high)
            early = first_part % AT_ONCE  # so that a part is added to the same others whatever the tile of rows sees
    gdc_launch_dependents()
    gdc_wait()

    if parts >= LEAST:
        o_r = i_r * ROWS + tl.arange(0, ROWS)
        o_row = i_m * BM + o_r
        m_r = (o_r < held) & (o_row < rows)
        o_h = i_g * GROUP + o_row % GROUP
        o_c = tl.arange(0, BV)
        p_tops = p_work + places.to(tl.int64) * BV
        b_top = tl.full([ROWS], float("-inf"), tl.float32)
        b_sum = tl.zeros([ROWS], tl.float32)
        b_acc = tl.zeros([ROWS, BV], tl.float32)
        for i in range(-early, parts, AT_ONCE):
            o_i = i + tl.arange(0, AT_ONCE)
            m_i = ((o_i >= 0) & (o_i < parts))[:, None] & m_r[None, :]
            o_slot = (slot + o_i).to(tl.int64)[:, None] * held + o_r[None, :]  # [AT_ONCE, ROWS]
            b_tops = tl.load(p_tops + o_slot, mask=m_i, other=float("-inf"))
            b_sums = tl.load(p_tops + places + o_slot, mask=m_i, other=0.0)
            m_parts = m_i[:, :, None] & (o_c >= 0)[None, None, :]
            b_parts = tl.load(p_work + o_slot[:, :, None] * BV + o_c[None, None, :], mask=m_parts, other=0.0)
            b_new = tl.maximum(b_top, tl.max(b_tops, 0))
            b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
            b_decay = tl.exp2(b_top - b_base)
            b_weight = tl.exp2(b_tops - b_base[None, :])
            b_top = b_new
            b_sum = b_sum * b_decay + tl.sum(b_weight * b_sums, 0)
            # a part without keys may hold anything
            b_parts = tl.where((b_sums != 0.0)[:, :, None], b_parts * b_weight[:, :, None], 0.0)
            b_acc = b_acc * b_decay[:, None] + tl.sum(b_parts, 0)
        if p_sinks is not None:
            b_sink = tl.load(p_sinks + tl.minimum(o_h, H - 1)).to(tl.float32) * LOG2_E
            b_new = tl.maximum(b_top, b_sink)
            b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
            b_decay = tl.exp2(b_top - b_base)
            b_sum = b_sum * b_decay + tl.exp2(b_sink - b_base)
            b_acc = tl.where((b_decay != 0.0)[:, None], b_acc * b_decay[:, None], 0.0)
            b_top = b_new
        some = b_sum != 0.0
        b_divisor = tl.where(some, b_sum, 1.0)
        b_out = tl.where(some[:, None], b_acc / b_divisor[:, None], 0.0)
        o_v = o_c % (BV // EACH) * EACH + o_c // (BV // EACH)  # columns of narrow values lie by their place in a unit
        o_out = (i_b.to(tl.int64) * T + o_row // GROUP) * H + o_h
        tl.store(p_out + o_out[:, None] * V + o_v[None, :], b_out.to(p_out.dtype.element_ty), mask=m_r[:, None] & (o_v < V)[None, :])
        tl.store(p_lse + o_out, tl.where(some, (b_top + tl.log2(b_divisor)) * LN_2, float("-inf")), mask=m_r)


def join(problem: Problem, arrays: tuple[Any, ...], numbers: tuple[Any, ...], form: Form, key: Any) -> None:
    """Merges equal parts, of which every row has one at least.

    Args:
        problem: whose rows they are.
        arrays: the parts, results and lse, lengths, starts, firsts and sinks.
        numbers: parts of a tile's keys, rows of all parts, position of the first query, reach of the window.
        form: of the kernel that made the parts.
        key: what decides how the arrays are compiled.
    """
    rows, B, G = form.rows, problem.B, problem.G
    named = {
        "TREE": form.tree, "GROUP": problem.group, "V": problem.V, "BV": form.value_width, "EACH": 1, "BM": rows, "BN": form.tile.keys,
        "SPLIT": EVEN.value, "BATCH": 1, "ROWS": ROWS, "AT_ONCE": max(4, min(16, triton.next_power_of_2(numbers[0]))), "FAR": FAR,
        "LEAST": 1, "num_warps": 4, "maxnreg": 255, "launch_pdl": True,
    }  # fmt: skip
    packed = problem.T * problem.group
    programs = B * G * -(-packed // rows) * -(-min(packed, rows) // ROWS)
    start(merge_parts, programs, (*arrays, B, G, problem.T, problem.S, *numbers), named, key)
