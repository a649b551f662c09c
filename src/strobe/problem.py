"""A call is checked into a problem: the one place where a caller's mistake is named.

A `Call` holds what the caller asked with its arrays; the same `Call` with each array replaced by its
`Described` is hashable, holds no data, and is what checking and planning see. No element of an array is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

from strobe import masks as m
from strobe.errors import Invalid
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap

FLOATS = ("float16", "bfloat16", "float32", "float64")
NARROW_QUERIES = ("float8_e4m3fn",)
NARROW = ("int8", "float8_e4m3fn", "float8_e5m2", "uint8")  # uint8: pairs of int4, see `Scaled`
Keys: TypeAlias = Dense | Ranged | PackedKeys | Paged


class Described(NamedTuple):
    """All that is asked of an array: never its elements."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    last_stride: int = 1

    def __repr__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Call(NamedTuple):
    """What was asked: arrays, or their descriptions, and values. A tuple, since one is made and hashed at every call."""

    q: Any  # an array [B, T, H, D], Scaled, or Packed
    keys: Keys
    mask: m.Mask = m.Full()
    scale: float | None = None
    cap: SoftCap | None = None
    bias: Any = None  # an array, broadcastable to [B, H, T, S]
    alibi: Alibi | None = None
    sink: Sink | None = None
    dropout: Dropout | None = None
    first: Any = None  # an integer, or int32 [B]


@lru_cache(maxsize=None)
def _fields(kind: type[Any]) -> tuple[tuple[str, bool], ...] | None:
    """(field, may an array lie in it) of a value type, in order; () if none may, None for a type that is no value's."""
    if kind is Call:
        return tuple((name, name not in ("scale", "cap", "dropout")) for name in Call._fields)
    if issubclass(kind, (int, float, type(None))):
        return ()
    if not is_dataclass(kind):
        return None
    held = {f.name for f in fields(kind) if f.metadata.get("array") or (kind is m.Both and f.name == "masks")}
    return tuple((f.name, f.name in held) for f in fields(kind)) if held else ()


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same value with each array in it changed, in a fixed order.

    >>> map_arrays(Sink("array"), str.upper)
    Sink(logits='ARRAY')
    """
    kind = cast("type[Any]", type(value))
    found = _fields(kind)
    if found:
        return kind(*[map_arrays(getattr(value, name), change) if held else getattr(value, name) for name, held in found])
    if found is not None:
        return value
    if isinstance(value, tuple) and kind is not Described:
        return tuple(map_arrays(item, change) for item in cast("tuple[Any, ...]", value))
    return change(value)


@dataclass(frozen=True)
class Problem:
    """A call that makes sense, without its data: letters, dtype, device, and the described call."""

    call: Call
    B: int
    T: int
    S: int
    H: int
    G: int
    D: int
    V: int
    dtype: str
    device: str
    scale: float
    verb: str = "attention"
    invariant: bool = False  # a sequence's bits depend on itself alone

    def __hash__(self) -> int:
        """Of the call, which decides all but the verb: plans are looked up by their problem at every call."""
        return hash(self.call)

    @property
    def layout(self) -> type:
        """How the keys lie: `Dense`, `Ranged`, `PackedKeys` or `Paged`."""
        return type(self.call.keys)

    @property
    def group(self) -> int:
        """Query heads a key head."""
        return self.H // self.G

    @property
    def result_dtype(self) -> str:
        """Of the result: the queries' own, or bfloat16 where those are narrow."""
        return "bfloat16" if self.dtype in NARROW_QUERIES else self.dtype

    @property
    def scaled(self) -> bool:
        """Whether keys or values are narrow and carry scales."""
        return any(isinstance(side, Scaled) for side in key_sides(self.call.keys))

    def __str__(self) -> str:
        call = self.call
        layout = "" if isinstance(call.keys, Dense) else f" {type(call.keys).__name__}"
        narrow = next((f" {side.data.dtype}" for side in key_sides(call.keys) if isinstance(side, Scaled)), "")
        narrow = "" if narrow == f" {self.dtype}" else narrow
        whole = [name for name, side in zip("qkv", (call.q, *key_sides(call.keys)), strict=True) if _of_sequence(side)]
        narrow += f" {', '.join(whole)} scaled by sequence" if whole else ""
        packed = " packed" if isinstance(call.q, Packed) else ""
        more = [str(value) for value in (call.cap, call.dropout) if value is not None]
        more += [name for name in ("bias", "alibi", "sink", "first") if getattr(call, name) is not None]
        return " ".join(
            [
                f"{self.verb} B={self.B} T={self.T}{packed} S={self.S} H={self.H} G={self.G} D={self.D}"
                + (f" V={self.V}" if self.V != self.D else ""),
                f"{self.dtype}{layout}{narrow}",
                _short(call.mask),
                *more,
            ]
        )


