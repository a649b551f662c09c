"""Pages that several sequences of a batch share, attended to once for all of them (Hydragen's and cascade attention's idea).

    table of the batch                     what is read in a step
    7 3 9 | 1 4                            7 3 9   once, by the queries of all three, as if they were one sequence's
    7 3 9 | 8                              1 4     by the first
    7 3 9 | 2 6 5                          8       by the second    …    then out, lse of both parts are merged

Found from the tables alone: pages are shared only where the cache handed the same ones out, so equal numbers are equal
tokens. No tensors here.

Source: Juravsky et al., 2024, arXiv:2402.05099; Ye et al., 2025, arXiv:2501.01005, section 3.1.2.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 8 << 20  # bytes of a layer that are read less often; below, two more calls cost more than they save


@dataclass(frozen=True)
class Shared:
    """The first `pages` that the sequences `rows` of a batch have in common."""

    rows: tuple[int, ...]
    pages: int


def shared(tables: Sequence[array[int]], lengths: Sequence[int], size: int, token_bytes: int) -> list[Shared]:
    """Groups of sequences whose common pages are worth a call of their own.

    Args:
        tables: the pages of each sequence.
        lengths: tokens of each, its last one included; that one is never in a shared page.
        size: tokens of a page.
        token_bytes: bytes of a token's keys and values in a layer.

    >>> tables = [array("i", [7, 3, 9, 1]), array("i", [5, 2]), array("i", [7, 3, 8])]
    >>> shared(tables, [60, 20, 40], 16, 1 << 20)
    [Shared(rows=(0, 2), pages=2)]
    """
    by_first: dict[int, list[int]] = {}
    for row, pages in enumerate(tables):
        by_first.setdefault(pages[0], []).append(row)
    found = []
    for rows in by_first.values():
        common = min((lengths[row] - 1) // size for row in rows)
        for row in rows[1:]:
            common = _common(tables[rows[0]], tables[row], common)
        if common * size * (len(rows) - 1) * token_bytes >= WORTH:
            found.append(Shared(tuple(rows), common))
    return found


def _common(a: array[int], b: array[int], most: int) -> int:
    """How many of the first `most` pages are equal: they are up to some place and differ after it, so halving finds it."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
