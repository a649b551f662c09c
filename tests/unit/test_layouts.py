"""Layouts are values: which fields hold arrays, what is equal, and how they are walked."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from strobe.errors import Invalid
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.problem import map_arrays

HELD = {
    Dense: ["k", "v"],
    Ranged: ["k", "v", "starts", "lengths"],
    Packed: ["tokens", "offsets"],
    PackedKeys: ["k", "v", "offsets"],
    Paged: ["keys", "values", "table", "lengths"],
}


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: kind.__name__)
def test_the_fields_that_hold_arrays_are_marked(kind: type) -> None:
    assert [f.name for f in fields(kind) if f.metadata.get("array")] == HELD[kind]
    assert [f.name for f in fields(kind) if not f.metadata.get("array")] in ([], ["longest"])


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: kind.__name__)
def test_a_walk_meets_each_array_once_in_the_order_of_the_fields(kind: type) -> None:
    names = [f.name for f in fields(kind)]
    value = kind(*(7 if name == "longest" else name for name in names))
    met: list[str] = []
    changed = map_arrays(value, lambda x: met.append(x) or x.upper())
    assert met == HELD[kind]
    assert changed == kind(*(7 if name == "longest" else name.upper() for name in names))


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: kind.__name__)
def test_a_layout_is_frozen_and_hashes_by_what_it_holds(kind: type) -> None:
    value = kind(*range(len(fields(kind))))
    assert value == kind(*range(len(fields(kind))))
    assert hash(value) == hash(kind(*range(len(fields(kind)))))
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(kind)[0].name, None)


@pytest.mark.parametrize("longest", [5.0, -1, True, None, [1]])
def test_the_longest_is_known_to_the_caller(longest: object) -> None:
    """At once, not when the call is checked: 5 and 5.0 would be one key to the cache of checks."""
    with pytest.raises(Invalid, match="longest is an integer, 0 or more, known to the caller"):
        Packed("tokens", "offsets", longest)  # type: ignore[arg-type]


class Numbers:
    """An index array of plain lists, and one of keys that only has a shape: no framework is asked for more."""

    def __init__(self, values: list[object], *shape: int) -> None:
        self.values, self.shape = values, shape or (len(values), *((len(values[0]),) if values and isinstance(values[0], list) else ()))

    def tolist(self) -> list[object]:
        return self.values


KEYS = Numbers([], 8, 4, 2, 16)  # eight sequences of four keys, or eight pages of four rows


@pytest.mark.parametrize(
    ("layout", "wrong"),
    [
        (Paged(KEYS, KEYS, Numbers([[5, 2], [0, -1]]), Numbers([7, 4]), 8), ""),
        (Paged(KEYS, KEYS, Numbers([[5, 8], [0, -1]]), Numbers([7, 4]), 8), r"table\[0, 1\] = 8 is not a page: pages are 0 … 7"),
        (Paged(KEYS, KEYS, Numbers([[5, 2], [0, -1]]), Numbers([7, 5]), 8), r"table\[1, 1\] = -1 is not a page"),
        (Paged(KEYS, KEYS, Numbers([[5, 2], [0, -1]]), Numbers([7, 0]), 6), r"lengths\[0\] = 7: lengths are 0 … 6, as longest=6"),
        (Paged(KEYS, KEYS, Numbers([[5, 2], [0, 1]]), Numbers([7, 9]), 12), r"lengths\[1\] = 9: lengths are 0 … 8"),
        (Paged(KEYS, KEYS, Numbers([[5]]), Numbers([-1]), 4), r"lengths\[0\] = -1"),
        (Ranged(KEYS, KEYS, Numbers([0, 3]), Numbers([4, 1])), ""),
        (Ranged(KEYS, KEYS, Numbers([0, 3]), Numbers([4, 2])), "sequence 1 owns keys 3 … 4, of 4 keys"),
        (Ranged(KEYS, KEYS, Numbers([-1]), Numbers([2])), "sequence 0 owns keys -1 … 0"),
        (Packed(KEYS, Numbers([0, 3, 3, 8]), 5), ""),
        (Packed(KEYS, Numbers([1, 3]), 5), r"offsets\[0\] = 1: the first sequence begins at 0"),
        (Packed(KEYS, Numbers([0, 3, 2]), 5), r"offsets\[2\] = 2 after 3"),
        (Packed(KEYS, Numbers([0, 6]), 5), r"offsets\[1\] = 6 after 0: sequences are 0 … 5 tokens long"),
        (Packed(KEYS, Numbers([0, 5, 9]), 5), r"offsets\[2\] = 9: there are 8 tokens"),
    ],
)
def test_index_arrays_that_lie_are_named_when_asked(layout: Paged | Ranged | Packed, wrong: str) -> None:
    if not wrong:
        layout.check_integrity()
        return
    with pytest.raises(Invalid, match=wrong):
        layout.check_integrity()
