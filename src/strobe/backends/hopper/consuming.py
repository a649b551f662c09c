"""A warpgroup's half of the forward pass: blocks of keys pass by its 64 rows, the last one first.

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; Shah et al., 2024, arXiv:2407.08608, sections 3.1 and 3.2.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma, warpgroup_mma_wait

from strobe.backends.hopper.block import (
    LN_2, LOWERED, capped, counted, masked, nothing, of_a_row, own_sum, packed, products, scaled, score, scores_lie, values_lie, weigh,
    weighted, wild,
)  # fmt: skip
from strobe.backends.hopper.channel import Consumer
from strobe.backends.hopper.compat import pieces, write_back
from strobe.backends.hopper.jobs import (
    AFTER, BATCH, BEFORE, HEAD, HEADS, HIGH, K_BATCH, K_FIRST, K_HEAD, LENGTH, LOW, MORE, ONLINE, POSITION, PREFIX, QUERIES, ROW, SHARED,
    TOKEN,
)  # fmt: skip
from strobe.backends.hopper.schedule import SPAN, blocks_of_group, last_seen
from strobe.backends.hopper.scoring import LOG2_E, tanh

LEAST = gl.constexpr(1e-30)  # of scales: 0 · −∞ would be NaN, and scores of so small a scale are 0 in effect


@gluon.jit
def of_rows(rows, scale, inner, jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
    """(scale, inner) of each row of narrow queries, with the scales of its own and of the keys in the one that products meet; below 0,
    where the greatest product would not be the greatest score, NaN. Scales of queries are of a token and head, of keys of a head."""
    if form.narrow:
        o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form)))
        o_token = GROUP * form.next_tokens + o_row // form.pack
        p_own = rows.scale(0, jobs.get(turn, BATCH), jobs.get(turn, HEAD) + o_row % form.pack, jobs.get(turn, TOKEN) + o_token)
        b_own = gl.load(p_own, mask=o_token < jobs.get(turn, QUERIES), other=1.0)
        b_own *= gl.load(rows.scale(1, jobs.get(turn, K_BATCH), jobs.get(turn, K_HEAD), 0))
        b_own = gl.where(b_own < 0, float("nan"), gl.maximum(b_own, LEAST))
        if form.cap == "no":
            scale = b_own * scale
        else:
            scale = b_own * 0.0 + scale
            inner = b_own * inner
    return scale, inner


@gluon.jit
def nodes(rows, jobs, turn, b_position, form: gl.constexpr):
    """(position of a tree's first node, address of the sequence's bits, where among them those of each row begin), or nothing."""
    found = None
    if form.tree:
        at = jobs.get(turn, PREFIX)
        last = jobs.get(turn, AFTER)
        b_node = gl.minimum(b_position - at, last)  # rows behind the last query are nobody's
        found = at, rows.bits(jobs.get(turn, BATCH)), b_node * (last + 1)
    return found


@gluon.jit
def own(rows, jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
    """(address of the documents of a sequence's keys, how many these are, the documents of the rows), or nothing."""
    found = None
    if form.documents:
        sequence = jobs.get(turn, BATCH)
        T, S = rows.get(11), rows.get(12)
        o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form))) // form.pack
        o_query = gl.minimum(jobs.get(turn, TOKEN) + GROUP * form.next_tokens + o_row, gl.cast(T - 1, gl.int32))
        found = rows.integers(9) + sequence * S, gl.cast(S, gl.int32), gl.load(rows.integers(8) + sequence * T + o_query)
    return found


