"""A block of keys and the 64 rows of a warpgroup: scores, which of them count, weights, and weighted values.

Numbers are wide, of 16 bits, or narrow, float8 e4m3 with scales. Source: Dao, 2023, arXiv:2307.08691, algorithm 1; for narrow numbers
Shah et al., 2024, arXiv:2407.08608, section 3.3.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma

from strobe.backends.hopper.scoring import tanh

LN_2 = gl.constexpr(0.6931471805599453)
RAISED = gl.constexpr(8.0)  # float8 weights are 2⁸ times as large: up to 256 of the 448 that there are, and those above 2⁻¹⁸ are not 0 yet
LOWERED = gl.constexpr(2.0**-8)
MOST = gl.constexpr(2.0**100)  # of a thread's weights by a base that stays, within float32's range
# Four float8 numbers of float32 ones, in one register. Numbers of a loop that are a byte each get a register each, and are taken out of it
# and put into another for every product: 183 of 633 instructions.
FOUR = gl.constexpr("{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, $2, $1; cvt.rn.satfinite.e4m3x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }")

UP_TO = gl.constexpr("{ .reg .pred p; setp.le.s32 p, $2, $3; selp.f32 $0, $1, 0fFF800000, p; }")


@gluon.constexpr_function
def products(width, depth=16):
    """How the numbers of a product `[64, width]` lie in the registers of a warpgroup, whose instructions take `depth` numbers of a row."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, width, depth])


@gluon.constexpr_function
def scores_lie(form):
    """The layout of scores `[64, keys]`."""
    return products(form.tile.keys, form.depth)


@gluon.constexpr_function
def values_lie(form):
    """The layout of weighted sums `[64, width of values]`."""
    return products(form.value_width, form.depth)


@gluon.constexpr_function
def weights(width, depth=16):
    """The layout of weights as the left side of a product of this width."""
    return gl.DotOperandLayout(operand_index=0, parent=products(width, depth), k_width=depth // 8)


@gluon.constexpr_function
def weights_lie(form):
    """The layout of weights as the left side of a product with values."""
    return weights(form.value_width, form.depth)


@gluon.jit
def across(x, NARROW: gl.constexpr):
    """A number of each row for all of its keys; of wide numbers it is one for all rows."""
    if NARROW:
        x = x[:, None]
    return x


@gluon.jit
def capped(b_s, inner, form: gl.constexpr):
    """Scores in units that `scale` makes base 2 of; with a soft cap tanh(score / limit)."""
    if form.cap != "no":
        b_s = tanh(b_s * across(inner, form.narrow), form.cap == "fast")
    return b_s


@gluon.constexpr_function
def four_lie(keys):
    """The layout of scores as `[64, keys / 8, 4, 2]`: of eight keys in a row, two are of each of four threads."""
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 0, 0, 1], [8, 0, 0, 0], *([0, 1 << i, 0, 0] for i in range((keys // 8).bit_length() - 1))],
        lane_bases=[[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        warp_bases=[[16, 0, 0, 0], [32, 0, 0, 0]], block_bases=[], shape=[64, keys // 8, 4, 2],
    )  # fmt: skip


@gluon.jit
def up_to(b_s, b_last, form: gl.constexpr):
    """−∞ for keys of a block behind each row's last one. A comparison and a choice a score, written out: of tensors of comparisons the
    compiler makes bits of a number, which takes twice as many instructions again. What of a key's place is its thread's is moved to the
    other side, so that keys are constants."""
    KEYS: gl.constexpr = form.tile.keys
    PARTS: gl.constexpr = four_lie(KEYS)
    b_four = gl.convert_layout(b_s.reshape([64, KEYS // 8, 4, 2]), PARTS, assert_trivial=True)
    o_eight = gl.arange(0, KEYS // 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, PARTS)))) * 8
    o_two = gl.arange(0, 2, layout=gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, PARTS))))
    o_four = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, PARTS)))) * 2
    b_row = gl.convert_layout(b_last, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, PARTS))), assert_trivial=True)
    o_key = o_eight[None, :, None, None] + o_two[None, None, None, :]
    b_end = b_row[:, None, None, None] - o_four[None, None, :, None]
    b_four = gl.inline_asm_elementwise(UP_TO, "=f,f,r,r", [b_four, o_key, b_end], dtype=gl.float32, is_pure=True, pack=1)
    return gl.convert_layout(b_four.reshape([64, KEYS]), scores_lie(form), assert_trivial=True)


