"""Sums of weighted values on the device: begun, kept in range, kept from values that are no numbers, stored as rows or as parts of them."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from strobe.backends.hopper.narrow import not_finite
from strobe.backends.hopper.parts import between, part_at, stretch
from strobe.backends.hopper.scoring import LOG2_E, visible
from strobe.backends.hopper.sending import pages_of, row_offsets

LN_2 = gl.constexpr(0.6931471805599453)
LOWEST = gl.constexpr(-3.0e38)  # less than any score; and the difference of two such is 0, not NaN


@gluon.jit
def begin(BM: gl.constexpr, BN: gl.constexpr, BV: gl.constexpr, S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, SIZED: gl.constexpr):
    """(greatest score, sums of weights, weighted sums, their size) of rows that have seen no key. With warps along the keys each of a
    thread's scores has a sum of its own until the end, since adding them up would take shared memory."""
    b_m = gl.full([BM], float("-inf"), gl.float32, layout=gl.SliceLayout(1, S_LAYOUT))
    if BM >= 64:
        b_l = gl.zeros([BM], gl.float32, layout=gl.SliceLayout(1, S_LAYOUT))
    else:
        b_l = gl.zeros([BM, BN], gl.float32, layout=S_LAYOUT)
    return b_m, b_l, gl.zeros([BM, BV], gl.float32, layout=O_LAYOUT), gl.to_tensor(0.0 if SIZED else 1.0)


@gluon.jit
def weights(b_s, b_m, b_l, b_scale, PLAIN: gl.constexpr):
    """(weights, greatest scores, sums of weights, what sums so far are to be multiplied with) of scores [BM, BN]; PLAIN ones have no scale
    yet, which is cheaper to multiply with where the greatest is subtracted."""
    b_top = gl.max(b_s, 1)
    if PLAIN:
        b_top *= b_scale
    b_top = gl.maximum(b_m, b_top)
    b_base = gl.where(b_top == float("-inf"), 0.0, b_top)  # −∞ − −∞ would be NaN
    b_decay = gl.exp2(b_m - b_base)
    if PLAIN:
        b_p = gl.exp2(b_s * b_scale[:, None] - b_base[:, None])
    else:
        b_p = gl.exp2(b_s - b_base[:, None])
    if b_s.shape[0] >= 64:
        b_l = b_l * b_decay + gl.sum(b_p, 1)
    else:
        b_l = b_l * b_decay[:, None] + b_p
    return b_p, b_top, b_l, b_decay


@gluon.jit
def weighted(b_p, b_scale, size, SIZED: gl.constexpr, ALONE: gl.constexpr):
    """(weights times the scales of their values, what sums so far are to be multiplied with, size). bfloat16 holds them as they are; of
    float16 they would leave the range, so sums are in units of the greatest scale so far. A scale may be no number: rows that do not
    see it are not to get it, and where rows are ALONE all see what is loaded."""
    ratio = 1.0
    if SIZED:
        b_size = gl.abs(b_scale)
        greatest = gl.maximum(size, gl.max(gl.where(b_size < float("inf"), b_size, 0.0), 0))
        ratio = gl.where(greatest == 0.0, 1.0, size / greatest)
        b_scale = gl.where(greatest == 0.0, 0.0, b_scale / greatest)
        size = greatest
    b_w = b_p * b_scale[None, :]
    if not ALONE:
        b_w = gl.where(b_p == 0.0, 0.0, b_w)
    return b_w, ratio, size


