"""How long a call will take on an H200, which the desk tells: what was measured there, put together. Standard library only.

The figures are of a graph's launches one behind another, torch 2.11, Triton 3.6, November 2026; `benchmarks/results/h200-sm90` has what
was measured beside each prediction.
"""

from __future__ import annotations

from itertools import pairwise

# Microseconds of a kernel that only reads so many bytes.
READ_US = (
    (4.2e6, 3.02), (8.4e6, 4.22), (16.8e6, 5.97), (33.6e6, 10.01), (67e6, 18.15), (134e6, 32.6), (268e6, 62.7), (537e6, 121.8),
    (1074e6, 240.0),
)  # fmt: skip
SPLIT_US = 1.6  # a split adds: parts are stored, and another kernel merges them
WAVE_US = 0.6  # a wave of programs after the first one
WIDE_US, WIDE_FIXED = 2.5, (2.0, 1.6)  # 64 rows of queries or more; and times as long at fixed cuts, of parts and of whole stretches
PART_US = 0.03  # a part at a fixed cut, which waits for the one before it when they are added up
INT4_US = 4.6, 0.7  # a kernel of int4 numbers, and each tile of 128 keys of a multiprocessor: converting takes longer than reading
DIVIDED_US, DIVIDED_FLOPS = 11.8, 652e6  # the prompts' kernel with its keys cut, and the operations that it does in a microsecond

LATENT_US = 14.0, 1.95  # latent attention, and each block of 64 keys with 64 rows of a multiprocessor


def read_us(count: int) -> float:
    """Microseconds of reading so many bytes, between those of READ_US, or beyond its ends in proportion."""
    (low, low_us), (high, high_us) = next((pair for pair in pairwise(READ_US) if count <= pair[1][0]), (READ_US[-2], READ_US[-1]))
    return low_us + (count - low) * (high_us - low_us) / (high - low)


def decode_us(count: int, split: bool, waves: float, rows: int, fixed_parts: int, whole: bool, int4_tiles: float) -> float:
    """Microseconds of decode.

    Args:
        count: bytes that are read.
        split: whether parts are merged.
        waves: of programs.
        rows: of a tile.
        fixed_parts: of a sequence, 0 where cuts are not fixed.
        whole: whether those are whole stretches.
        int4_tiles: tiles of 128 keys of int4 numbers, for each multiprocessor.
    """
    wide = rows >= 64
    us = read_us(count) * (WIDE_FIXED[whole] if wide and fixed_parts else 1.0)
    us += SPLIT_US * split + WAVE_US * max(0.0, waves - 1) + WIDE_US * wide + PART_US * fixed_parts
    return max(us, INT4_US[0] + INT4_US[1] * int4_tiles) if int4_tiles else us


def divided_us(rows: int, keys: int, width: int, count: int) -> float:
    """Microseconds of the prompts' kernel with its keys cut: rows of queries, padded to whole tiles, of all heads, over so many keys, of
    which it reads so many bytes."""
    return DIVIDED_US + max(4.0 * rows * keys * width / DIVIDED_FLOPS, read_us(count))


def latent_us(blocks: float) -> float:
    """Microseconds of latent attention, of so many blocks for each multiprocessor: products take longer than reading."""
    return LATENT_US[0] + LATENT_US[1] * blocks