@gluon.jit
def advance(b_q, b_p, b_m, b_l, b_o, b_worth, keys, values, step, scale, inner, form: gl.constexpr):
    """One block on: the block before gets its values while this one, which all rows see whole, gets its scores. There is no branch in
    this, so that the assembler takes weights of one row while it still looks for the greatest score of another. Sums of values are
    multiplied by what they are worth beside the block's own, b_worth: narrow ones where these are added, others while scores are multiplied
    (`late`), or at once."""
    b_s = score(b_q, keys, step + 1, form)
    if form.late:
        b_o = scaled(b_o, b_worth, form)
    b_new = weighted(b_p, b_o, values, step, form)
    b_s = warpgroup_mma_wait(1, [b_s])
    keys.release(step + 1)
    b_s = capped(b_s, inner, form)
    b_w, b_m, b_decay = weigh(b_s, gl.max(b_s, 1), b_m, scale, form.narrow, form.early)
    b_l = counted(b_l, b_w, b_decay, form)
    b_new = warpgroup_mma_wait(0, [b_new])
    values.release(step)
    b_p = packed(b_w, b_p.dtype, form)
    if form.narrow:
        b_o = scaled(b_o, b_worth, form) + b_new
        b_worth = b_decay
    elif form.late:
        b_o = b_new
        b_worth = b_decay
    else:
        b_o = scaled(b_new, b_decay, form)
    return b_p, b_m, b_l, b_o, b_worth


@gluon.jit
def steadily(b_q, b_p, b_base, b_l, b_o, keys, values, step, scale, inner, form: gl.constexpr):
    """`advance` with weights relative to a base that stays: no row's greatest score is looked for, and no sum is scaled.

        e^(s − base) ÷ Σ e^(s − base)     is the same for every base; the greatest score is one for which no weight is above 1

    The greatest score of a row's first blocks serves as well until another is 2¹⁰⁰ times its weight, since bfloat16 reaches as far as
    float32 does. A tile with such a row is found at its end (`wild`) and passed again. Source: Hong et al., 2023, FlashDecoding++,
    arXiv:2311.01282, section 3, whose base is one for all rows."""
    b_s = score(b_q, keys, step + 1, form)
    b_o = weighted(b_p, b_o, values, step, form)
    b_s = warpgroup_mma_wait(1, [b_s])
    keys.release(step + 1)
    b_w = gl.exp2(capped(b_s, inner, form) * scale - b_base[:, None])
    b_o = warpgroup_mma_wait(0, [b_o])
    values.release(step)
    b_l += own_sum(b_w, form.tile.keys)
    return packed(b_w, b_p.dtype, form), b_l, b_o


@gluon.jit
def add(b_p, b_o, values, step, form: gl.constexpr):
    """The values of a block, weighted, and nothing beside it; b_o is worth as much as they are."""
    b_new = weighted(b_p, b_o, values, step, form)
    b_new = warpgroup_mma_wait(0, [b_new])
    values.release(step)
    if form.narrow:
        b_new = b_o + b_new
    return b_new


@gluon.jit
def alone(
    b_q, b_m, b_l, b_o, keys, values, step, block, b_first, b_last, tree, scale, inner, dtype: gl.constexpr,
    form: gl.constexpr,
):  # fmt: skip
    """A block that is masked, from its scores to its weighted values."""
    b_s = score(b_q, keys, step, form)
    b_s = warpgroup_mma_wait(0, [b_s])
    keys.release(step)
    b_s = masked(capped(b_s, inner, form), block, b_first, b_last, tree, form)
    b_w, b_m, b_decay = weigh(b_s, gl.max(b_s, 1), b_m, scale, form.narrow, form.early)
    b_l = counted(b_l, b_w, b_decay, form)
    return b_m, b_l, add(packed(b_w, dtype, form), scaled(b_o, b_decay, form), values, step, form)