@gluon.jit
def tamed(
    tile, b_acc, n, i_b, i_g, start, low, high, length, at, o_v, p_v, p_table, s_table, pages, sv_b, sv_t, sv_h, T, before, after, p_tree,
    st_b, st_t, st_j, i_m, V: gl.constexpr, PAGE: gl.constexpr, GROUP: gl.constexpr, BN: gl.constexpr, KIND: gl.constexpr,
    LOAD: gl.constexpr,
):  # fmt: skip
    """Sums [BM, BV] of rows that see the tile of values at n in part: 0 · NaN is NaN, so values that are NaN or infinity become zeros in
    shared memory, and the rows that see them get them here, one key after another."""
    W: gl.constexpr = tile.shape[1]
    wild = gl.zeros([16, W], gl.int32, layout=LOAD)
    for r in gl.static_range(0, BN, 16):  # few rows at a time, since registers are for the loop around this
        wild = wild | not_finite(tile.slice(r, 16).load(LOAD), KIND).to(gl.int32)
    if gl.max(gl.max(wild, 1), 0) > 0:
        for r in gl.static_range(0, BN, 16):
            b_units = tile.slice(r, 16).load(LOAD)
            tile.slice(r, 16).store(gl.where(not_finite(b_units, KIND), gl.zeros_like(b_units), b_units))
        O_LAYOUT: gl.constexpr = b_acc.type.layout
        BM: gl.constexpr = b_acc.shape[0]
        b_t = ((i_m * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, O_LAYOUT))) // GROUP)[:, None]
        last = gl.maximum(high - 1, 0)
        for j in range(BN):
            key = between(n + j, low, last)
            page = pages_of(key, n, last, i_b, p_table, s_table, PAGE, BN)
            base, offset = row_offsets(key, page, i_b, start, pages, sv_b, sv_t, 1, PAGE, BN, False)
            p_value = p_v + base + i_g.to(gl.int64) * sv_h + offset.to(gl.int64)
            b_wide = gl.load(p_value + o_v, mask=o_v < V, other=0.0).to(gl.float32)[None, :]
            b_seen = visible(b_t, n + j, i_b, length, at, T, before, after, p_tree, st_b, st_t, st_j)
            b_acc += gl.where(b_seen & (b_wide * 0.0 != 0.0), b_wide, 0.0)
    return b_acc


@gluon.constexpr_function
def of_sixteen(columns, warps):
    """Where a tile of 16 rows has the scores of its first 8 (`products.products`)."""
    bits = [8 << i for i in range(columns.bit_length() - 4)]
    of_warps = warps.bit_length() - 1
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 1], *([0, bit] for bit in bits[of_warps:])], lane_bases=[[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[0, bit] for bit in bits[:of_warps]], block_bases=[], shape=[8, columns],
    )  # fmt: skip


@gluon.jit
def summed(b_l):
    """Sums of weights of rows, of the sums that each score has; of 8 rows in the order in which those of 16 are added."""
    if b_l.shape[0] == 8:
        b_l = gl.convert_layout(b_l, of_sixteen(b_l.shape[1], gl.num_warps()))
    return gl.sum(b_l, 1)


@gluon.jit
def nothing(b_like, S_LAYOUT: gl.constexpr):
    """(greatest score, sum of weights, weighted sum) of no parts, the last like another one."""
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    BM: gl.constexpr = b_like.shape[0]
    return gl.full([BM], LOWEST, gl.float32, layout=ROW), gl.zeros([BM], gl.float32, layout=ROW), gl.zeros_like(b_like)


@gluon.jit
def added(b_m, b_l, b_acc, b_top, b_sum, b_part):
    """(greatest score, sum of weights, weighted sum) of rows with those of a part behind them, as `merge.added` adds them: the same
    operations, so that it does not show in the bits where parts meet. The sums of weights have one number a row; a part's, one a score
    where warps lie along the keys."""
    ROW: gl.constexpr = gl.SliceLayout(1, b_acc.type.layout)
    if b_acc.shape[0] < 64:
        b_sum = gl.convert_layout(summed(b_sum), b_m.type.layout)
    b_top = gl.maximum(b_top, LOWEST)
    b_new = gl.maximum(b_m, b_top)
    b_decay = gl.exp2(b_m - b_new)
    b_weight = gl.exp2(b_top - b_new)
    b_l = gl.fma(b_l, b_decay, b_sum * b_weight)
    b_each = gl.convert_layout(b_decay, ROW)[:, None] + gl.zeros_like(b_acc)
    return b_new, b_l, gl.fma(b_acc, b_each, b_part * gl.convert_layout(b_weight, ROW)[:, None])


