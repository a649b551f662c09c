"""Values in float8 turned for products, which read such numbers along the keys: a block `[keys, width]` becomes `[width, keys]`.

    of 16 keys, in the order in which a product's four threads have their weights:   0 1 8 9  2 3 10 11  4 5 12 13  6 7 14 15

Scores leave a product as two keys of eight to a thread, and weights enter the next one as four keys in a row to a thread; with the
values in this order nothing is exchanged between them. It is one pass over the values, small beside attention: of S keys it moves 2 S · V
bytes, where products are 4 T · S · V.
Source: Shah et al., 2024, arXiv:2407.08608, section 3.3, which turns blocks within the kernel.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from strobe.problem import Call, key_sides


@triton.jit(do_not_specialize=["S", "G", "blocks"])
def turn(p_v, p_out, S, G, blocks, s_b, s_t, s_h, V: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr):
    """A block of a key head, of numbers as bytes; zeros behind the last key and the last column."""
    i_n, i = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    i_g, i_b = i % G, i // G
    o_n = tl.arange(0, BN)
    inside = o_n % 16
    o_key = i_n * BN + o_n // 16 * 16 + inside // 4 * 2 + inside // 2 % 2 * 8 + inside % 2
    o_v = tl.arange(0, BV)
    p_rows = p_v + i_b.to(tl.int64) * s_b + i_g * s_h + o_key.to(tl.int64)[:, None] * s_t
    b_v = tl.load(p_rows + o_v[None, :], mask=(o_key < S)[:, None] & (o_v < V)[None, :], other=0)
    o_out = tl.program_id(0).to(tl.int64) * BV * BN + o_v[:, None] * BN + o_n[None, :]
    tl.store(p_out + o_out, tl.trans(b_v))


def scales_of(call: Call) -> tuple[Any, ...]:
    """Of queries, keys and values: the scales, and their steps of sequence, token and head; one of a whole sequence is all its tokens'."""
    found = []
    for scale in (call.q.scale, *(side.scale for side in key_sides(call.keys))):
        b, t, h = scale.stride()
        found.append((scale, (b, 0 if scale.shape[1] == 1 else t, h)))
    return tuple(found)
