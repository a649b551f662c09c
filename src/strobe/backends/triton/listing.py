"""Lists the blocks that a mask of blocks keeps, so that a tile visits those and no other."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.masks import Blocks

FAR = 2**30  # of a window's reach: no sequence is longer
AT_ONCE = 1024  # blocks of a row


@triton.jit(do_not_specialize=["H", "rows", "columns", "T", "first", "before", "after"])
def list_kept(
    p_kept, p_list, p_counts, s_b, s_h, s_row, s_column, H, rows, columns, T, first, before, after, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, OF_KEYS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Of one row of blocks, or OF_KEYS of one column, those kept that a window does not hide whole, first ones first."""
    lines = columns if OF_KEYS else rows
    others = rows if OF_KEYS else columns
    i_line = tl.program_id(0)
    i_b = tl.program_id(1) // H
    i_h = tl.program_id(1) % H
    line = tl.program_id(1).to(tl.int64) * lines + i_line
    count = i_line * 0
    for start in range(0, others, N):
        o_other = start + tl.arange(0, N)
        if OF_KEYS:
            b_row = o_other
            b_column = i_line + o_other * 0
        else:
            b_row = i_line + o_other * 0
            b_column = o_other
        o_kept = i_b.to(tl.int64) * s_b + i_h * s_h + b_row.to(tl.int64) * s_row + b_column * s_column
        b_kept = tl.load(p_kept + o_kept, mask=o_other < others, other=0) != 0
        b_low = b_row * BLOCK_ROWS + first  # positions of the first query of a row of blocks, and of its last
        b_high = tl.minimum(b_low + BLOCK_ROWS, T + first) - 1
        b_kept = b_kept & ((b_column + 1) * BLOCK_COLUMNS > b_low - before) & (b_column * BLOCK_COLUMNS <= b_high + after)
        b_one = b_kept.to(tl.int32)
        tl.store(p_list + line * others + count + tl.cumsum(b_one, 0) - 1, o_other, mask=b_kept)
        count += tl.sum(b_one, 0)
    tl.store(p_counts + line, count)


def list_blocks(mask: Blocks, T: int, first: int, before: int | None, after: int | None, of_keys: bool) -> tuple[Any, ...]:
    """(lists `[B or 1, H or 1, rows, columns]`, of keys `[…, columns, rows]`, their strides, counts, theirs): blocks kept, first ones
    first; what lies behind a count is anything."""
    kept = mask.kept.view(torch.uint8)
    B, H, rows, columns = kept.shape
    lines, others = (columns, rows) if of_keys else (rows, columns)
    found = torch.empty(B, H, lines, others, dtype=torch.int32, device=kept.device)
    counts = torch.empty(B, H, lines, dtype=torch.int32, device=kept.device)
    reach = [FAR if n is None else max(-FAR, min(n, FAR)) for n in (before, after)]
    size = min(AT_ONCE, triton.next_power_of_2(max(16, others)))
    if counts.numel():
        with torch.cuda.device_of(kept):
            list_kept[(lines, B * H)](
                kept, found, counts, *kept.stride(), H, rows, columns, T, first, *reach, mask.rows, mask.columns, of_keys, size, num_warps=4
            )  # fmt: skip
    return found, (*_steps(found), others), counts, (*_steps(counts), 0)


def _steps(x: Tensor) -> tuple[int, ...]:
    """Strides of sequence and head, 0 where there is one."""
    return tuple(0 if n == 1 else s for n, s in zip(x.shape[:2], x.stride()[:2], strict=True))
