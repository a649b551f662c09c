"""Flash-Decoding for Hopper: few queries over many keys, the keys cut so that one wave of programs fills the chip.

    rows of a tile   the T queries of the H / G heads that share a key head: row r is query r // group of head g · group + r % group
    8 to 32 rows     products of single warps (mma.sync), four warps along the keys (`products.py`)
    64 or 128 rows   products of groups of four warps (wgmma), each warp with rows of its own
    loads            cp.async, keys and values as groups of their own, all stages under way before anything waits
    narrow numbers   int8, int4 and float8 become 16-bit numbers in registers; scales meet scores and weights

A program's tiles may lie in several sequences (`parts.py`); what it leaves of each that others share is joined by `merge.py`.
Indices are clamped to keys that a row of the tile may see, so what no row sees is never read. Sources: Dao et al., 2023, Flash-Decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.runtime import driver

from strobe.backends.hopper import decoding
from strobe.backends.hopper.merge import add_parts, merge_parts, taken
from strobe.backends.hopper.parts import (
    EVEN, FAR, FIXED, STREAM, even, fixed, part_at, part_end, parts_of, sequence, span, stream_slot, stretch,
)  # fmt: skip
from strobe.backends.hopper.products import EIGHT, add_values, asked, column_of, operand_of_queries, products, scores
from strobe.backends.hopper.schedule import stream_begins
from strobe.backends.hopper.scoring import LOG2_E, scored, span_of_all, visible
from strobe.backends.hopper.sending import copy_queries, finding, held, loading, next_page, send, swizzled
from strobe.backends.hopper.starting import start_again
from strobe.backends.hopper.summing import begin, finish, nothing, part_ended, tamed, weighted, weights
from strobe.layouts import Paged
from strobe.masks import Tree, split
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides, per_token
from strobe.state import State
from strobe.terms import Scaled


@gluon.jit
def beginning(
    i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, splits, before, after, TREE: gl.constexpr, GROUP: gl.constexpr,
    BM: gl.constexpr, BN: gl.constexpr, SPLIT: gl.constexpr, STRETCH: gl.constexpr, BATCH: gl.constexpr, FAR: gl.constexpr,
):  # fmt: skip
    """(sequence, tiles of it to skip, tiles of this program, first row, keys, position of query 0, low, high, tiles, parts, first part of
    this program; of a stream, all its tiles and those before the sequence) that program i of a lane begins with."""
    total, tiles_before, part = i * 0, i * 0, i * 0
    if SPLIT == STREAM:
        i_b, skip, count, total, tiles_before = stream_begins(
            i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, before, after, TREE, GROUP, BM, BN, BATCH, gl.num_warps(), FAR
        )  # fmt: skip
    else:
        i_b = i // splits
    start, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
    low, high, tiles = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
    parts = i * 0 + 1
    if SPLIT == EVEN:
        part = i % splits
        parts, skip, count = even(tiles, part, splits)
    elif SPLIT == FIXED:  # the last parts are the longest, and come first
        parts, part, skip, count = fixed(low, high, tiles, splits - 1 - i % splits, splits, BN, STRETCH)
    return i_b, skip, count, start, length, at, low, high, tiles, parts, part, total, tiles_before


@gluon.jit
def in_units(p_numbers, KIND: gl.constexpr):
    """The address, of units of 16 bits where numbers are narrow."""
    if KIND is not None:
        p_numbers = p_numbers.to(gl.pointer_type(gl.int16), bitcast=True)
    return p_numbers


@gluon.jit
def in_shared_memory(
    dtype: gl.constexpr, unit: gl.constexpr, SPARE: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr, BD: gl.constexpr, BV: gl.constexpr,
    EACH: gl.constexpr, STAGES: gl.constexpr, KIND: gl.constexpr, K_SCALES: gl.constexpr, V_SCALES: gl.constexpr,
):  # fmt: skip
    """Places for (queries, one sequence's and SPARE more; keys and values in flight; queries ready for narrow keys; weights, which all
    warps along the keys read; scales of keys and of values)."""
    WIDE: gl.constexpr = BM >= 64
    q_tiles = gl.allocate_shared_memory(dtype, [SPARE + 1, BM, BD], held(BM, BD, dtype, WIDE))
    k_tiles = gl.allocate_shared_memory(unit, [STAGES, BN, BD // EACH], held(BN, BD // EACH, unit, WIDE))
    v_tiles = gl.allocate_shared_memory(unit, [STAGES, BN, BV // EACH], held(BN, BV // EACH, unit, WIDE))
    q_ready, w_tile = q_tiles, q_tiles
    if KIND is not None:
        q_ready = gl.allocate_shared_memory(gl.float16, [BM, BD], swizzled(BD, 16))
    if not WIDE:
        if BM == EIGHT:
            w_tile = gl.allocate_shared_memory(dtype, [BN, BM], swizzled(BM, 16))
        else:
            w_tile = gl.allocate_shared_memory(dtype, [BM, BN], swizzled(BN, 16))
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    k_scales = gl.allocate_shared_memory(gl.float32, [STAGES, BN if K_SCALES else 1], plain)
    v_scales = gl.allocate_shared_memory(gl.float32, [STAGES, BN if V_SCALES else 1], plain)
    return q_tiles, k_tiles, v_tiles, q_ready, w_tile, k_scales, v_scales


@gluon.jit(do_not_specialize=[
    "scale", "limit", "B", "G", "T", "S", "splits", "cuts", "places", "pages", "first", "before", "after", "sq_b", "sq_t", "sq_h", "sk_b",
    "sk_t", "sk_h", "sv_b", "sv_t", "sv_h", "sx_b", "sx_t", "sx_h", "sy_b", "sy_t", "sy_h", "s_table", "s_slopes", "st_b", "st_t", "st_j",
])  # fmt: skip
def attend(
    p_q, p_k, p_v, p_k_scale, p_v_scale, p_out, p_lse, p_work, p_lengths, p_starts, p_table, p_firsts, p_tree, p_slopes,
    p_sinks, scale, limit, B, G, T, S, splits, cuts, places, pages, first, before, after, sq_b, sq_t, sq_h, sk_b, sk_t, sk_h, sv_b, sv_t,
    sv_h, sx_b, sx_t, sx_h, sy_b, sy_t, sy_h, s_table, s_slopes, st_b, st_t, st_j,
    GROUP: gl.constexpr, D: gl.constexpr, V: gl.constexpr, BD: gl.constexpr, BV: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr,
    STAGES: gl.constexpr, PAGE: gl.constexpr, KIND: gl.constexpr, SPLIT: gl.constexpr, BATCH: gl.constexpr, ALONE: gl.constexpr,
    PLAIN: gl.constexpr, ALIGNED: gl.constexpr, NEAR: gl.constexpr, ALIKE: gl.constexpr, FAR: gl.constexpr, WHOLE: gl.constexpr,
):  # fmt: skip
    """A program's tiles of keys with a tile of rows. Strides are in units of 8 numbers of 16 bits where all are ALIGNED, else in numbers;
    NEAR: no offset in those takes more than 32 bits; ALIKE: keys lie as values do; ALONE: all rows of a sequence see the same keys;
    PLAIN: a score is a product times a scale above 0; WHOLE: of fixed cuts, a program has stretches of keys, whose parts it adds up."""
    gdc_wait()
    WARPS: gl.constexpr = gl.num_warps()
    WIDE: gl.constexpr = BM >= 64
    EACH: gl.constexpr = 1 if KIND is None else 4 if KIND == "int4" else 2  # numbers of a unit of 16 bits
    STEP: gl.constexpr = 8 if ALIGNED else 1
    dtype: gl.constexpr = p_q.dtype.element_ty
    unit: gl.constexpr = dtype if KIND is None else gl.int16
    SIZED: gl.constexpr = p_v_scale is not None and dtype == gl.float16  # sums are in units of the greatest scale so far
    S_LAYOUT: gl.constexpr = products(BM, BN, WARPS)
    O_LAYOUT: gl.constexpr = products(BM, BV, WARPS)
    MOST_HELD: gl.constexpr = 4096 if SPLIT == EVEN else 2048 if SPLIT == FIXED else 0  # numbers of queries that stay in registers
    HELD: gl.constexpr = not WIDE and ALIGNED and BM * BD <= MOST_HELD
    QUERIES: gl.constexpr = operand_of_queries(BM, BN, BD, WARPS)
    LOAD_Q: gl.constexpr = loading(BD, 8, WARPS)
    LOAD_K: gl.constexpr = loading(BD // EACH, 8, WARPS)
    LOAD_V: gl.constexpr = loading(BV // EACH, 8, WARPS)
    LOAD_S: gl.constexpr = finding(BD // EACH, 8, WARPS, BN, PAGE)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    COLUMN: gl.constexpr = gl.SliceLayout(0, S_LAYOUT)
    TREE: gl.constexpr = p_tree is not None
    WILD: gl.constexpr = not ALONE and KIND != "int8" and KIND != "int4"  # a value may be no number, and rows see different keys
    p_k_units, p_v_units = in_units(p_k, KIND), in_units(p_v, KIND)
    rows, H = T * GROUP, G * GROUP
    lanes = G * ((rows + BM - 1) // BM)
    lane = gl.program_id(0) % lanes  # a key head's programs lie next to another's, so that rows of all heads come together
    i = gl.program_id(0) // lanes
    i_g, i_m = lane % G, lane // G
    programs = gl.num_programs(0) // lanes
    i_b, skip, count, start, length, at, low, high, tiles, parts, part, total, tiles_before = beginning(
        i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, splits, before, after, TREE, GROUP, BM, BN, SPLIT,
        stretch(BM) if WHOLE else 0, BATCH, FAR,
    )  # fmt: skip

    if count > 0:
        q_tiles, k_tiles, v_tiles, q_ready, w_tile, k_scales, v_scales = in_shared_memory(
            dtype, unit, STAGES if SPLIT == STREAM else 0, BM, BN, BD, BV, EACH, STAGES, KIND, p_k_scale is not None, p_v_scale is not None
        )  # fmt: skip
        n = (low // BN + skip) * BN
        in_sequence = tiles - skip
        if SPLIT == FIXED:
            part = part_at(n, 0)
            in_sequence = part_end(part, low, tiles, BN, 0) - skip
        if SPLIT != STREAM:
            copy_queries(q_tiles.index(0), p_q, i_b, i_g, i_m, rows, rows > 0, sq_b, sq_t, sq_h, GROUP, D, LOAD_Q, ALIGNED)
        l_b, l_n, l_start, l_low, l_high, l_tiles, l_new, l_slot, to_send = i_b, n, start, low, high, in_sequence, i * 0 + 1, i * 0, count
        for ahead in gl.static_range(STAGES):
            l_page = next_page(l_b, l_n, l_low, l_high, p_table, s_table, LOAD_S, PAGE, BN)
            l_b, l_n, l_start, l_low, l_high, l_tiles, l_new, l_slot, to_send = send(
                ahead, l_b, l_n, l_start, l_low, l_high, l_tiles, l_new, l_slot, to_send, l_page, q_tiles, k_tiles, v_tiles, k_scales,
                v_scales, i_g, i_m, p_q, p_k_units, p_v_units, p_k_scale, p_v_scale, p_lengths, p_starts, p_firsts, p_table, first, S, T,
                before, after, s_table, pages, sq_b, sq_t, sq_h, sk_b, sk_t, sk_h, sv_b, sv_t, sv_h, sx_b, sx_t, sx_h, sy_b, sy_t, sy_h,
                TREE, GROUP, D, D // EACH, V // EACH, PAGE, LOAD_Q, LOAD_K, LOAD_V, LOAD_S, SPLIT, ALIGNED, NEAR, ALIKE, FAR,
            )  # fmt: skip
        o_row = i_m * BM + gl.arange(0, BM, layout=ROW)
        b_t, b_h = (o_row // GROUP)[:, None], (i_g * GROUP + o_row % GROUP)[:, None]
        o_c = gl.arange(0, BV, layout=gl.SliceLayout(0, O_LAYOUT))
        o_v = column_of(o_c, BM, BV, EACH)
        b_m, b_l, b_acc, size = begin(BM, BN, BV, S_LAYOUT, O_LAYOUT, SIZED)
        b_m_all, b_l_all, b_acc_all = nothing(b_acc, S_LAYOUT)
        stage, q_slot = 0, 0
        async_copy.wait_group(2 * STAGES - 1)
        q_held, b_begin, b_scale = asked(q_tiles, q_slot, q_ready, scale, HELD, QUERIES, LOAD_Q, ROW, KIND)
        for step in range(count):
            if p_work is not None:
                if step == count - 1:  # not earlier: a merge that waits on the chip for long makes a model's linears slower (docs/log.md)
                    gdc_launch_dependents()
            async_copy.wait_group(2 * STAGES - 1)
            b_s = scores(q_tiles.index(q_slot), q_ready, q_held, k_tiles.index(stage), b_begin, HELD, S_LAYOUT, QUERIES, KIND)
            if p_k_scale is not None:
                b_s *= k_scales.index(stage).load(COLUMN)[None, :]
            key = (n + gl.arange(0, BN, layout=COLUMN))[None, :]
            if not PLAIN:
                b_s = scored(b_s, key, b_t, b_h, i_b, at, b_scale[:, None], limit, p_slopes, s_slopes, H, dtype == gl.bfloat16)
            all_low, all_high = span_of_all(length, at, i_m, T, before, after, TREE, GROUP, BM)
            in_part = (n < all_low) | (n + BN > all_high)
            if in_part:
                b_s = gl.where(visible(b_t, key, i_b, length, at, T, before, after, p_tree, st_b, st_t, st_j), b_s, float("-inf"))
            if not WILD:  # not before a branch, in front of which the assembler would wait for it
                l_page = next_page(l_b, l_n, l_low, l_high, p_table, s_table, LOAD_S, PAGE, BN)
            b_p, b_m, b_l, b_decay = weights(b_s, b_m, b_l, b_scale, PLAIN)
            async_copy.wait_group(2 * STAGES - 2)
            if p_v_scale is not None:
                b_p, ratio, size = weighted(b_p, v_scales.index(stage).load(COLUMN), size, SIZED, ALONE)
                b_decay *= ratio
            b_acc *= gl.convert_layout(b_decay, gl.SliceLayout(1, O_LAYOUT))[:, None]
            if WILD:
                if in_part:
                    b_acc = tamed(
                        v_tiles.index(stage), b_acc, n, i_b, i_g, start, low, high, length, at, o_v, p_v, p_table, s_table, pages,
                        sv_b * STEP * EACH, sv_t * STEP * EACH, sv_h * STEP * EACH, T, before, after, p_tree, st_b, st_t, st_j, i_m, V,
                        PAGE, GROUP, BN, KIND, LOAD_V,
                    )  # fmt: skip
                l_page = next_page(l_b, l_n, l_low, l_high, p_table, s_table, LOAD_S, PAGE, BN)
            b_acc = add_values(b_acc, b_p, w_tile, v_tiles.index(stage), KIND, dtype)
            l_b, l_n, l_start, l_low, l_high, l_tiles, l_new, l_slot, to_send = send(
                stage, l_b, l_n, l_start, l_low, l_high, l_tiles, l_new, l_slot, to_send, l_page, q_tiles, k_tiles, v_tiles, k_scales,
                v_scales, i_g, i_m, p_q, p_k_units, p_v_units, p_k_scale, p_v_scale, p_lengths, p_starts, p_firsts, p_table, first, S, T,
                before, after, s_table, pages, sq_b, sq_t, sq_h, sk_b, sk_t, sk_h, sv_b, sv_t, sv_h, sx_b, sx_t, sx_h, sy_b, sy_t, sy_h,
                TREE, GROUP, D, D // EACH, V // EACH, PAGE, LOAD_Q, LOAD_K, LOAD_V, LOAD_S, SPLIT, ALIGNED, NEAR, ALIKE, FAR,
            )  # fmt: skip
            stage = gl.where(stage == STAGES - 1, 0, stage + 1)
            n += BN
            in_sequence -= 1
            if SPLIT != EVEN:
                if (in_sequence == 0) | (step == count - 1):  # the end of a sequence or a part of it
                    if SPLIT == FIXED:
                        b_m_all, b_l_all, b_acc_all = part_ended(
                            b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc, size, n, step == count - 1, low, part,
                            (i_b * lanes + lane) * cuts, i_b, i_g, i_m, parts, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows,
                            GROUP, V, WHOLE, S_LAYOUT,
                        )  # fmt: skip
                        in_sequence = part_end(part + 1, low, tiles, BN, 0) - part_end(part, low, tiles, BN, 0)
                        part += 1
                    else:
                        first_program, parts = parts_of(tiles_before, tiles, total, programs)
                        slot = stream_slot(lane, i, i_b, programs, B)
                        finish(
                            b_m, b_l, b_acc, size, i_b, i_g, i_m, parts, slot, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows,
                            GROUP, V,
                        )  # fmt: skip
                        if step < count - 1:
                            tiles_before += tiles
                            i_b += 1
                            start, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
                            low, high, tiles = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
                            n = low // BN * BN
                            in_sequence = tiles
                            q_slot = gl.where(q_slot == STAGES - 1, 0, q_slot + 1)
                            if KIND is not None:
                                async_copy.wait_group(2 * STAGES - 1)
                                q_held, b_begin, b_scale = asked(q_tiles, q_slot, q_ready, scale, HELD, QUERIES, LOAD_Q, ROW, KIND)
                    b_m, b_l, b_acc, size = begin(BM, BN, BV, S_LAYOUT, O_LAYOUT, SIZED)
        async_copy.wait_group(0)
        if SPLIT == EVEN:
            slot = (i_b * lanes + lane) * splits + part
            finish(b_m, b_l, b_acc, size, i_b, i_g, i_m, parts, slot, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows, GROUP, V)


@dataclass
class Kept:
    """A plan's two kernels for arrays that lie alike: all their arguments that are no arrays, and their machine code once they ran."""

    numbers: tuple[Any, ...]
    constants: dict[str, Any]
    fixed: bool  # cuts, whose parts another kernel adds up
    merge_numbers: tuple[Any, ...]
    merge_constants: dict[str, Any]
    grids: tuple[int, int]
    work: int  # float32 numbers of the parts' sums, then of their greatest scores, then of their sums of weights
    decode: Any = None
    merge: Any = None


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem, q = plan.problem, call.q
    assert isinstance(problem, Problem)
    k, v = key_sides(call.keys)
    scaled = isinstance(k, Scaled)
    out, lse = q.new_empty((problem.B, problem.T, problem.H, problem.V)), q.new_empty(q.shape[:3], dtype=torch.float32)
    sinks = None if call.sink is None else call.sink.logits.contiguous()
    if not out.numel():
        return State(out, lse)
    sides = (k.data, v.data, per_token(k), per_token(v)) if scaled else (k, v, None, None)
    if not problem.S or not sides[0].shape[0]:
        return State(out.zero_(), lse.fill_(-torch.inf) if sinks is None else lse.copy_(sinks))
    keys = call.keys
    lengths, starts, table = getattr(keys, "lengths", None), getattr(keys, "starts", None), getattr(keys, "table", None)
    tree = None if call.mask.plain else next(part.visible.view(torch.uint8) for part in split(call.mask)[2] if isinstance(part, Tree))
    slopes = None if call.alibi is None else call.alibi.slopes.contiguous()
    firsts = call.first if isinstance(call.first, Tensor) else None
    arrays = (q, *sides, lengths, starts, table, firsts, tree, slopes, sinks)
    kept = _kept(plan, q.get_device(), tuple([None if x is None else (x.data_ptr() % 16, *x.stride()) for x in arrays]))
    work = q.new_empty(kept.work, dtype=torch.float32) if kept.work else None
    with torch.cuda.device_of(q):
        kept.decode = _start(
            attend, kept.decode, kept.grids[0],
            (q, *sides, out, lse, work, lengths, starts, table, firsts, tree, slopes, sinks, *kept.numbers), kept.constants,
        )  # fmt: skip
        if work is not None:
            kept.merge = _start(
                add_parts if kept.fixed else merge_parts, kept.merge, kept.grids[1],
                (work, out, lse, lengths, starts, firsts, sinks, *kept.merge_numbers), kept.merge_constants,
            )  # fmt: skip
    return State(out, lse)


