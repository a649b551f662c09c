"""The end of a tile: its rows as results, or as parts for a merge; and sums that are not finite made anew, where keys that a row does not
see may be why.

Source: Dao, 2023, arXiv:2307.08691, algorithm 1, lines 12 to 14.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from strobe.backends.hopper.block import LN_2, LOWERED, products, scaled, scores_lie, values_lie
from strobe.backends.hopper.compat import pieces, write_back
from strobe.backends.hopper.jobs import BATCH, HEAD, HEADS, K_BATCH, K_FIRST, K_HEAD, LENGTH, ONLINE, QUERIES, ROW, SHARED, TOKEN
from strobe.backends.hopper.scoring import LOG2_E, tanh
from strobe.backends.hopper.seeing import nodes, own, seen


@gluon.jit
def written():
    """Waits until what this thread gave to the copy engine is in memory, where `store_wait` waits until it has been read: what is stored
    to the same place then is the later one."""
    gl.inline_asm_elementwise("cp.async.bulk.wait_group 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


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
