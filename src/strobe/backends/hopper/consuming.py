"""A warpgroup's half of the forward pass: blocks of keys pass by its 64 rows, the last one first.

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; Shah et al., 2024, arXiv:2407.08608, sections 3.1 and 3.2.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma, warpgroup_mma_wait

from strobe.backends.hopper.block import (
    LOWERED, capped, counted, masked, nothing, of_a_row, own_sum, packed, scaled, score, scores_lie, values_lie, weigh, weighted, wild,
)  # fmt: skip
from strobe.backends.hopper.channel import Consumer
from strobe.backends.hopper.finishing import finish
from strobe.backends.hopper.jobs import BATCH, HEAD, HIGH, K_BATCH, K_HEAD, LOW, MORE, ONLINE, QUERIES, TOKEN
from strobe.backends.hopper.seeing import nodes, own, seen

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
def skip(keys, values, step, blocks):
    """Lets blocks go that only another warpgroup reads."""
    for _ in range(blocks):
        keys.skip(step)
        values.skip(step)
        step += 1
    return step


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