def _short(mask: m.Mask) -> str:
    """A mask without the descriptions of its arrays."""
    if isinstance(mask, m.Both):
        return " & ".join(map(_short, mask.masks))
    numbers = [f"{f.name}={getattr(mask, f.name)!r}" for f in fields(mask) if not isinstance(getattr(mask, f.name), tuple)]  # type: ignore[arg-type]
    return f"{type(mask).__name__}({', '.join(numbers)})"


def key_sides(keys: Keys) -> tuple[Any, Any]:
    """(keys, values) of any layout: arrays or `Scaled`."""
    return (keys.keys, keys.values) if isinstance(keys, Paged) else (keys.k, keys.v)


@lru_cache(maxsize=4096)
def check(call: Call) -> Problem:
    """The problem that a described call is.

    Raises:
        Invalid: what came, what was wanted, what to do.
    """
    q, queries, T = _queries(call.q)
    B, S, k, v = _keys(call.keys, None if queries is None else queries)
    H, D = q.shape[-2:]
    G, V = v.shape[-2:]
    if queries is None:
        if q.shape[0] != B:
            raise Invalid(f"queries and keys are of one batch; got B={q.shape[0]} in q {list(q.shape)} and B={B} in the keys")
    if k.shape[-1] != D:
        raise Invalid(f"queries and keys have one width D; got D={D} in q {list(q.shape)}, D={k.shape[-1]} in k {list(k.shape)}")
    if k.shape[:-1] != v.shape[:-1]:
        raise Invalid(f"each key has its value, so k and v differ in their last axis only; got k {list(k.shape)}, v {list(v.shape)}")
    if G == 0 or H % G:
        raise Invalid(
            f"each key head serves H/G query heads, so G must divide H; got H={H} in q {list(q.shape)}, "
            f"G={G} in k {list(k.shape)}. Are tokens and heads exchanged?"
        )
    if D == 0 or V == 0:
        raise Invalid(f"widths are 1 or more; got D={D}, V={V}")
    _dtypes(q, call.keys, isinstance(call.q, Scaled))
    scale = _number("scale", call.scale, D**-0.5)
    letters = {"B": B, "T": T, "S": S, "H": H}
    _mask(call.mask, letters, q.device)
    _terms(call, letters, q)
    return Problem(call, B, T, S, H, G, D, V, q.dtype, q.device, scale)


def unpaired(data: Described) -> Described:
    """Narrow numbers as they count: two a byte in the pairs of int4."""
    return data._replace(shape=(*data.shape[:-1], 2 * data.shape[-1])) if data.dtype == "uint8" else data


def _array(name: str, value: Any, axes: str) -> Described:
    """The description of an array that has to have these axes and a contiguous last one."""
    if not isinstance(value, Described):
        raise Invalid(f"{name} is an array [{axes}]; got {value!r}. Give a tensor")
    if len(value.shape) != len(axes.split(",")):
        raise Invalid(f"{name} is [{axes}]; got {len(value.shape)} axes: {list(value.shape)}")
    if value.last_stride != 1 and value.shape[-1] > 1:
        raise Invalid(
            f"the last axis of {name} has to be contiguous (other axes may have any stride); "
            f"got stride {value.last_stride} in {list(value.shape)}. Call .contiguous() on it"
        )
    return value


def _integers(name: str, value: Any, axes: str, shape: tuple[int | None, ...], device: str) -> Described:
    """The description of an int32 index array; a `None` in `shape` leaves that axis free."""
    found = _array(name, value, axes)
    if found.dtype != "int32":
        raise Invalid(f"{name} is int32; got {found.dtype}. Call .int() on it")
    if any(want is not None and have != want for have, want in zip(found.shape, shape, strict=True)):
        raise Invalid(f"{name} is [{axes}] = {[('any' if n is None else n) for n in shape]} here; got {list(found.shape)}")
    return _beside(name, found, device)


def _beside(name: str, found: Described, device: str) -> Described:
    if found.device != device:
        raise Invalid(f"all arrays of a call are on one device; q is on {device}, {name} on {found.device}")
    return found


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"{name} is an integer, 0 or more, known to the caller (no array is read); got {value!r}")
    return value


