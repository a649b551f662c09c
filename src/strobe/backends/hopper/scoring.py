"""From products of queries and keys to scores in base 2, and which of them count."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

LOG2_E = gl.constexpr(1.4426950408889634)  # 1 / ln 2


@gluon.jit
def span_of_all(length, at, i_m, T, before, after, TREE: gl.constexpr, GROUP: gl.constexpr, BM: gl.constexpr):
    """(low, high): all rows i_m · BM … see the keys low … high − 1."""
    low = length * 0
    high = length
    if before is not None:
        low = at + gl.minimum(T - 1, (i_m * BM + BM - 1) // GROUP) - before
    if after is not None:
        high = gl.minimum(high, at + i_m * BM // GROUP + after + 1)
    if TREE:
        high = gl.minimum(high, at)
    return low, high


@gluon.jit
def visible(b_t, key, i_b, length, at, T, before, after, p_tree, st_b, st_t, st_j):
    """Which of the keys the queries b_t see; query t stands at `at` + t."""
    b_seen = (key < length) & (b_t < T)
    if before is not None:
        b_seen = b_seen & (key >= at + b_t - before)
    if after is not None:
        b_seen = b_seen & (key <= at + b_t + after)
    if p_tree is not None:
        node = key - at
        inside = b_seen & (node >= 0) & (node < T)
        b_node = gl.load(p_tree + i_b.to(gl.int64) * st_b + (b_t * st_t + node * st_j), mask=inside, other=0)
        b_seen = b_seen & ((node < 0) | (inside & (b_node != 0)))
    return b_seen


@gluon.jit
def tanh(x, FAST: gl.constexpr):
    """tanh; fast in one instruction, right to 2⁻¹¹ of itself, less than what bfloat16 rounds (PTX manual, tanh.approx); else a series
    near 0, where exp would cancel."""
    if FAST:
        y = gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)
    else:
        x2 = x * x
        near = x * (1.0 + x2 * (-1.0 / 3 + x2 * (2.0 / 15 + x2 * (-17.0 / 315 + x2 * (62.0 / 2835)))))
        far = 1.0 - 2.0 / (1.0 + gl.exp2(2.0 * LOG2_E * gl.minimum(gl.abs(x), 20.0)))
        y = gl.where(gl.abs(x) < 0.25, near, gl.where(x < 0, -far, far))
    return y


@gluon.jit
def scored(b_s, key, b_t, b_h, i_b, at, scale, limit, p_slopes, s_slopes, H, FAST: gl.constexpr):
    """Scores in base 2 of products [BM, BN]: scale has 1 / ln 2 in it, or 1 / limit where there is a cap, whose limit then has it."""
    b_s *= scale
    if limit is not None:
        b_s = limit * tanh(b_s, FAST)
    if p_slopes is not None:
        b_slope = gl.load(p_slopes + i_b * s_slopes + gl.minimum(b_h, H - 1)).to(gl.float32) * LOG2_E
        b_s -= b_slope * gl.abs(at + b_t - key).to(gl.float32)
    return b_s
