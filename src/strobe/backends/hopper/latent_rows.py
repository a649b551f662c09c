"""The two warpgroups of latent attention: blocks of keys pass by 64 rows, those that all rows see whole before the others.

    lead      scores of a block, weights, and its first 256 values, weighted
    follow    is told the weights through shared memory, adds up the other 256 values, and cleans what is not seen of a block

Both let half of the queries come. Sources: Dao, 2023, arXiv:2307.08691, algorithm 1; FlashMLA, 2025, whose warpgroups share the weights.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, warpgroup_mma, warpgroup_mma_wait

from strobe.backends.hopper import latent_desk
from strobe.backends.hopper.block import LN_2, products, weigh, weights
from strobe.backends.hopper.channel import Consumer
from strobe.backends.hopper.compat import send_rows
from strobe.backends.hopper.scoring import LOG2_E, visible

KEYS = gl.constexpr(latent_desk.KEYS)
ROWS = gl.constexpr(latent_desk.ROWS)
HALF = gl.constexpr(latent_desk.HALF)
TAIL = gl.constexpr(latent_desk.TAIL)
WIDTH = gl.constexpr(latent_desk.WIDEST_VALUES)

# the numbers of a job, on the board of `jobs.py`
MORE = gl.constexpr(0)  # 0 tells that there is no job any more
SEQUENCE = gl.constexpr(1)
KEY = gl.constexpr(2)  # the first one
FULL = gl.constexpr(3)  # blocks that all rows see whole, which come first
MASKED = gl.constexpr(4)  # blocks that some do not
BELOW = gl.constexpr(5)  # of those before the full ones in the sequence
BEGUN = gl.constexpr(6)  # of those of the jobs before
LENGTH = gl.constexpr(7)  # keys of the sequence
POSITION = gl.constexpr(8)  # of query 0
PARTS = gl.constexpr(9)  # of the sequence's keys
SLOT = gl.constexpr(10)  # where this part is left
TILE = gl.constexpr(11)  # the same in every job, as what follows: on the board they take no registers
HEAD = gl.constexpr(12)
HEADS = gl.constexpr(13)
QUERIES = gl.constexpr(14)
BEFORE = gl.constexpr(15)
AFTER = gl.constexpr(16)


@gluon.jit
def place_of(nth, below, full):
    """The place, among a job's blocks, of masked block nth; of full ones, which come first, nth is below 0."""
    return gl.where(nth < 0, below + full + nth, gl.where(nth < below, nth, nth + full))


@gluon.jit
def meet(meeting, TIMES: gl.constexpr):
    """Waits until both warpgroups are here, for an even or odd number of TIMES before."""
    mbarrier.arrive(meeting.index(0), count=1)
    mbarrier.wait(meeting.index(0), TIMES & 1)


@gluon.jit
def take_queries(tile, p_q, jobs, turn, sq_b, sq_t, sq_h, COLUMN: gl.constexpr, form: gl.constexpr):
    """Lets columns of a tile of rows come to shared memory: zeros for rows behind the last one. Strides are in units of 8 numbers."""
    W: gl.constexpr = tile.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // W, W // 8], [4, 1], [1, 0])
    o_row = jobs.get(turn, TILE) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    o_c = COLUMN + gl.arange(0, W, layout=gl.SliceLayout(0, layout))
    o_head = jobs.get(turn, HEAD) * form.group + o_row % form.group
    o_sequence = gl.cast(jobs.get(turn, SEQUENCE), gl.int64) * sq_b
    o_q = o_sequence + gl.cast(o_row // form.group, gl.int64) * sq_t + gl.cast(o_head, gl.int64) * sq_h
    m_q = (o_row < jobs.get(turn, QUERIES) * form.group)[:, None] & (o_c < form.D)[None, :]
    send_rows(tile, p_q + (o_q * 8)[:, None] + o_c[None, :], mask=m_q)


@gluon.jit
def there(meeting):
    """Waits until the queries are there that both warpgroups let come."""
    async_copy.commit_group()
    async_copy.wait_group(0)
    fence_async_shared()
    meet(meeting, 1)


@gluon.jit
def score(q_halves, q_tail, of_first, of_second, of_tail, step, form: gl.constexpr):
    """q · k of a block."""
    b_s = gl.full([ROWS, KEYS], 0.0, gl.float32, layout=products(KEYS))
    b_k = of_first.wait(step).reshape([KEYS, HALF]).permute((1, 0))
    b_s = warpgroup_mma(q_halves.index(0).reshape([ROWS, HALF]), b_k, b_s, use_acc=False, is_async=True)
    b_k = of_second.wait(step).reshape([KEYS, HALF]).permute((1, 0))
    b_s = warpgroup_mma(q_halves.index(1).reshape([ROWS, HALF]), b_k, b_s, is_async=True)
    if form.tail:
        b_k = of_tail.wait(step).reshape([KEYS, TAIL]).permute((1, 0))
        b_s = warpgroup_mma(q_tail.index(0).reshape([ROWS, TAIL]), b_k, b_s, is_async=True)
    b_s = warpgroup_mma_wait(0, [b_s])
    of_second.release(step)
    if form.tail:
        of_tail.release(step)
    if form.apart:
        of_first.release(step)
    return b_s


@gluon.jit
def seen(b_t, o_n, jobs, turn, form: gl.constexpr):
    """Which keys queries see."""
    before = None
    if form.before:
        before = jobs.get(turn, BEFORE)
    after = None
    if form.after:
        after = jobs.get(turn, AFTER)
    at = jobs.get(turn, POSITION)
    return visible(b_t, o_n, 0, jobs.get(turn, LENGTH), at, jobs.get(turn, QUERIES), before, after, None, 0, 0, 0)


@gluon.jit
def seen_by_rows(n, jobs, turn, form: gl.constexpr):
    """Which keys of the block at n each row sees."""
    b_t = (jobs.get(turn, TILE) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, products(KEYS)))) // form.group
    return seen(b_t[:, None], (n + gl.arange(0, KEYS, layout=gl.SliceLayout(0, products(KEYS))))[None, :], jobs, turn, form)


