"""The problem of `append`: new keys and values written into the pages of their sequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from strobe.errors import Invalid
from strobe.layouts import Packed, Paged
from strobe.problem import FLOATS, NARROW, Described, key_sides
from strobe.terms import Scaled


@dataclass(frozen=True)
class Append:
    """New tokens, at most `T` a sequence, for `B` sequences, without their data."""

    B: int
    T: int
    G: int
    D: int
    V: int
    Z: int
    dtype: str
    page_dtype: str
    device: str
    packed: bool

    def __str__(self) -> str:
        return f"append B={self.B} T={self.T} G={self.G} D={self.D} V={self.V} Z={self.Z} {self.dtype} into {self.page_dtype}"


@lru_cache(maxsize=1024)
def check_append(pages: Any, k: Any, v: Any) -> Append:
    """The problem that writing described keys and values into described pages is.

    Raises:
        Invalid: the tokens do not fit the pages.
    """
    if not isinstance(pages, Paged):
        raise Invalid(f"append writes into Paged(keys, values, table, lengths, longest); got {pages!r}")
    packed = isinstance(k, Packed)
    new = k.tokens if packed else k
    want = 3 if packed else 4
    for name, value in (("k", new), ("v", v)):
        if not isinstance(value, Described) or len(value.shape) != want:
            raise Invalid(f"{name} is [{'N, G, width' if packed else 'B, T, G, width'}]; got {value!r}")
        if value.dtype != new.dtype or value.dtype not in FLOATS:
            raise Invalid(f"new keys and values have one floating dtype; got k {new.dtype}, {name} {value.dtype}")
        if value.last_stride != 1 and value.shape[-1] > 1:
            raise Invalid(f"the last axis of {name} has to be contiguous; got stride {value.last_stride}. Call .contiguous() on it")
    if new.shape[:-1] != v.shape[:-1]:
        raise Invalid(f"each key has its value, so k and v differ in their last axis only; got k {list(new.shape)}, v {list(v.shape)}")
    sides: list[Described] = []
    for name, side, value in zip(("keys", "values"), key_sides(pages), (new, v), strict=True):
        data = side.data if isinstance(side, Scaled) else side
        if not isinstance(data, Described) or len(data.shape) != 4:
            raise Invalid(f"pages.{name} is [P, Z, G, width]; got {data!r}")
        if data.shape[2:] != value.shape[-2:]:
            G, width = data.shape[2:]
            raise Invalid(f"new {name} are [..., G, width] = [..., {G}, {width}] as the pages are; got {list(value.shape)}")
        if data.dtype in NARROW and not isinstance(side, Scaled):
            raise Invalid(f"pages.{name} of {data.dtype} carry scales: wrap them as Scaled(data, scale)")
        if data.device != value.device:
            raise Invalid(f"all arrays of a call are on one device; pages.{name} are on {data.device}, the new tokens on {value.device}")
        sides.append(data)
    if sides[0].shape[:3] != sides[1].shape[:3]:
        raise Invalid(f"pages of keys and values have one [P, Z, G]; got {list(sides[0].shape)} and {list(sides[1].shape)}")
    B = k.offsets.shape[0] - 1 if packed else new.shape[0]
    for name, index, shape in (("table", pages.table, (B, None)), ("lengths", pages.lengths, (B,))):
        if not isinstance(index, Described) or index.dtype != "int32" or len(index.shape) != len(shape) or index.shape[0] != B:
            raise Invalid(f"pages.{name} is int32 with a row for each of the {B} sequence(s); got {index}")
    T = k.longest if packed else new.shape[1]
    if pages.longest > pages.table.shape[1] * sides[0].shape[1]:
        raise Invalid(
            f"the table's {pages.table.shape[1]} page(s) of {sides[0].shape[1]} token(s) hold "
            f"{pages.table.shape[1] * sides[0].shape[1]} keys a sequence; longest is {pages.longest}"
        )
    return Append(
        B, T, sides[0].shape[2], sides[0].shape[3], sides[1].shape[3], sides[0].shape[1],
        new.dtype, sides[0].dtype, new.device, packed,
    )  # fmt: skip