def _start(kernel: Any, made: Any, programs: int, args: tuple[Any, ...], constants: dict[str, Any]) -> Any:
    """Starts a kernel and returns its machine code; with it, without asking again what the arguments are, which would take longer than
    a short kernel."""
    if made is None:
        return kernel[(programs,)](*args, **constants, launch_pdl=True)
    stream = driver.active.get_current_stream(driver.active.get_current_device())
    start_again(made, (programs, 1, 1), stream, (*args, *[constants[name] for name in kernel.arg_names[len(args) :]]))
    return made


@lru_cache(maxsize=4096)
def _kept(plan: Plan, device: int, lie: tuple[tuple[int, ...] | None, ...]) -> Kept:
    """What a plan starts with for arrays that lie so: (bytes past a multiple of 16, strides) of each."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    call, how = problem.call, decoding.chosen(problem, plan.machine)
    name, each = decoding.kind(problem)
    sides = [side.data if isinstance(side, Scaled) else side for side in key_sides(call.keys)]
    shapes = (call.q.shape, sides[0].shape, sides[1].shape, sides[0].shape, sides[1].shape)
    strides = [_strides(shape, found) for shape, found in zip(shapes, lie[:5], strict=True)]
    for i in (1, 2):
        if each > 1:  # from bytes to units of 16 bits
            assert not any(s % 2 for s in strides[i]) and lie[i][0] % 2 == 0, "rows of narrow numbers begin at even addresses"
            strides[i] = tuple(s // 2 for s in strides[i])
    aligned = not any(found[0] or any(s % 8 for s in strides[i]) for i, found in enumerate(lie[:3]) if found is not None)
    if aligned:
        strides[:3] = [tuple(s // 8 for s in found) for found in strides[:3]]
    spans = [(sides[0].shape, strides[i]) for i in (1, 2)] + [(sides[0].shape, strides[i]) for i in (3, 4) if lie[i] is not None]
    near = all(sum(n * s for n, s in zip(shape, found, strict=False)) < 2**31 for shape, found in spans)
    before, after, rest = split(call.mask)
    table, tree, slopes = lie[7], lie[9], lie[10]
    node = (0, 0, 0) if tree is None else (0 if rest[0].visible.shape[0] == 1 else tree[1], *tree[2:])
    scale, limit = problem.scale * LOG2_E.value, None
    if call.cap is not None:
        scale, limit = problem.scale / call.cap.limit, call.cap.limit * LOG2_E.value
    first = max(-FAR, min(call.first, FAR)) if isinstance(call.first, int) else None
    before, after = (None if n is None else min(n, FAR) for n in (before, after))
    batch = 1 << max(5, (problem.B - 1).bit_length()) if how.split == "stream" else 1
    rows = min(how.rows, problem.T * problem.group)
    places = how.slots(problem.B) * rows
    common = {
        "GROUP": problem.group, "V": problem.V, "BV": decoding.padded(problem.V), "BM": how.rows, "BN": how.keys,
        "FAR": FAR,
    }  # fmt: skip
    cuts = {"SPLIT": {"even": EVEN, "stream": STREAM, "fixed": FIXED}[how.split].value, "BATCH": batch}
    numbers = (
        scale, limit, problem.B, problem.G, problem.T, problem.S, how.shares or how.parts, how.parts, places, sides[0].shape[0], first,
        before, after, *(s for found in strides for s in found), 0 if table is None else table[1],
        0 if slopes is None or len(slopes) == 2 else slopes[1], *node,
    )  # fmt: skip
    constants = {
        "D": problem.D, "BD": decoding.padded(problem.D), "STAGES": how.stages,
        "PAGE": sides[0].shape[1] if isinstance(call.keys, Paged) else 0, "KIND": name, "ALONE": decoding.alone(problem),
        "PLAIN": problem.scale > 0 and call.cap is None and call.alibi is None,
        "ALIGNED": aligned, "NEAR": near, "ALIKE": strides[1] == strides[2] and problem.D == problem.V,
        "WHOLE": how.whole, "num_warps": how.warps,
        # or ptxas spills, so that registers are left for more programs than shared memory holds
        "maxnreg": min(255, 65536 // (32 * how.warps * how.held) // 8 * 8),
    }  # fmt: skip
    fixed = how.split == "fixed"
    merge_constants = taken(how.parts, problem.B * problem.G * rows, decoding.padded(problem.V), how.split == "stream")
    if fixed:
        many = how.parts > 32
        at_once = min(32, 1024 // merge_constants["COLUMNS"]) if many else 4 * decoding.tiles(how.parts, 4)
        merge_constants |= {"WHOLE": how.whole, "MANY": many, "AT_ONCE": at_once}
    else:
        merge_constants |= {"LEAST": 2, **cuts}
    merge_constants |= common | {"TREE": tree is not None}
    grids = how.programs(problem.B), problem.B * how.lanes * rows * (decoding.padded(problem.V) // merge_constants["COLUMNS"])
    merge_numbers = (problem.B, problem.G, problem.T, problem.S, how.parts, places, first, before, after)
    work = places * (decoding.padded(problem.V) + 2)
    return Kept(numbers, common | cuts | constants, fixed, merge_numbers, merge_constants, grids, work)


def _strides(shape: tuple[int, ...], lies: tuple[int, ...] | None) -> tuple[int, int, int]:
    """(sequence or page, token, head), 0 where there is one of them and no step is taken."""
    if lies is None:
        return 0, 0, 0
    found = tuple(0 if n == 1 else s for n, s in zip(shape[:3], lies[1:4], strict=True))
    return found[0], found[1], found[2]