@gluon.jit
def clean(halves, wild, jobs, turn, step, n, form: gl.constexpr):
    """Makes zeros of values of the block at n that are not seen: 0 · NaN is NaN. Where rows see different keys, all that are NaN or
    infinite become zeros, and it is told of which keys they were: the rows that see one get NaN instead."""
    STEP: gl.constexpr = 8  # keys, a swizzle's rows
    LOAD: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])
    if form.mixed:
        wild.store(gl.full([KEYS], 0, gl.int32, layout=gl.BlockedLayout([1], [32], [4], [0])))
    for half in range(2):
        slot = step % halves.slots * 2 + half
        mbarrier.wait(halves.full.index(slot), halves.phase(step))
        b_v = halves.tiles.index(slot).reshape([KEYS, HALF])
        for r in gl.static_range(0, KEYS, STEP):
            b_part = b_v.slice(r, STEP).load(LOAD)
            if form.mixed:
                b_wild = b_part.to(gl.float32) * 0.0 != 0.0
                b_keys = gl.max(b_wild.to(gl.int32), 1)
                wild.slice(r, STEP).store(gl.maximum(b_keys, wild.slice(r, STEP).load(gl.SliceLayout(1, LOAD))))
            else:
                o_n = n + r + gl.arange(0, STEP, layout=gl.SliceLayout(1, LOAD))
                b_wild = (seen(jobs.get(turn, TILE) * ROWS // form.group, o_n, jobs, turn, form) == 0)[:, None]
            b_v.slice(r, STEP).store(gl.where(b_wild, gl.zeros_like(b_part), b_part))
    fence_async_shared()


@gluon.jit
def times_rows(b_o, b_row):
    """Sums, each row times a number of [64] as scores have them."""
    return b_o * gl.convert_layout(b_row, gl.SliceLayout(1, products(HALF)))[:, None]


@gluon.jit
def valued(b_p, b_o, of_values, step):
    """The sums with a block's weighted values, which have come."""
    b_v = of_values.tile(step).reshape([KEYS, HALF])
    b_o = warpgroup_mma(b_p, b_v, b_o, is_async=True)
    b_o = warpgroup_mma_wait(0, [b_o])
    of_values.release(step)
    return b_o


@gluon.jit
def rows_of(jobs, turn, form: gl.constexpr, LAYOUT: gl.constexpr):
    """(places of the rows in the tile and in a part, their heads, places of their results, which there are)."""
    o_r = gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
    o_row = jobs.get(turn, TILE) * ROWS + o_r
    rows = jobs.get(turn, QUERIES) * form.group
    o_head = jobs.get(turn, HEAD) * form.group + o_row % form.group
    o_token = gl.cast(jobs.get(turn, SEQUENCE), gl.int64) * jobs.get(turn, QUERIES) + o_row // form.group
    o_part = gl.cast(jobs.get(turn, SLOT), gl.int64) * gl.minimum(rows, ROWS) + o_r
    return o_part, o_head, o_token * (jobs.get(turn, HEADS) * form.group) + o_head, o_row < rows


@gluon.jit
def leave(b_o, jobs, turn, p_out, p_work, dtype: gl.constexpr, COLUMN: gl.constexpr, form: gl.constexpr):
    """Stores a warpgroup's columns of the rows: results, or sums of a part."""
    LAYOUT: gl.constexpr = products(HALF)
    o_part, _, o_out, m_row = rows_of(jobs, turn, form, LAYOUT)
    o_v = COLUMN + gl.arange(0, HALF, layout=gl.SliceLayout(0, LAYOUT))
    if jobs.get(turn, PARTS) == 1:
        gl.store(p_out + (o_out * form.V)[:, None] + o_v[None, :], b_o.to(dtype), mask=m_row[:, None] & (o_v < form.V)[None, :])
    elif form.divided:
        gl.store(p_work + (o_part * WIDTH)[:, None] + o_v[None, :], b_o, mask=m_row[:, None] & (o_v >= 0)[None, :])


@gluon.jit
def finished(b_m, b_l, jobs, turn, p_lse, p_work, places, p_sinks, scale, form: gl.constexpr):
    """What the sums of rows are to be multiplied with; a sink is a weight without a value. Stores the lse, or a part's greatest scores and
    sums of weights."""
    o_part, o_head, o_out, m_row = rows_of(jobs, turn, form, products(KEYS))
    b_top = b_m * scale
    b_times = gl.full([ROWS], 1.0, gl.float32, layout=gl.SliceLayout(1, products(KEYS)))
    if jobs.get(turn, PARTS) == 1:
        if p_sinks is not None:
            b_sink = gl.load(p_sinks + o_head).to(gl.float32) * LOG2_E
            b_top = gl.maximum(b_top, b_sink)
            b_base = gl.where(b_top == float("-inf"), 0.0, b_top)
            b_times = gl.exp2(b_m * scale - b_base)
            b_l = b_l * b_times + gl.exp2(b_sink - b_base)
        b_some = b_l != 0.0
        b_lse = gl.where(b_some, b_top + gl.log2(b_l), float("-inf")) * LN_2
        b_times = gl.where(b_some, b_times / b_l, 0.0)
        gl.store(p_lse + o_out, b_lse, mask=m_row)
    elif form.divided:
        p_tops = p_work + gl.cast(places, gl.int64) * WIDTH
        gl.store(p_tops + o_part, b_top, mask=m_row)
        gl.store(p_tops + places + o_part, b_l, mask=m_row)
    return b_times


@gluon.jit
def tell(told, decays, b_w, b_times, step):
    """Hands the other warpgroup weights, if there are some, and what its sums so far are to be multiplied with. A block's values have come
    before, or the other, which waits for both halves to clean them, would take the block before for the one it waits for."""
    mbarrier.wait(told.empty.index(0), (step & 1) ^ 1)
    if b_w is not None:
        told.tiles.index(0).store(b_w)
    decays.store(b_times)
    mbarrier.arrive(told.full.index(0), count=1)


@gluon.jit
def weighted(b_w, b_o, b_decay, of_values, told, decays, step, turn, dtype: gl.constexpr, form: gl.constexpr):
    """The weighted sums after a block with such weights, of which the other warpgroup is told."""
    if form.apart:
        of_values.wait(step)
    b_w = b_w.to(dtype)
    tell(told, decays, b_w, b_decay, step + turn)
    return valued(gl.convert_layout(b_w, weights(HALF), assert_trivial=True), times_rows(b_o, b_decay), of_values, step)


@gluon.jit
def lead(
    p_q, p_out, p_lse, p_work, places, p_sinks, q_halves, q_tail, halves, tail, values, told, decays, cleaned, wild, jobs, meeting, scale,
    sq_b, sq_t, sq_h, form: gl.constexpr,
):  # fmt: skip
    """The warpgroup that takes scores, and adds up the first half of the values."""
    of_first, of_second, of_tail, of_values = Consumer(halves, 0), Consumer(halves, 1), Consumer(tail, 0), Consumer(values, 0)
    of_cleaned = Consumer(cleaned, 0)
    step = 0
    turn = 0
    jobs.wait(turn)
    while jobs.get(turn, MORE) != 0:
        meet(meeting, 0)  # nobody reads the queries before these any more
        take_queries(q_halves.index(0).reshape([ROWS, HALF]), p_q, jobs, turn, sq_b, sq_t, sq_h, 0, form)
        if form.tail:
            take_queries(q_tail.index(0).reshape([ROWS, TAIL]), p_q, jobs, turn, sq_b, sq_t, sq_h, 2 * HALF, form)
        there(meeting)
        b_m = gl.full([ROWS], float("-inf"), gl.float32, layout=gl.SliceLayout(1, products(KEYS)))
        b_l = gl.zeros_like(b_m)
        b_o = gl.full([ROWS, HALF], 0.0, gl.float32, layout=products(HALF))
        for _ in range(jobs.get(turn, FULL)):  # no branch in this, so that the assembler mixes the work of several rows
            b_s = score(q_halves, q_tail, of_first, of_second, of_tail, step, form)
            b_w, b_m, b_decay = weigh(b_s, gl.max(b_s, 1), b_m, scale, False, False)
            b_l = b_l * b_decay + gl.sum(b_w, 1)
            b_o = weighted(b_w, b_o, b_decay, of_values, told, decays, step, turn, q_halves.dtype, form)
            step += 1
        for nth in range(jobs.get(turn, MASKED)):
            n = jobs.get(turn, KEY) + place_of(nth, jobs.get(turn, BELOW), jobs.get(turn, FULL)) * KEYS
            b_s = score(q_halves, q_tail, of_first, of_second, of_tail, step, form)
            b_seen = seen_by_rows(n, jobs, turn, form)
            b_s = gl.where(b_seen, b_s, float("-inf"))
            of_cleaned.wait(jobs.get(turn, BEGUN) + nth)
            if form.mixed:
                b_nan = gl.where(b_seen & (wild.load(gl.SliceLayout(0, products(KEYS))) > 0)[None, :], float("nan"), 0.0)
                if not form.apart:
                    b_s += b_nan
            b_w, b_m, b_decay = weigh(b_s, gl.max(b_s, 1), b_m, scale, False, False)
            b_l = b_l * b_decay + gl.sum(b_w, 1)
            if form.mixed and form.apart:
                b_w += b_nan
            b_o = weighted(b_w, b_o, b_decay, of_values, told, decays, step, turn, q_halves.dtype, form)
            of_cleaned.release(jobs.get(turn, BEGUN) + nth)
            step += 1
        b_times = finished(b_m, b_l, jobs, turn, p_lse, p_work, places, p_sinks, scale, form)
        tell(told, decays, None, b_times, step + turn)
        leave(times_rows(b_o, b_times), jobs, turn, p_out, p_work, q_halves.dtype, 0, form)
        jobs.release(turn)
        turn += 1
        jobs.wait(turn)


@gluon.jit
def follow_on(b_o, of_values, of_told, decays, step, turn):
    """The weighted sum of the rows after a block."""
    b_p = of_told.wait(step + turn).load(weights(HALF))
    b_decay = decays.load(gl.SliceLayout(1, products(HALF)))
    of_told.release(step + turn)
    of_values.wait(step)
    return valued(b_p, b_o * b_decay[:, None], of_values, step)


@gluon.jit
def follow(p_q, p_out, p_work, q_halves, values, told, decays, cleaned, wild, jobs, meeting, sq_b, sq_t, sq_h, form: gl.constexpr):
    """The warpgroup that is told the weights, and adds up the second half of the values."""
    of_told, of_values = Consumer(told, 0), Consumer(values, 1)
    step = 0
    turn = 0
    jobs.wait(turn)
    while jobs.get(turn, MORE) != 0:
        meet(meeting, 0)
        take_queries(q_halves.index(1).reshape([ROWS, HALF]), p_q, jobs, turn, sq_b, sq_t, sq_h, HALF, form)
        there(meeting)
        b_o = gl.full([ROWS, HALF], 0.0, gl.float32, layout=products(HALF))
        for _ in range(jobs.get(turn, FULL)):
            b_o = follow_on(b_o, of_values, of_told, decays, step, turn)
            step += 1
        for nth in range(jobs.get(turn, MASKED)):
            n = jobs.get(turn, KEY) + place_of(nth, jobs.get(turn, BELOW), jobs.get(turn, FULL)) * KEYS
            cleaning = jobs.get(turn, BEGUN) + nth
            mbarrier.wait(cleaned.empty.index(0), cleaned.phase(cleaning) ^ 1)
            clean(values, wild, jobs, turn, step, n, form)
            mbarrier.arrive(cleaned.full.index(0), count=1)
            b_o = follow_on(b_o, of_values, of_told, decays, step, turn)
            step += 1
        of_told.wait(step + turn)
        b_times = decays.load(gl.SliceLayout(1, products(HALF)))
        of_told.release(step + turn)
        leave(b_o * b_times[:, None], jobs, turn, p_out, p_work, q_halves.dtype, HALF, form)
        jobs.release(turn)
        turn += 1
        jobs.wait(turn)
