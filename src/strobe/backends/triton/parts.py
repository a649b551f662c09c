"""The arithmetic of a split, on the device: which keys a program takes, and which parts a row of the result has.

    even     each sequence's tiles in `splits` equal parts          S0 ▐██▌▐██▌▐██▌   S1 ▐█▌▐█▌▐█▌
    ragged   parts of one size, of all sequences                    S0 ▐██▌▐██▌▐██▌   S1 ▐██▌   S2 ▐██▌▐█▌
    fixed    cuts at the same keys whatever the length              S0 ▐█▌▐█▌▐██▌     S1 ▐█▌▐█▌

Parts lie in slots: of a ragged batch one behind another, else `splits` slots a sequence. The desk's half is `splitting.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from strobe.backends.triton.tiles import PACKED, PAGED, RANGED

WHOLE = tl.constexpr(0)
EVEN = tl.constexpr(1)
RAGGED = tl.constexpr(2)
FIXED = tl.constexpr(3)
LEAST = tl.constexpr(256)  # keys of a ragged part


@triton.jit
def cut(i):
    """The key at which part i begins, of every sequence: parts of 256 keys up to 4,096, of 512 up to 8,192, then of 2,048."""
    return tl.where(i < 16, i * 256, tl.where(i < 24, i * 512 - 4096, i * 2048 - 40960))


@triton.jit
def part_at(n):
    """The part that holds key n."""
    return tl.where(n < 4096, n // 256, tl.where(n < 8192, (n + 4096) // 512, (n + 40960) // 2048))


@triton.jit
def lengths_at(o_b, layout):
    """Keys of the sequences o_b."""
    o_length = o_b * 0 + layout.S
    if layout.kind == PACKED:
        o_length = (tl.load(layout.starts + o_b + 1) - tl.load(layout.starts + o_b)).to(tl.int32)
    elif (layout.kind == RANGED) or (layout.kind == PAGED):
        o_length = tl.load(layout.lengths + o_b).to(tl.int32)
    return o_length


@triton.jit
def ragged(layout, B, shares, reach, BATCH: tl.constexpr, BN: tl.constexpr):
    """(parts [BATCH] of the sequences, tiles of a part): parts as long as an even share of all tiles."""
    o_b = tl.arange(0, BATCH)
    o_keys = tl.minimum(lengths_at(tl.minimum(o_b, B - 1), layout), reach)
    o_tiles = tl.where(o_b < B, tl.maximum((o_keys + BN - 1) // BN, 1), 0)
    each = tl.maximum((tl.sum(o_tiles, 0) + shares - 1) // shares, (LEAST + BN - 1) // BN)
    return (o_tiles + each - 1) // each, each


@triton.jit
def part_of(i, layout, B, shares, reach, BATCH: tl.constexpr, BN: tl.constexpr):
    """(sequence, part of it, its parts, tiles of a part) in slot i of a ragged batch; sequence B in slots that stay empty."""
    o_b = tl.arange(0, BATCH)
    o_parts, each = ragged(layout, B, shares, reach, BATCH, BN)
    i_b = tl.sum(((tl.cumsum(o_parts, 0) <= i) & (o_b < B)).to(tl.int32), 0)
    before = tl.sum(tl.where(o_b < i_b, o_parts, 0), 0)
    return i_b, i - before, tl.sum(tl.where(o_b == i_b, o_parts, 0), 0), each


@triton.jit
def within(part, parts, each, low, high, full_low, full_high, SPLIT: tl.constexpr, BN: tl.constexpr):
    """(low, high, full low, full high) of a part of the keys: `each` tiles of it, or, fixed, those between its cuts."""
    if SPLIT == FIXED:
        start = cut(part)
        stop = cut(part + 1)
    else:
        start = low + part * each * BN
        stop = start + each * BN
        if SPLIT == RAGGED:  # how many tiles rows see depends on the rows, by one or two
            stop = tl.where(part + 1 >= parts, tl.maximum(high, start), stop)
    low = tl.maximum(low, start)
    high = tl.minimum(high, stop)
    full_low = tl.minimum(tl.maximum(full_low, low), stop)
    return low, high, full_low, tl.maximum(full_low, tl.minimum(full_high, stop))


@triton.jit
def slots_of(i_b, layout, B, splits, reach, SPLIT: tl.constexpr, BATCH: tl.constexpr, BN: tl.constexpr):
    """(first slot, slots) of a sequence."""
    first = i_b * splits
    count = splits
    if SPLIT == RAGGED:
        o_b = tl.arange(0, BATCH)
        o_parts, _ = ragged(layout, B, splits, reach, BATCH, BN)
        first = tl.sum(tl.where(o_b < i_b, o_parts, 0), 0)
        count = tl.sum(tl.where(o_b == i_b, o_parts, 0), 0)
    elif SPLIT == FIXED:
        count = tl.minimum(part_at(tl.maximum(lengths_at(i_b, layout) - 1, 0)) + 1, splits)
    return first, count
