"""Forward attention: one warp loads, warpgroups of 64 rows multiply, and hand each other tiles through channels.

    produce   takes a tile, puts its job on the board, sends queries, keys and values
    parts     with few tiles of rows, each one's blocks of keys are cut into equal parts, which `merge.py` joins
    consume   passes the blocks of keys from the last to the first (`consuming.py`); scores of a block are multiplied while the weighted
              sum of the one before it still is

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; Shah et al., 2024, arXiv:2407.08608, sections 3.1 and 3.2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.hopper import again, arguments
from strobe.backends.hopper.channel import Producer, addresses, channel
from strobe.backends.hopper.consuming import consume
from strobe.backends.hopper.forms import Form
from strobe.backends.hopper.jobs import (
    AFTER, BATCH, BEFORE, HEAD, HEADS, HIGH, K_BATCH, K_FIRST, K_HEAD, LENGTH, LOW, MORE, ONLINE, POSITION, PREFIX, QUERIES, ROW, SHARED,
    TOKEN, board,
)  # fmt: skip
from strobe.backends.hopper.merge import join
from strobe.backends.hopper.paging import pages_of, send_block
from strobe.backends.hopper.parts import share, stream_slot
from strobe.backends.hopper.schedule import SPAN, blocks_of_tile, list_tiles, part_of, span_documents, tile_of
from strobe.backends.hopper.sharing import join_shares
from strobe.backends.hopper.starting import aligned_to, kept, start
from strobe.backends.hopper.turning import scales_of, turn
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import State

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # Triton 3.10 will not fuse unless it is told to


@gluon.jit
def row_of_values(at, form: gl.constexpr):
    """Where the values of the block that begins at a key lie: in its row, or, turned, in so many rows a block."""
    if form.narrow:
        at = at // form.tile.keys * form.value_rows
    return at


@gluon.jit
def find(
    jobs, turn, tiles, index, whole, last, blocks, block, left, T, S, H, units, section, units_of, group, offsets, starts, lengths,
    firsts, first, prefix, prefixes, spans, listed, before, after, parts, form: gl.constexpr,
):  # fmt: skip
    """Puts the tile of an index on the board; (where it lies, the program's next block of the last tiles, and how many it has left)."""
    which = index // parts if form.divided else index
    if form.shared:
        if index >= whole:
            if left == 0:
                block, left = share(last * blocks, index - whole, gl.num_programs(0))
            which = whole + block // blocks
    tile, unit = tile_of(which, tiles, units, section)
    if form.packed:
        sequence = gl.load(listed + 2 * tile)
        tile = gl.load(listed + 2 * tile + 1)
        head = unit * form.pack
        token = gl.load(offsets + sequence)
        length_q = gl.load(offsets + sequence + 1) - token
        batch = 0
    else:
        sequence = unit // units_of
        head = unit % units_of * form.heads
        token = 0
        length_q = T
        batch = sequence
    k_batch = sequence
    k_first = 0
    length = S
    if starts is not None:
        k_first = gl.load(starts + sequence)
        if lengths is None:
            k_batch = 0
            length = gl.load(starts + sequence + 1) - k_first
    if lengths is not None:
        length = gl.load(lengths + sequence)
    position = length - length_q
    if firsts is not None:
        position = gl.load(firsts + sequence)
    elif first is not None:
        position = first
    reach = prefix
    if prefixes is not None:
        reach = gl.load(prefixes + sequence)
    if form.tree:
        reach = gl.minimum(position, length)  # before the first node
    done = tile * form.all_tokens
    token += done
    position += done
    k_head = head // group
    low, high = blocks_of_tile(position, length_q - done, length, reach, before, after, form)
    if form.documents:
        p_span = spans + (sequence * tiles + tile) * SPAN(form.tile.groups)
        low = gl.maximum(low, gl.load(p_span))
        high = gl.minimum(high, gl.load(p_span + 1))
        low = gl.maximum(gl.minimum(low, high - 1), 0)
        high = gl.maximum(high, low + 1)
    row = (batch * T + token) * H + head
    heads = H
    if form.divided:
        low, high, there = part_of(index % parts, parts, low, high)
        if index % parts >= there:
            length = 0  # of whose keys nothing is seen
        held = gl.minimum(T, form.all_tokens) * form.heads
        row = (((sequence * tiles + tile) * units_of + unit % units_of) * parts + index % parts) * held
        heads = units * tiles * parts * held
    if form.shared:
        reach = 0
        if index >= whole:
            reach = 1
            row = stream_slot(0, index - whole, block // blocks, gl.num_programs(0), last) * form.rows
            heads = (gl.num_programs(0) + last) * form.rows
            low = block % blocks
            high = gl.minimum(low + left, blocks)
            block += high - low
            left -= high - low

    if not form.steady:
        jobs.clear(turn)
    jobs.put(turn, MORE, 1)
    jobs.put(turn, BATCH, batch)
    jobs.put(turn, TOKEN, token)
    jobs.put(turn, QUERIES, length_q - done)
    jobs.put(turn, HEAD, head)
    jobs.put(turn, POSITION, position)
    jobs.put(turn, LENGTH, length)
    jobs.put(turn, SHARED if form.shared else PREFIX, reach)
    jobs.put(turn, LOW, low)
    jobs.put(turn, HIGH, high)
    jobs.put(turn, K_BATCH, k_batch)
    jobs.put(turn, K_HEAD, k_head)
    jobs.put(turn, K_FIRST, k_first)
    jobs.put(turn, ROW, row)
    jobs.put(turn, HEADS, heads)
    jobs.put(turn, BEFORE, before)
    jobs.put(turn, AFTER, after)
    if form.steady:
        jobs.put(turn, ONLINE, 0)
    return (batch, token, head, low, high, length, k_batch, k_head, k_first), block, left


@gluon.jit
def found_again(jobs, turn):
    """Where the tile on the board lies, as `find` says it."""
    batch, token, head = jobs.read(turn, BATCH), jobs.read(turn, TOKEN), jobs.read(turn, HEAD)
    low, high, length = jobs.read(turn, LOW), jobs.read(turn, HIGH), jobs.read(turn, LENGTH)
    k_batch, k_head, k_first = jobs.read(turn, K_BATCH), jobs.read(turn, K_HEAD), jobs.read(turn, K_FIRST)
    return batch, token, head, low, high, length, k_batch, k_head, k_first


@gluon.jit
def follow(counter, index, total, left, form: gl.constexpr):
    """The index of a program's next tile."""
    if form.shared:
        if left == 0:
            index = gl.atomic_add(counter, 1) + gl.num_programs(0)
    elif total <= gl.num_programs(0):
        index = total
    else:
        index = gl.atomic_add(counter, 1) + gl.num_programs(0)
    return index


@gluon.jit
def send_queries(q, to_queries, jobs, place, turn, form: gl.constexpr):
    """Shows a job, and sends its queries."""
    GROUPS: gl.constexpr = form.tile.groups
    batch, token, head, _, _, _, _, _, _ = place
    jobs.show(turn)
    for lane in gl.static_range(GROUPS):
        to_queries.send(q, batch, token + lane * form.next_tokens, head + lane * form.next_heads, turn, lane)


@gluon.jit
def send_blocks(
    k, v, to_keys, to_values, counter, place, step, index, total, left, again, S, table, table_step, pages, form: gl.constexpr
):  # fmt: skip
    """Sends a job's keys and values from the last block to the first; (step, index of what comes next)."""
    _, _, _, low, high, length, k_batch, k_head, k_first = place
    at = k_first + (high - 1) * form.tile.keys
    b_pages = pages_of(table, table_step, pages, k_batch, at, length, S, form)  # pages' sequence is the keys'
    send_block(to_keys, k, b_pages, k_batch, at, k_head, step, form)
    for _ in range(low + 1, high):
        b_next = pages_of(table, table_step, pages, k_batch, at - form.tile.keys, length, S, form)
        send_block(to_keys, k, b_next, k_batch, at - form.tile.keys, k_head, step + 1, form)
        send_block(to_values, v, b_pages, k_batch, row_of_values(at, form), k_head, step, form)
        b_pages = b_next
        at -= form.tile.keys
        step += 1
    # as late as the channels allow, so that whoever is first takes the next tile
    if form.steady:
        if not again:
            index = follow(counter, index, total, left, form)
    else:
        index = follow(counter, index, total, left, form)
    send_block(to_values, v, b_pages, k_batch, row_of_values(at, form), k_head, step, form)
    return step + 1, index


@gluon.jit
def to_do(index, total, judged, turn, form: gl.constexpr):
    """Whether there is a tile that nobody has taken, or one of which is not known yet whether it is asked for again."""
    more = index < total
    if form.steady:
        more = more | (judged < turn)
    return more


@gluon.jit
def produce(
    q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts, first,
    prefix, prefixes, spans, table, table_step, pages, listed, count, before, after, parts, form: gl.constexpr,
):  # fmt: skip
    """One warp: takes tiles until there are none."""
    if form.divided:
        gdc_wait()  # for all: the others begin when there is a job
    to_queries = Producer(queries)
    to_keys = Producer(keys)
    to_values = Producer(values)
    step = 0
    turn = 0
    judged = 0  # turns of which is known whether they are asked for again
    tiles = (T + form.all_tokens - 1) // form.all_tokens
    if form.packed:
        tiles = gl.load(count)
    total = tiles * units * parts if form.divided else tiles * units
    index = gl.program_id(0)
    whole, last, blocks, block, left = total, 0, 1, 0, 0
    if form.shared:  # whole tiles, as many for each program, then a share of the last ones
        blocks = (S + form.tile.keys - 1) // form.tile.keys
        whole = total // gl.num_programs(0) * gl.num_programs(0)
        last = total - whole
        total = whole + gl.minimum(gl.num_programs(0), last * blocks)
        block = 0  # of all blocks of the last tiles, the next one of the share
        left = 0  # blocks of it
    while to_do(index, total, judged, turn, form):
        if form.steady:
            again = False
            if (judged + 2 == turn) | (index >= total):  # its half of the board is wanted, or there is nothing else to do
                again = jobs.asked(judged)
                if again:
                    jobs.repeat(judged, turn)
                judged += 1
            if again | (index < total):
                if again:
                    place = found_again(jobs, turn)
                else:
                    place, block, left = find(
                        jobs, turn, tiles, index, whole, last, blocks, block, left, T, S, H, units, section, units_of, group, offsets,
                        starts, lengths, firsts, first, prefix, prefixes, spans, listed, before, after, parts, form,
                    )  # fmt: skip
                send_queries(q, to_queries, jobs, place, turn, form)
                step, index = send_blocks(
                    k, v, to_keys, to_values, counter, place, step, index, total, left, again, S, table, table_step, pages, form
                )  # fmt: skip
                turn += 1
        else:
            place, block, left = find(
                jobs, turn, tiles, index, whole, last, blocks, block, left, T, S, H, units, section, units_of, group, offsets, starts,
                lengths, firsts, first, prefix, prefixes, spans, listed, before, after, parts, form,
            )  # fmt: skip
            send_queries(q, to_queries, jobs, place, turn, form)
            if form.divided:  # earlier than elsewhere: the machine code that was measured
                turn += 1
            step, index = send_blocks(
                k, v, to_keys, to_values, counter, place, step, index, total, left, False, S, table, table_step, pages, form
            )  # fmt: skip
            if not form.divided:
                turn += 1
    if form.divided or form.shared:
        gdc_launch_dependents()  # the merge, which waits on its own
    jobs.clear(turn)
    jobs.put(turn, MORE, 0)
    jobs.show(turn)


@gluon.jit(do_not_specialize=[
    "T", "S", "H", "units", "section", "units_of", "group", "first", "prefix", "tree_step", "table_step", "pages", "before", "after",
    "parts",
])  # fmt: skip
def attend(
    q, k, v, o, out, lse, sink, scales, k_data, k_strides, v_data, v_strides, counter, T, S, H, units, section, units_of, group, offsets,
    starts, lengths, firsts, first, prefix, prefixes, tree, tree_step, q_documents, k_documents, spans, table, table_step, pages, listed,
    count, before, after, parts, scale, inner, form: gl.constexpr,
):  # fmt: skip
    """Tiles of queries, taken by programs one after another."""
    queries = channel(q, form.tokens, form.width, form.tile.turns, form.tile.groups, 1)
    keys = channel(k, form.tile.keys, form.key_width, form.tile.slots, 1, form.tile.groups, form.beside)
    values = channel(v, form.value_rows, form.value_row, form.tile.slots, 1, form.tile.groups)
    if form.narrow:  # results are wider than queries, whose place they take otherwise
        results = gl.allocate_shared_memory(o.dtype, [form.tile.groups, 1, form.tokens, form.pack, form.value_width], o.layout)
    jobs = board(form.tile.groups, not form.divided, form.steady)
    rows = addresses(
        k_data, k_strides, v_data, v_strides, tree, tree_step, q_documents, k_documents, spans, table, table_step, pages, T, S, scales, form
    )  # fmt: skip
    fence_async_shared()
    if form.tile.groups == 2:
        gl.warp_specialize([
            (consume, (0, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (1, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (produce, (
                q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts,
                first, prefix, prefixes, spans, table, table_step, pages, listed, count, before, after, parts, form,
            )),
        ], [4, 1], form.tile.registers)  # fmt: skip
    elif form.tile.groups == 3:
        gl.warp_specialize([
            (consume, (0, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (1, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (2, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (produce, (
                q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts,
                first, prefix, prefixes, spans, table, table_step, pages, listed, count, before, after, parts, form,
            )),
        ], [4, 4, 1], form.tile.registers)  # fmt: skip
    else:
        gl.warp_specialize([
            (consume, (0, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (1, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (2, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (consume, (3, o, out, lse, sink, rows, queries, keys, values, results if form.narrow else 0, jobs, scale, inner, form)),
            (produce, (
                q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts,
                first, prefix, prefixes, spans, table, table_step, pages, listed, count, before, after, parts, form,
            )),
        ], [4, 4, 4, 1], form.tile.registers)  # fmt: skip


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem, tokens = plan.problem, arguments.tokens(call)
    assert isinstance(problem, Problem)
    out = tokens.new_empty((*tokens.shape[:-1], problem.V), dtype=getattr(torch, problem.result_dtype))
    lse = tokens.new_empty(tokens.shape[:-1], dtype=torch.float32)
    if not out.numel():
        return State(out, lse)
    known, parts, at, side = arguments.fixed(plan), plan.offer.splits, arguments.where(call), key_sides(call.keys)
    form = known.form
    if form.narrow:
        side = side[0].data, side[1].data
    (q, q_steps), (k, k_steps), (v, v_steps) = arguments.aligned(tokens), arguments.aligned(side[0]), arguments.aligned(side[1])
    sink = None if call.sink is None else call.sink.logits.contiguous()
    ends = out if form.packed else None, lse, sink
    if form.divided:
        work = q.new_empty(known.places * (form.value_width + 2), dtype=torch.float32)
        ends = work, work[known.places * form.value_width :], None
    elif form.shared:
        ends = q.new_empty(known.places * (form.value_width + 2), dtype=torch.float32), lse, sink
    with torch.cuda.device_of(q):
        listed, count, counter, tiles = _tiles(plan, known, q, at.offsets)
        spans = _spans(plan, known, at)
        scales, blocks, block_steps = None, v, v_steps
        if form.narrow:
            scales, blocks = scales_of(call), _turned(plan, form, v, v_steps)
            block_steps = arguments.steps(blocks)
        args = (
            arguments.boxed(q, q_steps, known.q), arguments.boxed(k, k_steps, known.k), arguments.boxed(blocks, block_steps, known.v),
            arguments.boxed(out, arguments.steps(out), known.out), *ends, scales,
            *((k, k_steps, v, v_steps) if form.unseen else (None, None, None, None)),
            counter, *arguments.told(plan, at, listed, count, spans),
        )  # fmt: skip
        key = (plan, q.get_device(), k_steps, v_steps, *aligned_to(sink, *at))
        start(attend, min(tiles * parts, plan.machine.units), args, {"form": form, **OPTIONS, "launch_pdl": form.divided}, key)
        if form.divided:
            numbers = parts, known.places, *arguments.reach(call)
            join(problem, (ends[0], out, lse, at.lengths, at.starts, at.firsts, sink), numbers, form, key)
        elif form.shared:
            join_shares(problem, (ends[0], out, lse, sink), known.units_of, plan.machine.units, form, key)
    return State(out, lse)


def kept_run(plan: Plan) -> again.Run | None:
    """`launch` for plain arrays, where only the addresses are new."""
    return again.kept_run(plan, launch, partial(kept, attend))


def _tiles(plan: Plan, known: arguments.Fixed, q: Tensor, offsets: Any) -> tuple[Tensor | None, Tensor | None, Tensor, int]:
    """(list of tiles of packed queries, its length, a counter at 0, the most tiles there can be). The counter is of this call alone:
    programs of two launches never take tiles from each other."""
    problem, each = plan.problem, known.form.all_tokens
    assert isinstance(problem, Problem)
    if offsets is None:
        tiles = -(-problem.T // each) * known.units
        make = torch.zeros if tiles > plan.machine.units else torch.empty  # nobody counts where each program has one tile
        return None, None, make(1, dtype=torch.int32, device=q.device), tiles
    most = q.shape[0] // each + problem.B
    held = torch.empty(2 + 2 * most, dtype=torch.int32, device=q.device)
    count, counter, listed = held[:1], held[1:2], held[2:]
    named = {"EACH": each, "BLOCK": 128, **OPTIONS}
    key = (plan, q.get_device(), *aligned_to(offsets))
    start(list_tiles, problem.B, (offsets, listed, count, counter, problem.B), named, key)
    return listed, count, counter, most * known.units


def _spans(plan: Plan, known: arguments.Fixed, at: arguments.Where) -> Tensor | None:
    """Which blocks of keys each tile's documents have, of documents."""
    problem, form = plan.problem, known.form
    assert isinstance(problem, Problem)
    if at.q_documents is None or at.k_documents is None:
        return None
    tiles = -(-problem.T // form.all_tokens)
    spans = at.q_documents.new_empty(problem.B * tiles * SPAN(form.tile.groups))
    key = (plan, at.q_documents.get_device(), *aligned_to(at.q_documents, at.k_documents))
    start(span_documents, problem.B * tiles, (at.q_documents, at.k_documents, spans, problem.T, problem.S), {"form": form, **OPTIONS}, key)
    return spans


def _turned(plan: Plan, form: Form, v: Tensor, steps: arguments.Steps) -> Tensor:
    """Blocks of narrow values turned, as an array `[B, blocks · width, G, keys]`."""
    B, S, G, V = v.shape
    blocks = -(-S // form.tile.keys)
    out = torch.empty((B, G, blocks * form.value_width, form.tile.keys), dtype=torch.uint8, device=v.device)
    named = {"V": V, "BV": form.value_width, "BN": form.tile.keys, **OPTIONS}
    start(turn, B * G * blocks, (v.view(torch.uint8), out, S, G, blocks, *steps), named, (plan, v.get_device(), steps, *aligned_to(v)))
    return out.view(v.dtype).transpose(1, 2)
