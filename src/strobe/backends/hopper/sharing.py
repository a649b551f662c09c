"""The last tiles of rows, where they are too few for one more round of all programs, are shared by these, by blocks of keys.

    tiles 0 … 5 of three programs       0 │ 1 │ 2         and tiles 6, 7 in three shares     6 6 6 6 │
                                        3 │ 4 │ 5                                            6 6 · 7 │ 7 of which tile 6 has
                                                                                             7 7 7 7 │   two parts, and so has tile 7

A program leaves of each tile in its share the greatest scores, the sums of weights and the weighted sums (`finishing.leave`), and what is
here joins them. Source: Osama et al., 2023, Stream-K, arXiv:2301.03598.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.hopper.forms import Form, last_tiles
from strobe.backends.hopper.merge import end
from strobe.backends.hopper.parts import parts_of, stream_slot
from strobe.backends.hopper.starting import start
from strobe.problem import Problem

EACH = 16  # rows of a program


@triton.jit(do_not_specialize=["T", "H", "units_of", "tiles", "whole", "last", "blocks", "programs"])
def merge_shares(
    p_work, p_out, p_lse, p_sinks, T, H, units_of, tiles, whole, last, blocks, programs,
    TOKENS: tl.constexpr, PACK: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, ROWS: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Some rows of one of the last tiles."""
    i_last = tl.program_id(0) // (ROWS // EACH)
    o_i = tl.program_id(0) % (ROWS // EACH) * EACH + tl.arange(0, EACH)
    first, parts = parts_of(i_last * blocks, blocks, last * blocks, programs)
    slot = stream_slot(0, first, i_last, programs, last)
    unit = (whole + i_last) // tiles
    tile = tiles - 1 - (whole + i_last) % tiles
    o_t = tile * TOKENS + o_i // PACK
    o_h = unit % units_of * PACK + o_i % PACK
    o_c = tl.arange(0, BV)
    places = (programs + last) * ROWS
    p_tops = p_work + places.to(tl.int64) * BV
    b_top = tl.full([EACH], float("-inf"), tl.float32)
    b_sum = tl.zeros([EACH], tl.float32)
    b_acc = tl.zeros([EACH, BV], tl.float32)
    gdc_wait()
    gdc_launch_dependents()
    for i in range(parts):
        o_place = (slot + i) * ROWS + o_i
        b_tops = tl.load(p_tops + o_place)
        b_sums = tl.load(p_tops + places + o_place)
        b_part = tl.load(p_work + o_place.to(tl.int64)[:, None] * BV + o_c[None, :])
        b_new = tl.maximum(b_top, b_tops)
        b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_decay = tl.exp2(b_top - b_base)
        b_weight = tl.exp2(b_tops - b_base)
        b_sum = b_sum * b_decay + b_sums * b_weight
        b_acc = b_acc * b_decay[:, None] + b_part * b_weight[:, None]
        b_top = b_new
    end(b_top, b_sum, b_acc, p_out, p_lse, p_sinks, unit // units_of, T, H, o_t, o_h, o_c, o_t < T, o_t >= 0, 1, V)


def join_shares(problem: Problem, arrays: tuple[Any, ...], units_of: int, programs: int, form: Form, key: Any) -> None:
    """Merges the parts of the last tiles.

    Args:
        problem: whose rows they are.
        arrays: the parts, results and lse, and sinks.
        units_of: pairs of a sequence and the heads of a tile, of one sequence.
        programs: that share the tiles.
        form: of the kernel that made the parts.
        key: what decides how the arrays are compiled.
    """
    tiles, last = -(-problem.T // form.all_tokens), last_tiles(problem, form, programs)
    whole, blocks = tiles * units_of * problem.B - last, -(-problem.S // form.tile.keys)
    named = {
        "TOKENS": form.all_tokens, "PACK": form.pack, "V": problem.V, "BV": form.value_width, "ROWS": form.rows, "EACH": EACH,
        "num_warps": 4, "launch_pdl": True,
    }  # fmt: skip
    numbers = problem.T, problem.H, units_of, tiles, whole, last, blocks, programs
    start(merge_shares, last * form.rows // EACH, (*arrays, *numbers), named, key)