def _number(name: str, value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Invalid(f"{name} is a finite number; got {value!r}")
    return float(value)


def _queries(q: Any) -> tuple[Described, int | None, int]:
    """(the tokens, sequences if packed, the longest sequence)."""
    if isinstance(q, Packed):
        tokens = _array("q.tokens", q.tokens, "N, H, D")
        offsets = _integers("q.offsets", q.offsets, "B + 1", (None,), tokens.device)
        if offsets.shape[0] < 1:
            raise Invalid("q.offsets holds B + 1 integers, the first of them 0; got none")
        return tokens, offsets.shape[0] - 1, _count("q.longest", q.longest)
    found = _side("q", q, "B, T, H, D")
    return found, None, found.shape[1]


def _side(name: str, value: Any, axes: str) -> Described:
    """Queries, keys or values: an array, or `Scaled`, whose data's description is returned."""
    if not isinstance(value, Scaled):
        return _array(name, value, axes)
    data = _array(f"{name}.data", value.data, axes)
    scale = _array(f"{name}.scale", value.scale, axes.rsplit(",", 1)[0])
    known, want = [data.shape[:-1]], f"{list(data.shape[:-1])}, one a token and head"
    if axes.startswith("B"):
        known.append((data.shape[0], 1, data.shape[2]))
        want += f", or {list(known[1])}, one a sequence and head"
    if scale.dtype != "float32" or scale.shape not in known:
        raise Invalid(f"{name}.scale is float32 {want}; got {scale}")
    _beside(f"{name}.scale", scale, data.device)
    return unpaired(data)


def _of_sequence(side: Any) -> bool:
    """Whether scales are one a sequence and head."""
    return isinstance(side, Scaled) and side.scale.shape != side.data.shape[:-1]


def per_token(side: Scaled) -> Any:
    """The scales of arrays, one a token and head: those of a whole sequence as often as it has tokens, without a copy."""
    return side.scale if side.scale.shape == side.data.shape[:-1] else side.scale.expand(side.data.shape[:-1])


def _keys(keys: Keys, sequences: int | None) -> tuple[int, int, Described, Described]:
    """(B, S, keys, values) of a layout."""
    if isinstance(keys, Paged):
        k, v = _side("pages.keys", keys.keys, "P, Z, G, D"), _side("pages.values", keys.values, "P, Z, G, V")
        table = _integers("pages.table", keys.table, "B, pages", (sequences, None), k.device)
        _integers("pages.lengths", keys.lengths, "B", (table.shape[0],), k.device)
        longest, room = _count("pages.longest", keys.longest), table.shape[1] * k.shape[1]
        if longest > room:
            raise Invalid(
                f"the table's {table.shape[1]} page(s) of {k.shape[1]} token(s) hold {room} keys a sequence, "
                f"so longest is at most {room}; got {longest}. Give the table more columns"
            )
        return table.shape[0], longest, k, v
    if isinstance(keys, PackedKeys):
        k, v = _side("k.tokens", keys.k, "N, G, D"), _side("v", keys.v, "N, G, V")
        offsets = _integers("k.offsets", keys.offsets, "B + 1", (None if sequences is None else sequences + 1,), k.device)
        return offsets.shape[0] - 1, _count("k.longest", keys.longest), k, v
    if not isinstance(keys, (Dense, Ranged)):  # pyright: ignore[reportUnnecessaryIsInstance] — callers may not check types
        raise Invalid(f"keys are an array [B, S, G, D] with values, or Packed, Ranged or Paged; got {keys!r}")
    k, v = _side("k", keys.k, "B, S, G, D"), _side("v", keys.v, "B, S, G, V")
    if sequences is not None and k.shape[0] != sequences:
        raise Invalid(f"q.offsets holds {sequences} sequence(s), the keys {k.shape[0]}: k {list(k.shape)}")
    if isinstance(keys, Ranged):
        _integers("starts", keys.starts, "B", (k.shape[0],), k.device)
        _integers("lengths", keys.lengths, "B", (k.shape[0],), k.device)
    return k.shape[0], k.shape[1], k, v


def _dtypes(q: Described, keys: Keys, narrow: bool) -> None:
    if narrow:
        _narrow_queries(q, keys)
    elif q.dtype not in FLOATS:
        advice = ". Wrap them as Scaled(data, scale)" if q.dtype in NARROW_QUERIES else ""
        raise Invalid(f"queries are one of {', '.join(FLOATS)}; got {q.dtype}{advice}")
    for name, side in zip(("keys", "values"), key_sides(keys), strict=True):
        if isinstance(side, Scaled):
            if side.data.dtype not in NARROW:
                raise Invalid(f"Scaled {name} are one of {', '.join(NARROW)} (pairs of int4); got {side.data.dtype}")
            _beside(name, side.data, q.device)
            continue
        if side.dtype != q.dtype:
            advice = "wrap them as Scaled(data, scale)" if side.dtype in NARROW else "convert one of them"
            raise Invalid(f"queries, keys and values have one dtype; q is {q.dtype}, the {name} are {side.dtype}: {advice}")
        _beside(name, side, q.device)


def _narrow_queries(q: Described, keys: Keys) -> None:
    if q.dtype not in NARROW_QUERIES:
        raise Invalid(f"Scaled queries are {', '.join(NARROW_QUERIES)}; got {q.dtype}")
    for name, side in zip(("keys", "values"), key_sides(keys), strict=True):
        found = f"Scaled {side.data.dtype}" if isinstance(side, Scaled) else side.dtype
        if found != f"Scaled {q.dtype}":
            raise Invalid(f"beside Scaled queries keys and values are Scaled {q.dtype} as they are; got {name} of {found}")


def _mask(mask: Any, letters: dict[str, int], device: str) -> None:
    if isinstance(mask, type) and issubclass(mask, m.Mask):
        raise Invalid(f"mask is a value, not a type: write {mask.__name__}(…)")
    if not isinstance(mask, m.Mask):
        raise Invalid(
            f"mask is a Mask (Full, Causal, Window, Prefix, Documents, Blocks, Tree, Dense, or these with &); got {mask!r}. "
            "An array of bool is wrapped as Dense(array)"
        )
    B, T, S, H = letters["B"], letters["T"], letters["S"], letters["H"]
    for part in mask.masks if isinstance(mask, m.Both) else (mask,):
        if isinstance(part, m.Prefix) and not isinstance(part.length, int):
            _integers("Prefix.length", part.length, "B", (B,), device)
        elif isinstance(part, m.Documents):
            _integers("Documents.queries", part.queries, "B, T", (B, T), device)
            _integers("Documents.keys", part.keys, "B, S", (B, S), device)
        elif isinstance(part, m.Blocks):
            want = (B, H, -(-T // part.rows), -(-S // part.columns))
            _booleans("Blocks.kept", part.kept, "B or 1, H or 1, ⌈T / rows⌉, ⌈S / columns⌉", want, (0, 1), device)
        elif isinstance(part, m.Tree):
            _booleans("Tree.visible", part.visible, "B or 1, T, T", (B, T, T), (0,), device)
        elif isinstance(part, m.Dense):
            if not isinstance(part.visible, Described):
                raise Invalid(f"Dense.visible is an array; got {part.visible!r}")
            want = (B, H, T, S)[4 - min(4, len(part.visible.shape)) :]
            _booleans("Dense.visible", part.visible, "B, H, T, S", want, tuple(range(4)), device)


def _booleans(name: str, value: Any, axes: str, want: tuple[int, ...], free: tuple[int, ...], device: str) -> None:
    """Checks a bool array; the axes in `free` may also be 1."""
    if not isinstance(value, Described):
        raise Invalid(f"{name} is an array; got {value!r}")
    if value.dtype != "bool":
        raise Invalid(f"{name} is bool, true where the query sees the key; got {value.dtype}")
    shape = value.shape
    if len(shape) != len(want) or any(
        have != need and not (have == 1 and axis in free) for axis, (have, need) in enumerate(zip(shape, want, strict=False))
    ):
        raise Invalid(f"{name} is [{axes}] = {list(want)} here; got {list(shape)}")
    _beside(name, value, device)


def _terms(call: Call, letters: dict[str, int], q: Described) -> None:
    B, T, S, H = letters["B"], letters["T"], letters["S"], letters["H"]
    for name, kind in (("cap", SoftCap), ("alibi", Alibi), ("sink", Sink), ("dropout", Dropout)):
        value = getattr(call, name)
        if value is not None and not isinstance(value, kind):
            raise Invalid(f"{name} is a {kind.__name__} or None; got {value!r}")
    if call.bias is not None:
        if not isinstance(call.bias, Described) or call.bias.dtype not in FLOATS:
            raise Invalid(f"bias is a floating array broadcastable to [B, H, T, S]; got {call.bias}. For true and false use mask=Dense(…)")
        shape = call.bias.shape
        want = (B, H, T, S)[4 - min(4, len(shape)) :]
        if len(shape) > 4 or any(have not in (1, need) for have, need in zip(shape, want, strict=True)):
            raise Invalid(f"bias is broadcastable to [B, H, T, S] = {[B, H, T, S]}; got {list(shape)}")
        _beside("bias", call.bias, q.device)
    if call.alibi is not None:
        slopes = call.alibi.slopes
        if not isinstance(slopes, Described) or slopes.shape not in ((H,), (B, H)) or slopes.dtype not in FLOATS:
            raise Invalid(f"Alibi.slopes is a floating array [H] = [{H}] or [B, H] = [{B}, {H}]; got {slopes}")
        _beside("Alibi.slopes", slopes, q.device)
    if call.sink is not None:
        logits = call.sink.logits
        if not isinstance(logits, Described) or logits.shape != (H,) or logits.dtype not in FLOATS:
            raise Invalid(f"Sink.logits is a floating array [H] = [{H}]; got {logits}")
        _beside("Sink.logits", logits, q.device)
    if call.first is not None and not (isinstance(call.first, int) and not isinstance(call.first, bool)):
        _integers("first", call.first, "B", (B,), q.device)