@gluon.jit
def seen(rows, jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
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
    if skipped > 0 and not form.divided:  # behind the last query there may be nobody's rows alone, who pass one block
        if jobs.get(turn, QUERIES) <= skipped:
            low = high - 1
            full_high = low
            full_low = low
    if form.documents:
        of_tile = jobs.get(turn, TOKEN) // form.all_tokens
        tiles = (gl.cast(rows.get(11), gl.int32) + form.all_tokens - 1) // form.all_tokens
        p_span = rows.integers(10) + (jobs.get(turn, BATCH) * tiles + of_tile) * SPAN(form.tile.groups) + 2 + 2 * GROUP
        full_high = gl.maximum(gl.minimum(full_high, gl.load(p_span + 1)), low)
        full_low = gl.maximum(gl.minimum(gl.maximum(full_low, gl.load(p_span)), full_high), low)
    if form.steady:
        if jobs.get(turn, ONLINE) != 0:  # all blocks as masked ones, which follow the greatest score
            full_high = full_low
    b_position = position + gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form))) // form.pack
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
def written():
    """Waits until what this thread gave to the copy engine is in memory, where `store_wait` waits until it has been read: what is stored
    to the same place then is the later one."""
    gl.inline_asm_elementwise("cp.async.bulk.wait_group 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def let_go(mine, turn):
    """The queries' place of a turn may be filled again, once its rows have left it."""
    tma.store_wait(0)
    mine.release(turn)


@gluon.jit
def passed(mine, keys, values, jobs, turn, rows, step, scale, inner, GROUP: gl.constexpr, form: gl.constexpr):
    """(greatest score, or the base that took its place, sum of weights, weighted sum, next step) of the rows over the blocks they see:
    those from the last one down to full high are masked, and those below full low. Threads with a sum that went wrong have said so."""
    # else the last block alone is, behind whose keys there are none
    MASKED: gl.constexpr = form.before or form.after or form.prefix or form.steady
    b_first, b_last, low, high, full_low, full_high = seen(rows, jobs, turn, GROUP, form)
    tree = nodes(rows, jobs, turn, b_first, form)  # which has no `before`, so that the rows' first keys are their positions
    if form.documents:
        tree = own(rows, jobs, turn, GROUP, form)
    step = skip(keys, values, step, jobs.get(turn, HIGH) - high)
    q = mine.wait(turn)
    b_q = q.reshape([64, form.width])
    b_m = gl.full([64], float("-inf"), gl.float32, layout=gl.SliceLayout(1, scores_lie(form)))
    b_l = nothing(b_m, form)
    b_o = gl.full([64, form.value_width], 0.0, gl.float32, layout=values_lie(form))
    if MASKED:
        for i in range(high - 1 - full_high):
            b_m, b_l, b_o = alone(
                b_q, b_m, b_l, b_o, keys, values, step, high - 1 - i, b_first, b_last, tree, scale, inner, q.dtype, form
            )  # fmt: skip
            step += 1
    b_s = score(b_q, keys, step, form)
    if form.tile.turns == 2:  # the rows of the tile before have had until here to leave
        if turn > 0:
            let_go(mine, turn - 1)
    b_s = warpgroup_mma_wait(0, [b_s])
    keys.release(step)
    b_s = masked(capped(b_s, inner, form), full_high, b_first, b_last, tree, form)
    b_w, b_m, b_decay = weigh(b_s, gl.max(b_s, 1), b_m, scale, form.narrow, form.early)
    b_l = counted(b_l, b_w, b_decay, form)
    b_p = packed(b_w, q.dtype, form)
    if MASKED and not form.narrow and not form.late:
        b_o = scaled(b_o, b_decay, form)
    b_worth = b_decay
    if form.steady:
        b_m = gl.where((b_m == float("-inf")) & (full_high > full_low), float("nan"), b_m)  # every row sees a key, so scores are −∞
        b_base = b_m * scale
        for _ in range(full_high - full_low):
            b_p, b_l, b_o = steadily(b_q, b_p, b_base, b_l, b_o, keys, values, step, scale, inner, form)
            step += 1
    else:
        for _ in range(full_high - full_low):
            b_p, b_m, b_l, b_o, b_worth = advance(b_q, b_p, b_m, b_l, b_o, b_worth, keys, values, step, scale, inner, form)
            step += 1
    if form.narrow or form.late:
        b_o = scaled(b_o, b_worth, form)
    b_o = add(b_p, b_o, values, step, form)
    step += 1
    if form.before:
        for i in range(full_low - low):
            b_m, b_l, b_o = alone(
                b_q, b_m, b_l, b_o, keys, values, step, full_low - 1 - i, b_first, b_last, tree, scale, inner, q.dtype, form
            )  # fmt: skip
            step += 1
    if form.narrow:
        b_o *= LOWERED
    if form.steady:
        if jobs.get(turn, ONLINE) == 0:
            jobs.wish(turn, GROUP, wild(b_l, b_o, form))
    return b_m, of_a_row(b_l, form), b_o, step


@gluon.jit
def finite(b_x):
    """Neither NaN nor infinity. (x − x is not 0 of a product: the compiler makes one rounding of both.)"""
    return b_x * 0.0 == 0.0


@gluon.jit
def carefully(q, b_m, jobs, turn, rows, scale, inner, GROUP: gl.constexpr, form: gl.constexpr):
    """The weighted sum again, one key after another, so that NaN among the values reaches only the rows that see it."""
    k_layout: gl.constexpr = products(form.width)
    v_layout: gl.constexpr = values_lie(form)
    o_d = gl.arange(0, form.width, layout=gl.SliceLayout(0, k_layout))
    o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, v_layout))
    b_base = gl.convert_layout(gl.where(b_m == float("-inf"), 0.0, b_m) * scale, gl.SliceLayout(1, v_layout))
    if form.narrow:
        scale = gl.convert_layout(scale, gl.SliceLayout(1, v_layout))
        if form.cap != "no":
            inner = gl.convert_layout(inner, gl.SliceLayout(1, v_layout))
    b_first, b_last, low, high, _, _ = seen(rows, jobs, turn, GROUP, form)
    tree = nodes(rows, jobs, turn, b_first, form)
    if form.documents:
        tree = own(rows, jobs, turn, GROUP, form)
    b_first = gl.convert_layout(b_first, gl.SliceLayout(1, v_layout))
    b_last = gl.convert_layout(b_last, gl.SliceLayout(1, v_layout))
    if form.page is None:
        p_k, k_step = rows.of(0, jobs.get(turn, K_BATCH), jobs.get(turn, K_FIRST), jobs.get(turn, K_HEAD), q.dtype)
        p_v, v_step = rows.of(1, jobs.get(turn, K_BATCH), jobs.get(turn, K_FIRST), jobs.get(turn, K_HEAD), q.dtype)
    b_o = gl.full([64, form.value_width], 0.0, gl.float32, layout=v_layout)
    for n in range(low * form.tile.keys, gl.minimum(high * form.tile.keys, jobs.get(turn, LENGTH))):
        if form.page is None:
            p_key, p_value = p_k + n * k_step, p_v + n * v_step
        else:
            page = rows.page(jobs.get(turn, K_BATCH), n, form.page)
            p_key, k_step = rows.of(0, page, n % form.page, jobs.get(turn, K_HEAD), q.dtype)
            p_value, v_step = rows.of(1, page, n % form.page, jobs.get(turn, K_HEAD), q.dtype)
        b_k = gl.load(p_key + o_d, mask=o_d < form.D, other=0.0).to(gl.float32)
        b_v = gl.load(p_value + o_v, mask=o_v < form.V, other=0.0).to(gl.float32)
        b_q = q.reshape([64, form.width]).load(k_layout).to(gl.float32)
        b_s = gl.convert_layout(gl.sum(b_q * b_k[None, :], 1), gl.SliceLayout(1, v_layout))
        if form.cap != "no":
            b_s = tanh(b_s * inner, form.cap == "fast")
        b_p = gl.exp2(b_s * scale - b_base)
        b_part = gl.where(finite(b_v)[None, :], b_p[:, None] * b_v[None, :], b_v[None, :])
        b_seen = b_last >= n
        if form.before:
            b_seen = b_seen & (b_first <= n)
        if form.tree:
            b_node = gl.convert_layout(tree[2], gl.SliceLayout(1, v_layout)) + (n - tree[0])
            b_seen = b_seen & (gl.load(tree[1] + b_node, mask=b_seen & (n >= tree[0]), other=1) != 0)
        if form.documents:
            b_seen = b_seen & (gl.convert_layout(tree[2], gl.SliceLayout(1, v_layout)) == gl.load(tree[0] + n))
        b_o += gl.where(b_seen[:, None], b_part, 0.0)
    return b_o


