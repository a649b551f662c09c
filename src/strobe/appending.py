"""The problem of `append`: new keys and values written into the pages of their sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from strobe.errors import Invalid
from strobe.layouts import Packed, Paged
from strobe.masks import ARRAY
from strobe.problem import FLOATS, NARROW, Described, key_sides, unpaired
from strobe.terms import Scaled


@dataclass(frozen=True)
class Rotary:
    """Turns pairs of a key's numbers by angles of its position p (RoFormer, Su et al., 2021, arXiv:2104.09864, section 3.4.2).

        k[i], k[j]  becomes  k[i] · cos[p, c] − k[j] · sin[p, c],  k[j] · cos[p, c] + k[i] · sin[p, c]

    `cos` and `sin` are float32 `[positions, width / 2]`, a column a pair: the first `width` numbers of each head are turned,
    the others stay. Pair c is numbers c and c + width / 2 (GPT-NeoX, Llama), or, `interleaved`, 2c and 2c + 1 (GPT-J).

    p is the token's place in its sequence, unless `positions` gives one for each new token: int32 `[B, T]`, or `[N]` packed.
    """

    cos: Any = field(metadata=ARRAY)
    sin: Any = field(metadata=ARRAY)
    positions: Any = field(default=None, metadata=ARRAY)
    interleaved: bool = False

    def __post_init__(self) -> None:
        if type(self.interleaved) is not bool:  # 1 and True would be one key to every cache of checks
            raise Invalid(f"Rotary(interleaved) is True (pairs of neighbours) or False (of halves); got {self.interleaved!r}")


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
    page_dtype: str  # of the keys
    value_dtype: str
    device: str
    packed: bool
    rotated: int = 0  # numbers of each key that are turned by its position
    interleaved: bool = False

    def __str__(self) -> str:
        rotary = f" Rotary {self.rotated}{' interleaved' if self.interleaved else ''}" if self.rotated else ""
        return f"append B={self.B} T={self.T} G={self.G} D={self.D} V={self.V} Z={self.Z} {self.dtype} into {self.page_dtype}{rotary}"


@lru_cache(maxsize=1024)
def check_append(pages: Any, k: Any, v: Any, rotary: Any = None) -> Append:
    """The problem that writing described keys and values into described pages is, the keys turned by `rotary` if given.

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
            raise Invalid(f"{name} is [{'N, G, width' if packed else 'B, T, G, width'}]; got {value}")
        if value.dtype != new.dtype or value.dtype not in FLOATS:
            raise Invalid(f"new keys and values have one floating dtype; got k {new.dtype}, {name} {value.dtype}")
        _contiguous(name, value)
        _beside(name, value, new.device)
    if new.shape[:-1] != v.shape[:-1]:
        raise Invalid(f"each key has its value, so k and v differ in their last axis only; got k {list(new.shape)}, v {list(v.shape)}")
    sides: list[Described] = []
    for name, side, value in zip(("keys", "values"), key_sides(pages), (new, v), strict=True):
        data = _side(f"pages.{name}", side)
        if data.shape[2:] != value.shape[-2:]:
            G, width = data.shape[2:]
            raise Invalid(f"new {name} are [..., G, width] = [..., {G}, {width}] as the pages are; got {list(value.shape)}")
        _beside(f"pages.{name}", data, new.device)
        sides.append(data)
    if sides[0].shape[:3] != sides[1].shape[:3]:
        raise Invalid(f"pages of keys and values have one [P, Z, G]; got {list(sides[0].shape)} and {list(sides[1].shape)}")
    B = _index("k.offsets", k.offsets, ("B + 1",), None, new.device).shape[0] - 1 if packed else new.shape[0]
    if B < 0:
        raise Invalid("k.offsets holds B + 1 integers, the first of them 0; got none")
    table = _index("pages.table", pages.table, ("B", "pages"), B, new.device)
    _index("pages.lengths", pages.lengths, ("B",), B, new.device)
    T = k.longest if packed else new.shape[1]
    room = table.shape[1] * sides[0].shape[1]
    if pages.longest > room:
        raise Invalid(
            f"the table's {table.shape[1]} page(s) of {sides[0].shape[1]} token(s) hold {room} keys a sequence, "
            f"so longest is at most {room}; longest is {pages.longest}. Give the table more columns"
        )
    return Append(
        B, T, sides[0].shape[2], sides[0].shape[3], sides[1].shape[3], sides[0].shape[1],
        new.dtype, sides[0].dtype, sides[1].dtype, new.device, packed, *_rotary(rotary, new),
    )  # fmt: skip