@gluon.jit
def masked(b_s, block, b_first, b_last, tree, form: gl.constexpr):
    """−∞ for keys that a row does not see: of keys b_first … b_last those of the block, of a tree's nodes those with a bit, of documents
    the row's own."""
    layout: gl.constexpr = scores_lie(form)
    if not (form.before or form.tree or form.documents or form.divided):
        return up_to(b_s, b_last - block * form.tile.keys, form)
    o_n = block * form.tile.keys + gl.arange(0, form.tile.keys, layout=gl.SliceLayout(0, layout))
    b_seen = o_n[None, :] <= b_last[:, None]
    if form.before:
        b_seen = b_seen & (o_n[None, :] >= b_first[:, None])
    if form.tree:
        o_node = o_n - tree[0]
        m_node = b_seen & (o_node >= 0)[None, :]
        b_seen = b_seen & (gl.load(tree[1] + (tree[2][:, None] + o_node[None, :]), mask=m_node, other=1) != 0)
    if form.documents:
        b_its = gl.load(tree[0] + gl.minimum(o_n, tree[1] - 1))
        b_seen = b_seen & (b_its[None, :] == tree[2][:, None])
    return gl.where(b_seen, b_s, float("-inf"))


@gluon.jit
def score(b_q, keys, step, form: gl.constexpr):
    """q · k of the block of a step, once it has come, under way; of 256 columns no more than there are keys in."""
    zeros = gl.full([64, form.tile.keys], 0.0, gl.float32, layout=scores_lie(form))
    b_k = keys.wait(step)
    if form.beside > 1:
        BESIDE: gl.constexpr = form.beside
        COLUMNS: gl.constexpr = form.key_width // form.beside
        b_k = b_k.reshape([form.tile.keys, COLUMNS]).permute((1, 0))
        b_s = warpgroup_mma(b_q.slice(0, COLUMNS, 1), b_k, zeros, use_acc=False, is_async=True)
        for i in gl.static_range(1, BESIDE):
            b_k = keys.tile(step, i).reshape([form.tile.keys, COLUMNS]).permute((1, 0))
            b_s = warpgroup_mma(b_q.slice(i * COLUMNS, COLUMNS, 1), b_k, b_s, is_async=True)
    else:
        b_k = b_k.reshape([form.tile.keys, form.width])
        if form.width == 256 and form.D <= 192:
            b_s = warpgroup_mma(b_q.slice(0, 128, 1), b_k.slice(0, 128, 1).permute((1, 0)), zeros, use_acc=False, is_async=True)
            b_s = warpgroup_mma(b_q.slice(128, 64, 1), b_k.slice(128, 64, 1).permute((1, 0)), b_s, is_async=True)
        else:
            b_s = warpgroup_mma(b_q, b_k.permute((1, 0)), zeros, use_acc=False, is_async=True)
    return b_s


@gluon.jit
def weigh(b_s, b_greatest, b_m, scale, NARROW: gl.constexpr, EARLY: gl.constexpr):
    """(weights, greatest score, what the old sums are worth) after the scores of a block and their greatest. The assembler keeps to the
    order of the last two in part: what the sums are worth comes EARLY where that was measured faster."""
    b_top = gl.maximum(b_m, b_greatest)
    b_base = gl.where(b_top == float("-inf"), 0.0, b_top) * scale  # −∞ − −∞ would be NaN
    b_raised = b_base
    if NARROW:
        b_raised = b_base - RAISED
    if EARLY:
        b_decay = gl.exp2(b_m * scale - b_base)
    b_p = gl.exp2(b_s * across(scale, NARROW) - b_raised[:, None])
    if not EARLY:
        b_decay = gl.exp2(b_m * scale - b_base)
    return b_p, b_top, b_decay


@gluon.constexpr_function
def threads_lie():
    """The layout of a number of each row and of each of the four threads that have its scores: `products`, of which each has two."""
    return gl.DistributedLinearLayout(
        reg_bases=[[8, 0]], lane_bases=[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], warp_bases=[[16, 0], [32, 0]], block_bases=[],
        shape=[64, 4],
    )  # fmt: skip


@gluon.jit
def nothing(b_m, form: gl.constexpr):
    """The sums of weights before the first block."""
    if form.own_sums:
        b_l = gl.full([64, 4], 0.0, gl.float32, layout=threads_lie())
    else:
        b_l = gl.zeros_like(b_m)
    return b_l


