"""How tokens lie in memory.

    Dense   [B, S, G, D]                 every sequence has S keys; what plain arrays mean
    Ranged  [B, S, G, D] + starts        sequence b owns keys starts[b] … starts[b] + lengths[b] − 1
    Packed  [N, G, D] + offsets          sequences end to end, no padding: b owns offsets[b] … offsets[b + 1] − 1
    Paged   [P, Z, G, D] + table         sequence b's key s is row s % Z of page table[b, s // Z]

Index arrays are int32, on the device of the tokens, and are never read while checking: what
planning needs of their contents (`longest`) comes as an integer from whoever owns them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
