"""New keys, turned by their positions if asked, and values, made narrow if the pages are: one program a token and head.

A token without a place (beyond its table, or in a page that is not there) is not written, nor is one whose position `rotary` has no
row for: to refuse the call, the host would have to wait for the device. Those who keep lengths on the host check them there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.appending import Append, Rotary
from strobe.backends.triton import arguments
from strobe.backends.triton.sizes import padded
from strobe.backends.triton.starting import start
from strobe.layouts import Packed, Paged
from strobe.plan import Plan


class Angles(NamedTuple):
    """The tables of a rotation and their strides from position to position."""

    cos: Any = None
    sin: Any = None
    cos_stride: Any = 0
    sin_stride: Any = 0
    rows: Any = 0


TINY = tl.constexpr(1.1754943508222875e-38)  # the least normal float32: scales below it round too coarsely to divide by
EVEN = tl.constexpr(12582912.0)  # 1.5 · 2²³: adding and subtracting it rounds to whole numbers, halves to the even one


@triton.jit
def turned(p_row, o_d, at, rotary, W: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Numbers o_d of a row in float32, the first 2 · PAIRS of them turned by the angles of position `at`."""
    b_x = tl.load(p_row + o_d, mask=o_d < W, other=0.0).to(tl.float32)
    if PAIRS > 0:
        if INTERLEAVED:
            o_pair = o_d // 2
            first = o_d % 2 == 0
            o_other = tl.where(first, o_d + 1, o_d - 1)
        else:
            o_pair = o_d % PAIRS
            first = o_d < PAIRS
            o_other = tl.where(first, o_d + PAIRS, o_d - PAIRS)
        turns = o_d < 2 * PAIRS
        b_other = tl.load(p_row + o_other, mask=turns, other=0.0).to(tl.float32)
        b_cos = tl.load(rotary.cos + at * rotary.cos_stride + o_pair, mask=turns, other=1.0)
        b_sin = tl.load(rotary.sin + at * rotary.sin_stride + o_pair, mask=turns, other=0.0)
        b_turned = tl.where(first, b_x * b_cos - b_other * b_sin, b_x * b_cos + b_other * b_sin)
        b_x = tl.where(turns, b_turned, b_x)
    return b_x


