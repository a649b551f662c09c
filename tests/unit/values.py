"""Stand-ins for arrays, made of the standard library: a table of numbers, and random masks, layouts and calls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from hypothesis import strategies as st

from strobe.masks import Blocks, Causal, Dense, Documents, Full, Grid, Mask, Prefix, Tree, Window
from strobe.problem import Described


@dataclass(frozen=True)
class Table:
    """A table of numbers that is indexed as an array is; nothing else of an array."""

    shape: tuple[int, ...]
    numbers: tuple[Any, ...]  # in the order of the last index first

    def __getitem__(self, index: Any) -> Any:
        at = index if isinstance(index, tuple) else (index,)
        assert len(at) == len(self.shape)
        place = 0
        for i, n in zip(at, self.shape, strict=True):
            if not 0 <= i < n:
                raise IndexError(f"{index} in {self.shape}")
            place = place * n + i
        return self.numbers[place]


def tables(shape: tuple[int, ...], numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Table]:
    size = 1
    for n in shape:
        size *= n
    return st.lists(numbers, min_size=size, max_size=size).map(lambda found: Table(shape, tuple(found)))


def single_masks(B: int, T: int, S: int) -> st.SearchStrategy[Mask]:
    """Any one mask over B sequences of T queries and S keys, and one head."""
    side = st.none() | st.integers(0, S + 2)
    ids, bits = st.integers(0, 2), st.booleans()
    edges = st.tuples(st.integers(1, 3), st.integers(1, 3))
    blocks = edges.flatmap(
        lambda e: tables((1, 1, -(-T // e[0]), -(-S // e[1])), bits).map(lambda kept: Blocks(kept, rows=e[0], columns=e[1]))
    )
    kinds: list[st.SearchStrategy[Mask]] = [
        st.just(Full()),
        st.just(Causal()),
        st.builds(Window, before=side, after=side),
        st.integers(0, S + 2).map(Prefix),
        tables((B,), st.integers(0, S)).map(Prefix),
        st.builds(Documents, tables((B, T), ids), tables((B, S), ids)),
        blocks,
        tables((T, S), bits).map(Dense),
        tables((B, 1, 1, S), bits).map(Dense),
    ]
    if S >= T:
        kinds.append(tables((1, T, T), bits).map(Tree))
    return st.one_of(kinds)


@st.composite
def mask_cases(draw: st.DrawFn, count: int) -> tuple[tuple[int, int, int], tuple[Mask, ...]]:
    """((B, T, S), `count` masks, each one or a composition of two)."""
    B, T, S = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    one = single_masks(B, T, S)
    composed = st.tuples(one, one).map(lambda pair: pair[0] & pair[1])
    return (B, T, S), tuple(draw(one | composed) for _ in range(count))


def allowed(mask: Mask, B: int, T: int, S: int) -> frozenset[tuple[int, int, int]]:
    """Every (b, t, s) that the mask allows, asked one at a time."""
    first = S - T
    return frozenset(
        (b, t, s) for b, t, s in product(range(B), range(T), range(S)) if mask.allows(Grid(query=first + t, key=s, b=b, t=t, first=first))
    )


def array(*shape: int, dtype: str = "float32", device: str = "cpu", last_stride: int = 1) -> Described:
    return Described(shape, dtype, device, last_stride)


def ints(*shape: int) -> Described:
    return array(*shape, dtype="int32")
