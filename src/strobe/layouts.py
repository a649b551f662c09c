"""How tokens lie in memory.

    Dense   [B, S, G, D]                 every sequence has S keys; what plain arrays mean
    Ranged  [B, S, G, D] + starts        sequence b owns keys starts[b] … starts[b] + lengths[b] − 1
    Packed  [N, G, D] + offsets          sequences end to end, no padding: b owns offsets[b] … offsets[b + 1] − 1
    Paged   [P, Z, G, D] + table         sequence b's key s is row s % Z of page table[b, s // Z]

Index arrays are int32, on the device of the tokens, and are never read while checking: what
planning needs of their contents (`longest`) comes as an integer from whoever owns them. A room on
a GPU can't say that they lie, and stays within the arrays; `check_integrity` reads them and says it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from strobe.errors import Invalid
from strobe.masks import ARRAY


def whole(name: str, value: Any) -> None:
    """Refuses what is not a whole number; here, since 5 and 5.0 are one key to every cache of checks."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"{name} is an integer, 0 or more, known to the caller (no array is read); got {value!r}")


@dataclass(frozen=True)
class Dense:
    """Keys `[B, S, G, D]` and values `[B, S, G, V]`: what `attention(q, k, v)` means by plain arrays."""

    k: Any = field(metadata=ARRAY)
    v: Any = field(metadata=ARRAY)


@dataclass(frozen=True)
class Ranged:
    """Keys and values of which each sequence owns a range: left or right padding, a static cache.

    `k` is `[B, S, G, D]`, `v` `[B, S, G, V]`, `starts` and `lengths` int32 `[B]`. Positions count from the start.
    """

    k: Any = field(metadata=ARRAY)
    v: Any = field(metadata=ARRAY)
    starts: Any = field(metadata=ARRAY)
    lengths: Any = field(metadata=ARRAY)

    def check_integrity(self) -> None:
        """Reads starts and lengths, waiting for the device, and names the first range that is not within the keys.

            0 ≤ starts[b],   0 ≤ lengths[b],   starts[b] + lengths[b] ≤ S

        Raises:
            Invalid: a range begins before the keys or ends behind them.

        >>> import numpy as np
        >>> k, (start, length) = np.ones((1, 8, 2, 16)), np.array([[5], [4]])
        >>> Ranged(k, k, start, length).check_integrity()
        Traceback (most recent call last):
        strobe.errors.Invalid: sequence 0 owns keys 5 … 8, of 8 keys: ranges lie within them
        """
        S = _held(self.k).shape[1]
        for b, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            if start < 0 or length < 0 or start + length > S:
                raise Invalid(f"sequence {b} owns keys {start} … {start + length - 1}, of {S} keys: ranges lie within them")


@dataclass(frozen=True)
class Packed:
    """Sequences end to end. Wraps the queries, or the keys (whose values lie the same way).

    `tokens` is `[N, heads, width]`, `offsets` int32 `[B + 1]`, `longest` the length of the longest sequence.
    """

    tokens: Any = field(metadata=ARRAY)
    offsets: Any = field(metadata=ARRAY)
    longest: int

    def __post_init__(self) -> None:
        whole("longest", self.longest)

    def check_integrity(self) -> None:
        """Reads the offsets, waiting for the device, and names the first that is not where a sequence ends.

            offsets[0] = 0,   0 ≤ offsets[b + 1] − offsets[b] ≤ longest,   offsets[B] ≤ N

        Raises:
            Invalid: offsets do not begin at 0, fall, leave the tokens, or a sequence is longer than `longest`.

        >>> import numpy as np
        >>> Packed(np.ones((9, 2, 16)), np.array([0, 5, 3]), longest=5).check_integrity()
        Traceback (most recent call last):
        strobe.errors.Invalid: offsets[2] = 3 after 5: sequences are 0 … 5 tokens long
        """
        offsets, N = self.offsets.tolist(), _held(self.tokens).shape[0]
        if offsets[0]:
            raise Invalid(f"offsets[0] = {offsets[0]}: the first sequence begins at 0")
        for b, (start, stop) in enumerate(pairwise(offsets)):
            if not 0 <= stop - start <= self.longest:
                raise Invalid(f"offsets[{b + 1}] = {stop} after {start}: sequences are 0 … {self.longest} tokens long")
        if offsets[-1] > N:
            raise Invalid(f"offsets[{len(offsets) - 1}] = {offsets[-1]}: there are {N} tokens")


@dataclass(frozen=True)
class PackedKeys:
    """Packed keys with their values: what `attention(q, Packed(k, …), v)` becomes."""

    k: Any = field(metadata=ARRAY)
    v: Any = field(metadata=ARRAY)
    offsets: Any = field(metadata=ARRAY)
    longest: int

    def __post_init__(self) -> None:
        whole("longest", self.longest)


@dataclass(frozen=True)
class Paged:
    """Keys and values in pages, found through a table.

    `keys` is `[P, Z, G, D]`, `values` `[P, Z, G, V]` (any strides: both may be views of one array),
    `table` int32 `[B, pages of the longest sequence]`, `lengths` int32 `[B]`, `longest` the largest length.
    """

    keys: Any = field(metadata=ARRAY)
    values: Any = field(metadata=ARRAY)
    table: Any = field(metadata=ARRAY)
    lengths: Any = field(metadata=ARRAY)
    longest: int

    def __post_init__(self) -> None:
        whole("longest", self.longest)

    def check_integrity(self) -> None:
        """Reads table and lengths, waiting for the device, and names the first entry or length that points elsewhere.

            0 ≤ lengths[b] ≤ longest ≤ columns · Z,   0 ≤ table[b, s // Z] < P for s < lengths[b]

        Raises:
            Invalid: a length is below 0, above `longest` or beyond the table; or an entry in use is not a page.

        >>> import numpy as np
        >>> pages = np.ones((8, 4, 2, 16))
        >>> Paged(pages, pages, np.array([[5, 99]]), np.array([7]), longest=7).check_integrity()
        Traceback (most recent call last):
        strobe.errors.Invalid: table[0, 1] = 99 is not a page: pages are 0 … 7
        """
        P, Z = _held(self.keys).shape[:2]
        most = min(self.longest, self.table.shape[1] * Z)
        for b, (row, length) in enumerate(zip(self.table.tolist(), self.lengths.tolist(), strict=True)):
            if not 0 <= length <= most:
                allowed = f"longest={self.longest} and a table of {len(row)} columns of {Z} rows allow"
                raise Invalid(f"lengths[{b}] = {length}: lengths are 0 … {most}, as {allowed}")
            for column, page in enumerate(row[: -(-length // Z)]):
                if not 0 <= page < P:
                    raise Invalid(f"table[{b}, {column}] = {page} is not a page: pages are 0 … {P - 1}")


def _held(side: Any) -> Any:
    """The array of keys, narrow ones without their scales."""
    return side if hasattr(side, "shape") else side.data