@gluon.jit
def finished(b_m, b_l, b_o, sink, o_head, m_row, scale, v_scale, form: gl.constexpr):
    """(average of the values, lse in base 2) of the rows; a sink is a weight without a value."""
    b_top = b_m * scale
    if form.narrow:
        b_o *= v_scale
        b_l *= LOWERED
    if sink is not None:
        b_sink = gl.load(sink + o_head, mask=m_row, other=float("-inf")).to(gl.float32) * LOG2_E
        b_top = gl.maximum(b_top, b_sink)
        b_base = gl.where(b_top == float("-inf"), 0.0, b_top)
        b_decay = gl.exp2(b_m * scale - b_base)
        b_l = b_l * b_decay + gl.exp2(b_sink - b_base)
        b_o = b_o * gl.convert_layout(b_decay, gl.SliceLayout(1, values_lie(form)))[:, None]
    b_some = b_l != 0.0
    b_lse = gl.where(b_some, b_top + gl.log2(b_l), float("-inf"))
    b_part = gl.where(b_some, 1.0 / b_l, 0.0)
    return b_o * gl.convert_layout(b_part, gl.SliceLayout(1, values_lie(form)))[:, None], b_lse


@gluon.jit
def leave(b_m, b_l, b_o, out, lse, jobs, turn, m_row, scale, GROUP: gl.constexpr, form: gl.constexpr):
    """Stores rows of a part: weighted sums, greatest scores in base 2, and behind those sums of weights."""
    layout: gl.constexpr = values_lie(form)
    o_row = jobs.get(turn, ROW) + GROUP * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form)))
    b_top = b_m * scale
    if form.steady:  # so that sums of parts cannot be too large where the parts are not
        b_part = gl.where(b_l != 0.0, 1.0 / b_l, 0.0)
        b_top = gl.where(b_l != 0.0, b_top + gl.log2(b_l), float("-inf"))
        b_l = gl.where(b_l != 0.0, 1.0, 0.0)
        b_o = scaled(b_o, b_part, form)
    gl.store(lse + o_row, b_top, mask=m_row)
    gl.store(lse + jobs.get(turn, HEADS) + o_row, b_l, mask=m_row)
    o_out = gl.cast(gl.convert_layout(o_row, gl.SliceLayout(1, layout)), gl.int64) * form.value_width
    o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, layout))
    m_out = gl.convert_layout(m_row, gl.SliceLayout(1, layout))
    gl.store(out + o_out[:, None] + o_v[None, :], b_o, mask=m_out[:, None] & (o_v >= 0)[None, :])


