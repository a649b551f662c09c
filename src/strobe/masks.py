"""Which keys a query may see: masks as values that compose with `&`.

A mask speaks of positions. In a sequence of S keys the keys stand at 0 … S − 1, and unless the
caller says otherwise (`first=`) the T queries stand at S − T … S − 1: the last query at the last key.

    Causal()            Window(before=1, after=0)   Prefix(2)
    ■ ■ ■ · ·           · ■ ■ · ·                   ■ ■ ■ · ·
    ■ ■ ■ ■ ·           · · ■ ■ ·                   ■ ■ ■ ■ ·
    ■ ■ ■ ■ ■           · · · ■ ■                   ■ ■ ■ ■ ■

Masks know four things: `allows` (the definition), `bounds` (what a kernel may skip), `picture`
(what a reader sees) and `&`. `allows` uses operators and indexing only, so the same line serves
integers and the arrays of any library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from strobe.errors import Invalid

ARRAY = {"array": True}  # marks a field that holds an array (or, in a problem, its description)


@dataclass(frozen=True)
class Grid:
    """Where a mask is asked: indices that are integers, or arrays broadcastable to `[B, H, T, S]`.

    `query` is the query's position among the keys, `t` its index among the queries; `key` is the
    key's position and index alike. `first` is the position of the sequence's query 0.
    """

    query: Any
    key: Any
    b: Any = 0
    h: Any = 0
    t: Any = 0
    first: Any = 0


class Mask:
    """Which keys a query may see. The masks are `Full`, `Causal`, `Window`, `Prefix`, `Documents`,
    `Blocks`, `Tree`, `Dense` and what `&` makes of them."""

    plain: ClassVar[bool] = False  # whether the mask is made of numbers alone, without arrays

    def allows(self, at: Grid) -> Any:
        """May the query see the key? Truth values of the broadcast shape of `at`."""
        raise NotImplementedError

    def bounds(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """Keys `low … high − 1` hold every key that queries at positions `first … last` may see."""
        return 0, keys

    def __and__(self, other: Mask) -> Mask:
        """The keys that both masks allow; for masks of numbers the same value whichever is named first."""
        if not isinstance(other, Mask):  # pyright: ignore[reportUnnecessaryIsInstance] — callers may not check types
            came = f"the type {other.__name__}: write {other.__name__}(…)" if isinstance(other, type) else f"a {type(other).__name__}"
            raise Invalid(f"& joins masks (Causal() & Window(before=3)); got {came}. An array of bool is wrapped as Dense(array)")
        parts: dict[Mask, None] = {}
        window: Window | None = None
        prefix: Prefix | None = None
        for mask in (*_parts(self), *_parts(other)):
            if isinstance(mask, Window):
                window = mask if window is None else window.narrowed(mask)
            elif isinstance(mask, Prefix) and isinstance(mask.length, int):
                prefix = mask if prefix is None or mask.length < prefix.length else prefix
            else:
                parts[mask] = None
        if prefix is not None:
            parts[prefix] = None
        if window is not None and window != Window():
            parts[window] = None
        if not parts:
            return Full()
        if len(parts) == 1:
            return next(iter(parts))
        return Both(tuple(sorted(parts, key=lambda mask: ORDER.index(type(mask)))))

    def __or__(self, other: NoReturn) -> NoReturn:
        """Nothing: a union has no bounds that a kernel could skip by. `NoReturn` lets a type checker say so too."""
        raise Invalid("masks join with & only; spell a union out as Dense(array), a bool array broadcastable to [B, H, T, S]")

    def picture(self, queries: int, keys: int) -> str:
        """The mask drawn for one sequence: a row a query, ■ where it may see the key."""
        first = keys - queries
        rows = (
            " ".join(
                "■" if self.allows(Grid(query=first + t, key=s, t=t, first=first)) else "·"
                for s in range(keys)
            )
            for t in range(queries)
        )
        return "\n".join(rows)


def _parts(mask: Mask) -> tuple[Mask, ...]:
    if isinstance(mask, Both):
        return mask.masks
    return () if isinstance(mask, Full) else (mask,)


@dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key."""

    plain: ClassVar[bool] = True

    def allows(self, at: Grid) -> Any:
        return at.key == at.key


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees the keys up to its own position: `key ≤ query`."""

    plain: ClassVar[bool] = True

    def allows(self, at: Grid) -> Any:
        return at.key <= at.query

    def bounds(self, first: int, last: int, keys: int) -> tuple[int, int]:
        return 0, max(0, min(keys, last + 1))


@dataclass(frozen=True)
class Window(Mask):
    """A query sees the key at its own position, `before` keys before it and `after` keys after it.

    `None` leaves that side open. Mistral's window of 4,096 keys is `Causal() & Window(before=4095)`.
    """

    plain: ClassVar[bool] = True
    before: int | None = None
    after: int | None = None

    def __post_init__(self) -> None:
        for side in ("before", "after"):
            value = getattr(self, side)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise Invalid(f"Window({side}=…) counts keys, so it is an integer or None; got {value!r}")
            if value is not None and value < 0:
                raise Invalid(f"Window({side}=…) counts keys, so it is 0 or more; got {value}. None means no limit")

    def narrowed(self, other: Window) -> Window:
        """The window that both allow."""

        def least(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else min(a, b)

        return Window(least(self.before, other.before), least(self.after, other.after))

    def allows(self, at: Grid) -> Any:
        seen = at.key == at.key
        if self.before is not None:
            seen = seen & (at.key >= at.query - self.before)
        if self.after is not None:
            seen = seen & (at.key <= at.query + self.after)
        return seen

    def bounds(self, first: int, last: int, keys: int) -> tuple[int, int]:
        low = 0 if self.before is None else max(0, min(keys, first - self.before))
        high = keys if self.after is None else max(0, min(keys, last + self.after + 1))
        return low, max(low, high)


@dataclass(frozen=True)
class Prefix(Mask):
    """Causal, but the first `length` keys are seen by every query (prefix language models).

    `length` is an integer, or int32 `[B]` when it differs by sequence.
    """

    length: Any = field(metadata=ARRAY)

    def __post_init__(self) -> None:
        if isinstance(self.length, (bool, float)) or (isinstance(self.length, int) and self.length < 0):
            raise Invalid(f"Prefix(length) counts keys, so it is an integer, 0 or more, or int32 [B]; got {self.length}")

    def allows(self, at: Grid) -> Any:
        length = self.length if isinstance(self.length, int) else self.length[at.b]
        return (at.key <= at.query) | (at.key < length)

    def bounds(self, first: int, last: int, keys: int) -> tuple[int, int]:
        if not isinstance(self.length, int):
            return 0, keys
        return 0, max(0, min(keys, max(last + 1, self.length)))


@dataclass(frozen=True)
class Documents(Mask):
    """A query sees the keys of its own document: the two ids are equal.

    `queries` is int32 `[B, T]`, `keys` int32 `[B, S]`.
    """

    queries: Any = field(metadata=ARRAY)
    keys: Any = field(metadata=ARRAY)

    def allows(self, at: Grid) -> Any:
        return self.queries[at.b, at.t] == self.keys[at.b, at.key]


@dataclass(frozen=True)
class Blocks(Mask):
    """Block-sparse: query t sees key s if `kept[b, h, t // rows, s // columns]`.

    `kept` is bool `[B or 1, H or 1, ⌈T / rows⌉, ⌈S / columns⌉]`.
    """

    kept: Any = field(metadata=ARRAY)
    rows: int = 64
    columns: int = 64

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise Invalid(f"Blocks({name}=…) is the edge of a block, an integer, 1 or more; got {value!r}")

    def allows(self, at: Grid) -> Any:
        b = at.b if self.kept.shape[0] > 1 else at.b * 0
        h = at.h if self.kept.shape[1] > 1 else at.h * 0
        return self.kept[b, h, at.t // self.rows, at.key // self.columns]


@dataclass(frozen=True)
class Tree(Mask):
    """Drafted tokens as a tree: the last T keys are the T queries' own tokens, `visible[b, t, j]` says
    whether node t sees node j; every query sees all keys before the tree.

    `visible` is bool `[B or 1, T, T]`.
    """

    visible: Any = field(metadata=ARRAY)

    def allows(self, at: Grid) -> Any:
        nodes = self.visible.shape[-1]
        j = at.key - at.first
        inside = (j >= 0) & (j < nodes)
        b = at.b if self.visible.shape[0] > 1 else at.b * 0
        # clamped by arithmetic, so that integers and arrays share the line
        return (j < 0) | (inside & self.visible[b, at.t, j * inside])


@dataclass(frozen=True)
class Dense(Mask):
    """Any mask at all, spelled out: bool, broadcastable to `[B, H, T, S]`, true where the query sees the key."""

    visible: Any = field(metadata=ARRAY)

    def allows(self, at: Grid) -> Any:
        index = (at.b, at.h, at.t, at.key)
        shape = self.visible.shape
        where = tuple(i if n > 1 else i * 0 for i, n in zip(index[4 - len(shape) :], shape, strict=True))
        return self.visible[where]


@dataclass(frozen=True)
class Both(Mask):
    """What `&` makes: the keys that every one of `masks` allows."""

    masks: tuple[Mask, ...]

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return all(mask.plain for mask in self.masks)

    def allows(self, at: Grid) -> Any:
        seen = self.masks[0].allows(at)
        for mask in self.masks[1:]:
            seen = seen & mask.allows(at)
        return seen

    def bounds(self, first: int, last: int, keys: int) -> tuple[int, int]:
        low, high = 0, keys
        for mask in self.masks:
            a, b = mask.bounds(first, last, keys)
            low, high = max(low, a), min(high, b)
        return low, max(low, high)

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.masks))


ORDER = (Full, Causal, Window, Prefix, Documents, Blocks, Tree, Dense)


def split(mask: Mask) -> tuple[int | None, int | None, tuple[Mask, ...]]:
    """(keys before, keys after, the rest): how far `Causal` and `Window` let a query see, None for an open side, and the
    parts of the mask that are neither."""
    before: int | None = None
    after: int | None = None
    causal = False
    rest: list[Mask] = []
    for part in _parts(mask):
        if isinstance(part, Causal):
            causal = True
        elif isinstance(part, Window):
            before, after = part.before, part.after
        else:
            rest.append(part)
    return before, 0 if causal else after, tuple(rest)


def causal_window(mask: Mask) -> tuple[int | None, int | None] | None:
    """(keys before, keys after) that a mask of `Causal` and `Window` alone lets through, None for an open side;
    None for any other mask. What most kernels can do."""
    before, after, rest = split(mask)
    return None if rest else (before, after)
