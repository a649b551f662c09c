"""What the kernels share, on the device: where a sequence lies, which keys a tile may see, what shapes its scores.

Scores are in base 2 inside the kernels (exp2 is one instruction); lse leaves them as a natural logarithm.
Prefixes: p_ pointer, b_ tile in registers, i_ index, o_ offsets, m_ mask, s_ strides. The tuples are those of `arguments.py`.
A tile of scores is [rows, keys] where it makes results of queries, [keys, rows] where it makes gradients of keys: b_t, b_h, b_pos,
b_row (is there such a row) vary along rows, b_key and b_in (is there such a key) along keys.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # 1 / ln 2
LN_2 = tl.constexpr(0.6931471805599453)

DENSE = tl.constexpr(0)
RANGED = tl.constexpr(1)
PACKED = tl.constexpr(2)
PAGED = tl.constexpr(3)


@triton.jit
def tanh(x):
    """tanh without libdevice, which the interpreter does not have: the series near 0, where exp would cancel."""
    y = x * x
    near = x * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835)))))
    far = 1.0 - 2.0 / (1.0 + tl.exp2(2.0 * LOG2_E * tl.minimum(tl.abs(x), 20.0)))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def tanh_of(x, FAST: tl.constexpr):
    """tanh; fast, in the one instruction an NVIDIA GPU has for it, right to 2⁻¹¹ of itself (PTX manual, tanh.approx)."""
    if FAST:
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tanh(x)
    return y


@triton.jit
def sequence(i_b, layout):
    """(first query, queries, first key, keys, position of the first query) of sequence i_b: rows of packed arrays, or 0."""
    q_first = i_b * 0
    queries = layout.T
    if layout.offsets is not None:
        q_first = tl.load(layout.offsets + i_b).to(tl.int64)
        queries = tl.load(layout.offsets + i_b + 1) - q_first.to(tl.int32)
    k_first = i_b * 0
    length = layout.S
    if layout.kind == PACKED:
        k_first = tl.load(layout.starts + i_b).to(tl.int64)
        length = tl.load(layout.starts + i_b + 1) - k_first.to(tl.int32)
    elif layout.kind == RANGED:
        k_first = tl.load(layout.starts + i_b).to(tl.int64)
        length = tl.load(layout.lengths + i_b)
    elif layout.kind == PAGED:
        length = tl.load(layout.lengths + i_b)
    if layout.firsts is not None:
        first = tl.load(layout.firsts + i_b)
    elif layout.first is not None:
        first = layout.first
    else:
        first = length - queries
    return q_first, queries, k_first, length, first


@triton.jit
def keys_seen(pos_low, pos_high, first, length, prefix, mask, BY_ELEMENT: tl.constexpr, TILE: tl.constexpr):
    """(low, high, full low, full high): keys that queries at pos_low … pos_high may see lie in low … high − 1; the tiles of
    keys in full low … full high − 1 are seen whole by all of them, and are none where arrays say what is seen, BY_ELEMENT.
    All but high are multiples of TILE."""
    low = 0
    high = length
    full_low = 0
    full_high = length
    if mask.before is not None:
        low = tl.maximum(low, pos_low - mask.before)
        full_low = tl.maximum(full_low, pos_high - mask.before)
    if mask.after is not None:
        high = tl.minimum(high, pos_high + mask.after + 1)
        full_high = tl.minimum(full_high, pos_low + mask.after + 1)
    if prefix is not None:
        high = tl.minimum(high, tl.maximum(pos_high + 1, prefix))
        full_high = tl.minimum(full_high, tl.maximum(pos_low + 1, prefix))
    if mask.tree is not None:
        high = tl.minimum(high, first + mask.nodes)
        full_high = tl.minimum(full_high, tl.maximum(first, 0))
    low = low // TILE * TILE
    full_low = (full_low + TILE - 1) // TILE * TILE
    full_high = tl.maximum(full_high, 0) // TILE * TILE
    if BY_ELEMENT:
        full_low = high
        full_high = high
    return low, high, full_low, tl.maximum(full_low, full_high)


@triton.jit
def queries_seeing(key_low, key_high, first, queries, prefix, mask, BY_ELEMENT: tl.constexpr, TILE: tl.constexpr):
    """(low, high, full low, full high): queries that may see the keys key_low … key_high lie in low … high − 1; all queries
    of the tiles in full low … full high − 1 see all of them. All but high are multiples of TILE."""
    low = 0
    high = queries
    full_low = 0
    full_high = queries
    if mask.before is not None:
        high = tl.minimum(high, key_high + mask.before - first + 1)
        full_high = tl.minimum(full_high, key_low + mask.before - first + 1)
    if mask.after is not None:
        low = tl.maximum(low, key_low - mask.after - first)
        full_low = tl.maximum(full_low, key_high - mask.after - first)
    if prefix is not None:
        low = tl.where(key_low >= prefix, tl.maximum(low, key_low - first), low)
        full_low = tl.where(key_high >= prefix, tl.maximum(full_low, key_high - first), full_low)
    if mask.tree is not None:
        full_low = tl.where(key_high >= first, queries, full_low)
        low = tl.where(key_low >= first + mask.nodes, queries, low)
    low = low // TILE * TILE
    full_low = (full_low + TILE - 1) // TILE * TILE
    full_high = tl.maximum(full_high, 0) // TILE * TILE
    if BY_ELEMENT:
        full_low = high
        full_high = high
    return low, high, full_low, tl.maximum(full_low, full_high)


@triton.jit
def listed(lists, i_b, i_h, block):
    """(address of the list, its length) of the blocks that a block of rows, or of keys, is kept with."""
    p_counts = lists.counts + i_b * lists.count_strides[0] + i_h * lists.count_strides[1]
    return lists.blocks + i_b * lists.strides[0] + i_h * lists.strides[1] + block * lists.strides[2], tl.load(p_counts + block)


@triton.jit
def visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED: tl.constexpr):
    """Which pairs of the tile the mask lets through; the query b_t stands at first + b_t. Of a listed tile all pairs are in a
    block that is kept."""
    b_pos = first + b_t
    b_seen = b_row & b_in
    if mask.before is not None:
        b_seen = b_seen & (b_key >= b_pos - mask.before)
    if mask.after is not None:
        b_seen = b_seen & (b_key <= b_pos + mask.after)
    if prefix is not None:
        b_seen = b_seen & ((b_key <= b_pos) | (b_key < prefix))
    if mask.q_documents is not None:
        s_documents = mask.document_strides
        b_mine = tl.load(mask.q_documents + i_b * s_documents[0] + b_t * s_documents[1], mask=b_row, other=0)
        b_its = tl.load(mask.k_documents + i_b * s_documents[2] + b_key * s_documents[3], mask=b_in, other=0)
        b_seen = b_seen & (b_mine == b_its)
    if (mask.blocks is not None) and (not LISTED):
        s = mask.block_strides
        o_block = i_b * s[0] + b_h * s[1] + b_t // mask.block_rows * s[2] + b_key // mask.block_columns * s[3]
        b_seen = b_seen & (tl.load(mask.blocks + o_block, mask=b_seen, other=0) != 0)
    if mask.tree is not None:
        j = b_key - first
        inside = (j >= 0) & (j < mask.nodes)
        o_node = i_b * mask.tree_strides[0] + b_t * mask.tree_strides[1] + j * mask.tree_strides[2]
        b_seen = b_seen & ((j < 0) | (tl.load(mask.tree + o_node, mask=b_seen & inside, other=0) != 0))
    if mask.dense is not None:
        s_dense = mask.dense_strides
        o_dense = i_b * s_dense[0] + b_h * s_dense[1] + b_t.to(tl.int64) * s_dense[2] + b_key * s_dense[3]
        b_seen = b_seen & (tl.load(mask.dense + o_dense, mask=b_seen, other=0) != 0)
    return b_seen


@triton.jit
def capped(b_product, terms):
    """(scores of a tile of products q · k before anything is added, in base 2 if nothing is; where there is a cap, what it multiplies)."""
    b_s = b_product * terms.scale
    b_tanh = b_s
    if terms.limit is not None:
        b_tanh = tanh_of(b_s, terms.fast is not None)
        b_s = terms.limit * b_tanh
    return b_s, b_tanh


@triton.jit
def added(b_s, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, first, terms):
    """Scores in base 2, with bias and slopes; the bias comes as b_bias, or through addresses where that is None."""
    if b_bias is not None:
        b_s += b_bias.to(tl.float32)
    elif terms.bias is not None:
        s = terms.bias_strides
        o_bias = i_b * s[0] + b_h * s[1] + b_t.to(tl.int64) * s[2] + b_key * s[3]
        b_s += tl.load(terms.bias + o_bias, mask=b_row & b_in, other=0.0).to(tl.float32)
    if terms.slopes is not None:
        o_slope = i_b * terms.slope_strides[0] + b_h * terms.slope_strides[1]
        b_slope = tl.load(terms.slopes + o_slope, mask=b_row, other=0.0).to(tl.float32)
        b_s -= b_slope * tl.abs(first + b_t - b_key).to(tl.float32)
    if (terms.bias is not None) or (terms.slopes is not None):
        b_s *= LOG2_E
    return b_s


@triton.jit
def kept(i_b, b_h, b_t, b_key, terms):
    """Whether dropout keeps the weight: the first word of Philox4x32-10 of the counter (s, t, h, b), as `Dropout` promises."""
    zero = b_h * 0 + b_t * 0 + b_key * 0
    a = (b_key + zero).to(tl.uint32)
    b = (b_t + zero).to(tl.uint32)
    c = (b_h + zero).to(tl.uint32)
    d = (i_b + zero).to(tl.uint32)
    k0 = (i_b * 0 + terms.seed_low).to(tl.uint32)
    k1 = (i_b * 0 + terms.seed_high).to(tl.uint32)
    for _ in tl.static_range(10):
        high_a = tl.umulhi(a, 0xD2511F53)
        high_c = tl.umulhi(c, 0xCD9E8D57)
        low_a = a * 0xD2511F53
        low_c = c * 0xCD9E8D57
        a = high_c ^ b ^ k0
        c = high_a ^ d ^ k1
        b = low_c
        d = low_a
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return a >= (i_b * 0 + terms.threshold).to(tl.uint32)


@triton.jit
def tile_of(index, tiles, pairs, section):
    """(tile, pair of sequence and key head) of a program: pairs go in sections whose keys and values fit the cache of the GPU,
    and a section's last tiles, which take longest under a causal mask, go first."""
    first = index // (tiles * section) * section
    inside = tl.minimum(section, pairs - first)
    index = index % (tiles * section)
    return tiles - 1 - index // inside, first + index % inside