@gluon.jit
def give(b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, results, m_row, GROUP: gl.constexpr, form: gl.constexpr):
    """Stores the results of whole rows, by way of the queries' place where that can be."""
    head = jobs.get(turn, HEAD)
    skipped: gl.constexpr = GROUP * form.next_tokens
    o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form)))
    v_scale = 1.0
    if form.narrow:
        v_scale = gl.load(rows.scale(2, jobs.get(turn, K_BATCH), jobs.get(turn, K_HEAD), 0))
    b_o, b_lse = finished(b_m, b_l, b_o, sink, head + o_row % form.pack, m_row, scale, v_scale, form)
    o_lse = jobs.get(turn, ROW) + (skipped + o_row // form.pack) * jobs.get(turn, HEADS) + o_row % form.pack
    gl.store(lse + o_lse, b_lse * LN_2, mask=m_row)
    if form.packed and jobs.get(turn, QUERIES) - skipped < form.tokens:  # the next rows are another sequence's
        o_v = gl.arange(0, form.value_width, layout=gl.SliceLayout(0, values_lie(form)))
        o_out = gl.convert_layout(o_lse, gl.SliceLayout(1, values_lie(form)))
        m_out = gl.convert_layout(m_row, gl.SliceLayout(1, values_lie(form)))
        p_out = out + gl.cast(o_out, gl.int64)[:, None] * form.V + o_v[None, :]
        gl.store(p_out, b_o.to(o.dtype), mask=m_out[:, None] & (o_v < form.V)[None, :])
    else:
        place = q  # of the queries, which is free
        if form.narrow:
            place = results.index(GROUP)
        elif form.width > form.value_width:
            place = pieces(q, o, form.width // form.value_width).index(0)
        place.reshape([64, form.value_width]).store(b_o.to(o.dtype))
        fence_async_shared()
        write_back(o, [jobs.get(turn, BATCH), jobs.get(turn, TOKEN) + skipped, head, 0], place)


@gluon.jit
def hand_over(
    b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, inner, results, GROUP: gl.constexpr, form: gl.constexpr
):  # fmt: skip
    """Stores the rows of a turn, or has them under way from the queries' place."""
    skipped: gl.constexpr = GROUP * form.next_tokens
    left = jobs.get(turn, QUERIES) - skipped
    o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form)))
    m_row = o_row // form.pack < left
    if form.divided:
        leave(b_m, b_l, b_o, out, lse, jobs, turn, m_row, scale, GROUP, form)
    elif form.shared:
        if jobs.get(turn, SHARED) != 0:
            tops = out + gl.cast(jobs.get(turn, HEADS), gl.int64) * form.value_width
            leave(b_m, b_l, b_o, out, tops, jobs, turn, m_row, scale, GROUP, form)
        else:
            give(b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, results, m_row, GROUP, form)
    else:
        give(b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, results, m_row, GROUP, form)


