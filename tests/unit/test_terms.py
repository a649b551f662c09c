"""Terms of the score: wrong numbers are named, right ones are kept as they are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from strobe.errors import Invalid
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap


@pytest.mark.parametrize("limit", [0, 0.0, -1.0, math.inf, -math.inf, math.nan, True, None, "30", [30.0]])
def test_a_cap_is_finite_and_above_zero(limit: Any) -> None:
    with pytest.raises(Invalid, match=r"SoftCap\(limit\) is a finite number above 0; got .*For no cap leave it out"):
        SoftCap(limit)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan, math.inf, False, None, "0.1"])
def test_a_dropout_is_a_probability_below_one(p: Any) -> None:
    with pytest.raises(Invalid, match=r"Dropout\(p\) is a probability"):
        Dropout(p, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, None, "7"])
def test_a_seed_has_64_bits(seed: Any) -> None:
    with pytest.raises(Invalid, match=r"Dropout\(seed\) is an integer of 64 bits"):
        Dropout(0.1, seed)


def test_terms_are_values() -> None:
    assert SoftCap(30.0) == SoftCap(30)
    assert Dropout(0.0, 2**64 - 1) == Dropout(0.0, 2**64 - 1)
    assert len({Alibi("a"), Alibi("a"), Sink("a"), Scaled("a", "b")}) == 3
