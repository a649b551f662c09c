"""Gradients: weights are computed again from the lse, tile by tile, in two passes that write each number once.

    d_queries   a tile of rows passes the keys it may see:  dQ, and what biases and slopes get from these rows
    d_keys      a tile of keys passes the rows that may see it, of all heads of the group:  dK, dV
    d_bias      a tile of a bias passes all it was broadcast over

    P = exp(score − lse)     dV = (P ∘ keep)ᵀ dO     dP = (dO Vᵀ) ∘ keep     δ = rowsum(dO ∘ O) − dlse
    dS = P ∘ (dP − δ), through the cap dS ∘ (1 − tanh²)     dQ = scale · dS K     dK = scale · dSᵀ Q

No number is added by two programs, so the same bits come every time. Source: Dao, 2023, arXiv:2307.08691, algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.backends.triton import arguments, shared, sinks, sizes
from strobe.backends.triton.shared import zeros_beside
from strobe.backends.triton.sizes import Tile, padded
from strobe.backends.triton.starting import alike, start
from strobe.backends.triton.tiles import (
    DENSE, LOG2_E, added, at_row, bias_tile, capped, fetched, kept, keys_seen, listed, product, queries_of, queries_seeing, rows, scales,
    sequence, tame, tile_of, values, visible, write,
)  # fmt: skip
from strobe.layouts import Dense, Packed, Paged
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import Gradients, State
from strobe.terms import Scaled


MOST_ROWS = 128  # of a tile


@triton.jit(do_not_specialize=["rows_in_all", "H"])
def prepare(
    p_out, p_d_out, p_d_lse, p_lse, p_base, p_delta, rows_in_all, R, H, V: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """lse in base 2, and δ, of contiguous rows (token, head), by head: `[H, R]`, R ≥ tokens.

    A row that saw nothing has +∞ as its lse, so that its weights are 0."""
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    o_v = tl.arange(0, BV)
    m_m = o_m < rows_in_all
    at = o_m[:, None] * V + o_v[None, :]
    m = m_m[:, None] & (o_v < V)[None, :]
    b_delta = tl.sum(tl.load(p_out + at, mask=m, other=0.0).to(tl.float32) * tl.load(p_d_out + at, mask=m, other=0.0).to(tl.float32), 1)
    if p_d_lse is not None:
        b_delta -= tl.load(p_d_lse + o_m, mask=m_m, other=0.0)
    b_lse = tl.load(p_lse + o_m, mask=m_m, other=float("-inf"))
    b_base = tl.where(b_lse == float("-inf"), float("inf"), b_lse * LOG2_E)
    o_row = o_m % H * R + o_m // H
    tl.store(p_delta + o_row, b_delta, mask=m_m)
    tl.store(p_base + o_row, b_base, mask=m_m)


@triton.jit
def weights(
    b_product, b_d_p, b_base, b_delta, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, b_seen, first, terms, MASKED: tl.constexpr
):  # fmt: skip
    """(weights that met values, gradient of the score, gradient of the product) of a tile; b_product is q · k, b_d_p dO · v."""
    b_s, b_tanh = capped(b_product, terms)
    b_p = tl.exp2(added(b_s, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, first, terms) - b_base)
    b_met = b_p
    if terms.threshold is not None:
        b_keep = kept(i_b, b_h, b_t, b_key, terms)
        b_met = tl.where(b_keep, b_p * terms.keep_scale, 0.0)
        b_d_p = tl.where(b_keep, b_d_p * terms.keep_scale, 0.0)
    b_d_s = b_p * (b_d_p - b_delta)
    if MASKED:
        b_met = tl.where(b_seen, b_met, 0.0)
        b_d_s = tl.where(b_seen, b_d_s, 0.0)
    b_d_product = b_d_s
    if terms.limit is not None:
        b_d_product = b_d_s * (1.0 - b_tanh * b_tanh)
    return b_met, b_d_s, b_d_product


@triton.jit(do_not_specialize=["G", "pairs", "section"])
def d_queries(
    q, k, v, d_out, k_box, v_box, bias_box, p_base, p_delta, R, q_rows, d_q, d_slope, d_bias, layout, mask, lists, terms, scale, G, pairs,
    section,
    BY_ELEMENT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """One tile of rows, as in `forward.py`."""
    dtype: tl.constexpr = q.data.dtype.element_ty
    tiles = tl.cdiv(layout.T * GROUP, BM)
    i_m, i_pair = tile_of(tl.program_id(0), tiles, pairs, section)
    i_b = (i_pair // G).to(tl.int64)
    i_g = i_pair % G
    q_first, queries, k_first, length, first = sequence(i_b, layout)
    prefix = mask.prefix
    if mask.prefixes is not None:
        prefix = tl.load(mask.prefixes + i_b)
    if i_m * BM >= queries * GROUP:
        return

    o_row = i_m * BM + tl.arange(0, BM)
    o_t = o_row // GROUP
    o_h = i_g * GROUP + o_row % GROUP
    m_row = o_t < queries
    o_token = q_first + o_t
    b_t = o_t[:, None]
    b_h = o_h[:, None]
    b_row = m_row[:, None]
    b_q = queries_of(q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D)
    b_d_out = queries_of(d_out, i_b, o_token, o_h, m_row, tl.arange(0, BV), V)
    o_all = o_h * R + (q_first + i_b * q_rows) + o_t
    b_base = tl.load(p_base + o_all, mask=m_row, other=0.0)[:, None]
    b_delta = tl.load(p_delta + o_all, mask=m_row, other=0.0)[:, None]
    t_high = tl.minimum(queries - 1, (i_m * BM + BM - 1) // GROUP)
    LISTED: tl.constexpr = lists.blocks is not None
    low, high, full_low, full_high = keys_seen(first + i_m * BM // GROUP, first + t_high, first, length, prefix, mask, BY_ELEMENT, BN)

    b_d_q = tl.zeros([BM, BD], tl.float32)
    b_d_slope = tl.zeros([BM], tl.float32)
    if LISTED:
        p_list, count = listed(lists, i_b, i_g * GROUP, i_m * BM // GROUP // mask.block_rows)
        each = mask.block_columns // BN
        low_of, high_of = 0, count * each * BN  # places in the list, as if they were keys
    else:
        low_of, high_of = low, tl.minimum(full_low, high)
    # where arrays say what is seen, no tile is known to be seen whole
    for part in tl.static_range(1 if BY_ELEMENT or LISTED else 3):
        if part == 0:
            start = low_of
            stop = high_of
        elif part == 1:
            start = full_low
            stop = full_high
        else:
            start = full_high
            stop = high
        if ((part != 0) or BY_ELEMENT) or (LISTED or (mask.before is not None)):  # only a window leaves such keys
            if start < stop:
                for at in tl.range(start, stop, BN):
                    n = at
                    if LISTED:
                        n = tl.load(p_list + at // BN // each) * mask.block_columns + at // BN % each * BN
                    o_n = n + tl.arange(0, BN)
                    b_key = o_n[None, :]
                    b_in = (o_n < length)[None, :]
                    b_seen = b_row & b_in
                    some = True
                    if BY_ELEMENT:
                        b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
                        some = tl.max(tl.max(b_seen.to(tl.int32), 1), 0) > 0
                    if some:
                        b_k = rows(k, layout, i_b, i_g, k_first, n, length, BN, D, BD, WIDE, part != 1, dtype, k_box)
                        b_v = values(v, layout, i_b, i_g, k_first, n, length, BN, V, BV, WIDE, part != 1, dtype, v_box)
                        b_s = product(b_q, tl.trans(b_k), tl.zeros([BM, BN], tl.float32), WIDEN)
                        b_d_p = product(b_d_out, tl.trans(b_v), tl.zeros([BM, BN], tl.float32), WIDEN)
                        if k.scale is not None:
                            b_k_scale = scales(k, layout, i_b, i_g, k_first, o_n, length)[None, :]
                            b_s *= b_k_scale
                        if (part != 1) and (not BY_ELEMENT):
                            b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
                        b_bias = None
                        if bias_box is not None:
                            b_bias = bias_tile(bias_box, terms, i_b, i_g, i_m * BM, n, BM, BN)
                        b_met, b_d_s, b_d_product = weights(
                            b_s, b_d_p, b_base, b_delta, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, b_seen, first, terms, part != 1
                        )
                        if d_slope is not None:
                            b_d_slope -= tl.sum(b_d_s * tl.abs(first + b_t - b_key).to(tl.float32), 1)
                        if d_bias is not None:  # of a bias with a number for each pair
                            s = d_bias.strides
                            o_bias = i_b * s[0] + b_h * s[1] + b_t.to(tl.int64) * s[2] + b_key * s[3]
                            tl.store(d_bias.data + o_bias, b_d_s.to(d_bias.data.dtype.element_ty), mask=b_row & b_in)
                        if k.scale is not None:
                            b_d_product *= tame(b_k_scale)
                        if part != 1:
                            b_k = tame(b_k)
                        b_d_q = product(b_d_product.to(dtype), b_k, b_d_q, WIDEN)

    write(d_q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D, b_d_q * scale)
    if REST:
        zeros_beside(d_bias, i_b, b_t, b_h, b_row, low, high, layout.S, BN)
    if d_slope is not None:
        tl.store(at_row(d_slope, i_b, o_token, o_h), b_d_slope, mask=m_row)


@triton.jit(do_not_specialize=["G", "pairs", "section"])
def d_keys(
    q, k, v, d_out, k_box, v_box, q_box, d_out_box, bias_box, p_base, p_delta, R, q_rows, d_k, d_v, layout, mask, lists, terms, scale,
    G, pairs, section,
    BY_ELEMENT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of keys of one head of one sequence; tiles of scores are [keys, rows], so that no product waits for a transpose."""
    dtype: tl.constexpr = q.data.dtype.element_ty
    tiles = tl.cdiv(layout.S, BN)
    i_n, i_pair = tile_of(tl.program_id(0), tiles, pairs, section)
    i_b = (i_pair // G).to(tl.int64)
    i_g = i_pair % G
    n = (tiles - 1 - i_n) * BN  # under a causal mask the first keys take longest
    q_first, queries, k_first, length, first = sequence(i_b, layout)
    prefix = mask.prefix
    if mask.prefixes is not None:
        prefix = tl.load(mask.prefixes + i_b)
    if n >= length:
        return

    o_n = n + tl.arange(0, BN)
    m_n = o_n < length
    b_key = o_n[:, None]
    b_in = m_n[:, None]
    b_k = rows(k, layout, i_b, i_g, k_first, n, length, BN, D, BD, WIDE, True, dtype, k_box)
    b_v = rows(v, layout, i_b, i_g, k_first, n, length, BN, V, BV, WIDE, True, dtype, v_box)
    LISTED: tl.constexpr = lists.blocks is not None
    key_high = tl.minimum(n + BN, length) - 1
    low, high, full_low, full_high = queries_seeing(n, key_high, first, queries, prefix, mask, BY_ELEMENT, BM)

    b_d_k = tl.zeros([BN, BD], tl.float32)
    b_d_v = tl.zeros([BN, BV], tl.float32)
    if LISTED:
        p_list, count_listed = listed(lists, i_b, i_g * GROUP, n // mask.block_columns)
        each = mask.block_rows // BM
        low_of, high_of = 0, count_listed * each * BM  # places in the list, as if they were queries
    else:
        low_of, high_of = low, tl.minimum(full_low, high)
    # where arrays say what is seen, no tile is known to be seen whole
    for part in tl.static_range(1 if BY_ELEMENT or LISTED else 3):
        if part == 0:
            start = low_of
            stop = high_of
        elif part == 1:
            start = full_low
            stop = full_high
        else:
            start = full_high
            stop = high
        # only where what a query sees ends with itself are there rows seen in part before those seen whole
        if ((part != 0) or (BY_ELEMENT or LISTED)) or (((mask.after is not None) or (prefix is not None)) or (mask.tree is not None)):
            if start < stop:
                count = tl.cdiv(stop - start, BM)
                # one head of the group after another; addresses of a bias would wait in registers that Turing has not
                for i in tl.range(0, count * GROUP, disable_licm=(q_box is None) and (terms.bias is not None)):
                    i_h = i_g
                    m = start + i * BM
                    if GROUP > 1:
                        i_h = i_g * GROUP + i // count
                        m = start + i % count * BM
                    if LISTED:
                        m = tl.load(p_list + m // BM // each) * mask.block_rows + m // BM % each * BM
                    at = i_h.to(tl.int64) * R + q_first + i_b * q_rows
                    o_h = i_h + tl.zeros([BM], tl.int32)
                    o_t = m + tl.arange(0, BM)
                    m_row = o_t < queries
                    o_token = q_first + o_t
                    b_t = o_t[None, :]
                    b_h = o_h[None, :]
                    b_row = m_row[None, :]
                    b_seen = b_row & b_in
                    some = True
                    if BY_ELEMENT:
                        b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
                        some = tl.max(tl.max(b_seen.to(tl.int32), 1), 0) > 0
                    if some:
                        if q_box is not None:
                            b_q = fetched(q_box, i_b, i_h, q_first + m, layout.offsets is not None, BM, BD)
                            b_d_out = fetched(d_out_box, i_b, i_h, q_first + m, layout.offsets is not None, BM, BV)
                        else:
                            b_q = queries_of(q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D)
                            b_d_out = queries_of(d_out, i_b, o_token, o_h, m_row, tl.arange(0, BV), V)
                        if LISTED:  # a block may end far past the last row
                            b_base = tl.load(p_base + at + o_t, mask=m_row, other=0.0)[None, :]
                            b_delta = tl.load(p_delta + at + o_t, mask=m_row, other=0.0)[None, :]
                        else:  # past the end of a sequence are others' rows, or none's
                            b_base = tl.load(p_base + at + o_t)[None, :]
                            b_delta = tl.load(p_delta + at + o_t)[None, :]
                        b_s = product(b_k, tl.trans(b_q), tl.zeros([BN, BM], tl.float32), WIDEN)
                        b_d_p = product(b_v, tl.trans(b_d_out), tl.zeros([BN, BM], tl.float32), WIDEN)
                        if (part != 1) and (not BY_ELEMENT):
                            b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
                        b_bias = None
                        if bias_box is not None:
                            b_bias = tl.trans(bias_tile(bias_box, terms, i_b, i_h, m, n, BM, BN))
                        b_met, b_d_s, b_d_product = weights(
                            b_s, b_d_p, b_base, b_delta, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, b_seen, first, terms, part != 1
                        )
                        if (q_box is not None) and (layout.offsets is not None) and (part != 1):  # what lies past the end
                            b_q = tame(b_q)
                            b_d_out = tame(b_d_out)
                        b_d_v = product(b_met.to(dtype), b_d_out, b_d_v, WIDEN)
                        b_d_k = product(b_d_product.to(dtype), b_q, b_d_k, WIDEN)

    o_g = i_g + tl.zeros([BN], tl.int32)
    o_token = k_first + o_n
    write(d_k, i_b, o_token, o_g, m_n, tl.arange(0, BD), D, b_d_k * scale)
    write(d_v, i_b, o_token, o_g, m_n, tl.arange(0, BV), V, b_d_v)


@triton.jit(do_not_specialize=["B", "H"])
def d_bias_of(
    q, k, v, d_out, k_box, v_box, q_box, d_out_box, bias_box, p_base, p_delta, R, q_rows, d_bias, layout, mask, terms, B, H, B_BIAS, H_BIAS,
    ONE_T: tl.constexpr, ONE_S: tl.constexpr, BY_ELEMENT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    BD: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of a bias that some sequences, heads, queries or keys share: all of them pass, one after another, in one loop, so
    that the next ones' tiles come while these are multiplied."""
    dtype: tl.constexpr = q.data.dtype.element_ty
    t_all = tl.cdiv(layout.T, BM)
    s_all = tl.cdiv(layout.S, BN)
    t_tiles = 1 if ONE_T else t_all
    s_tiles = 1 if ONE_S else s_all
    i_s = tl.program_id(0) % s_tiles
    i_t = tl.program_id(0) // s_tiles % t_tiles
    i_h_bias = tl.program_id(0) // s_tiles // t_tiles % H_BIAS
    i_b_bias = tl.program_id(0) // s_tiles // t_tiles // H_BIAS
    heads = H if H_BIAS == 1 else 1
    t_each = t_all if ONE_T else 1
    s_each = s_all if ONE_S else 1
    count = (B if B_BIAS == 1 else 1) * heads * t_each * s_each
    if not (ONE_T or ONE_S):
        if ((layout.kind == DENSE) and (layout.offsets is None)) and ((layout.firsts is None) and (mask.prefixes is None)):
            q_first, queries, k_first, length, first = sequence(i_b_bias.to(tl.int64) * 0, layout)
            pos_high = first + tl.minimum(queries, i_t * BM + BM) - 1
            low, high, full_low, full_high = keys_seen(first + i_t * BM, pos_high, first, length, mask.prefix, mask, BY_ELEMENT, BN)
            if (i_s * BN + BN <= low) | (i_s * BN >= high):
                count = 0  # no pair of the tile is seen, in any sequence
    b_sum = tl.zeros([BM, BN], tl.float32)
    # what does not change in the loop is computed in it: it would wait in registers that are short
    for i in tl.range(0, count, disable_licm=True):
        n = (i_s + i % s_each) * BN
        t = (i_t + i // s_each % t_each) * BM
        i_h = i_h_bias + i // s_each // t_each % heads
        i_b = (i_b_bias + i // s_each // t_each // heads).to(tl.int64)
        i_g = i_h // GROUP
        q_first, queries, k_first, length, first = sequence(i_b, layout)
        prefix = mask.prefix
        if mask.prefixes is not None:
            prefix = tl.load(mask.prefixes + i_b)
        o_t = t + tl.arange(0, BM)
        o_h = i_h + tl.zeros([BM], tl.int32)
        o_n = n + tl.arange(0, BN)
        m_row = o_t < queries
        o_token = q_first + o_t
        b_t = o_t[:, None]
        b_h = o_h[:, None]
        b_row = m_row[:, None]
        b_key = o_n[None, :]
        b_in = (o_n < length)[None, :]
        if q_box is not None:
            b_q = fetched(q_box, i_b, i_h, q_first + t, layout.offsets is not None, BM, BD)
            b_d_out = fetched(d_out_box, i_b, i_h, q_first + t, layout.offsets is not None, BM, BV)
        else:
            b_q = queries_of(q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D)
            b_d_out = queries_of(d_out, i_b, o_token, o_h, m_row, tl.arange(0, BV), V)
        b_k = rows(k, layout, i_b, i_g, k_first, n, length, BN, D, BD, WIDE, True, dtype, k_box)
        b_v = values(v, layout, i_b, i_g, k_first, n, length, BN, V, BV, WIDE, True, dtype, v_box)
        o_all = i_h.to(tl.int64) * R + q_first + i_b * q_rows + o_t
        b_base = tl.load(p_base + o_all, mask=m_row, other=0.0)[:, None]
        b_delta = tl.load(p_delta + o_all, mask=m_row, other=0.0)[:, None]
        b_s = product(b_q, tl.trans(b_k), tl.zeros([BM, BN], tl.float32), WIDEN)
        b_d_p = product(b_d_out, tl.trans(b_v), tl.zeros([BM, BN], tl.float32), WIDEN)
        if k.scale is not None:
            b_s *= scales(k, layout, i_b, i_g, k_first, o_n, length)[None, :]
        b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, False)
        b_bias = None
        if bias_box is not None:
            b_bias = bias_tile(bias_box, terms, i_b, i_h, t, n, BM, BN)
        b_met, b_d_s, b_d_product = weights(
            b_s, b_d_p, b_base, b_delta, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, b_seen, first, terms, True
        )
        b_sum += b_d_s
    s = d_bias.strides
    o_t = i_t * BM + tl.arange(0, BM)
    o_n = i_s * BN + tl.arange(0, BN)
    p_tile = d_bias.data + i_b_bias.to(tl.int64) * s[0] + i_h_bias * s[1]
    kind: tl.constexpr = d_bias.data.dtype.element_ty
    if ONE_T and ONE_S:
        tl.store(p_tile, tl.sum(b_sum).to(kind))
    elif ONE_T:
        tl.store(p_tile + o_n * s[3], tl.sum(b_sum, 0).to(kind), mask=o_n < layout.S)
    elif ONE_S:
        tl.store(p_tile + o_t.to(tl.int64) * s[2], tl.sum(b_sum, 1).to(kind), mask=o_t < layout.T)
    else:
        at = o_t.to(tl.int64)[:, None] * s[2] + o_n[None, :] * s[3]
        tl.store(p_tile + at, b_sum.to(kind), mask=(o_t < layout.T)[:, None] & (o_n < layout.S)[None, :])


def launch(plan: Plan, call: Call, state: State, grad_out: Tensor, grad_lse: Tensor | None) -> Gradients:
    """The gradients of everything in the call, each in its array's dtype; nothing waits for the device."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    q, sides = arguments.tokens(call), key_sides(call.keys)
    out, lse, grad_out = state.out.contiguous(), state.lse.contiguous(), grad_out.contiguous()
    # every row of a sequence is written; of packed rows some may belong to none
    d_q = (torch.zeros_like if isinstance(call.q, Packed) else torch.empty_like)(q, memory_format=torch.contiguous_format)
    d_k, d_v = (_like(x, call) for x in sides)
    d_slope = None if call.alibi is None else torch.zeros_like(lse)
    make = torch.empty_like if shared.rest(plan, call) or shared.one_of_each(plan, call) else torch.zeros_like
    d_bias = None if call.bias is None else make(call.bias, memory_format=torch.contiguous_format)
    # a last tile of rows reads past the end: what lies there is read and not looked at
    key = alike(plan, call, out, lse, grad_out)
    key = None if key is None or (grad_lse is not None and grad_lse.data_ptr() % 16) else (*key, grad_lse is None)
    R = sizes.tiles(lse.numel() // problem.H, 16) * 16 + MOST_ROWS  # rows of a head begin at multiples of 64 bytes
    base, delta = lse.new_empty(problem.H, R), lse.new_empty(problem.H, R)
    if lse.numel():
        BM = max(1, 4096 // padded(problem.V))
        with torch.cuda.device_of(q):
            args = out, grad_out, None if grad_lse is None else grad_lse.contiguous(), lse, base, delta, lse.numel(), R, problem.H
            named = {"V": problem.V, "BV": padded(problem.V), "BM": BM}
            start(prepare, (sizes.tiles(lse.numel(), BM),), args, named, key)
    if problem.B:
        _start(plan, problem, call, (grad_out, base, delta), (d_q, d_k, d_v, d_slope, d_bias), key)
    return Gradients(
        q=d_q, k=d_k, v=d_v, bias=d_bias,
        slopes=None if call.alibi is None or d_slope is None else _slopes(d_slope, call, call.alibi.slopes),
        sink=None if call.sink is None else sinks.gradient(call.sink.logits, base, delta, lse.numel() // problem.H),
    )  # fmt: skip


def _start(plan: Plan, problem: Problem, call: Call, known: tuple[Tensor, ...], found: tuple[Tensor | None, ...], key: Any) -> None:
    """Starts the passes."""
    (grad_out, base, delta), (d_q, d_k, d_v, d_slope, d_bias) = known, found
    q, (k, v) = arguments.tokens(call), map(arguments.side, key_sides(call.keys))
    q_rows = 0 if isinstance(call.q, Packed) else problem.T
    read, known = (arguments.rows(q), k, v, arguments.rows(grad_out)), (base, delta, base.shape[1], q_rows)
    asked = arguments.layout(plan, call), arguments.seen(plan, call), arguments.terms(plan, call)
    made_for, pairs = arguments.sizes(plan, call), problem.B * problem.G
    places = problem.G, pairs, arguments.fixed(plan).section
    one_of_each = d_bias is not None and shared.one_of_each(plan, call)
    found_bias = shared.room_for_each(problem, d_bias) if d_bias is not None and one_of_each else d_bias
    at = None if found_bias is None else arguments.Rows(found_bias, arguments.broadcast(found_bias))
    each = found_bias is not None and found_bias.numel() == problem.B * problem.H * problem.T * problem.S
    assert d_q is not None
    with torch.cuda.device_of(q):
        if problem.T:
            tile, boxes = _tile(plan, call, "queries", (k.data, v.data), ())
            programs = sizes.tiles(problem.T * problem.group, tile.rows) * pairs
            slope = None if d_slope is None else arguments.numbers(d_slope)
            mine = arguments.rows(d_q), slope, at if each else None
            args = *read, *boxes, *known, *mine, *asked[:2], arguments.lists(plan, call, False), asked[2], problem.scale, *places
            rest = {"REST": shared.rest(plan, call)}
            start(d_queries, (programs,), args, made_for | rest | arguments.options(tile), key)
            if d_bias is not None and one_of_each:
                shared.add(plan, call, found_bias, d_bias, tile)
        if problem.S and d_k is not None and d_v is not None:
            tile, boxes = _tile(plan, call, "keys", (k.data, v.data), (q, grad_out))
            mine = arguments.rows(d_k), arguments.rows(d_v)
            programs = sizes.tiles(problem.S, tile.keys) * pairs
            args = *read, *boxes, *known, *mine, *asked[:2], arguments.lists(plan, call, True), asked[2], problem.scale, *places
            start(d_keys, (programs,), args, made_for | arguments.options(tile), key)
        if d_bias is not None and at is not None and not each and problem.T and problem.S:
            B, H, T, S = (*(1,) * (4 - d_bias.dim()), *d_bias.shape)
            tile, boxes = _tile(plan, call, "bias", (k.data, v.data), (q, grad_out))
            programs = B * H * sizes.tiles(T, tile.rows) * sizes.tiles(S, tile.keys)
            one = {"ONE_T": T == 1 < problem.T, "ONE_S": S == 1 < problem.S}
            args = *read, *boxes, *known, at, *asked, problem.B, problem.H, B, H
            start(d_bias_of, (programs,), args, one | made_for | arguments.options(tile), key)


def _tile(plan: Plan, call: Call, kind: str, *sides: tuple[Any, ...]) -> tuple[Tile, tuple[Any, ...]]:
    """The tile of a pass, and the arrays it reads for the copy engine: those of keys, those of rows, a bias."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    tile = sizes.backward(problem, plan.machine, kind, True)
    widths = problem.D, problem.V
    both = zip((tile.keys, tile.rows), sides, strict=True)
    asked = [(x, rows, width) for rows, pair in both for x, width in zip(pair, widths, strict=False)]
    boxes = arguments.boxes(plan, *asked)
    if not boxes:
        return sizes.backward(problem, plan.machine, kind, False), (None,) * (len(asked) + 1)
    return tile, (*boxes, arguments.bias_box(call, tile) if sizes.bias_by_box(problem, kind) else None)


def _like(side: Any, call: Call) -> Tensor | None:
    """Room for the gradient of keys or values, which a cache has not; zeros where some token may belong to no sequence."""
    if isinstance(call.keys, Paged) or isinstance(side, Scaled):
        return None
    make = torch.empty_like if isinstance(call.keys, Dense) else torch.zeros_like
    return make(side, memory_format=torch.contiguous_format)


def _slopes(by_row: Tensor, call: Call, slopes: Tensor) -> Tensor:
    """What the rows `[B, T, H]` or `[N, H]` give, summed to the slopes' shape; by products, whose order is fixed."""
    if slopes.dim() == 1:
        return by_row.double().flatten(0, -2).sum(0).to(slopes.dtype)
    if not isinstance(call.q, Packed):
        return by_row.double().sum(1).to(slopes.dtype)
    token = torch.arange(len(by_row), device=by_row.device)
    begin, end = call.q.offsets[:-1, None], call.q.offsets[1:, None]
    return (((token >= begin) & (token < end)).double() @ by_row.double()).to(slopes.dtype)
