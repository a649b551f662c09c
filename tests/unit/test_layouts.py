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
