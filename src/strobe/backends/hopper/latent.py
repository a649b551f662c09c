"""Latent attention for Hopper: keys of up to 576 numbers, whose first 512 are the values, are read once for both.

    rows       64 a tile: row r is query r // group of head g · group + r % group, the T queries of the heads that share a key head
    produce    one warp: finds its program's blocks of 64 keys, in one sequence or several, and sends them in halves of 256 columns
    lead       a warpgroup: takes scores of the whole width, tells the other the weights, and adds up the first half of the values
    follow     a warpgroup: adds up the second half; 64 · 256 sums of a half are as many as a warpgroup's registers hold (`latent_rows.py`)

A half is filled again as soon as scores and values have read it. What a program leaves of sequences that it shares with others is joined by
`merge.py`. Sources: DeepSeek-V2, 2024, arXiv:2405.04434, section 2.1; Dao et al., 2023, Flash-Decoding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.hopper import arguments, latent_desk
from strobe.backends.hopper.channel import Channel, Producer, barriers, channel
from strobe.backends.hopper.compat import fetch, pieces
from strobe.backends.hopper.jobs import board
from strobe.backends.hopper.latent_desk import Form
from strobe.backends.hopper.latent_rows import (
    AFTER, BEFORE, BEGUN, BELOW, FULL, HALF, HEAD, HEADS, KEY, KEYS, LENGTH, MASKED, MORE, PARTS, POSITION, QUERIES, ROWS, SEQUENCE, SLOT,
    TAIL, TILE, follow, lead, place_of,
)  # fmt: skip
from strobe.backends.hopper.merge import merge_parts, taken
from strobe.backends.hopper.paging import pages_of
from strobe.backends.hopper.parts import EVEN, FAR, STREAM, between, even, parts_of, sequence, span, stream_slot
from strobe.backends.hopper.schedule import stream_begins
from strobe.backends.hopper.scoring import LOG2_E, span_of_all
from strobe.backends.hopper.starting import aligned_to, start
from strobe.masks import split
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import State


@gluon.jit
def halves_of(array, SLOTS: gl.constexpr, FIRST: gl.constexpr, SECOND: gl.constexpr):
    """A channel for blocks of keys in two halves, of which so many receivers read the FIRST and the SECOND."""
    tiles = gl.allocate_shared_memory(array.dtype, [2 * SLOTS, 1, KEYS, 1, HALF], array.layout)
    empty = gl.allocate_shared_memory(gl.int64, [2 * SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(SLOTS):
        mbarrier.init(empty.index(2 * i), count=FIRST)
        mbarrier.init(empty.index(2 * i + 1), count=SECOND)
    return Channel(tiles, barriers(2 * SLOTS, 1), empty, SLOTS, 2)


@gluon.jit
def beginning(
    i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, splits, before, after, FAR: gl.constexpr, form: gl.constexpr
):  # fmt: skip
    """(sequence, blocks of it to skip, blocks of this program, its part; of a stream, all its blocks and those before the sequence) that
    program i of a lane begins with."""
    part, total, done = i * 0, i * 0, i * 0
    if form.stream:
        i_b, skip, count, total, done = stream_begins(
            i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, before, after, False, form.group, ROWS, KEYS, form.batch, 4,
            FAR,
        )  # fmt: skip
    else:
        i_b = i // splits
        part = i % splits
        _, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
        _, _, blocks = span(length, at, i_m, T, before, after, False, form.group, ROWS, KEYS)
        _, skip, count = even(blocks, part, splits)
    return i_b, skip, count, part, total, done


@gluon.jit
def full_blocks(low, high, length, at, i_m, T, before, after, form: gl.constexpr):
    """(first, end) of those of the blocks low … high − 1 that all rows of a tile see whole."""
    all_low, all_high = span_of_all(length, at, i_m, T, before, after, False, form.group, ROWS)
    full = between((gl.maximum(all_low, 0) + KEYS - 1) // KEYS, low, high)
    return full, between(gl.maximum(all_high, 0) // KEYS, full, high)


@gluon.jit
def send_box(array, page, token, head, column, i, full, boxes, COUNT: gl.constexpr, form: gl.constexpr):
    """Lets the copy engine fetch box i of those side by side along the keys, in so many pieces of 64 columns."""
    for j in gl.static_range(COUNT):
        fetch(array, [page, token, head, column + j * 64], full, boxes.index(j * form.boxes + i))


@gluon.jit
def send(to, array, b_pages, batch, token, head, step, nth, count, COLUMNS: gl.constexpr, form: gl.constexpr):
    """Lets the copy engine fill the slot of a step with the nth so many COLUMNS of the block of keys that begins at a token: pieces of 64
    columns, and of pages, one behind the other, as `paging.py` has them."""
    COUNT: gl.constexpr = COLUMNS // 64
    full, tile = to.begin(step, nth % to.channel.lanes, COUNT * form.boxes * array.block_type.nbytes)
    boxes = pieces(tile, array, COUNT * form.boxes)
    if form.page is None:
        send_box(array, batch, token, head, nth * COLUMNS, 0, full, boxes, COUNT, form)
    else:
        o_box = gl.arange(0, 32, layout=gl.BlockedLayout([1], [32], [1], [0]))
        for i in range(count):  # so many boxes, which the compiler does not know: it would take registers for each
            page = gl.max(gl.where(o_box == i, b_pages, 0), 0)
            send_box(array, page, token, head, nth * COLUMNS, i, full, boxes, COUNT, form)


@gluon.jit
def announce(
    jobs, turn, i_b, block, full, full_end, count, begun, length, at, parts, slot, i_m, head, G, T, before, after, form: gl.constexpr
):  # fmt: skip
    """Puts a job on the board: the blocks of a sequence from one on, so many, of which some are full."""
    jobs.put(turn, MORE, 1)
    jobs.put(turn, SEQUENCE, i_b)
    jobs.put(turn, KEY, block * KEYS)
    jobs.put(turn, FULL, full_end - full)
    jobs.put(turn, MASKED, count - (full_end - full))
    jobs.put(turn, BELOW, full - block)
    jobs.put(turn, BEGUN, begun)
    jobs.put(turn, LENGTH, length)
    jobs.put(turn, POSITION, at)
    jobs.put(turn, PARTS, parts)
    jobs.put(turn, SLOT, slot)
    jobs.put(turn, TILE, i_m)
    jobs.put(turn, HEAD, head)
    jobs.put(turn, HEADS, G)
    jobs.put(turn, QUERIES, T)
    if form.before:
        jobs.put(turn, BEFORE, before)
    if form.after:
        jobs.put(turn, AFTER, after)
    jobs.show(turn)


@gluon.jit
def produce(
    k, v, halves, tail, values, jobs, i_b, skip, left, part, total, done, i, i_m, lane, lanes, programs, p_lengths, p_starts, p_firsts,
    table, table_step, pages, boxes, first, B, G, T, S, splits, before, after, FAR: gl.constexpr, form: gl.constexpr,
):  # fmt: skip
    """One warp: puts each sequence that the program has blocks of on the board, and sends the blocks: those that all rows see whole, then
    the others."""
    to_keys, to_tail, to_values = Producer(halves), Producer(tail), Producer(values)
    head = lane % G
    step = 0
    turn = 0
    begun = 0
    while left > 0:
        begin, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
        low, _, blocks = span(length, at, i_m, T, before, after, False, form.group, ROWS, KEYS)
        count = gl.minimum(blocks - skip, left)
        block = low // KEYS + skip
        full, full_end = full_blocks(block, block + count, length, at, i_m, T, before, after, form)
        if form.stream:
            first_program, parts = parts_of(done, blocks, total, programs)
            slot = stream_slot(lane, i, i_b, programs, B)
        else:
            parts = gl.minimum(splits, blocks)
            slot = (i_b * lanes + lane) * splits + part
        jobs.clear(turn)
        announce(jobs, turn, i_b, block, full, full_end, count, begun, length, at, parts, slot, i_m, head, G, T, before, after, form)
        for nth in range(count):
            n = (block + place_of(nth - (full_end - full), full - block, full_end - full)) * KEYS
            b_pages = pages_of(table, table_step, pages, i_b, n, length, S, form)
            token = begin + n if form.page is None else n % form.page
            for half in range(2):
                send(to_keys, k, b_pages, i_b, token, head, step, half, boxes, HALF, form)
            if form.tail:
                send(to_tail, k, b_pages, i_b, token, head, step, 2 * HALF // TAIL, boxes, TAIL, form)
            if form.apart:
                for half in range(2):
                    send(to_values, v, b_pages, i_b, token, head, step, half, boxes, HALF, form)
            step += 1
        left -= count
        begun += count - (full_end - full)
        done += blocks
        skip = skip * 0
        i_b += 1
        turn += 1
    gdc_launch_dependents()  # the merge, which waits on its own
    jobs.clear(turn)
    jobs.put(turn, MORE, 0)
    jobs.show(turn)


@gluon.jit(do_not_specialize=[
    "scale", "B", "G", "T", "S", "splits", "places", "pages", "boxes", "first", "before", "after", "sq_b", "sq_t", "sq_h", "table_step",
])  # fmt: skip
def attend(
    k, v, p_q, p_out, p_lse, p_work, p_lengths, p_starts, p_firsts, p_sinks, table, table_step, pages, boxes, scale, B, G, T, S, splits,
    places, first, before, after, sq_b, sq_t, sq_h, FAR: gl.constexpr, form: gl.constexpr,
):  # fmt: skip
    """A program's blocks of keys with a tile of rows."""
    gdc_wait()
    lanes = G * ((T * form.group + ROWS - 1) // ROWS)
    lane = gl.program_id(0) % lanes  # a key head's programs lie next to another's, so that all its tiles of rows read a block together
    i = gl.program_id(0) // lanes
    i_m = lane // G
    programs = gl.num_programs(0) // lanes
    i_b, skip, count, part, total, done = beginning(
        i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, splits, before, after, FAR, form
    )  # fmt: skip
    q_halves = gl.allocate_shared_memory(k.dtype, [2, 1, ROWS, 1, HALF], k.layout)
    q_tail = gl.allocate_shared_memory(k.dtype, [1, 1, ROWS, 1, TAIL], k.layout) if form.tail else q_halves
    halves = halves_of(k, form.slots, 1, 1 if form.apart else 2)
    tail = channel(k, KEYS, TAIL, form.slots, 1, 1) if form.tail else halves
    values = halves_of(v, form.slots, 1, 1) if form.apart else halves
    jobs = board(2)
    meeting = barriers(1, 2)
    of_weights = gl.allocate_shared_memory(k.dtype, [1, ROWS, KEYS], weights_held(ROWS, KEYS, k.dtype))
    told = Channel(of_weights, barriers(1, 1), barriers(1, 1), 1, 1)
    decays = gl.allocate_shared_memory(gl.float32, [ROWS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    wild = gl.allocate_shared_memory(gl.int32, [1, KEYS if form.mixed else 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    cleaned = Channel(wild, barriers(1, 1), barriers(1, 1), 1, 1)
    fence_async_shared()
    gl.warp_specialize([
        (lead, (
            p_q, p_out, p_lse, p_work, places, p_sinks, q_halves, q_tail, halves, tail, values, told, decays, cleaned, wild.index(0), jobs,
            meeting, scale, sq_b, sq_t, sq_h, form,
        )),
        (follow, (p_q, p_out, p_work, q_halves, values, told, decays, cleaned, wild.index(0), jobs, meeting, sq_b, sq_t, sq_h, form)),
        (produce, (
            k, v, halves, tail, values, jobs, i_b, skip, count, part, total, done, i, i_m, lane, lanes, programs, p_lengths, p_starts,
            p_firsts, table, table_step, pages, boxes, first, B, G, T, S, splits, before, after, FAR, form,
        )),
    ], [4, 1], form.registers)  # fmt: skip


@gluon.constexpr_function
def weights_held(rows, keys, dtype):
    """How weights lie in shared memory."""
    return gl.NVMMASharedLayout.get_default_for([rows, keys], dtype)


class Fixed(NamedTuple):
    """What a plan knows before it sees an array."""

    form: Form
    box: arguments.Shape  # of keys and values
    scale: float  # of scores, to base 2
    first: int | None
    before: int | None
    after: int | None
    programs: int
    splits: int  # parts of a sequence; of a stream, programs a lane
    places: int  # rows of all parts


@lru_cache(maxsize=4096)
def fixed(plan: Plan, apart: bool) -> Fixed:
    """What is the same in every call of a plan."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    how, form = latent_desk.chosen(problem, plan.machine), latent_desk.form(problem, plan.machine, apart)
    block = [1, form.box, 1, 64]
    before, after, _ = split(problem.call.mask)
    first = problem.call.first
    return Fixed(
        form=form,
        box=arguments.Shape(block, gl.NVMMASharedLayout.get_default_for(block, getattr(gl, problem.dtype))),
        scale=problem.scale * LOG2_E.value,
        first=max(-FAR, min(first, FAR)) if isinstance(first, int) else None,
        before=None if before is None else min(before, FAR),
        after=None if after is None else min(after, FAR),
        programs=how.programs(problem.B),
        splits=how.parts,
        places=how.slots(problem.B) * min(latent_desk.ROWS, problem.T * problem.group),
    )


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem, q = plan.problem, call.q
    assert isinstance(problem, Problem)
    k, v = key_sides(call.keys)
    out, lse = q.new_empty((problem.B, problem.T, problem.H, problem.V)), q.new_empty(q.shape[:3], dtype=torch.float32)
    sinks = None if call.sink is None else call.sink.logits.contiguous()
    if not out.numel():
        return State(out, lse)
    if not problem.S or not k.shape[0]:
        return State(out.zero_(), lse.fill_(-torch.inf) if sinks is None else lse.copy_(sinks))
    apart = k.data_ptr() != v.data_ptr() or k.stride() != v.stride()
    known, at = fixed(plan, apart), arguments.where(call)
    (q, q_steps), (k, k_steps) = arguments.aligned(q), arguments.aligned(k)
    boxes = [arguments.boxed(k, k_steps, known.box), None]
    if apart:
        boxes[1] = arguments.boxed(*arguments.aligned(v), known.box)
    work = q.new_empty(known.places * (latent_desk.WIDEST_VALUES + 2), dtype=torch.float32) if known.places else None
    table = (at.table, at.table.stride(0), k.shape[0]) if at.table is not None else (None, 0, 0)
    reach = known.first, known.before, known.after
    with torch.cuda.device_of(q):
        args = (
            *boxes, q, out, lse, work, at.lengths, at.starts, at.firsts, sinks, *table, known.form.boxes, known.scale, problem.B, problem.G,
            problem.T, problem.S, known.splits, known.places, *reach, *(step // 8 for step in q_steps),
        )  # fmt: skip
        key = (plan, apart, q.get_device(), *aligned_to(q, at.lengths, at.starts, at.firsts, sinks, at.table))
        named = {"FAR": FAR, "form": known.form, "num_warps": 4, "enable_fp_fusion": True, "launch_pdl": True}
        start(attend, known.programs, args, named, ("attend", *key))
        if work is not None:
            _join(problem, known, (work, out, lse, at.lengths, at.starts, at.firsts, sinks), reach, key)
    return State(out, lse)


def _join(problem: Problem, known: Fixed, arrays: tuple[Tensor | None, ...], reach: tuple[int | None, ...], key: tuple[Any, ...]) -> None:
    """Merges the parts of sequences that have some."""
    form, width = known.form, latent_desk.WIDEST_VALUES
    rows, B, G = problem.T * form.group, problem.B, problem.G
    held = min(rows, latent_desk.ROWS)
    named = {
        "TREE": False, "GROUP": form.group, "V": form.V, "BV": width, "BM": latent_desk.ROWS, "BN": latent_desk.KEYS,
        "SPLIT": (STREAM if form.stream else EVEN).value, "BATCH": form.batch, "FAR": FAR, "LEAST": 2, "launch_pdl": True,
        **taken(known.splits, B * G * held, width, form.stream),
    }  # fmt: skip
    programs = B * G * latent_desk.tiles(rows, latent_desk.ROWS) * held * (width // named["COLUMNS"])
    start(merge_parts, programs, (*arrays, B, G, problem.T, problem.S, known.splits, known.places, *reach), named, ("merge", *key))
