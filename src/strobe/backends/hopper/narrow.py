"""Narrow keys and values on the device: int8, int4 and float8 of shared memory become operands of 16-bit products.

    keys      float16, with 1,152 added, int4 16 times as large before: what that adds to a score is known from the queries alone
    queries   float16, each row times the power of two that takes its greatest number below 2¹⁵
    values    as they are, in the dtype of the weights

They are read in units of 16 bits, the least that a warp's matrix loads move: two int8 or float8 numbers, or four of int4. A register
holds two units, one behind another of a key, or of two neighbouring values; the first numbers of both become one register, the second
ones another. So a key's numbers stand in another order, and so do those of the queries.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

INT8 = gl.constexpr("int8")
INT4 = gl.constexpr("int4")
E4M3 = gl.constexpr("e4m3")
E5M2 = gl.constexpr("e5m2")


@gluon.constexpr_function
def whole(kind):
    """Whether numbers are whole ones."""
    return kind in ("int8", "int4")


@gluon.constexpr_function
def widening_keys(kind):
    """PTX that makes float16 of two units of 16 bits: register j holds number j of both. Whole numbers become the last bits of 1,024 and
    more, int4 with four bits behind them: no slow conversion, and nothing to subtract."""
    if kind == "int4":  # bit 3 of each is turned, so that −8 … 7 count from 0
        take = " lop3.b32 ${0}, {1}, 0x00F000F0, 0x64806480, 0x6A;"
        low = " shl.b32 y, $4, 4;" + take.format(0, "y") + take.format(1, "$4")
        high = " shr.u32 y, $4, 4;" + take.format(2, "y") + " shr.u32 y, $4, 8;" + take.format(3, "y")
        return "{ .reg .b32 y;" + low + high + " }"
    if kind == "int8":
        spread = " prmt.b32 $0, y, c, 0x4240; prmt.b32 $1, y, c, 0x4341;"
        return "{ .reg .b32 y, c; mov.b32 c, 0x64646464; xor.b32 y, $2, 0x80808080;" + spread + " }"
    return "{ .reg .b32 y; .reg .b16 a, b; prmt.b32 y, $2, 0, 0x3120; mov.b32 {a, b}, y;" + "".join(
        f" cvt.rn.f16x2.{kind}x2 ${j}, {'ab'[j]};" for j in range(2)
    ) + " }"


@gluon.constexpr_function
def widening_values(kind, half):
    """PTX that makes 16-bit floats of two units of 16 bits, each of two int8 or float8 or four int4 numbers: register j holds number j
    of both. Whole numbers become the last bits of a float of the right size, from which that size is subtracted: exact, and no slow
    conversion. float8 goes through float16, which holds every one of its numbers."""
    if kind == "int4":
        size = "0x64086408" if half else "0x43084308"  # 1,024 + 8 or 128 + 8, twice; bit 3 is turned, so that −8 … 7 count from 0
        minus = "sub.rn.f16x2" if half else "sub.rn.bf16x2"
        each = "".join(f" shr.u32 y, $4, {4 * j}; lop3.b32 y, y, 0x000F000F, c, 0x6A; {minus} ${j}, y, c;" for j in range(4))
        return "{ .reg .b32 y, c; mov.b32 c, " + size + ";" + each + " }"
    if kind == "int8" and half:
        return (
            "{ .reg .b32 y, c, d; mov.b32 c, 0x64646464; mov.b32 d, 0x64806480; xor.b32 y, $2, 0x80808080;"
            " prmt.b32 $0, y, c, 0x4240; prmt.b32 $1, y, c, 0x4341; sub.rn.f16x2 $0, $0, d; sub.rn.f16x2 $1, $1, d; }"
        )
    if kind == "int8":  # 128 + the last seven bits, less 128, or less 256 where the first bit, a sign, is set: both are bfloat16
        each = " and.b32 y, ${0}, 0xFF7FFF7F; and.b32 z, ${0}, 0xFF80FF80; sub.rn.bf16x2 ${0}, y, z;"
        spread = " mov.b32 c, 0x43434343; prmt.b32 $0, $2, c, 0x4240; prmt.b32 $1, $2, c, 0x4341;"
        return "{ .reg .b32 y, z, c;" + spread + each.format(0) + each.format(1) + " }"
    start = "{ .reg .b32 y; .reg .b16 a, b; prmt.b32 y, $2, 0, 0x3120; mov.b32 {a, b}, y;"
    start += f" cvt.rn.f16x2.{kind}x2 $0, a; cvt.rn.f16x2.{kind}x2 $1, b;"
    if half:
        return start + " }"
    each = "".join(
        f" mov.b32 {{a, b}}, ${j}; cvt.f32.f16 f0, a; cvt.f32.f16 f1, b; cvt.rn.bf16x2.f32 ${j}, f1, f0;" for j in range(2)
    )  # fmt: skip
    return start + " { .reg .f32 f0, f1;" + each + " } }"


@gluon.constexpr_function
def along_columns(layout):
    """Products of as many warps, along the columns."""
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[1, layout.warps_per_cta[0]], instr_shape=[16, 8])


@gluon.jit
def taken_apart(b_units, PTX: gl.constexpr, KIND: gl.constexpr):
    """[…, 2 or 4] bits of 16-bit floats, the numbers of each unit."""
    if KIND == INT4:
        a, b, c, d = gl.inline_asm_elementwise(
            PTX, "=&r,=&r,=&r,=&r,r", [b_units], dtype=(gl.int16, gl.int16, gl.int16, gl.int16), is_pure=True, pack=2
        )  # fmt: skip
        both = gl.join(gl.join(a, c), gl.join(b, d))  # […, b or d, odd]: numbers 0 and 1, 2 and 3
        bits = gl.reshape(both, [both.shape[0], both.shape[1], 4])
    else:
        a, b = gl.inline_asm_elementwise(PTX, "=&r,=&r,r", [b_units], dtype=(gl.int16, gl.int16), is_pure=True, pack=2)
        bits = gl.join(a, b)
    return bits


@gluon.jit
def keys_of(tile, LAYOUT: gl.constexpr, KIND: gl.constexpr, OPERAND: gl.constexpr):
    """Keys of a tile of shared memory as an operand of products that lie so, [BN, BD] as the first one, 0, or [BD, BN] as the second;
    narrow ones in the order of `queries_for`."""
    UNITS: gl.constexpr = gl.DotOperandLayout(OPERAND, LAYOUT, 2)
    if OPERAND == 1:
        tile = tile.permute((1, 0))
    b_k = tile.load(UNITS)
    if KIND is not None:
        b_bits = taken_apart(b_k, widening_keys(KIND), KIND)
        EACH: gl.constexpr = b_bits.shape[2]
        if OPERAND == 0:
            BN: gl.constexpr = b_bits.shape[0]
            UNIT: gl.constexpr = b_bits.shape[1]
            b_bits = b_bits.reshape([BN, UNIT // 8, 8, EACH]).permute((0, 1, 3, 2)).reshape([BN, UNIT * EACH])
        else:
            UNIT: gl.constexpr = b_bits.shape[0]
            BN: gl.constexpr = b_bits.shape[1]
            b_bits = b_bits.reshape([UNIT // 8, 8, BN, EACH]).permute((0, 3, 1, 2)).reshape([UNIT * EACH, BN])
        b_k = gl.convert_layout(b_bits.to(gl.float16, bitcast=True), UNITS)
    return b_k


@gluon.jit
def queries_for(tile, ready, scale, QUERIES: gl.constexpr, KIND: gl.constexpr):
    """(what products with narrow keys begin with, their scale), both [BM]; the queries for them are `ready` afterwards, in the keys' order:
    eight units, or two of each of a product's four threads, by the place of their numbers."""
    b_wide = tile.load(QUERIES).to(gl.float32)
    BM: gl.constexpr = b_wide.shape[0]
    BD: gl.constexpr = b_wide.shape[1]
    b_size = gl.abs(b_wide)
    b_greatest = gl.max(gl.where(b_size < float("inf"), b_size, 0.0), 1)
    b_exponent = gl.minimum(gl.maximum(b_greatest.to(gl.int32, bitcast=True) >> 23, 41), 254)
    b_up = ((268 - b_exponent) << 23).to(gl.float32, bitcast=True)
    b_scale = ((b_exponent - 14) << 23).to(gl.float32, bitcast=True) * scale
    b_q = (b_wide * b_up[:, None]).to(gl.float16)
    EACH: gl.constexpr = 4 if KIND == INT4 else 2
    b_scale *= 0.0625 if KIND == INT4 else 1.0
    added: gl.constexpr = 1152.0 if whole(KIND) else 0.0
    b_begin = gl.sum(b_q.to(gl.float32), 1) * -added
    ready.store(b_q.reshape([BM, BD // (8 * EACH), 8, EACH]).permute((0, 1, 3, 2)).reshape([BM, BD]))
    return b_begin, b_scale


@gluon.jit
def values_of(tile, LAYOUT: gl.constexpr, KIND: gl.constexpr, dtype: gl.constexpr, OPERAND: gl.constexpr):
    """Values of a tile of shared memory as an operand of products that lie so, [BV, BN] as the first one, 0, or [BN, BV] as the second.
    A thread holds a column of units, so of narrow ones the first numbers of all units come first, then the second ones; as the
    first operand, a warp's first and second numbers are the halves of 16 rows (`products.column_of`)."""
    VALUES: gl.constexpr = gl.DotOperandLayout(OPERAND, LAYOUT, 2)
    if KIND is None:
        b_v = tile.permute((1, 0)).load(VALUES) if OPERAND == 0 else tile.load(VALUES)
    else:
        ALONG: gl.constexpr = along_columns(LAYOUT) if OPERAND == 0 else LAYOUT
        b_units = tile.load(gl.DotOperandLayout(1, ALONG, 2))
        b_bits = taken_apart(b_units, widening_values(KIND, dtype == gl.float16), KIND).to(dtype, bitcast=True)
        BN: gl.constexpr = b_bits.shape[0]
        UNIT: gl.constexpr = b_bits.shape[1]
        EACH: gl.constexpr = b_bits.shape[2]
        if OPERAND == 0:
            b_v = b_bits.reshape([BN, UNIT // 32, 4, 8, EACH // 2, 2]).permute((1, 4, 2, 5, 3, 0)).reshape([UNIT * EACH, BN])
        else:
            b_v = b_bits.permute((0, 2, 1)).reshape([BN, UNIT * EACH])
        b_v = gl.convert_layout(b_v, VALUES)
    return b_v


@gluon.jit
def not_finite(b_units, KIND: gl.constexpr):
    """Which units hold NaN or infinity: bits of 16-bit floats, or of two float8 numbers."""
    if KIND is None:
        wide = b_units.to(gl.float32)
        found = wide * 0.0 != 0.0  # NaN and infinity times zero
    else:
        least: gl.constexpr = 0x7F if KIND == E4M3 else 0x7C
        found = ((b_units & 0x7F) >= least) | (((b_units >> 8) & 0x7F) >= least)
    return found
