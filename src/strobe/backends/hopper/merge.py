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
from strobe.backends.hopper.parts import EVEN, FAR, STREAM, cut, even, parts_of, parts_within, sequence, span, stream_slot, stretch
from strobe.backends.hopper.starting import start
from strobe.problem import Problem

LOG2_E = tl.constexpr(1.4426950408889634)  # 1 / ln 2
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.0e38)  # less than any score; and the difference of two such is 0, not NaN


@triton.jit
def mine(G, T, GROUP: tl.constexpr, BM: tl.constexpr, BLOCKS: tl.constexpr):
    """(rows of a key head, of its tile that are held, tiles of all key heads; the tile, the sequence, the row of the tile and which of
    its BLOCKS of columns this program has)."""
    rows = T * GROUP
    held = tl.minimum(rows, BM)
    lanes = G * ((rows + BM - 1) // BM)
    i_c = tl.program_id(0) % BLOCKS
    i_r = tl.program_id(0) // BLOCKS % held
    lane = tl.program_id(0) // BLOCKS // held % lanes
    i_b = tl.program_id(0) // BLOCKS // held // lanes
    return rows, held, lanes, lane, i_b, i_r, i_c


@triton.jit(do_not_specialize=["B", "G", "T", "S", "splits", "places", "first", "before", "after"])
def merge_parts(
    p_work, p_out, p_lse, p_lengths, p_starts, p_firsts, p_sinks, B, G, T, S, splits, places, first, before, after,
    TREE: tl.constexpr, GROUP: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SPLIT: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr, FAR: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """COLUMNS of a row, so many parts AT_ONCE; rows of fewer than LEAST parts are there already."""
    rows, held, lanes, lane, i_b, i_r, i_c = mine(G, T, GROUP, BM, BV // COLUMNS)
    H = G * GROUP
    i_g = lane % G
    i_m = lane // G
    _, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
    low, high, tiles = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
    if SPLIT == STREAM:
        o_b = tl.arange(0, BATCH)
        _, o_length, o_at = sequence(tl.minimum(o_b, B - 1), p_lengths, p_starts, p_firsts, first, S, T, FAR)
        _, _, o_tiles = span(o_length, o_at, i_m, T, before, after, TREE, GROUP, BM, BN)
        tiles_before = tl.sum(tl.where(o_b < i_b, o_tiles, 0), 0)
        first_program, parts = parts_of(tiles_before, tiles, tl.sum(tl.where(o_b < B, o_tiles, 0), 0), splits)
        slot = stream_slot(lane, first_program, i_b, splits, B)
    else:
        slot = (i_b * lanes + lane) * splits
        parts, _, _ = even(tiles, 0, splits)
    gdc_wait()
    gdc_launch_dependents()  # not before: what is launched next would take places beside programs that still run, unevenly

    row = i_m * BM + i_r
    if (parts >= LEAST) & (row < rows):
        o_c = i_c * COLUMNS + tl.arange(0, COLUMNS)
        p_tops = p_work + places.to(tl.int64) * BV
        b_top = tl.full([1], float("-inf"), tl.float32)
        b_sum = tl.zeros([1], tl.float32)
        b_acc = tl.zeros([1, COLUMNS], tl.float32)
        for i in range(0, parts, AT_ONCE):
            o_i = i + tl.arange(0, AT_ONCE)
            m_i = (o_i < parts)[:, None]
            o_slot = (slot + o_i).to(tl.int64)[:, None] * held + i_r  # [AT_ONCE, 1]
            b_tops = tl.load(p_tops + o_slot, mask=m_i, other=float("-inf"))
            b_sums = tl.load(p_tops + places + o_slot, mask=m_i, other=0.0)
            b_parts = tl.load(p_work + o_slot * BV + o_c[None, :], mask=m_i & (o_c >= 0)[None, :], other=0.0)
            b_new = tl.maximum(b_top, tl.max(b_tops, 0))
            b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
            b_decay = tl.exp2(b_top - b_base)
            b_weight = tl.exp2(b_tops - b_base[None, :])
            b_top = b_new
            b_sum = b_sum * b_decay + tl.sum(b_weight * b_sums, 0)
            # a part without keys may hold anything
            b_acc = b_acc * b_decay[:, None] + tl.sum(tl.where(b_sums != 0.0, b_parts * b_weight, 0.0), 0)[None, :]
        o_row = row + tl.arange(0, 1)
        o_h = i_g * GROUP + o_row % GROUP
        end(b_top, b_sum, b_acc, p_out, p_lse, p_sinks, i_b, T, H, o_row, o_h, o_c, o_row < rows, i_c == 0, GROUP, V)


@triton.jit
def end(
    b_top, b_sum, b_acc, p_out, p_lse, p_sinks, i_b, T, H, o_row, o_h, o_c, m_r, first, GROUP: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Stores columns of rows of the result, and with the first of them the lse."""
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
    o_out = (i_b.to(tl.int64) * T + o_row // GROUP) * H + o_h
    tl.store(p_out + o_out[:, None] * V + o_c[None, :], b_out.to(p_out.dtype.element_ty), mask=m_r[:, None] & (o_c < V)[None, :])
    tl.store(p_lse + o_out, tl.where(some, (b_top + tl.log2(b_divisor)) * LN_2, float("-inf")), mask=m_r & first)


@triton.jit
def added(b_m, b_l, b_acc, b_top, b_sum, b_part):
    """(greatest score, sum of weights, weighted sum) of a row with those of a part behind them. The decode kernel adds them alike
    (`summing.added`); a product is fused with a sum where it says so and nowhere else."""
    b_new = tl.maximum(b_m, b_top)
    b_decay = tl.exp2(b_m - b_new)
    b_weight = tl.exp2(b_top - b_new)
    return b_new, tl.fma(b_l, b_decay, b_sum * b_weight), tl.fma(b_acc, b_decay, b_part * b_weight)


@triton.constexpr_function
def begins(part, stretch):
    """Whether a part, of a sequence from its first key on, is the first of a stretch (`parts.cut`)."""
    key = part * 1024 - 24576 if part >= 32 else part * 512 - 8192 if part >= 24 else part * 256 - 2048 if part >= 16 else part * 128
    return key % stretch == 0


@triton.jit(do_not_specialize=["B", "G", "T", "S", "cuts", "places", "first", "before", "after"])
def add_parts(
    p_work, p_out, p_lse, p_lengths, p_starts, p_firsts, p_sinks, B, G, T, S, cuts, places, first, before, after,
    TREE: tl.constexpr, GROUP: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    WHOLE: tl.constexpr, MANY: tl.constexpr, COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """COLUMNS of a row, from parts at fixed cuts: those of a stretch of keys are added up from the first to the last, then stretches
    are, in the same order whatever the sequence's length and however many programs made them. WHOLE stretches are parts already. Of
    parts that are read AT_ONCE, those that are not there change nothing; MANY, there may be more than those."""
    rows, held, lanes, lane, i_b, i_r, i_c = mine(G, T, GROUP, BM, BV // COLUMNS)
    i_g = lane % G
    i_m = lane // G
    _, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
    low, high, _ = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
    first_part, parts = parts_within(low, high, stretch(BM) if WHOLE else 0)
    o_c = i_c * COLUMNS + tl.arange(0, COLUMNS)
    slot = ((i_b * lanes + lane) * cuts).to(tl.int64) * held + i_r
    p_parts = p_work + slot * BV + o_c
    p_tops = p_work + places.to(tl.int64) * BV + slot
    gdc_wait()
    gdc_launch_dependents()  # not before: what is launched next would take places beside programs that still run, unevenly

    row = i_m * BM + i_r
    if (parts > 1) & (row < rows):
        b_none = tl.full([COLUMNS], LOWEST, tl.float32)
        b_zero = tl.zeros([COLUMNS], tl.float32)
        b_m, b_l, b_acc = b_none, b_zero, b_zero
        b_m_all, b_l_all, b_acc_all = b_none, b_zero, b_zero
        for i in range(0, parts, AT_ONCE):
            for j in tl.static_range(AT_ONCE):
                there = i + j < parts
                at_part = (i + j) * held
                b_top = tl.maximum(tl.load(p_tops + at_part, mask=there, other=LOWEST), LOWEST)
                b_sum = tl.load(p_tops + places + at_part, mask=there, other=0.0)
                b_part = tl.load(p_parts + at_part.to(tl.int64) * BV, mask=there & (o_c >= 0), other=0.0)
                if not WHOLE:
                    if before is not None or MANY:
                        new = cut(first_part + i + j, 0) % stretch(BM) == 0  # not a branch, in front of which loads would wait
                        n_m, n_l, n_acc = added(b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc)
                        b_m_all, b_l_all = tl.where(new, n_m, b_m_all), tl.where(new, n_l, b_l_all)
                        b_acc_all = tl.where(new, n_acc, b_acc_all)
                        b_m, b_l, b_acc = tl.where(new, LOWEST, b_m), tl.where(new, 0.0, b_l), tl.where(new, 0.0, b_acc)
                    elif begins(j, stretch(BM)):  # from the first key on, all of them at once: which begin a stretch is known
                        b_m_all, b_l_all, b_acc_all = added(b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc)
                        b_m, b_l, b_acc = b_none, b_zero, b_zero
                b_m, b_l, b_acc = added(b_m, b_l, b_acc, b_top, b_sum, b_part)
        if not WHOLE:
            b_m, b_l, b_acc = added(b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc)
        o_row = row + tl.arange(0, 1)
        b_m, b_l = tl.max(b_m, 0) + tl.zeros([1], tl.float32), tl.max(b_l, 0) + tl.zeros([1], tl.float32)
        o_h = i_g * GROUP + o_row % GROUP
        end(
            b_m, b_l, b_acc[None, :], p_out, p_lse, p_sinks, i_b, T, G * GROUP, o_row, o_h, o_c, o_row < rows, i_c == 0, GROUP, V
        )  # fmt: skip


def taken(parts: int, rows: int, width: int, stream: bool = False) -> dict[str, int]:
    """What a program of `merge_parts` takes of rows of so many parts: columns, and parts at once, as many as registers hold; one warp,
    so that no sum crosses warps. Few rows are cut into columns, so that there are programs for the chip (H200, 1,024 keys: 4.91 µs with
    128 columns, 4.61 with 32; 1,024 rows: 47.7 with 4 warps for 4 rows, 45.8 with 32 columns, 44.8 with 128; docs/log.md, 2026-11-30)."""
    columns = min(32 if rows < 1024 and not stream else 128, width)  # of a stream, each program adds up all lengths first
    at_once = max(4, min(64, 2048 // columns, 1 << (parts - 1).bit_length()))
    return {"COLUMNS": columns, "AT_ONCE": at_once, "num_warps": 1, "maxnreg": 255}  # with fewer registers, parts are read one by one


def join(problem: Problem, arrays: tuple[Any, ...], numbers: tuple[Any, ...], form: Form, key: Any) -> None:
    """Merges equal parts, of which every row has one at least.

    Args:
        problem: whose rows they are.
        arrays: the parts, results and lse, lengths, starts, firsts and sinks.
        numbers: parts of a tile's keys, rows of all parts, position of the first query, reach of the window.
        form: of the kernel that made the parts.
        key: what decides how the arrays are compiled.
    """
    rows, B, G, packed = form.rows, problem.B, problem.G, problem.T * problem.group
    held = min(packed, rows)
    named = {
        "TREE": form.tree, "GROUP": problem.group, "V": problem.V, "BV": form.value_width, "BM": rows, "BN": form.tile.keys,
        "SPLIT": EVEN.value, "BATCH": 1, "FAR": FAR, "LEAST": 1, "launch_pdl": True, **taken(numbers[0], B * G * held, form.value_width),
    }  # fmt: skip
    programs = B * G * -(-packed // rows) * held * (form.value_width // named["COLUMNS"])
    start(merge_parts, programs, (*arrays, B, G, problem.T, problem.S, *numbers), named, key)
