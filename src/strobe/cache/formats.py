"""What numbers a cache holds: those that were computed, or narrow ones with a scale a token and head.

    a token of one key head, D = 128    bfloat16 256 bytes    Int8, Float8 132    Int4 68
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class AsComputed:
    """Keys and values in the dtype of the model."""


@dataclass(frozen=True)
class Int8:
    """Whole numbers −127 … 127, the greatest of a row 127: half the bytes of bfloat16."""


@dataclass(frozen=True)
class Int4:
    """Whole numbers −7 … 7, two a byte: a quarter of the bytes of bfloat16. Widths are even."""


@dataclass(frozen=True)
class Float8:
    """float8 e4m3: as many bytes as `Int8`, for rows whose numbers differ much in size."""


Format: TypeAlias = AsComputed | Int8 | Int4 | Float8
AS_COMPUTED = AsComputed()
