"""Forward attention: a tile of queries passes the keys it may see, with the running maximum and sum of the online softmax.

    rows of a tile   the T queries of the H / G heads that share a key head: row r is query r // group of head g · group + r % group
    passes           keys seen in part │ keys all rows see, unmasked │ keys seen in part
    parts            with few queries the keys are cut (`parts.py`), each part a program with a state of its own; `merge.py` joins them

Source: Dao, 2023, arXiv:2307.08691, algorithm 1; splits: Dao et al., 2023, Flash-Decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._dynamo.guards import _empty_strided_cuda as empty
from triton.runtime import driver

from strobe.backends.triton import arguments, sizes, splitting
from strobe.backends.triton.arguments import Rows, Side
from strobe.backends.triton.merge import join, rule
from strobe.backends.triton.parts import EVEN, FIXED, RAGGED, WHOLE, cut, part_of, within
from strobe.backends.triton.sizes import Tile
from strobe.backends.triton.tiles import (
    LN_2, LOG2_E, added, at_row, bias_tile, capped, finite, kept, keys_seen, listed, product, queries_of, rows, scales, scored, sequence,
    tame, tile_of, values, visible, write,
)  # fmt: skip
from strobe.backends.triton.starting import again, alike, compiled
from strobe.backends.triton.starting import start as begin_kernel
from strobe.layouts import Dense as Keys
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import State


@triton.jit
def begin(sink, o_h, m_first, BM: tl.constexpr, BV: tl.constexpr):
    """(greatest score, sum of weights, weighted sum) of rows that have seen no value; a sink is a weight without one, in a row's first
    part."""
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    if sink is not None:
        b_m = tl.load(sink + o_h, mask=m_first, other=float("-inf")).to(tl.float32) * LOG2_E
        b_l = tl.where(b_m == float("-inf"), 0.0, 1.0)
    return b_m, b_l, tl.zeros([BM, BV], tl.float32)


@triton.jit
def step(
    b_m, b_l, b_acc, wild, b_q, b_tail, n, whole, partly, q, k, v, k_box, v_box, bias_box, t_low, layout, mask, terms, i_b, i_g, b_t, b_h,
    b_row, k_first, length, first, prefix, MASKED: tl.constexpr, ONE: tl.constexpr, CAREFUL: tl.constexpr, LISTED: tl.constexpr,
    BY_ELEMENT: tl.constexpr, D: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, ALIKE: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """What `begin` began, with the tile of keys at n. Rows may see a part of it; in ONE loop, if it is so. Careful, a tile that is not
    whole has zeros for values that are NaN or infinity, and `wild` tells that there were some."""
    dtype: tl.constexpr = q.data.dtype.element_ty
    o_n = n + tl.arange(0, BN)
    b_key = o_n[None, :]
    b_in = (o_n < length)[None, :]
    some = True
    if BY_ELEMENT:  # a tile that no row sees is neither loaded nor multiplied
        b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
        some = tl.max(tl.max(b_seen.to(tl.int32), 1), 0) > 0
    if some:
        b_k = rows(k, layout, i_b, i_g, k_first, n, length, BN, BD if BT else D, BD, WIDE, MASKED, dtype, k_box)
        b_s = scored(b_q, b_k, WIDEN)
        if BT:
            b_s += scored(b_tail, rows(k, layout, i_b, i_g, k_first, n, length, BN, D, BT, WIDE, MASKED, dtype, None, BD), WIDEN)
        if k.scale is not None:
            b_s *= scales(k, layout, i_b, i_g, k_first, o_n, length)[None, :]
        if terms.plain is None:
            b_bias = None
            if bias_box is not None:
                b_bias = bias_tile(bias_box, terms, i_b, i_g, t_low, n, BM, BN)
            b_s, _ = capped(b_s, terms)
            b_s = added(b_s, b_bias, i_b, b_t, b_h, b_row, b_key, b_in, first, terms)
        if BY_ELEMENT:
            b_s = tl.where(b_seen, b_s, float("-inf"))
        elif MASKED and not ONE:  # not earlier, since it would wait in registers
            b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
            b_s = tl.where(b_seen, b_s, float("-inf"))
        elif MASKED:
            if partly:
                b_seen = visible(i_b, b_t, b_h, b_row, b_key, b_in, first, prefix, mask, LISTED)
                b_s = tl.where(b_seen, b_s, float("-inf"))
        b_top = tl.max(b_s, 1)
        if terms.plain is not None:
            b_top *= terms.scale
        b_top = tl.maximum(b_m, b_top)
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)  # −∞ − −∞ would be NaN
        if terms.plain is not None:  # one instruction a score
            b_p = tl.exp2(b_s * terms.scale - b_base[:, None])
        else:
            b_p = tl.exp2(b_s - b_base[:, None])
        b_decay = tl.exp2(b_m - b_base)
        b_l = b_l * b_decay + tl.sum(b_p, 1)
        b_acc = b_acc * b_decay[:, None]
        b_m = b_top
        if terms.threshold is not None:
            b_p = tl.where(kept(i_b, b_h, b_t, b_key, terms), b_p, 0.0)
        if ALIKE:
            b_v = b_k
        else:
            b_v = values(v, layout, i_b, i_g, k_first, n, length, BN, V, BV, WIDE, MASKED, dtype, v_box)
        if CAREFUL:
            b_wide = b_v.to(tl.float32)
            wild = wild | (whole == 0) & (tl.max(tl.max((finite(b_wide) == 0).to(tl.int32), 1), 0) > 0)
            b_v = tl.where(whole, b_v, tame(b_v))
        if (dtype == tl.float32) and (BM <= 32):  # the sum of a tile's keys apart, and the sign, as in `in_parts`
            b_acc -= product(-b_p, b_v, tl.zeros([BM, BV], tl.float32), WIDEN)
        else:
            b_acc = product(b_p.to(b_v.dtype), b_v, b_acc, WIDEN)
    return b_m, b_l, b_acc, wild


@triton.jit(do_not_specialize=["G", "pairs", "section", "splits", "reach"])  # no compiling anew for another batch
def attend(
    q, k, v, k_box, v_box, bias_box, out, lse, sums, layout, mask, lists, terms, G, pairs, section, splits, reach,
    SPLIT: tl.constexpr, BATCH: tl.constexpr, UNSEEN: tl.constexpr, BY_ELEMENT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr,
    V: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, ALIKE: tl.constexpr,
    WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one key head of one sequence, over all its keys or one part of them. Widths above 512 are a tile of 512 and a
    tail of BT; values that are ALIKE, the first numbers of the keys, are not read again."""
    slot = tl.program_id(1)
    part, parts, each = slot, splits, splits
    if SPLIT == RAGGED:
        i_m, i_g = tl.program_id(0) // G, tl.program_id(0) % G
        i_own, part, parts, each = part_of(slot, layout, pairs // G, splits, reach, BATCH, BN)
        idle = i_own * G >= pairs
        i_b = tl.minimum(i_own, pairs // G - 1).to(tl.int64)
    else:
        i_m, i_pair = tile_of(tl.program_id(0), tl.cdiv(layout.T * GROUP, BM), pairs, section)
        i_b = (i_pair // G).to(tl.int64)
        i_g = i_pair % G
        idle = i_m < 0
    q_first, queries, k_first, length, first = sequence(i_b, layout)
    prefix = mask.prefix
    if mask.prefixes is not None:
        prefix = tl.load(mask.prefixes + i_b)
    if SPLIT == FIXED:
        idle = cut(part) >= tl.maximum(length, 1)
    if idle | (i_m * BM >= queries * GROUP):
        return

    o_row = i_m * BM + tl.arange(0, BM)
    o_t = o_row // GROUP
    o_h = i_g * GROUP + o_row % GROUP
    m_row = o_t < queries
    o_token = q_first + o_t
    b_q = queries_of(q, i_b, o_token, o_h, m_row, tl.arange(0, BD), D)  # [BM, BD]
    b_tail = None
    if BT:
        b_tail = queries_of(q, i_b, o_token, o_h, m_row, BD + tl.arange(0, BT), D)
    b_t = o_t[:, None]
    b_h = o_h[:, None]
    b_row = m_row[:, None]
    t_low = i_m * BM // GROUP
    t_high = tl.minimum(queries - 1, (i_m * BM + BM - 1) // GROUP)
    LISTED: tl.constexpr = lists.blocks is not None
    # one loop, since the copy engine would stand still between two; but what more is done to a score would wait for the branch in it
    ONE: tl.constexpr = ((k_box is not None) and (not BY_ELEMENT)) and (terms.plain is not None)
    low, high, full_low, full_high = keys_seen(first + t_low, first + t_high, first, length, prefix, mask, BY_ELEMENT, BN)
    if SPLIT != WHOLE:
        if SPLIT == EVEN:
            each = tl.cdiv(tl.cdiv(tl.maximum(high - low, 0), BN), splits)
        low, high, full_low, full_high = within(part, parts, each, low, high, full_low, full_high, SPLIT, BN)

    b_m, b_l, b_acc = begin(terms.sink, o_h, m_row & (part == 0), BM, BV)
    wild = i_m < 0  # no, as a value of the device
    if LISTED:
        p_list, count = listed(lists, i_b, i_g * GROUP, i_m * BM // GROUP // mask.block_rows)
        each = mask.block_columns // BN
        low_of, high_of = 0, count * each * BN  # places in the list, as if they were keys
    elif ONE:
        low_of, high_of = low, high
    else:
        low_of, high_of = low, tl.minimum(full_low, high)
    # where arrays say what is seen, no tile is known to be seen whole
    for part in tl.static_range(1 if (BY_ELEMENT or LISTED) or ONE else 3):
        if part == 0:
            start = low_of
            stop = high_of
        elif part == 1:
            start = full_low
            stop = full_high
        else:
            start = full_high
            stop = high
        # only a window leaves keys seen in part before those seen whole; what an empty loop would set up costs more than to ask
        if ((part != 0) or (BY_ELEMENT or ONE)) or (LISTED or (mask.before is not None)):
            if start < stop:
                for at in tl.range(start, stop, BN):
                    n = at
                    if LISTED:
                        n = tl.load(p_list + at // BN // each) * mask.block_columns + at // BN % each * BN
                    partly = (n < full_low) | (n >= full_high)
                    b_m, b_l, b_acc, wild = step(
                        b_m, b_l, b_acc, wild, b_q, b_tail, n, n < 0, partly, q, k, v, k_box, v_box, bias_box, t_low, layout, mask, terms,
                        i_b, i_g, b_t, b_h, b_row, k_first, length, first, prefix, part != 1, ONE or LISTED,
                        (UNSEEN and (part != 1)) and (k_box is None), LISTED, BY_ELEMENT, D, V, BD, BT, BV, BM, BN, ALIKE, WIDE, WIDEN,
                    )  # fmt: skip
    if LISTED:  # what is not listed is looked at from here on too, and no tile is known to be seen whole
        full_low, full_high = low, low
    if UNSEEN and (k_box is not None):  # values that go from the copy engine to the products are looked at afterwards
        if tl.max(tl.max((finite(b_acc) == 0).to(tl.int32), 1), 0) > 0:
            b_m, b_l, b_acc = begin(terms.sink, o_h, m_row & (part == 0), BM, BV)
            for n in tl.range(low, high, BN, num_stages=1, disable_licm=True):  # registers are for the loops above
                whole = (n >= full_low) & (n < full_high)
                b_m, b_l, b_acc, wild = step(
                    b_m, b_l, b_acc, wild, b_q, b_tail, n, whole, n >= 0, q, k, v, k_box, v_box, bias_box, t_low, layout, mask, terms, i_b,
                    i_g, b_t, b_h, b_row, k_first, length, first, prefix, True, False, True, False, BY_ELEMENT, D, V, BD, BT, BV, BM, BN,
                    ALIKE, WIDE, WIDEN,
                )  # fmt: skip
    if UNSEEN:
        if wild:  # NaN or infinity among values that only some of the rows see: those rows get them, one key after another
            before = tl.maximum(tl.minimum(full_low, high) - low, 0)
            for i in tl.range(0, before + high - full_high, num_stages=1):
                n = tl.where(i < before, low + i, full_high + i - before)
                o_n = n + tl.arange(0, 1)
                b_seen = visible(i_b, b_t, b_h, b_row, o_n[None, :], (o_n < length)[None, :], first, prefix, mask, False)
                b_wide = values(v, layout, i_b, i_g, k_first, n, length, 1, V, BV, WIDE, True, q.data.dtype.element_ty, None).to(tl.float32)
                b_acc += tl.where(b_seen & (finite(b_wide) == 0), b_wide, 0.0)

    some_key = b_l != 0.0
    b_divisor = tl.where(some_key, b_l, 1.0)
    b_out = b_acc / b_divisor[:, None]
    if terms.threshold is not None:
        b_out *= terms.keep_scale
    if SPLIT != WHOLE:  # [slots, T, H, …]
        if SPLIT != RAGGED:
            slot += i_b.to(tl.int32) * splits
        i_b = slot.to(tl.int64)
        o_token = o_t.to(tl.int64)
        b_lse = tl.where(some_key, b_m, float("-inf"))
        tl.store(at_row(sums, i_b, o_token, o_h), b_l, mask=m_row)
    else:
        b_lse = tl.where(some_key, (b_m + tl.log2(b_divisor)) * LN_2, float("-inf"))
    write(out, i_b, o_token, o_h, m_row, tl.arange(0, BV), V, b_out)
    tl.store(at_row(lse, i_b, o_token, o_h), b_lse, mask=m_row)


def launch(plan: Plan, call: Call) -> State:
    """The state; nothing waits for the device."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    how = splitting.chosen(problem, plan.machine)
    tokens = arguments.tokens(call)
    out = tokens.new_empty((*tokens.shape[:-1], problem.V))
    lse = tokens.new_empty(tokens.shape[:-1], dtype=torch.float32)
    if not out.numel():
        return State(out, lse)
    if how.kind == "whole":
        start(plan, problem, call, arguments.rows(out), arguments.numbers(lse), None, how)
        return State(out, lse)
    slots = how.slots(problem.B)
    parts = tokens.new_empty((slots, problem.T, problem.H, problem.V), dtype=torch.float32)
    tops, sums = tokens.new_empty((2, slots, problem.T, problem.H), dtype=torch.float32)
    tile = start(plan, problem, call, arguments.rows(parts), arguments.numbers(tops), arguments.numbers(sums), how)
    like = alike(plan, call)
    join(State(out, lse), (parts, tops, sums), arguments.layout(plan, call), problem, how, tile.keys, like)
    return State(out, lse)


def start(plan: Plan, problem: Problem, call: Call, out: Rows, lse: Rows, sums: Any, how: splitting.Split) -> Tile:
    """Starts the kernel; of parts, their greatest scores come where the lse would, and the sums of weights. The tile it has."""
    k, v = key_sides(call.keys)
    known = arguments.fixed(plan)
    tile, pairs = sizes.forward(problem, plan.machine, True), problem.B * problem.G
    boxes = arguments.boxes(plan, (k, tile.keys, problem.D), (v, tile.keys, problem.V))
    if not boxes:
        tile = sizes.forward(problem, plan.machine, False)
    one = arguments.one_array(problem, k, v)
    if one:
        tile = sizes.of_one_array(tile, problem, plan.machine)
    bias = arguments.bias_box(call, tile) if boxes and sizes.bias_by_box(problem, "forward") else None
    of_rows = sizes.tiles(problem.T * problem.group, tile.rows)
    grid = (of_rows * problem.G, how.slots(problem.B)) if how.kind == "ragged" else (of_rows * pairs, how.parts)
    with torch.cuda.device_of(arguments.tokens(call)):
        args = (
            arguments.rows(arguments.tokens(call)), arguments.side(k), arguments.side(v), *(boxes or (None, None)), bias, out, lse, sums,
            arguments.layout(plan, call), arguments.seen(plan, call), arguments.lists(plan, call, False), arguments.terms(plan, call),
            problem.G, pairs, known.section, how.parts, splitting.reach(problem),
        )  # fmt: skip
        named = {
            **rule(how, problem.B), "UNSEEN": known.unseen, **arguments.sizes(plan, call), "BT": sizes.tail(problem.D), "ALIKE": one,
            **arguments.options(tile),
        }  # fmt: skip
        begin_kernel(attend, grid, args, named, alike(plan, call))
    return tile


class Begun(NamedTuple):
    """A start, to be made again."""

    made: Any  # machine code
    grid: tuple[int, int, int]
    q: tuple[int, ...]  # strides
    k: tuple[int, ...]
    v: tuple[int, ...]
    boxes: list[dict[str, Any]]  # keys and values, as the copy engine was told of them; none where it was not
    rest: tuple[Any, ...]  # arguments behind the arrays


NO_SCALES = Side(None, None)[2:]


def kept_run(plan: Plan) -> Callable[[Tensor, Tensor, Tensor], State | None] | None:
    """`launch` for plain arrays, in a fraction of the time: of arrays that lie as some did before, only the addresses are new. None for
    plans of anything else; the function is None where arrays begin beside a multiple of 16 bytes, and where a mode of torch's sees all
    that torch does, as `empty` is not seen: it is what torch's own compiled code allocates by, on the current device, in a third of
    the time that `new_empty` takes."""
    problem, known = plan.problem, arguments.fixed(plan)
    assert isinstance(problem, Problem)
    B, T, H = problem.B, problem.T, problem.H
    if splitting.chosen(problem, plan.machine).kind != "whole":
        return None
    if known.seen is None or known.terms is None or known.layout is None or problem.scaled or not B * T * H:
        return None
    shape, rows, dtype = (B, T, H, problem.V), (B, T, H), getattr(torch, problem.dtype)
    steps, row_steps = (T * H * problem.V, H * problem.V, problem.V), (T * H, H, 1)
    all_steps = (*steps, 1)
    begun: dict[Any, Begun] = {}

    def run(q: Tensor, k: Tensor, v: Tensor) -> State | None:
        at_q, at_k, at_v = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if (at_q | at_k | at_v) % 16 or _len_torch_dispatch_stack():
            return None
        device = q.get_device()
        lies = device, q.stride(), k.stride(), v.stride(), at_k == at_v
        found = begun.get(lies)
        if found is None:
            call = problem.call._replace(q=q, keys=Keys(k, v))
            state = launch(plan, call)
            made = compiled(attend, 2, alike(plan, call))
            if made is not None:
                begun[lies] = _begun(plan, call, *made)
            return state
        if device != driver.active.get_current_device():
            with torch.cuda.device(device):
                return run(q, k, v)
        made, grid, of_q, of_k, of_v, boxes, rest = found
        out, lse = empty(shape, all_steps, dtype), empty(rows, row_steps, torch.float32)
        box_k = box_v = None
        if boxes:
            box_k, box_v = arguments.placed(k, boxes[0]), arguments.placed(v, boxes[1])
        again(made, grid, device, (
            (at_q, of_q), (at_k, of_k, *NO_SCALES), (at_v, of_v, *NO_SCALES), box_k, box_v, None,
            (out.data_ptr(), steps), (lse.data_ptr(), row_steps), None, *rest,
        ))  # fmt: skip
        return State(out, lse)

    return run


def _begun(plan: Plan, call: Call, made: Any, constants: tuple[Any, ...]) -> Begun:
    """How a call of plain arrays was started."""
    problem, known = plan.problem, arguments.fixed(plan)
    assert isinstance(problem, Problem)
    k, v = key_sides(call.keys)
    tile = sizes.forward(problem, plan.machine, True)
    boxes = arguments.boxes(plan, (k, tile.keys, problem.D), (v, tile.keys, problem.V))
    if not boxes:
        tile = sizes.forward(problem, plan.machine, False)
    if arguments.one_array(problem, k, v):
        tile = sizes.of_one_array(tile, problem, plan.machine)
    pairs = problem.B * problem.G
    tail = known.layout, known.seen, arguments.Lists(), known.terms, problem.G, pairs, known.section, 1, splitting.reach(problem)
    like = [{name: value for name, value in vars(box).items() if name != "base"} for box in boxes]
    strides = [x.stride()[:3] for x in (call.q, k, v)]
    programs = sizes.tiles(problem.T * problem.group, tile.rows) * pairs
    return Begun(made, (programs, 1, 1), strides[0], strides[1], strides[2], like, tail + constants)
