"""Products of decode: a tile's scores, and the weighted sums of its values.

    8 rows           keys · queriesᵀ and valuesᵀ · weightsᵀ of single warps (mma.sync): its products have 16 rows, but 8 columns
    16 or 32 rows    queries · keysᵀ and weights · values, likewise with warps along the keys
    64 or 128 rows   the same of groups of four warps (wgmma), each with rows of its own

Whichever way, what comes out is [rows, keys] or [rows, columns of values]; turning a product around moves nothing between threads.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma

from strobe.backends.hopper.narrow import keys_of, queries_for, values_of

EIGHT = gl.constexpr(8)  # rows, of a tile whose products are turned around


@gluon.constexpr_function
def turned(columns, warps):
    """Sums [columns, 8] of products whose rows are keys, or columns of values."""
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[warps, 1], instr_shape=[16, 8])


@gluon.constexpr_function
def products(rows, columns, warps):
    """How a tile [rows, columns] of sums of products lies in registers."""
    if rows >= 64:
        return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, columns, 16])
    if rows > EIGHT:
        return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[1, warps], instr_shape=[16, 8])
    bits = [1 << i for i in range(4, columns.bit_length() - 1)]  # of a column, above a product's 16; the lowest tell the warp
    of_warps = warps.bit_length() - 1
    return gl.DistributedLinearLayout(  # `turned`, with its axes exchanged (PTX manual, mma.m16n8k16, accumulators)
        reg_bases=[[1, 0], [0, 8], *([0, bit] for bit in bits[of_warps:])],
        lane_bases=[[2, 0], [4, 0], [0, 1], [0, 2], [0, 4]],
        warp_bases=[[0, bit] for bit in bits[:of_warps]],
        block_bases=[], shape=[rows, columns],
    )  # fmt: skip


@gluon.constexpr_function
def operand_of_queries(rows, keys, width, warps):
    """How queries are held in registers: as the operand of their products."""
    if rows == EIGHT:
        return gl.DotOperandLayout(1, turned(keys, warps), 2)
    return gl.DotOperandLayout(0, products(rows, keys, warps), 2)


@gluon.jit
def load_queries(tile, QUERIES: gl.constexpr):
    """A tile of queries as such an operand: of 8 rows, the second one."""
    b_q = tile
    if QUERIES.operand_index == 1:
        b_q = tile.permute((1, 0))
    return b_q.load(QUERIES)


@gluon.jit
def asked(
    q_tiles, q_slot, q_ready, scale, HELD: gl.constexpr, QUERIES: gl.constexpr, LOAD_Q: gl.constexpr, ROW: gl.constexpr,
    KIND: gl.constexpr,
):  # fmt: skip
    """(a sequence's queries, if they are held in registers; what products begin with and their scale, both [BM])."""
    BM: gl.constexpr = q_tiles.shape[1]
    b_begin = gl.zeros([BM], gl.float32, layout=ROW)
    b_scale = gl.full([BM], scale, gl.float32, layout=ROW)
    q_held = scale
    if KIND is not None:
        b_begin, b_scale = queries_for(q_tiles.index(q_slot), q_ready, scale, LOAD_Q if BM == EIGHT else QUERIES, KIND)
        b_begin = gl.convert_layout(b_begin, ROW)
        b_scale = gl.convert_layout(b_scale, ROW)
    if HELD:
        if KIND is None:
            q_held = load_queries(q_tiles.index(q_slot), QUERIES)
        else:
            q_held = load_queries(q_ready, QUERIES)
    return q_held, b_begin, b_scale


@gluon.jit
def scores(
    q_tile, q_ready, q_held, k_tile, b_begin, HELD: gl.constexpr, S_LAYOUT: gl.constexpr, QUERIES: gl.constexpr, KIND: gl.constexpr
):  # fmt: skip
    """Products [BM, BN] of queries and keys, which begin with b_begin [BM]; the queries are HELD in registers, or ready for narrow keys."""
    BM: gl.constexpr = q_tile.shape[0]
    BN: gl.constexpr = k_tile.shape[0]
    b_zeros = gl.zeros([BM, BN], gl.float32, layout=S_LAYOUT)
    if BM >= 64:
        fence_async_shared()
        b_s = warpgroup_mma(q_tile, k_tile.permute((1, 0)), b_zeros, use_acc=False)
    else:
        if HELD:
            b_q = q_held
        elif KIND is None:
            b_q = load_queries(q_tile, QUERIES)
        else:
            b_q = load_queries(q_ready, QUERIES)
        b_first = b_zeros + b_begin[:, None]
        if BM == EIGHT:
            TURNED: gl.constexpr = turned(BN, gl.num_warps())
            b_first = gl.convert_layout(b_first.permute((1, 0)), TURNED, assert_trivial=True)
            b_s = mma_v2(keys_of(k_tile, TURNED, KIND, 0), b_q, b_first)
            b_s = gl.convert_layout(b_s.permute((1, 0)), S_LAYOUT, assert_trivial=True)
        else:
            b_s = mma_v2(b_q, keys_of(k_tile, S_LAYOUT, KIND, 1), b_first)
    return b_s


@gluon.jit
def add_values(b_acc, b_p, w_tile, v_tile, KIND: gl.constexpr, dtype: gl.constexpr):
    """The sums [BM, BV] with values added, weighted with b_p [BM, BN]. Warps along the keys tell each other the weights through w_tile."""
    BM: gl.constexpr = b_acc.shape[0]
    BV: gl.constexpr = b_acc.shape[1]
    O_LAYOUT: gl.constexpr = b_acc.type.layout
    if BM >= 64:
        fence_async_shared()
        b_acc = warpgroup_mma(gl.convert_layout(b_p.to(dtype), gl.DotOperandLayout(0, O_LAYOUT, 2)), v_tile, b_acc)
    elif BM == EIGHT:
        TURNED: gl.constexpr = turned(BV, gl.num_warps())
        w_tile.store(b_p.to(dtype).permute((1, 0)))
        b_w = w_tile.load(gl.DotOperandLayout(1, TURNED, 2))
        b_turned = gl.convert_layout(b_acc.permute((1, 0)), TURNED, assert_trivial=True)
        b_turned = mma_v2(values_of(v_tile, TURNED, KIND, dtype, 0), b_w, b_turned)
        b_acc = gl.convert_layout(b_turned.permute((1, 0)), O_LAYOUT, assert_trivial=True)
    else:
        w_tile.store(b_p.to(dtype))
        b_w = w_tile.load(gl.DotOperandLayout(0, O_LAYOUT, 2))
        b_acc = mma_v2(b_w, values_of(v_tile, O_LAYOUT, KIND, dtype, 1), b_acc)
    return b_acc


@gluon.jit
def column_of(o_c, BM: gl.constexpr, BV: gl.constexpr, EACH: gl.constexpr):
    """The column of values that each column of the sums is, of units of EACH numbers: the first numbers of all units come first; of 8
    rows, of a warp's 8 units the first and the second numbers are the rows of its first product, and so on."""
    if EACH == 1:
        o_v = o_c
    elif BM == EIGHT:
        PAIRS: gl.constexpr = EACH // 2
        of_warp = o_c // 16 % 4
        unit = (o_c // (64 * PAIRS) * 4 + of_warp) * 8 + o_c % 8
        o_v = unit * EACH + o_c // 64 % PAIRS * 2 + o_c // 8 % 2
    else:
        o_v = o_c % (BV // EACH) * EACH + o_c // (BV // EACH)
    return o_v