@gluon.jit
def mended(b_m, b_o, q, jobs, turn, rows, scale, inner, GROUP: gl.constexpr, form: gl.constexpr):
    """Weighted sums; made anew where one is not finite, though keys that a row does not see may be why."""
    if form.unseen:
        b_zero = gl.sum(b_o * 0.0, 1)  # NaN of a row with a sum that is not finite
        if gl.max((b_zero != 0.0).to(gl.int32), 0) > 0:
            b_o = carefully(q, b_m, jobs, turn, rows, scale, inner, GROUP, form)
    return b_o


@gluon.jit
def finish(
    b_m, b_l, b_o, o, out, lse, sink, rows, mine, jobs, turn, scale, inner, results, GROUP: gl.constexpr, form: gl.constexpr,
):  # fmt: skip
    """The end of a turn: its rows are handed over, and the board's half is free. Rows with a sum that went wrong are too, since no thread
    waits to learn of others, and once more when their turn is done again: which is the turn of all its warpgroups, but those whose rows
    were right keep them."""
    q = mine.tile(turn)
    if form.steady:
        here = True
        if jobs.get(turn, ONLINE) != 0:
            here = jobs.wished(turn, GROUP)
            written()
            b_o = mended(b_m, b_o, q, jobs, turn, rows, scale, inner, GROUP, form)
        if here:
            hand_over(b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, inner, results, GROUP, form)
    else:
        b_o = mended(b_m, b_o, q, jobs, turn, rows, scale, inner, GROUP, form)
        hand_over(b_m, b_l, b_o, o, out, lse, sink, rows, q, jobs, turn, scale, inner, results, GROUP, form)
    jobs.release(turn)


@gluon.jit
def consume(
    GROUP: gl.constexpr, o, out, lse, sink, rows, queries, keys, values, results, jobs, scale, inner, form: gl.constexpr,
):  # fmt: skip
    """Tile after tile."""
    mine = Consumer(queries, GROUP)
    from_keys = Consumer(keys, 0)
    from_values = Consumer(values, 0)
    step = 0
    turn = 0
    jobs.wait(turn)
    while jobs.get(turn, MORE) != 0:
        to_base_2, to_cap = of_rows(rows, scale, inner, jobs, turn, GROUP, form)
        b_m, b_l, b_o, step = passed(mine, from_keys, from_values, jobs, turn, rows, step, to_base_2, to_cap, GROUP, form)
        if form.before:
            _, _, low, _, _, _ = seen(rows, jobs, turn, GROUP, form)
            step = skip(from_keys, from_values, step, low - jobs.get(turn, LOW))
        elif GROUP * form.next_tokens > 0 and not form.divided:
            if jobs.get(turn, QUERIES) <= GROUP * form.next_tokens:
                _, _, low, _, _, _ = seen(rows, jobs, turn, GROUP, form)
                step = skip(from_keys, from_values, step, low - jobs.get(turn, LOW))
        finish(b_m, b_l, b_o, o, out, lse, sink, rows, mine, jobs, turn, to_base_2, to_cap, results, GROUP, form)
        if form.tile.turns == 1:
            let_go(mine, turn)
        turn += 1
        jobs.wait(turn)
    tma.store_wait(0)
