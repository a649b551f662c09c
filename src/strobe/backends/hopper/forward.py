"""Forward attention: one warp loads, warpgroups of 64 rows multiply, and hand each other tiles through channels.

    produce   takes a tile, puts its job on the board, sends queries, keys and values
    parts     with few tiles of rows, each one's blocks of keys are cut into equal parts, which `merge.py` joins
    consume   passes the blocks of keys from the last to the first; scores of a block are multiplied while the weighted sum of the
              one before it still is, and their maximum is taken while it ends

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; Shah et al., 2024, arXiv:2407.08608, sections 3.1 and 3.2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.hopper import again, arguments
from strobe.backends.hopper.channel import Consumer, Producer, addresses, board, channel
from strobe.backends.hopper.compat import write_back
from strobe.backends.hopper.merge import join
from strobe.backends.hopper.schedule import blocks_of_group, blocks_of_tile, last_seen, list_tiles, part_of, tile_of
from strobe.backends.hopper.scoring import tanh
from strobe.backends.hopper.starting import aligned_to, kept, start
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import State

LOG2_E = gl.constexpr(1.4426950408889634)  # 1 / ln 2
LN_2 = gl.constexpr(0.6931471805599453)
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # Triton 3.10 will not fuse unless it is told to

# the numbers of a job
MORE = gl.constexpr(0)  # 0 tells that there is no job any more
BATCH = gl.constexpr(1)  # of queries, 0 where they lie end to end
TOKEN = gl.constexpr(2)  # first query of the tile, as a row of its array
QUERIES = gl.constexpr(3)  # from there to the sequence's end
HEAD = gl.constexpr(4)  # first of the tile
POSITION = gl.constexpr(5)  # of the first query
LENGTH = gl.constexpr(6)  # keys of the sequence
PREFIX = gl.constexpr(7)
LOW = gl.constexpr(8)  # blocks of the tile
HIGH = gl.constexpr(9)
K_BATCH = gl.constexpr(10)
K_HEAD = gl.constexpr(11)
K_FIRST = gl.constexpr(12)  # first key of the sequence, as a row of its array
ROW = gl.constexpr(13)  # place of the first row's lse, or of the first row of a part
HEADS = gl.constexpr(14)  # or rows of all parts; the same in every job, as what follows: on the board they take no registers
BEFORE = gl.constexpr(15)
AFTER = gl.constexpr(16)


@gluon.constexpr_function
def products(width):
    """How the numbers of a product `[64, width]` lie in the registers of a warpgroup."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, width, 16])


@gluon.constexpr_function
def weights(width):
    """The same, for the left side of a product of this width."""
    return gl.DotOperandLayout(operand_index=0, parent=products(width), k_width=2)