@triton.jit
def put(page, p_row, i_page, i_token, i_g, at, rotary, W: tl.constexpr, BW: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr,
        GREATEST: tl.constexpr):  # fmt: skip
    """Writes a row of W numbers into its page; GREATEST is the largest narrow number, 0 where the pages are not narrow."""
    p_page = page.data + i_page * page.strides[0] + i_token * page.strides[1] + i_g * page.strides[2]
    kind: tl.constexpr = page.data.dtype.element_ty
    o_d = tl.arange(0, BW)
    b_x = turned(p_row, o_d, at, rotary, W, PAIRS, INTERLEAVED)
    if GREATEST == 0:
        tl.store(p_page + o_d, b_x.to(kind), mask=o_d < W)
    else:
        b_scale = tl.div_rn(tl.max(tl.abs(b_x), 0), GREATEST)
        b_scale = tl.where(b_scale < TINY, 0.0, b_scale)
        b_scale = tl.where(tl.max((b_x != b_x).to(tl.int32), 0) > 0, float("nan"), b_scale)
        o_scale = i_page * page.scale_strides[0] + i_token * page.scale_strides[1] + i_g * page.scale_strides[2]
        tl.store(page.scale + o_scale, b_scale)
        b_divisor = tl.where(b_scale == 0.0, 1.0, b_scale)
        finite = b_scale - b_scale == 0.0
        if kind == tl.uint8:  # pairs of int4
            o_i = tl.arange(0, BW // 2)
            b_even = turned(p_row, 2 * o_i, at, rotary, W, PAIRS, INTERLEAVED)
            b_odd = turned(p_row, 2 * o_i + 1, at, rotary, W, PAIRS, INTERLEAVED)
            b_low = whole(b_even, b_divisor, finite) & 15
            b_high = whole(b_odd, b_divisor, finite) & 15
            tl.store(p_page + o_i, (b_low | (b_high << 4)).to(tl.uint8), mask=2 * o_i < W)
        elif kind == tl.int8:
            tl.store(p_page + o_d, whole(b_x, b_divisor, finite).to(tl.int8), mask=o_d < W)
        else:
            tl.store(p_page + o_d, tl.div_rn(b_x, b_divisor + tl.zeros([BW], tl.float32)).to(kind), mask=o_d < W)


@triton.jit
def whole(b_x, b_divisor, finite):
    """x / divisor as the nearest whole number, halves to the even one; 0 where the divisor is not finite."""
    b_steps = tl.div_rn(b_x, b_divisor + b_x * 0.0)
    return tl.where(b_steps == b_steps, tl.where(finite, (b_steps + EVEN) - EVEN, 0.0), 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["columns", "G"])  # no compiling anew for another batch
def write_rows(
    k, v, keys, values, layout, rotary, positions, position_strides, columns, G, D: tl.constexpr, V: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr, GREATEST: tl.constexpr,
):  # fmt: skip
    """One new token of one head."""
    i_g = tl.program_id(0) % G
    i_t = tl.program_id(0) // G % layout.T
    i_b = (tl.program_id(0) // G // layout.T).to(tl.int64)
    first = i_b * 0
    count = layout.T
    if layout.offsets is not None:
        first = tl.load(layout.offsets + i_b).to(tl.int64)
        count = tl.load(layout.offsets + i_b + 1) - first.to(tl.int32)
    if i_t >= count:
        return
    place = tl.load(layout.lengths + i_b) - count + i_t
    if (place < 0) | (place >= columns * layout.page_tokens):
        return
    i_page = tl.load(layout.table + i_b * layout.table_stride + place // layout.page_tokens).to(tl.int64)
    if (i_page < 0) | (i_page >= layout.pages):
        return
    at = place.to(tl.int64)
    if positions is not None:
        at = tl.load(positions + i_b * position_strides[0] + (first + i_t) * position_strides[1]).to(tl.int64)
    if PAIRS > 0:
        if (at < 0) | (at >= rotary.rows):
            return
    p_k = k.data + i_b * k.strides[0] + (first + i_t) * k.strides[1] + i_g * k.strides[2]
    p_v = v.data + i_b * v.strides[0] + (first + i_t) * v.strides[1] + i_g * v.strides[2]
    i_token = place % layout.page_tokens
    put(keys, p_k, i_page, i_token, i_g, at, rotary, D, BD, PAIRS, INTERLEAVED, GREATEST)
    put(values, p_v, i_page, i_token, i_g, at, rotary, V, BV, 0, False, GREATEST)


GREATEST_OF = {torch.int8: 127.0, torch.uint8: 7.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def launch(plan: Plan, pages: Paged, k: Any, v: Tensor, rotary: Rotary | None = None) -> None:
    """Writes in place; nothing waits for the device."""
    problem = plan.problem
    assert isinstance(problem, Append)
    tokens = k.tokens if isinstance(k, Packed) else k
    if not tokens.numel():
        return
    keys, values = arguments.side(pages.keys), arguments.side(pages.values)
    layout = arguments.Layout(
        None, problem.T, 0, offsets=k.offsets if isinstance(k, Packed) else None, lengths=pages.lengths, table=pages.table,
        table_stride=pages.table.stride(0), page_tokens=problem.Z, pages=keys.data.shape[0],
    )  # fmt: skip
    angles, at, at_strides = Angles(), None, (0, 0)
    if rotary is not None:
        angles = Angles(rotary.cos, rotary.sin, rotary.cos.stride(0), rotary.sin.stride(0), rotary.cos.shape[0])
        at = rotary.positions
        at_strides = (0, 0) if at is None else (0, *at.stride())[-2:]
    with torch.cuda.device_of(tokens):
        args = (
            arguments.rows(tokens), arguments.rows(v), keys, values, layout, angles, at, at_strides, pages.table.shape[1], problem.G,
        )  # fmt: skip
        named = {
            "D": problem.D, "V": problem.V, "BD": padded(problem.D), "BV": padded(problem.V), "PAIRS": problem.rotated // 2,
            "INTERLEAVED": problem.interleaved, "GREATEST": GREATEST_OF.get(keys.data.dtype, 0.0),
            "num_warps": 1, "enable_fp_fusion": False,  # the same bits as everywhere
        }  # fmt: skip
        start(write_rows, (problem.B * problem.T * problem.G,), args, named, None)