@gluon.jit
def finish(
    b_m, b_l, b_acc, size, i_b, i_g, i_m, parts, slot, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows,
    GROUP: gl.constexpr, V: gl.constexpr,
):  # fmt: skip
    """Stores the rows of a sequence: results, or a part of them with its greatest score and its sum of weights."""
    BM: gl.constexpr = b_acc.shape[0]
    BV: gl.constexpr = b_acc.shape[1]
    ROW: gl.constexpr = gl.SliceLayout(1, b_acc.type.layout)
    b_acc *= size
    if len(b_l.shape) == 2:
        b_l = gl.sum(b_l, 1)
    b_l = gl.convert_layout(b_l, ROW)
    b_m = gl.convert_layout(b_m, ROW)
    o_r = gl.arange(0, BM, layout=ROW)
    o_row = i_m * BM + o_r
    o_h = i_g * GROUP + o_row % GROUP
    m_row = o_row < rows
    if parts == 1:
        if p_sinks is not None:
            b_sink = gl.load(p_sinks + gl.minimum(o_h, H - 1)).to(gl.float32) * LOG2_E
            b_top = gl.maximum(b_m, b_sink)
            b_base = gl.where(b_top == float("-inf"), 0.0, b_top)
            b_decay = gl.exp2(b_m - b_base)
            b_l = b_l * b_decay + gl.exp2(b_sink - b_base)
            b_acc = gl.where((b_decay != 0.0)[:, None], b_acc * b_decay[:, None], 0.0)
            b_m = b_top
        some = b_l != 0.0
        b_divisor = gl.where(some, b_l, 1.0)
        b_out = gl.where(some[:, None], b_acc / b_divisor[:, None], 0.0)
        o_out = (i_b.to(gl.int64) * T + o_row // GROUP) * H + o_h
        gl.store(
            p_out + o_out[:, None] * V + o_v[None, :], b_out.to(p_out.dtype.element_ty), mask=m_row[:, None] & (o_v < V)[None, :]
        )  # fmt: skip
        gl.store(p_lse + o_out, gl.where(some, (b_m + gl.log2(b_divisor)) * LN_2, float("-inf")), mask=m_row)
    elif p_work is not None:
        o_slot = slot.to(gl.int64) * gl.minimum(rows, BM) + o_r
        p_tops = p_work + places.to(gl.int64) * BV
        gl.store(p_work + o_slot[:, None] * BV + o_v[None, :], b_acc, mask=m_row[:, None] & (o_v >= 0)[None, :])
        gl.store(p_tops + o_slot, b_m, mask=m_row)
        gl.store(p_tops + places + o_slot, b_l, mask=m_row)


@gluon.jit
def part_ended(
    b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc, size, n, last, low, part, slot, i_b, i_g, i_m, parts, o_v, p_out, p_lse, p_work, places,
    p_sinks, T, H, rows, GROUP: gl.constexpr, V: gl.constexpr, WHOLE: gl.constexpr, S_LAYOUT: gl.constexpr,
):  # fmt: skip
    """The sums of a stretch's parts so far, behind the part that ends before key n; a stretch is stored at its end, and where a program
    does not have WHOLE stretches, a part. `slot` is the sequence's first."""
    STRETCH: gl.constexpr = stretch(b_acc.shape[0])
    if WHOLE:
        b_m_all, b_l_all, b_acc_all = added(b_m_all, b_l_all, b_acc_all, b_m, b_l, b_acc)
        if (n % STRETCH == 0) | last:
            slot += (n - 1) // STRETCH - low // STRETCH
            finish(
                b_m_all, b_l_all, b_acc_all, size, i_b, i_g, i_m, parts, slot, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows,
                GROUP, V,
            )  # fmt: skip
            b_m_all, b_l_all, b_acc_all = nothing(b_acc, S_LAYOUT)
    else:
        slot += part - part_at(low, 0)
        if b_acc.shape[0] < 64:
            b_l = summed(b_l)
        finish(b_m, b_l, b_acc, size, i_b, i_g, i_m, parts, slot, o_v, p_out, p_lse, p_work, places, p_sinks, T, H, rows, GROUP, V)
    return b_m_all, b_l_all, b_acc_all