@gluon.jit
def produce(
    q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts, first,
    prefix, prefixes, listed, count, before, after, parts, form: gl.constexpr,
):  # fmt: skip
    """One warp: takes tiles until there are none."""
    GROUPS: gl.constexpr = form.tile.groups
    to_queries = Producer(queries)
    to_keys = Producer(keys)
    to_values = Producer(values)
    step = 0
    turn = 0
    tiles = (T + form.all_tokens - 1) // form.all_tokens
    if form.packed:
        tiles = gl.load(count)
    total = tiles * units * parts if form.divided else tiles * units
    index = gl.program_id(0)
    while index < total:
        tile, unit = tile_of(index // parts if form.divided else index, tiles, units, section)
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
        done = tile * form.all_tokens
        token += done
        position += done
        k_head = head // group
        low, high = blocks_of_tile(position, length_q - done, length, reach, before, after, form)
        row = (batch * T + token) * H + head
        heads = H
        if form.divided:
            low, high, there = part_of(index % parts, parts, low, high)
            if index % parts >= there:
                length = 0  # of whose keys nothing is seen
            held = gl.minimum(T, form.all_tokens) * form.heads
            row = (((sequence * tiles + tile) * units_of + unit % units_of) * parts + index % parts) * held
            heads = units * tiles * parts * held

        jobs.clear(turn)
        jobs.put(turn, MORE, 1)
        jobs.put(turn, BATCH, batch)
        jobs.put(turn, TOKEN, token)
        jobs.put(turn, QUERIES, length_q - done)
        jobs.put(turn, HEAD, head)
        jobs.put(turn, POSITION, position)
        jobs.put(turn, LENGTH, length)
        jobs.put(turn, PREFIX, reach)
        jobs.put(turn, LOW, low)
        jobs.put(turn, HIGH, high)
        jobs.put(turn, K_BATCH, k_batch)
        jobs.put(turn, K_HEAD, k_head)
        jobs.put(turn, K_FIRST, k_first)
        jobs.put(turn, ROW, row)
        jobs.put(turn, HEADS, heads)
        jobs.put(turn, BEFORE, before)
        jobs.put(turn, AFTER, after)
        jobs.show(turn)
        for lane in gl.static_range(GROUPS):
            to_queries.send(q, batch, token + lane * form.next_tokens, head + lane * form.next_heads, turn, lane)
        turn += 1

        at = k_first + (high - 1) * form.tile.keys
        to_keys.send(k, k_batch, at, k_head, step, 0)
        for _ in range(low + 1, high):
            to_keys.send(k, k_batch, at - form.tile.keys, k_head, step + 1, 0)
            to_values.send(v, k_batch, at, k_head, step, 0)
            at -= form.tile.keys
            step += 1
        # as late as the channels allow, so that whoever is first takes the next tile
        if total <= gl.num_programs(0):
            index = total
        else:
            index = gl.atomic_add(counter, 1) + gl.num_programs(0)
        to_values.send(v, k_batch, at, k_head, step, 0)
        step += 1
    jobs.clear(turn)
    jobs.put(turn, MORE, 0)
    jobs.show(turn)


@gluon.jit
def capped(b_s, inner, form: gl.constexpr):
    """Scores in units that `scale` makes base 2 of; with a soft cap tanh(score / limit)."""
    if form.cap != "no":
        b_s = tanh(b_s * inner, form.cap == "fast")
    return b_s


@gluon.jit
def masked(b_s, block, b_first, b_last, form: gl.constexpr):
    """−∞ for keys that a row does not see: of keys b_first … b_last those of the block."""
    layout: gl.constexpr = products(form.tile.keys)
    o_n = block * form.tile.keys + gl.arange(0, form.tile.keys, layout=gl.SliceLayout(0, layout))
    b_seen = o_n[None, :] <= b_last[:, None]
    if form.before:
        b_seen = b_seen & (o_n[None, :] >= b_first[:, None])
    return gl.where(b_seen, b_s, float("-inf"))


@gluon.jit
def score(b_q, b_k, form: gl.constexpr):
    """q · k of a block, under way."""
    zeros = gl.full([64, form.tile.keys], 0.0, gl.float32, layout=products(form.tile.keys))
    return warpgroup_mma(b_q, b_k.reshape([form.tile.keys, form.width]).permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def weigh(b_s, b_greatest, b_m, b_l, scale):
    """(weights, greatest score, sum of weights, what the old sums are worth) after the scores of a block and their greatest."""
    b_top = gl.maximum(b_m, b_greatest)
    b_base = gl.where(b_top == float("-inf"), 0.0, b_top) * scale  # −∞ − −∞ would be NaN
    b_p = gl.exp2(b_s * scale - b_base[:, None])
    b_decay = gl.exp2(b_m * scale - b_base)
    return b_p, b_top, b_l * b_decay + gl.sum(b_p, 1), b_decay


@gluon.jit
def advance(
    b_q, b_p, b_m, b_l, b_o, keys, values, step, block, whole, b_first, b_last, scale, inner, form: gl.constexpr,
):  # fmt: skip
    """One block on: the block before gets its values while this one, masked unless it is seen whole, gets its scores."""
    b_s = score(b_q, keys.wait(step + 1), form)
    b_v = values.wait(step).reshape([form.tile.keys, form.value_width])
    b_o = warpgroup_mma(b_p, b_v, b_o, is_async=True)
    b_s = warpgroup_mma_wait(1, [b_s])
    keys.release(step + 1)
    b_s = capped(b_s, inner, form)
    if form.before or form.after or form.prefix:
        if whole:  # each way has its own maximum: behind the branch, the assembler would wait for the sums before it
            b_greatest = gl.max(b_s, 1)
        else:
            b_s = masked(b_s, block, b_first, b_last, form)
            b_greatest = gl.max(b_s, 1)
    else:
        b_greatest = gl.max(b_s, 1)
    b_w, b_m, b_l, b_decay = weigh(b_s, b_greatest, b_m, b_l, scale)
    b_o = warpgroup_mma_wait(0, [b_o])
    values.release(step)
    b_p = gl.convert_layout(b_w.to(b_p.dtype), weights(form.value_width), assert_trivial=True)
    b_o = b_o * gl.convert_layout(b_decay, gl.SliceLayout(1, products(form.value_width)))[:, None]
    return b_p, b_m, b_l, b_o


@gluon.jit
def seen(jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
    """(first keys, last keys) that the rows of a warpgroup see, and its blocks (low, high, full low, full high)."""
    skipped: gl.constexpr = GROUP * form.next_tokens
    position = jobs.get(turn, POSITION) + skipped
    length = jobs.get(turn, LENGTH)
    prefix = jobs.get(turn, PREFIX)
    before = jobs.get(turn, BEFORE)
    after = jobs.get(turn, AFTER)
    low, high, full_low, full_high = blocks_of_group(
        position, jobs.get(turn, QUERIES) - skipped, length, prefix, before, after, jobs.get(turn, LOW), jobs.get(turn, HIGH), form
    )
    b_position = position + gl.arange(0, 64, layout=gl.SliceLayout(1, products(form.tile.keys))) // form.pack
    return b_position - before, last_seen(b_position, length, prefix, after, form), low, high, full_low, full_high


@gluon.jit
def skip(keys, values, step, blocks):
    """Lets blocks go that only another warpgroup reads."""
    for _ in range(blocks):
        keys.skip(step)
        values.skip(step)
        step += 1
    return step


@gluon.jit
def passed(q, keys, values, jobs, turn, step, scale, inner, GROUP: gl.constexpr, form: gl.constexpr):
    """(greatest score, sum of weights, weighted sum, next step) of the rows over the blocks they see."""
    b_first, b_last, low, high, full_low, full_high = seen(jobs, turn, GROUP, form)
    step = skip(keys, values, step, jobs.get(turn, HIGH) - high)
    b_q = q.reshape([64, form.width])
    b_s = score(b_q, keys.wait(step), form)
    b_s = warpgroup_mma_wait(0, [b_s])
    keys.release(step)
    b_s = masked(capped(b_s, inner, form), high - 1, b_first, b_last, form)
    b_m = gl.full([64], float("-inf"), gl.float32, layout=gl.SliceLayout(1, products(form.tile.keys)))
    b_w, b_m, b_l, _ = weigh(b_s, gl.max(b_s, 1), b_m, gl.zeros_like(b_m), scale)
    b_p = gl.convert_layout(b_w.to(q.dtype), weights(form.value_width), assert_trivial=True)
    b_o = gl.full([64, form.value_width], 0.0, gl.float32, layout=products(form.value_width))
    for i in range(high - 1 - low):  # one loop: between two, weights of 16 bits would be packed anew in each step
        block = high - 2 - i
        whole = (block >= full_low) & (block < full_high)
        b_p, b_m, b_l, b_o = advance(b_q, b_p, b_m, b_l, b_o, keys, values, step, block, whole, b_first, b_last, scale, inner, form)
        step += 1
    b_v = values.wait(step).reshape([form.tile.keys, form.value_width])
    b_o = warpgroup_mma(b_p, b_v, b_o, is_async=True)
    b_o = warpgroup_mma_wait(0, [b_o])
    values.release(step)
    return b_m, b_l, b_o, step + 1


@gluon.jit
def finite(b_x):
    """Neither NaN nor infinity. (x − x is not 0 of a product: the compiler makes one rounding of both.)"""
    return b_x * 0.0 == 0.0


@gluon.jit
def carefully(q, b_m, jobs, turn, rows, scale, inner, GROUP: gl.constexpr, form: gl.constexpr):
    """The weighted sum again, one key after another, so that NaN among the values reaches only the rows that see it."""
    k_layout: gl.constexpr = products(form.width)
    v_layout: gl.constexpr = products(form.value_width)
    o_d = gl.arange(0, form.width, layout=gl.SliceLayout(0, k_layout))
    o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, v_layout))
    b_base = gl.convert_layout(gl.where(b_m == float("-inf"), 0.0, b_m) * scale, gl.SliceLayout(1, v_layout))
    b_first, b_last, low, high, _, _ = seen(jobs, turn, GROUP, form)
    b_first = gl.convert_layout(b_first, gl.SliceLayout(1, v_layout))
    b_last = gl.convert_layout(b_last, gl.SliceLayout(1, v_layout))
    p_k, k_step = rows.of(0, jobs.get(turn, K_BATCH), jobs.get(turn, K_FIRST), jobs.get(turn, K_HEAD), q.dtype)
    p_v, v_step = rows.of(1, jobs.get(turn, K_BATCH), jobs.get(turn, K_FIRST), jobs.get(turn, K_HEAD), q.dtype)
    b_o = gl.full([64, form.value_width], 0.0, gl.float32, layout=v_layout)
    for n in range(low * form.tile.keys, gl.minimum(high * form.tile.keys, jobs.get(turn, LENGTH))):
        b_k = gl.load(p_k + n * k_step + o_d, mask=o_d < form.D, other=0.0).to(gl.float32)
        b_v = gl.load(p_v + n * v_step + o_v, mask=o_v < form.V, other=0.0).to(gl.float32)
        b_q = q.reshape([64, form.width]).load(k_layout).to(gl.float32)
        b_s = gl.convert_layout(gl.sum(b_q * b_k[None, :], 1), gl.SliceLayout(1, v_layout))
        b_p = gl.exp2(capped(b_s, inner, form) * scale - b_base)
        b_part = gl.where(finite(b_v)[None, :], b_p[:, None] * b_v[None, :], b_v[None, :])
        b_seen = b_last >= n
        if form.before:
            b_seen = b_seen & (b_first <= n)
        b_o += gl.where(b_seen[:, None], b_part, 0.0)
    return b_o


@gluon.jit
def finished(b_m, b_l, b_o, sink, o_head, m_row, scale, form: gl.constexpr):
    """(average of the values, lse in base 2) of the rows; a sink is a weight without a value."""
    b_top = b_m * scale
    if sink is not None:
        b_sink = gl.load(sink + o_head, mask=m_row, other=float("-inf")).to(gl.float32) * LOG2_E
        b_top = gl.maximum(b_top, b_sink)
        b_base = gl.where(b_top == float("-inf"), 0.0, b_top)
        b_decay = gl.exp2(b_m * scale - b_base)
        b_l = b_l * b_decay + gl.exp2(b_sink - b_base)
        b_o = b_o * gl.convert_layout(b_decay, gl.SliceLayout(1, products(form.value_width)))[:, None]
    b_some = b_l != 0.0
    b_lse = gl.where(b_some, b_top + gl.log2(b_l), float("-inf"))
    b_part = gl.where(b_some, 1.0 / b_l, 0.0)
    return b_o * gl.convert_layout(b_part, gl.SliceLayout(1, products(form.value_width)))[:, None], b_lse


@gluon.jit
def leave(b_m, b_l, b_o, out, lse, jobs, turn, m_row, scale, GROUP: gl.constexpr, form: gl.constexpr):
    """Stores rows of a part: weighted sums, greatest scores in base 2, and behind those sums of weights."""
    layout: gl.constexpr = products(form.value_width)
    o_row = jobs.get(turn, ROW) + GROUP * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, products(form.tile.keys)))
    gl.store(lse + o_row, b_m * scale, mask=m_row)
    gl.store(lse + jobs.get(turn, HEADS) + o_row, b_l, mask=m_row)
    o_out = gl.cast(gl.convert_layout(o_row, gl.SliceLayout(1, layout)), gl.int64) * form.value_width
    o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, layout))
    m_out = gl.convert_layout(m_row, gl.SliceLayout(1, layout))
    gl.store(out + o_out[:, None] + o_v[None, :], b_o, mask=m_out[:, None] & (o_v >= 0)[None, :])


