"""Sends tiles of queries, keys and values to shared memory, through cp.async: where a sequence lies, and what of it comes next.

    Dense, Ranged    row start + n of the sequence           Paged    row n % page of the table's entry n // page

No address is ever outside the arrays, whatever lengths and tables say: lengths end where the rows do, entries are clamped to pages that
there are, and a tile's keys to those that a row of it may see. So what no row sees is never read.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from strobe.backends.hopper.compat import send_rows
from strobe.backends.hopper.parts import STREAM, between, sequence, span


@gluon.constexpr_function
def loading(width, elements, warps):
    """Rows of `width` numbers, `elements` at a time to a thread."""
    across = max(1, width // elements)
    return gl.BlockedLayout([1, elements], [32 // across, across], [warps, 1], [1, 0])


@gluon.constexpr_function
def finding(width, elements, warps, keys, page):
    """Which thread finds where a key of a tile lies. Where rows are scattered over pages, a thread of the warp that copies the row: others
    then learn of it without a barrier."""
    across = max(1, width // elements)
    down, each = 32 // across, keys * across // (32 * warps)
    if not scattered(page, keys) or across > 32 or each < 1 or down * each > 32:
        return gl.BlockedLayout([1], [32], [warps], [0])
    bits = lambda first, count: [[first << i] for i in range(count.bit_length() - 1)]
    lanes = bits(down * warps, each) + bits(1, down)
    spare = [[0]] * (5 - len(lanes))
    return gl.DistributedLinearLayout([], spare + lanes, bits(down, warps), [], [keys])


@gluon.constexpr_function
def swizzled(width, bits):
    """Rows in shared memory, pieces of 16 bytes turned against each other so that eight rows lie in all banks."""
    piece, row_bytes = 128 // bits, width * bits // 8
    each = max(1, 128 // row_bytes)
    return gl.SwizzledSharedLayout(piece, each, max(1, min(8 // each, row_bytes // 16)), [1, 0])


@gluon.constexpr_function
def held(rows, width, dtype, wide):
    """Queries, keys or values of 16 bits in shared memory, as their products read them."""
    return gl.NVMMASharedLayout.get_default_for([rows, width], dtype) if wide else swizzled(width, 16)


@gluon.jit
def pages_of(o_n, n, last, i_b, p_table, s_table, PAGE: gl.constexpr, BN: gl.constexpr):
    """The table's entries for the keys o_n of the tile at n, none of them behind `last`: one where a tile lies in a page, 0 without a
    table."""
    if PAGE == 0:
        found = i_b * 0
    elif PAGE % BN == 0:
        found = gl.load(p_table + i_b.to(gl.int64) * s_table + gl.minimum(n, last) // PAGE)
    else:
        found = gl.load(p_table + i_b.to(gl.int64) * s_table + o_n // PAGE)
    return found


@gluon.jit
def next_page(i_b, n, low, high, p_table, s_table, LOAD_S: gl.constexpr, PAGE: gl.constexpr, BN: gl.constexpr):
    """The entries for the tile at n, asked for long before it is sent: a copy can't begin before its address is there."""
    last = gl.maximum(high - 1, 0)
    return pages_of(between(n + gl.arange(0, BN, layout=LOAD_S), low, last), n, last, i_b, p_table, s_table, PAGE, BN)


@gluon.jit
def row_offsets(
    o_n, page, i_b, start, pages, s_b, s_t, STEP: gl.constexpr, PAGE: gl.constexpr, BN: gl.constexpr, NEAR: gl.constexpr
):  # fmt: skip
    """(offset of the sequence or page, offsets from there in units of STEP numbers) of keys o_n in the pages that `pages_of` found, which
    are clamped to pages that there are. Strides are in those units too, and NEAR arrays have fewer than 2³¹ of them."""
    kind: gl.constexpr = gl.int32 if NEAR else gl.int64
    base = i_b.to(gl.int64) * 0
    if PAGE == 0:
        base = i_b.to(gl.int64) * s_b + start.to(gl.int64) * s_t
        units = o_n.to(kind) * s_t
    elif PAGE % BN == 0:
        base = between(page, 0, pages - 1).to(gl.int64) * s_b
        units = (o_n % PAGE).to(kind) * s_t
    else:
        units = between(page, 0, pages - 1).to(kind) * s_b + (o_n % PAGE).to(kind) * s_t
    return base * STEP, units


