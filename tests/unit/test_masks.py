"""Masks against brute force: bounds hold every allowed key, `&` is what sets are, pictures are the docstrings'."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strobe import masks as m
from strobe.errors import Invalid
from strobe.masks import Both, Causal, Dense, Documents, Full, Grid, Mask, Prefix, Window, causal_window

from .values import Table, allowed, mask_cases

PICTURES = {
    "Causal()": (Causal(), "■ ■ ■ · ·\n■ ■ ■ ■ ·\n■ ■ ■ ■ ■"),
    "Window(before=1, after=0)": (Window(before=1, after=0), "· ■ ■ · ·\n· · ■ ■ ·\n· · · ■ ■"),
    "Prefix(2)": (Prefix(2), "■ ■ ■ · ·\n■ ■ ■ ■ ·\n■ ■ ■ ■ ■"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_one_in_the_modules_docstring(name: str) -> None:
    mask, drawn = PICTURES[name]
    assert mask.picture(3, 5) == drawn
    told = inspect.getdoc(m) or ""
    column = [title.strip() for title in next(line for line in told.splitlines() if "Causal()  " in line).split("   ") if title.strip()].index(name)
    rows = [line.strip().split("   ") for line in told.splitlines() if line.strip()[:1] in "■·" and line.strip()]
    assert "\n".join([part for part in row if part.strip()][column].strip() for row in rows) == drawn


def test_pictures_of_compositions() -> None:
    assert (Causal() & Window(before=1)).picture(4, 5) == "■ ■ · · ·\n· ■ ■ · ·\n· · ■ ■ ·\n· · · ■ ■"
    assert Full().picture(1, 3) == "■ ■ ■"
    assert Causal().picture(3, 1) == "·\n·\n■"
    assert Full().picture(2, 0) == "\n"


@given(mask_cases(1))
def test_bounds_hold_every_allowed_key(case: tuple[tuple[int, int, int], tuple[Mask, ...]]) -> None:
    (B, T, S), (mask,) = case
    seen, first = allowed(mask, B, T, S), S - T
    for low_t in range(T):
        for high_t in range(low_t, T):
            low, high = mask.bounds(first + low_t, first + high_t, S)
            assert 0 <= low <= high <= S
            assert all(low <= s < high for _, t, s in seen if low_t <= t <= high_t)


@pytest.mark.parametrize("mask", [Full(), Causal(), Window(before=2), Window(after=1), Window(1, 2), Causal() & Window(before=1), Prefix(3)], ids=repr)
@pytest.mark.parametrize("first", [-7, -1, 0, 3, 9])
def test_bounds_of_one_query_are_exact(mask: Mask, first: int) -> None:
    """For masks of numbers, what one query sees is a range, and the bounds are that range."""
    for keys in range(6):
        seen = [s for s in range(keys) if mask.allows(Grid(query=first, key=s))]
        low, high = mask.bounds(first, first, keys)
        assert list(range(low, high)) == seen


@given(mask_cases(2))
def test_and_is_intersection_and_commutes(case: tuple[tuple[int, int, int], tuple[Mask, ...]]) -> None:
    sizes, (a, b) = case
    assert allowed(a & b, *sizes) == allowed(a, *sizes) & allowed(b, *sizes) == allowed(b & a, *sizes)


@given(mask_cases(3))
def test_and_is_associative(case: tuple[tuple[int, int, int], tuple[Mask, ...]]) -> None:
    _, (a, b, c) = case
    assert (a & b) & c == a & (b & c)


@given(mask_cases(1))
def test_full_changes_nothing_and_a_mask_with_itself_is_itself(case: tuple[tuple[int, int, int], tuple[Mask, ...]]) -> None:
    _, (mask,) = case
    wide = Window()  # lets everything through, and is Full once it is composed
    once = mask & Full()
    assert once == Full() & mask == (Full() if mask == wide else mask)
    assert once & mask == once


@given(st.lists(st.sampled_from([Full(), Causal(), Window(before=1), Window(before=4, after=2), Window(after=0), Prefix(3)]), min_size=1, max_size=5), st.randoms())
def test_the_same_masks_make_the_same_value_in_any_order(masks: list[Mask], random: object) -> None:
    shuffled = list(masks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    values = []
    for order in (masks, shuffled):
        value: Mask = Full()
        for mask in order:
            value = value & mask
        values.append(value)
    assert values[0] == values[1]
    assert hash(values[0]) == hash(values[1])
    assert repr(values[0]) == repr(values[1])


def test_two_windows_become_the_narrower() -> None:
    assert Window(before=3) & Window(before=7, after=2) == Window(before=3, after=2)
    assert Window(before=3) & Window() == Window(before=3)


def test_a_composition_is_flat_and_prints_as_it_is_written() -> None:
    mask = (Prefix(3) & Causal()) & (Window(before=2) & Full())
    assert isinstance(mask, Both)
    assert [type(part) for part in mask.masks] == [Causal, Window, Prefix]
    assert eval(repr(mask), vars(m).copy()) == mask  # noqa: S307


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (lambda: Causal() & True, "& joins masks .*; got a bool"),
        (lambda: Causal() & Causal, r"got the type Causal: write Causal\(…\)"),
        (lambda: Causal() & "x", r"got a str\. An array of bool is wrapped as Dense\(array\)"),
        (lambda: Causal() | Window(before=3), r"join with & only; spell a union out as Dense\(array\)"),
    ],
)
def test_an_unknown_composition_is_named(join: Callable[[], object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        join()


def test_a_mask_of_numbers_is_plain() -> None:
    ids = Table((1, 2), (0, 1))
    assert all(mask.plain for mask in (Full(), Causal(), Window(before=1), Causal() & Window(before=1)))
    assert not any(mask.plain for mask in (Documents(ids, ids), Dense(ids), Causal() & Dense(ids), Prefix(ids)))


@pytest.mark.parametrize(
    ("mask", "sides"),
    [
        (Full(), (None, None)), (Causal(), (None, 0)), (Window(3, 4), (3, 4)), (Causal() & Window(before=3), (3, 0)),
        (Causal() & Window(3, 4), (3, 0)), (Prefix(2), None), (Causal() & Prefix(2), None), (Window(before=0), (0, None)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_most_kernels_can_do(mask: Mask, sides: tuple[int | None, int | None] | None) -> None:
    assert causal_window(mask) == sides


@given(mask_cases(1))
def test_what_most_kernels_can_do_is_what_the_mask_allows(case: tuple[tuple[int, int, int], tuple[Mask, ...]]) -> None:
    (B, T, S), (mask,) = case
    sides = causal_window(mask)
    if sides is not None:
        before, after = sides
        asked = {(b, t, s) for b in range(B) for t in range(T) for s in range(S)
                 if (before is None or s >= S - T + t - before) and (after is None or s <= S - T + t + after)}  # fmt: skip
        assert allowed(mask, B, T, S) == asked


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Window(before=-1), "0 or more; got -1. None means no limit"),
        (lambda: Window(after=-2), r"Window\(after=…\) counts keys"),
        (lambda: Window(before=1.5), "an integer or None; got 1.5"),
        (lambda: Window(before=True), "an integer or None; got True"),
        (lambda: Prefix(-1), r"Prefix\(length\) counts keys, so it is an integer, 0 or more, or int32 \[B\]; got -1"),
        (lambda: Prefix(True), r"Prefix\(length\) counts keys.*got True"),
        (lambda: Prefix(2.5), r"Prefix\(length\) counts keys.*got 2\.5"),
        (lambda: m.Blocks(None, rows=1.5), r"Blocks\(rows=…\) is the edge of a block, an integer, 1 or more; got 1\.5"),
        (lambda: m.Blocks(None, columns="x"), r"Blocks\(columns=…\).*got 'x'"),
        (lambda: m.Blocks(None, rows=0), r"Blocks\(rows=…\) is the edge of a block, an integer, 1 or more; got 0"),
        (lambda: m.Blocks(None, columns=-4), r"Blocks\(columns=…\).*got -4"),
    ],
)
def test_a_mask_of_wrong_numbers_is_named(make: object, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        make()  # type: ignore[operator]


def test_every_mask_has_its_place_in_the_order() -> None:
    kinds = {node.name for node in ast.parse(inspect.getsource(m)).body if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Mask" for b in node.bases)}
    assert kinds - {"Both"} == {kind.__name__ for kind in m.ORDER}