@gluon.jit
def consume(
    GROUP: gl.constexpr, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form: gl.constexpr,
):  # fmt: skip
    """A warpgroup: the rows 64 · GROUP … of each tile."""
    mine = Consumer(queries, GROUP)
    from_keys = Consumer(keys, 0)
    from_values = Consumer(values, 0)
    o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, products(form.tile.keys)))
    skipped: gl.constexpr = GROUP * form.next_tokens
    step = 0
    turn = 0
    jobs.wait(turn)
    while jobs.get(turn, MORE) != 0:
        q = mine.wait(turn)
        b_m, b_l, b_o, step = passed(q, from_keys, from_values, jobs, turn, step, scale, inner, GROUP, form)
        if form.before:
            _, _, low, _, _, _ = seen(jobs, turn, GROUP, form)
            step = skip(from_keys, from_values, step, low - jobs.get(turn, LOW))
        if form.unseen:
            if gl.max(gl.max((finite(b_o) == 0).to(gl.int32), 1), 0) > 0:
                b_o = carefully(q, b_m, jobs, turn, rows, scale, inner, GROUP, form)

        head = jobs.get(turn, HEAD)
        left = jobs.get(turn, QUERIES) - skipped
        m_row = o_row // form.pack < left
        if form.divided:
            leave(b_m, b_l, b_o, out, lse, jobs, turn, m_row, scale, GROUP, form)
        else:
            b_o, b_lse = finished(b_m, b_l, b_o, sink, head + o_row % form.pack, m_row, scale, form)
            o_lse = jobs.get(turn, ROW) + (skipped + o_row // form.pack) * jobs.get(turn, HEADS) + o_row % form.pack
            gl.store(lse + o_lse, b_lse * LN_2, mask=m_row)
            if form.packed and left < form.tokens:  # the next rows are another sequence's
                o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, products(form.value_width)))
                o_out = gl.convert_layout(o_lse, gl.SliceLayout(1, products(form.value_width)))
                m_out = gl.convert_layout(m_row, gl.SliceLayout(1, products(form.value_width)))
                p_out = out + gl.cast(o_out, gl.int64)[:, None] * form.V + o_v[None, :]
                gl.store(p_out, b_o.to(q.dtype), mask=m_out[:, None] & (o_v < form.V)[None, :])
            else:
                q.reshape([64, form.value_width]).store(b_o.to(q.dtype))  # the queries' place is free
                fence_async_shared()
                write_back(o, [jobs.get(turn, BATCH), jobs.get(turn, TOKEN) + skipped, head, 0], q)
                tma.store_wait(0)
        mine.release(turn)
        jobs.release(turn)
        turn += 1
        jobs.wait(turn)