@gluon.constexpr_function
def scattered(PAGE, BN):
    """Whether the rows of a tile lie in several pages."""
    return PAGE % BN != 0


@gluon.jit
def tile_offsets(
    n, low, last, page, i_b, start, pages, s_b, s_t, LOAD: gl.constexpr, LOAD_S: gl.constexpr, STEP: gl.constexpr, PAGE: gl.constexpr,
    BN: gl.constexpr, NEAR: gl.constexpr,
):  # fmt: skip
    """What `row_offsets` says of a tile's rows, for the threads that copy them. Of scattered rows a thread finds one and tells the others:
    each of those copies a piece of many."""
    if scattered(PAGE, BN):
        o_n = between(n + gl.arange(0, BN, layout=LOAD_S), low, last)
        base, units = row_offsets(o_n, page, i_b, start, pages, s_b, s_t, STEP, PAGE, BN, NEAR)
        units = gl.convert_layout(units, gl.SliceLayout(1, LOAD))
    else:
        o_n = between(n + gl.arange(0, BN, layout=gl.SliceLayout(1, LOAD)), low, last)
        base, units = row_offsets(o_n, page, i_b, start, pages, s_b, s_t, STEP, PAGE, BN, NEAR)
    return base, units


@gluon.jit
def copy(tile, p_rows, units, W: gl.constexpr, LOAD: gl.constexpr, STEP: gl.constexpr, ALIGNED: gl.constexpr):
    """Sends rows of W numbers to shared memory, zeros behind them; rows that are not aligned go through registers, at once."""
    BW: gl.constexpr = tile.shape[1]
    o_w = gl.arange(0, BW, layout=gl.SliceLayout(0, LOAD))
    offsets = units.to(gl.int64) * STEP
    pointers = p_rows + offsets[:, None] + o_w[None, :]
    if ALIGNED:
        if W == BW:
            send_rows(tile, pointers)
        else:
            send_rows(tile, pointers, mask=offsets[:, None] * 0 + o_w[None, :] < W)
    else:
        tile.store(gl.load(pointers, mask=offsets[:, None] * 0 + o_w[None, :] < W, other=0))