@gluon.jit
def own_sum(b_x, WIDTH: gl.constexpr):
    """The sums of the numbers `[64, WIDTH]` that each thread of a row has."""
    b_of_threads = gl.sum(gl.sum(b_x.reshape([64, WIDTH // 8, 4, 2]), 1), 2)
    return gl.convert_layout(b_of_threads, threads_lie(), assert_trivial=True)


@gluon.jit
def wild(b_l, b_o, form: gl.constexpr):
    """Which threads `[128]` have a sum of weights that came near to what a number can be, or one of values that is not finite."""
    b_none = own_sum(b_o * 0.0, form.value_width)  # NaN, if a sum is not finite
    b_wild = gl.where((b_none == 0.0) & (b_l <= MOST), 0, 1)
    return gl.max(b_wild.reshape([4, 2, 8, 4]), 1).reshape([128])


@gluon.jit
def counted(b_l, b_p, b_decay, form: gl.constexpr):
    """The sums of weights, with a block's added: of a row, or of each thread of a row, which takes no exchange between them."""
    if form.own_sums:
        b_own = own_sum(b_p, form.tile.keys)
        b_worth = gl.convert_layout(b_decay, gl.SliceLayout(1, threads_lie()), assert_trivial=True)
        b_l = b_l * b_worth[:, None] + b_own
    else:
        b_l = b_l * b_decay + gl.sum(b_p, 1)
    return b_l


@gluon.jit
def of_a_row(b_l, form: gl.constexpr):
    """The sum of a row's weights."""
    if form.own_sums:
        b_l = gl.convert_layout(gl.sum(b_l, 1), gl.SliceLayout(1, scores_lie(form)))
    return b_l


@gluon.jit
def scaled(b_o, b_decay, form: gl.constexpr):
    """The weighted sums of rows whose greatest score has grown."""
    return b_o * gl.convert_layout(b_decay, gl.SliceLayout(1, values_lie(form)))[:, None]


@gluon.jit
def packed(b_w, dtype: gl.constexpr, form: gl.constexpr):
    """Weights as the left side of a product with values, which takes no exchange between threads: of narrow ones a thread has two
    of eight keys, where that side wants four in a row, so keys of a block are in another order, and in that their values are turned."""
    if form.narrow:
        KEYS: gl.constexpr = form.tile.keys
        b_w = b_w.reshape([64, KEYS // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4)).reshape([64, KEYS])
        b_w = gl.convert_layout(b_w, weights_lie(form), assert_trivial=True)
        b_even, b_odd = gl.split(b_w.reshape([64, KEYS // 4, 2, 2]))
        b_0, b_2 = gl.split(b_even)
        b_1, b_3 = gl.split(b_odd)
        b_p = gl.inline_asm_elementwise(FOUR, "=r,f,f,f,f", [b_0, b_1, b_2, b_3], dtype=gl.int32, is_pure=True, pack=1)
    else:
        b_p = gl.convert_layout(b_w.to(dtype), weights_lie(form), assert_trivial=True)
    return b_p


@gluon.jit
def unpacked(b_p, form: gl.constexpr):
    """Weights that were packed, as the left side of a product."""
    if form.narrow:
        b_two = gl.join(b_p, b_p)
        b_four = gl.convert_layout(gl.join(b_two, b_two).reshape([64, form.tile.keys]), weights_lie(form), assert_trivial=True)
        b_p = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r,r,r,r", [b_four], dtype=gl.float8e4nv, is_pure=True, pack=4)
    return b_p


@gluon.jit
def block_of(values, step, form: gl.constexpr):
    """The values of a block `[keys, width]`; narrow ones lie turned, as products of such numbers want them."""
    if form.narrow:
        b_v = values.wait(step).reshape([form.value_width, form.tile.keys]).permute((1, 0))
    else:
        b_v = values.wait(step).reshape([form.tile.keys, form.value_width])
    return b_v


@gluon.jit
def weighted(b_p, b_o, values, step, form: gl.constexpr):
    """b_o and the weighted values of a block, under way; of narrow ones the block's alone, since products of those add up with some 14 bits
    (DeepSeek-V3, arXiv:2412.19437, section 3.3.2), and what is cut off grows with the keys (docs/log.md, 2026-12-01)."""
    b_v = block_of(values, step, form)
    if form.narrow:
        zeros = gl.full([64, form.value_width], 0.0, gl.float32, layout=values_lie(form))
        b_o = warpgroup_mma(unpacked(b_p, form), b_v, zeros, use_acc=False, is_async=True)
    else:
        b_o = warpgroup_mma(b_p, b_v, b_o, is_async=True)
    return b_o
