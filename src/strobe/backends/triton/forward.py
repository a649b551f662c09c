"""Forward attention: a tile of queries passes the keys it may see, with the running maximum and sum of the online softmax.

    rows of a tile   the T queries of the H / G heads that share a key head: row r is query r // group of head g · group + r % group
    passes           keys seen in part │ keys all rows see, unmasked │ keys seen in part
    splits           with few queries the keys are cut into parts, each a program with a state of its own; `merge.py` joins them

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; splits: Dao et al., 2023, Flash-Decoding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from strobe.backends.triton import arguments
from strobe.backends.triton.merge import join
from strobe.backends.triton.offer import stages, warps
from strobe.backends.triton.tiles import (
    LN_2, LOG2_E, added, at_row, capped, kept, keys_seen, product, queries_of, rows, scales, sequence, tame, values, visible, write,
)  # fmt: skip
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import State


@triton.jit
def attend(
    q, k, v, out, lse, layout, mask, terms, G, SPLITS: tl.constexpr,
    BY_ELEMENT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one key head of one sequence, over all its keys or one part of them."""
    tiles = tl.cdiv(layout.T * GROUP, BM)
    i_b = (tl.program_id(0) // tiles // G).to(tl.int64)
    i_g = tl.program_id(0) // tiles % G
    i_m = tiles - 1 - tl.program_id(0) % tiles  # under a causal mask the last rows take longest, so they start first
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
    b_q = queries_of(q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D)  # [BM, BD]
    b_t = o_t[:, None]
    b_h = o_h[:, None]
    b_row = m_row[:, None]
    t_low = i_m * BM // GROUP
    t_high = tl.minimum(queries - 1, (i_m * BM + BM - 1) // GROUP)
    low, high, full_low, full_high = keys_seen(first + t_low, first + t_high, first, length, prefix, mask, BY_ELEMENT, BN)
    if SPLITS > 1:  # equal parts of the tiles there are
        share = tl.cdiv(tl.cdiv(tl.maximum(high - low, 0), BN), SPLITS) * BN
        low += tl.program_id(1) * share
        high = tl.minimum(high, low + share)
        full_low = tl.minimum(tl.maximum(full_low, low), low + share)
        full_high = tl.maximum(full_low, tl.minimum(full_high, low + share))

    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, BV], tl.float32)
    some_wild = i_m < 0  # no, as a value of the device
    if terms.sink is not None:  # a state that has seen no value
        b_m = tl.load(terms.sink + o_h, mask=m_row & (tl.program_id(1) == 0), other=float("-inf")).to(tl.float32) * LOG2_E
        b_l = tl.where(b_m == float("-inf"), 0.0, 1.0)

    for part in tl.static_range(1 if BY_ELEMENT else 3):  # where arrays say what is seen, no tile is known to be seen whole
        if part == 0:
            start = low
            stop = tl.minimum(full_low, high)
        elif part == 1:
            start = full_low
            stop = full_high
        else:
            start = full_high
            stop = high
        for n in tl.range(start, stop, BN):
            o_n = n + tl.arange(0, BN)
            b_key = o_n[None, :]
            b_in = (o_n < length)[None, :]
            if part != 1:
                b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask)
            some = True
            if BY_ELEMENT:  # a tile that no row sees is neither loaded nor multiplied
                some = tl.max(tl.max(b_seen.to(tl.int32), 1), 0) > 0
            if some:
                b_k = rows(k, layout, i_b, i_g, k_first, o_n, length, D, BD, WIDE, part != 1, q.data.dtype.element_ty)
                b_s = product(b_q, tl.trans(b_k), tl.zeros([BM, BN], tl.float32), WIDEN)
                if k.scale is not None:
                    b_s *= scales(k, layout, i_b, i_g, k_first, o_n, length)[None, :]
                b_s = added(capped(b_s, terms), i_b, b_t, b_h, b_row, b_key, b_in, first, terms)
                if part != 1:
                    b_s = tl.where(b_seen, b_s, float("-inf"))
                b_top = tl.maximum(b_m, tl.max(b_s, 1))
                b_base = tl.where(b_top == float("-inf"), 0.0, b_top)  # −∞ − −∞ would be NaN
                b_p = tl.exp2(b_s - b_base[:, None])
                b_decay = tl.exp2(b_m - b_base)
                b_l = b_l * b_decay + tl.sum(b_p, 1)
                b_acc = b_acc * b_decay[:, None]
                b_m = b_top
                if terms.threshold is not None:
                    b_p = tl.where(kept(i_b, b_h, b_t, b_key, terms), b_p, 0.0)
                b_v = values(v, layout, i_b, i_g, k_first, o_n, length, V, BV, WIDE, part != 1, q.data.dtype.element_ty)
                if part == 1:
                    b_acc = product(b_p.to(b_v.dtype), b_v, b_acc, WIDEN)
                else:
                    b_acc = product(b_p.to(b_v.dtype), tame(b_v), b_acc, WIDEN)
                    b_wide = b_v.to(tl.float32)
                    some_wild = some_wild | (tl.max(tl.max((b_wide - b_wide != 0).to(tl.int32), 1), 0) > 0)

    if some_wild:  # NaN and infinity among values that only some of the rows see: those rows get them, one key after another
        for part in tl.static_range(2):
            for n in range(low if part == 0 else full_high, tl.minimum(full_low, high) if part == 0 else high):
                o_n = n + tl.arange(0, 1)
                b_seen = visible(i_b, b_t, b_h, b_row, o_n[None, :], (o_n < length)[None, :], first, prefix, mask)
                b_wide = values(v, layout, i_b, i_g, k_first, o_n, length, V, BV, WIDE, True, q.data.dtype.element_ty).to(tl.float32)
                b_acc += tl.where(b_seen & (b_wide - b_wide != 0), b_wide, 0.0)

    some_key = b_l != 0.0
    b_divisor = tl.where(some_key, b_l, 1.0)
    b_out = b_acc / b_divisor[:, None]
    if terms.threshold is not None:
        b_out *= terms.keep_scale
    b_lse = tl.where(some_key, (b_m + tl.log2(b_divisor)) * LN_2, float("-inf"))
    if SPLITS > 1:  # [splits, rows of the whole call, …], one part after another
        o_token += tl.program_id(1).to(tl.int64) * out.strides[3]
    write(out, i_b, o_token, o_h, m_row, tl.arange(0, BV), V, b_out)
    tl.store(at_row(lse, i_b, o_token, o_h), b_lse, mask=m_row)


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem, splits = plan.problem, plan.offer.splits
    assert isinstance(problem, Problem)
    tokens = arguments.tokens(call)
    out = tokens.new_empty((*tokens.shape[:-1], problem.V))
    lse = tokens.new_empty(tokens.shape[:-1], dtype=torch.float32)
    if not out.numel():
        return State(out, lse)
    if splits == 1:
        start(plan, problem, call, arguments.rows(out), arguments.numbers(lse), 1)
        return State(out, lse)
    parts = tokens.new_empty((splits, *out.shape), dtype=torch.float32)
    part_lse = tokens.new_empty((splits, *lse.shape), dtype=torch.float32)
    first, each = arguments.rows(parts[0]), tokens.shape[0] * tokens.shape[1] if tokens.dim() == 4 else tokens.shape[0]
    start(plan, problem, call, first._replace(strides=(*first.strides, each)), arguments.numbers(part_lse[0]), splits)
    join(parts, part_lse, out, lse)
    return State(out, lse)


def start(plan: Plan, problem: Problem, call: Call, out: arguments.Rows, lse: arguments.Rows, splits: int) -> None:
    """Starts the kernel."""
    k, v = key_sides(call.keys)
    BM, BN = plan.offer.tile
    programs = triton.cdiv(problem.T * problem.group, BM) * problem.G * problem.B
    with torch.cuda.device_of(arguments.tokens(call)):
        attend[(programs, splits)](
            arguments.rows(arguments.tokens(call)), arguments.side(k), arguments.side(v), out, lse,
            arguments.layout(problem, call), arguments.seen(call), arguments.terms(problem, call), problem.G,
            SPLITS=splits, BM=BM, BN=BN, **arguments.sizes(problem, call),
            num_warps=warps(problem, BM), num_stages=stages(plan.offer.tile, problem, plan.machine),
        )  # fmt: skip
