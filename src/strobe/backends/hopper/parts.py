"""The arithmetic of a split: which tiles of keys a program takes, and which parts a row of the result has.

    even      a sequence's tiles in `splits` equal parts            S0 ▐██▌▐██▌▐██▌   S1 ▐█▌▐█▌▐█▌
    stream    all sequences' tiles end to end, P equal shares       S0 ██████▌██|S1 ██▐██|S2 █████▌█  (a part ends where a sequence does)
    fixed     cuts at the same keys whatever the length             S0 ▐██▌▐██▌▐████▌   S1 ▐██▌▐█     (a program takes one part or some)

The functions are of integers, or of tensors of integers, none below 0 where one divides; the decode kernel and the merge call the same
ones. A "lane" is a tile of rows of one key head. Sources: Dao et al., 2023, Flash-Decoding; Osama et al., 2023, Stream-K, arXiv:2301.03598.
"""

from __future__ import annotations

import triton
import triton.language as tl

EVEN = tl.constexpr(0)
STREAM = tl.constexpr(1)
FIXED = tl.constexpr(2)
FAR = 2**28  # of a window's reach and a query's position: no sequence is longer, and sums of three stay below 2³¹


@triton.jit
def between(x, low, high):
    """x, or the end of low … high that is nearest."""
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def sequence(i_b, p_lengths, p_starts, p_firsts, first, S, T, FAR: tl.constexpr):
    """(first row, keys, position of query 0) of sequences, within the rows there are whatever the arrays say."""
    start = i_b * 0
    length = start + S
    if p_starts is not None:
        start = between(tl.load(p_starts + i_b), 0, S)
    if p_lengths is not None:
        length = between(tl.load(p_lengths + i_b), 0, S - start)
    if p_firsts is not None:
        at = between(tl.load(p_firsts + i_b), -FAR, FAR)
    elif first is not None:
        at = start * 0 + first
    else:
        at = length - T
    return start, length, at


@triton.jit
def span(
    length, at, i_m, T, before, after, TREE: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """(low, high, tiles): rows i_m · BM … of a sequence whose query 0 stands at `at` see no key outside low … high − 1; so many
    tiles of keys from the one that holds low hold them all, one where there are none."""
    low = at * 0
    high = length + low
    if before is not None:
        low = tl.maximum(low, at + i_m * BM // GROUP - before)
    if after is not None:
        high = tl.minimum(high, at + tl.minimum(T - 1, (i_m * BM + BM - 1) // GROUP) + after + 1)
    if TREE:
        high = tl.minimum(high, at + T)
    high = tl.maximum(high, 0)
    low = tl.minimum(low, high)
    return low, high, tl.maximum((high + BN - 1) // BN - low // BN, 1)


@triton.jit
def even(tiles, i, splits):
    """(parts, first tile, tiles) of part i of a sequence's tiles: as many parts as there are tiles, at most."""
    parts = tl.minimum(splits, tiles)
    start = tiles * i // parts
    return parts, start, tl.where(i < parts, tiles * (i + 1) // parts - start, 0)


@triton.constexpr_function
def stretch(rows):
    """Keys whose parts are added up before they meet those of others: more of a tile of many rows, whose parts are large."""
    return 2048 if rows >= 64 else 1024


@triton.jit
def cut(i, STRETCH: tl.constexpr):
    """The key at which part i begins, of every sequence: parts of 128 keys up to 2,048, of 256 up to 4,096, of 512 up to 8,192, then of
    1,024; or, not 0, stretches of so many keys, some parts each."""
    if STRETCH > 0:
        key = i * STRETCH
    else:
        late = tl.where(i < 32, i * 512 - 8192, i * 1024 - 24576)
        key = tl.where(i < 16, i * 128, tl.where(i < 24, i * 256 - 2048, late))
    return key


@triton.jit
def part_at(n, STRETCH: tl.constexpr):
    """The part, or the stretch, that holds key n."""
    if STRETCH > 0:
        part = n // STRETCH
    else:
        late = tl.where(n < 8192, (n + 8192) // 512, (n + 24576) // 1024)
        part = tl.where(n < 2048, n // 128, tl.where(n < 4096, (n + 2048) // 256, late))
    return part


@triton.jit
def parts_within(low, high, STRETCH: tl.constexpr):
    """(first, count) of the parts that hold keys between low and high."""
    first = part_at(low, STRETCH)
    return first, part_at(tl.maximum(high - 1, low), STRETCH) - first + 1


@triton.jit
def part_end(part, low, tiles, BN: tl.constexpr, STRETCH: tl.constexpr):
    """The tile behind a part, of a sequence's tiles from the one that holds low."""
    return tl.minimum(cut(part + 1, STRETCH) // BN - low // BN, tiles)


@triton.jit
def fixed(low, high, tiles, i, shares, BN: tl.constexpr, STRETCH: tl.constexpr):
    """(parts of the sequence, first part, first tile, tiles) of share i of a sequence's parts: those that begin among an equal share of
    its tiles."""
    first, parts = parts_within(low, high, STRETCH)
    start = low // BN * BN + tiles * i // shares * BN
    stop = low // BN * BN + tiles * (i + 1) // shares * BN
    from_part = tl.where(i == 0, first, part_at(tl.maximum(start - 1, 0), STRETCH) + 1)
    to_part = tl.where(i + 1 == shares, first + parts, part_at(tl.maximum(stop - 1, 0), STRETCH) + 1)
    from_part = tl.minimum(tl.maximum(from_part, first), first + parts)
    to_part = tl.minimum(tl.maximum(to_part, first), first + parts)
    skip = tl.maximum(cut(from_part, STRETCH) // BN - low // BN, 0)
    return parts, from_part, skip, tl.where(to_part > from_part, part_end(to_part - 1, low, tiles, BN, STRETCH) - skip, 0)


@triton.jit
def share(total, i, programs):
    """(first tile, tiles) of program i of a stream of so many tiles: of fewer tiles than programs, one each of the first ones."""
    busy = tl.minimum(programs, total)
    start = total * i // busy
    return start, tl.where(i < busy, total * (i + 1) // busy - start, 0)


@triton.jit
def parts_of(before, tiles, total, programs):
    """(first program, parts) of a sequence with so many tiles of the stream before it; every program in between has some."""
    busy = tl.minimum(programs, total)
    first = ((before + 1) * busy - 1) // total
    return first, ((before + tiles) * busy - 1) // total - first + 1


@triton.jit
def stream_slot(lane, i, i_b, programs, B):
    """Where program i leaves its part of sequence i_b: along a stream i or i_b grows, so no two parts meet, and a sequence's parts
    lie side by side."""
    return lane * (programs + B) + i + i_b