@gluon.jit
def copy_queries(
    tile, p_q, i_b, i_g, i_m, rows, wanted, sq_b, sq_t, sq_h, GROUP: gl.constexpr, D: gl.constexpr, LOAD: gl.constexpr,
    ALIGNED: gl.constexpr,
):  # fmt: skip
    """Sends a tile of queries, zeros where there are none, or if they are not wanted."""
    BM: gl.constexpr = tile.shape[0]
    BD: gl.constexpr = tile.shape[1]
    o_row = i_m * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, LOAD))
    o_d = gl.arange(0, BD, layout=gl.SliceLayout(0, LOAD))
    STEP: gl.constexpr = 8 if ALIGNED else 1
    offsets = (o_row // GROUP).to(gl.int64) * (sq_t * STEP) + (i_g * GROUP + o_row % GROUP).to(gl.int64) * (sq_h * STEP)
    pointers = p_q + i_b.to(gl.int64) * (sq_b * STEP) + offsets[:, None] + o_d[None, :]
    there = ((o_row < rows) & wanted)[:, None] & (o_d < D)[None, :]
    if ALIGNED:
        send_rows(tile, pointers, mask=there)
    elif wanted:
        tile.store(gl.load(pointers, mask=there, other=0.0))


@gluon.jit
def send(
    stage, i_b, n, start, low, high, tiles, new, slot, to_send, page, q_tiles, k_tiles, v_tiles, k_scales, v_scales, i_g, i_m, p_q, p_k,
    p_v, p_k_scale, p_v_scale, p_lengths, p_starts, p_firsts, p_table, first, S, T, before, after, s_table, pages, sq_b, sq_t, sq_h, sk_b,
    sk_t, sk_h, sv_b, sv_t, sv_h, sx_b, sx_t, sx_h, sy_b, sy_t, sy_h, TREE: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr,
    WK: gl.constexpr, WV: gl.constexpr, PAGE: gl.constexpr, LOAD_Q: gl.constexpr, LOAD_K: gl.constexpr, LOAD_V: gl.constexpr,
    LOAD_S: gl.constexpr, SPLIT: gl.constexpr, ALIGNED: gl.constexpr, NEAR: gl.constexpr, ALIKE: gl.constexpr, FAR: gl.constexpr,
):  # fmt: skip
    """Sends a tile of keys and the tile of its values, each a group of copies, empty if there is none to send; and goes on to the next,
    (sequence, n, start, low, high, tiles, new, slot, to send), which may lie in the next sequence and is new if it does. Strides
    of ALIGNED arrays are in units of 8 numbers of 16 bits; ALIKE, keys lie as their values do."""
    BM: gl.constexpr = q_tiles.shape[1]
    BN: gl.constexpr = k_tiles.shape[1]
    STEP: gl.constexpr = 8 if ALIGNED else 1
    if to_send > 0:
        last = gl.maximum(high - 1, 0)
        if SPLIT == STREAM:  # a copy alone in a branch does not compile in Triton 3.6, so unwanted queries go to a spare tile, as zeros
            SPARE: gl.constexpr = q_tiles.shape[0] - 1
            tile = q_tiles.index(gl.where(new != 0, slot, SPARE))
            copy_queries(tile, p_q, i_b, i_g, i_m, T * GROUP, new != 0, sq_b, sq_t, sq_h, GROUP, D, LOAD_Q, ALIGNED)
        base, units = tile_offsets(n, low, last, page, i_b, start, pages, sk_b, sk_t, LOAD_K, LOAD_S, STEP, PAGE, BN, NEAR)
        copy(k_tiles.index(stage), p_k + base + i_g.to(gl.int64) * (sk_h * STEP), units, WK, LOAD_K, STEP, ALIGNED)
        o_s = between(n + gl.arange(0, BN, layout=LOAD_S), low, last)
        if p_k_scale is not None:
            base_s, offsets_s = row_offsets(o_s, page, i_b, start, pages, sx_b, sx_t, 1, PAGE, BN, NEAR)
            send_rows(k_scales.index(stage), p_k_scale + base_s + i_g * sx_h + offsets_s.to(gl.int64))
        async_copy.commit_group()
        if not ALIKE:
            base, units = tile_offsets(n, low, last, page, i_b, start, pages, sv_b, sv_t, LOAD_V, LOAD_S, STEP, PAGE, BN, NEAR)
        copy(v_tiles.index(stage), p_v + base + i_g.to(gl.int64) * (sv_h * STEP), units, WV, LOAD_V, STEP, ALIGNED)
        if p_v_scale is not None:
            base_s, offsets_s = row_offsets(o_s, page, i_b, start, pages, sy_b, sy_t, 1, PAGE, BN, NEAR)
            send_rows(v_scales.index(stage), p_v_scale + base_s + i_g * sy_h + offsets_s.to(gl.int64))
        async_copy.commit_group()
    else:
        async_copy.commit_group()
        async_copy.commit_group()
    to_send -= 1
    tiles -= 1
    n += BN
    new = 0
    if SPLIT == STREAM:
        if (tiles == 0) & (to_send > 0):
            i_b += 1
            start, length, at = sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR)
            low, high, tiles = span(length, at, i_m, T, before, after, TREE, GROUP, BM, BN)
            n = low // BN * BN
            new = 1
            slot = gl.where(slot == q_tiles.shape[0] - 2, 0, slot + 1)
    return i_b, n, start, low, high, tiles, new, slot, to_send