@triton.jit
def places(strides, layout, i_b, k_first, o_n, length, WIDE: tl.constexpr):
    """(offsets [N] of the keys o_n from their head's first, whether there are such keys); in pages, through the table."""
    m_n = o_n < length
    if layout.kind == PAGED:
        b_page = tl.load(layout.table + i_b * layout.table_stride + o_n // layout.page_tokens, mask=m_n, other=-1).to(tl.int64)
        m_n = m_n & (b_page >= 0) & (b_page < layout.pages)
        o_rows = b_page * strides[0] + o_n % layout.page_tokens * strides[1]
    elif WIDE:
        o_rows = i_b * strides[0] + (k_first + o_n) * strides[1]
    else:
        o_rows = (i_b * strides[0] + k_first * strides[1]).to(tl.int32) + o_n * strides[1]
    return o_rows, m_n


@triton.jit
def fetched(box, i_b, i_h, first, PACKED_ROWS: tl.constexpr, N: tl.constexpr, BW: tl.constexpr):
    """[N, BW] rows first … first + N − 1 of a head through the copy engine: zeros past the end of the array."""
    i_sequence = i_b.to(tl.int32)
    if PACKED_ROWS:
        i_sequence = i_sequence * 0
    return box.load([i_sequence, i_h, first.to(tl.int32), 0]).reshape([N, BW])


@triton.jit
def bias_tile(box, terms, i_b, i_h, t, n, M: tl.constexpr, N: tl.constexpr):
    """[M, N] numbers of a bias, of queries t … and keys n …, through the copy engine."""
    i_sequence = tl.where(terms.bias_strides[0] == 0, 0, i_b.to(tl.int32))  # one for all
    i_head = tl.where(terms.bias_strides[1] == 0, 0, i_h)
    return box.load([i_sequence, i_head, t, n]).reshape([M, N])


@triton.jit
def rows(
    side, layout, i_b, i_g, k_first, n, length, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr,
    PART: tl.constexpr, dtype: tl.constexpr, box, AT: tl.constexpr = 0,
):  # fmt: skip
    """[N, BD] keys or values n …, from column AT on, narrow numbers as `dtype` without their scales."""
    o_n = n + tl.arange(0, N)
    if box is not None:
        b_data = fetched(box, i_b, i_g, k_first + n, layout.kind == PACKED, N, BD)
    else:
        b_data = gathered(side, layout, i_b, i_g, k_first, o_n, length, D, BD, WIDE, PART, AT)
        if b_data.dtype != dtype:
            b_data = b_data.to(tl.float32).to(dtype)
    return b_data


@triton.jit
def gathered(
    side, layout, i_b, i_g, k_first, o_n, length, D: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr, PART: tl.constexpr,
    AT: tl.constexpr,
):  # fmt: skip
    """[N, BD] keys or values o_n through addresses, from column AT on; pairs of int4 become two numbers each."""
    o_rows, m_n = places(side.strides, layout, i_b, k_first, o_n, length, WIDE)
    p_head = side.data + i_g.to(tl.int64) * side.strides[2]
    if side.data.dtype.element_ty == tl.uint8:
        o_d = AT // 2 + tl.arange(0, BD // 2)[None, :]
        b_pair = tl.load(p_head + o_rows[:, None] + o_d, mask=m_n[:, None] & (o_d < D // 2), other=0).to(tl.int32)
        b_data = tl.interleave(((b_pair & 15) ^ 8) - 8, ((b_pair >> 4) ^ 8) - 8).to(tl.float32)
    else:
        o_d = AT + tl.arange(0, BD)[None, :]
        if PART or D != AT + BD or layout.kind == PAGED:
            b_data = tl.load(p_head + o_rows[:, None] + o_d, mask=m_n[:, None] & (o_d < D), other=0.0)
        else:
            b_data = tl.load(p_head + o_rows[:, None] + o_d)
    return b_data


@triton.jit
def scales(side, layout, i_b, i_g, k_first, o_n, length):
    """[N] scales of narrow keys or values."""
    o_rows, m_n = places(side.scale_strides, layout, i_b, k_first, o_n, length, True)
    return tl.load(side.scale + o_rows + i_g * side.scale_strides[2], mask=m_n, other=0.0)


@triton.jit
def values(
    side, layout, i_b, i_g, k_first, n, length, N: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, WIDE: tl.constexpr,
    PART: tl.constexpr, dtype: tl.constexpr, box,
):  # fmt: skip
    """[N, BV] keys or values with their scales."""
    if side.scale is None:
        b_v = rows(side, layout, i_b, i_g, k_first, n, length, N, V, BV, WIDE, PART, dtype, box)
    else:
        b_data = rows(side, layout, i_b, i_g, k_first, n, length, N, V, BV, WIDE, PART, tl.float32, None)
        b_v = (b_data * scales(side, layout, i_b, i_g, k_first, n + tl.arange(0, N), length)[:, None]).to(dtype)
    return b_v


@triton.jit
def queries_of(x, i_b, o_token, o_h, m_row, o_d, W: tl.constexpr):
    """[M, BW] rows of queries, results or gradients; zeros where there are none."""
    o_row = i_b * x.strides[0] + o_token * x.strides[1] + o_h.to(tl.int64) * x.strides[2]
    return tl.load(x.data + o_row[:, None] + o_d[None, :], mask=m_row[:, None] & (o_d < W)[None, :], other=0.0)


@triton.jit
def write(x, i_b, o_token, o_h, m_row, o_d, W: tl.constexpr, b_x):
    """Stores [M, BW] rows."""
    o_row = i_b * x.strides[0] + o_token * x.strides[1] + o_h.to(tl.int64) * x.strides[2]
    tl.store(x.data + o_row[:, None] + o_d[None, :], b_x.to(x.data.dtype.element_ty), mask=m_row[:, None] & (o_d < W)[None, :])


@triton.jit
def at_row(x, i_b, o_token, o_h):
    """Addresses [M] of an array with one number a row."""
    return x.data + i_b * x.strides[0] + o_token * x.strides[1] + o_h * x.strides[2]


@triton.jit
def product(b_a, b_b, b_sum, WIDEN: tl.constexpr):
    """sum + a b in float32. Triton's interpreter would multiply the bits of bfloat16 as integers, so there it is widened."""
    if WIDEN:
        b_a = b_a.to(tl.float32)
        b_b = b_b.to(tl.float32)
    return tl.dot(b_a, b_b, b_sum, input_precision="ieee")


@triton.jit
def scored(b_q, b_k, WIDEN: tl.constexpr):
    """q kᵀ of a tile. A product of float32 adds one number after another; the plain computation of few rows adds parts, so here of
    few rows the numbers of a width are added in four parts or eight."""
    M: tl.constexpr = b_q.shape[0]
    D: tl.constexpr = b_q.shape[1]
    FEW: tl.constexpr = (b_q.dtype == tl.float32) and (M <= 32) and (D >= 64)
    HALVINGS: tl.constexpr = (3 if D > 256 else 2) if FEW else 0
    return in_parts(b_q, b_k, HALVINGS, WIDEN)


@triton.jit
def in_parts(b_q, b_k, HALVINGS: tl.constexpr, WIDEN: tl.constexpr):
    """q kᵀ, the even and the odd numbers of a width apart, and so again."""
    M: tl.constexpr = b_q.shape[0]
    N: tl.constexpr = b_k.shape[0]
    D: tl.constexpr = b_q.shape[1]
    if HALVINGS == 0:
        b_s = product(b_q, tl.trans(b_k), tl.zeros([M, N], tl.float32), WIDEN)
    else:
        b_q_even, b_q_odd = tl.split(b_q.reshape([M, D // 2, 2]))
        b_k_even, b_k_odd = tl.split(b_k.reshape([N, D // 2, 2]))
        # minus the negative: of a sum the compiler would make the second product's start, one number after another again
        b_s = in_parts(b_q_even, b_k_even, HALVINGS - 1, WIDEN) - in_parts(-b_q_odd, b_k_odd, HALVINGS - 1, WIDEN)
    return b_s


@triton.jit
def finite(b_x):
    """Neither NaN nor infinity. (Of a product, x − x is not 0: the compiler makes one rounding of both.)"""
    return b_x * 0.0 == 0.0


@triton.jit
def tame(b_x):
    """x with zeros for NaN and infinity: a weight of 0 times NaN would be NaN, and reach rows that do not see it."""
    b_wide = b_x.to(tl.float32)
    return tl.where(finite(b_wide), b_wide, 0.0).to(b_x.dtype)