@gluon.jit(do_not_specialize=["T", "S", "H", "units", "section", "units_of", "group", "first", "prefix", "before", "after", "parts"])
def attend(
    q, k, v, o, out, lse, sink, k_data, k_strides, v_data, v_strides, counter, T, S, H, units, section, units_of, group, offsets, starts,
    lengths, firsts, first, prefix, prefixes, listed, count, before, after, parts, scale, inner, form: gl.constexpr,
):  # fmt: skip
    """Tiles of queries, taken by programs one after another."""
    if form.divided:
        gdc_wait()
        gdc_launch_dependents()  # the merge waits on its own
    queries = channel(q, form.tile.turns, form.tile.groups, 1)
    keys = channel(k, form.tile.slots, 1, form.tile.groups)
    values = channel(v, form.tile.slots, 1, form.tile.groups)
    jobs = board(form.tile.groups)
    rows = addresses(k_data, k_strides, v_data, v_strides, form)
    fence_async_shared()
    if form.tile.groups == 2:
        gl.warp_specialize([
            (consume, (0, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form)),
            (consume, (1, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form)),
            (produce, (
                q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts,
                first, prefix, prefixes, listed, count, before, after, parts, form,
            )),
        ], [4, 1], form.tile.registers)  # fmt: skip
    else:
        gl.warp_specialize([
            (consume, (0, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form)),
            (consume, (1, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form)),
            (consume, (2, o, out, lse, sink, rows, queries, keys, values, jobs, scale, inner, form)),
            (produce, (
                q, k, v, queries, keys, values, jobs, counter, T, S, H, units, section, units_of, group, offsets, starts, lengths, firsts,
                first, prefix, prefixes, listed, count, before, after, parts, form,
            )),
        ], [4, 4, 1], form.tile.registers)  # fmt: skip


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem, tokens = plan.problem, arguments.tokens(call)
    assert isinstance(problem, Problem)
    out = tokens.new_empty((*tokens.shape[:-1], problem.V))
    lse = tokens.new_empty(tokens.shape[:-1], dtype=torch.float32)
    if not out.numel():
        return State(out, lse)
    known, parts, at, side = arguments.fixed(plan), plan.offer.splits, arguments.where(call), key_sides(call.keys)
    form = known.form
    (q, q_steps), (k, k_steps), (v, v_steps) = arguments.aligned(tokens), arguments.aligned(side[0]), arguments.aligned(side[1])
    sink = None if call.sink is None else call.sink.logits.contiguous()
    ends = out if form.packed else None, lse, sink
    if form.divided:
        work = q.new_empty(known.places * (form.value_width + 2), dtype=torch.float32)
        ends = work, work[known.places * form.value_width :], None
    with torch.cuda.device_of(q):
        listed, count, counter, tiles = _tiles(plan, known, q, at.offsets)
        args = (
            arguments.boxed(q, q_steps, known.q), arguments.boxed(k, k_steps, known.k), arguments.boxed(v, v_steps, known.v),
            arguments.boxed(out, arguments.steps(out), known.out), *ends,
            *((k, k_steps, v, v_steps) if form.unseen else (None, None, None, None)),
            counter, *arguments.told(plan, at, listed, count),
        )  # fmt: skip
        key = (plan, q.get_device(), k_steps, v_steps, *aligned_to(sink, *at))
        start(attend, min(tiles * parts, plan.machine.units), args, {"form": form, **OPTIONS, "launch_pdl": form.divided}, key)
        if form.divided:
            numbers = parts, known.places, *arguments.reach(call)
            join(problem, (ends[0], out, lse, at.lengths, at.starts, at.firsts, sink), numbers, form, key)
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