def _rotary(rotary: Any, new: Described) -> tuple[int, bool]:
    """(numbers of each new key that are turned, whether its pairs are neighbours)."""
    if rotary is None:
        return 0, False
    if not isinstance(rotary, Rotary):
        raise Invalid(f"rotary is Rotary(cos, sin) or None; got {rotary!r}")
    cos, D = rotary.cos, new.shape[-1]
    for name, table in (("cos", cos), ("sin", rotary.sin)):
        if not isinstance(table, Described) or len(table.shape) != 2 or table.dtype != "float32":
            raise Invalid(f"rotary.{name} is float32 [positions, width / 2]; got {table}. The rotation is computed in float32")
        _contiguous(f"rotary.{name}", table)
        _beside(f"rotary.{name}", table, new.device)
    if cos.shape != rotary.sin.shape:
        raise Invalid(f"each cosine has its sine, so cos and sin have one shape; got {list(cos.shape)} and {list(rotary.sin.shape)}")
    pairs = cos.shape[1]
    if not 0 < 2 * pairs <= D:
        raise Invalid(
            f"rotary.cos has a column for each pair of a key's numbers, 1 … {D // 2} of them where D={D}; got {pairs}. "
            "Of tables that hold each angle twice, as transformers' do, take one half: cos[:, : width // 2]"
        )
    at = rotary.positions
    if at is not None:
        if not isinstance(at, Described) or at.dtype != "int32" or at.shape != new.shape[:-2]:
            raise Invalid(f"rotary.positions is int32 {list(new.shape[:-2])}, a position for each new token; got {at}")
        _contiguous("rotary.positions", at)
        _beside("rotary.positions", at, new.device)
    return 2 * pairs, rotary.interleaved


def _side(name: str, side: Any) -> Described:
    """The pages of keys or values: what is written into has to be what its kernels take it for."""
    data = side.data if isinstance(side, Scaled) else side
    if not isinstance(data, Described) or len(data.shape) != 4:
        raise Invalid(f"{name} is [P, Z, G, width]; got {data}")
    if not isinstance(side, Scaled):
        if data.dtype in NARROW:
            raise Invalid(f"{name} of {data.dtype} carry scales: wrap them as Scaled(data, scale)")
        if data.dtype not in FLOATS:
            raise Invalid(f"{name} are one of {', '.join(FLOATS)}, or Scaled; got {data.dtype}")
    else:
        if data.dtype not in NARROW:
            raise Invalid(f"Scaled {name} are one of {', '.join(NARROW)} (pairs of int4); got {data.dtype}. Plain pages carry no scales")
        scale = side.scale
        if not isinstance(scale, Described) or scale.dtype != "float32" or scale.shape != data.shape[:-1]:
            raise Invalid(f"{name}.scale is float32 {list(data.shape[:-1])}, one a token and head; got {scale}")
        _beside(f"{name}.scale", scale, data.device)
    _contiguous(name, data)
    return unpaired(data) if isinstance(side, Scaled) else data


def _index(name: str, value: Any, axes: tuple[str, ...], B: int | None, device: str) -> Described:
    """An int32 array of these axes, the first of `B` rows if that is known."""
    rows = "" if B is None else f" with a row for each of the {B} sequence(s)"
    if (
        not isinstance(value, Described)
        or value.dtype != "int32"
        or len(value.shape) != len(axes)
        or (B is not None and value.shape[0] != B)
    ):
        raise Invalid(f"{name} is int32{rows}, [{', '.join(axes)}]; got {value}")
    _contiguous(name, value)
    _beside(name, value, device)
    return value


def _contiguous(name: str, value: Described) -> None:
    if value.last_stride != 1 and value.shape[-1] > 1:
        raise Invalid(f"the last axis of {name} has to be contiguous; got stride {value.last_stride}. Call .contiguous() on it")


def _beside(name: str, value: Described, device: str) -> None:
    if value.device != device:
        raise Invalid(f"all arrays of a call are on one device; {name} is on {value.device}, the new keys on {device}")
