"""The problem of `merge`: states that belong together, and every way in which they do not."""

from __future__ import annotations

from typing import Any

import pytest

from strobe.errors import Invalid
from strobe.merging import check_merge
from strobe.state import State

from .values import array

OUT, LSE = array(2, 3, 8, 64), array(2, 3, 8)


@pytest.mark.parametrize(("lse", "dtype"), [("float32", "float32"), ("float64", "float64"), ("float32", "bfloat16")])
def test_states_become_rows(lse: str, dtype: str) -> None:
    out, log = array(2, 3, 8, 64, dtype=dtype), array(2, 3, 8, dtype=lse)
    found = check_merge(out, log, out, log)
    assert (found.rows, found.V, found.dtype, found.device) == (48, 64, dtype, "cpu")
    assert str(found) == f"merge rows=48 V=64 {dtype}"


def test_no_rows_are_rows_too() -> None:
    assert check_merge(array(0, 8, 64), array(0, 8), array(0, 8, 64), array(0, 8)).rows == 0


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (("a Tensor", LSE, OUT, LSE), ("a.out is an array", "merge takes State(out, lse)")),
        ((OUT, LSE, OUT, None), ("b.lse is an array", "got None")),
        ((OUT, LSE, array(2, 3, 8, 32), LSE), ("one shape and dtype", "a.out float32 [2, 3, 8, 64], b.out float32 [2, 3, 8, 32]")),
        ((OUT, LSE, array(2, 3, 8, 64, dtype="float16"), LSE), ("one shape and dtype",)),
        ((array(4, 8, dtype="int32"), array(4), array(4, 8, dtype="int32"), array(4)), ("out is one of float16", "got int32")),
        ((OUT, array(2, 8, 3), OUT, LSE), ("a.lse is float32 [2, 3, 8], out's shape but for the last axis", "got float32 [2, 8, 3]")),
        ((OUT, LSE, OUT, array(2, 3, 8, dtype="bfloat16")), ("b.lse is float32", "got bfloat16")),
        ((OUT, LSE, OUT, array(2, 3, 8, device="cuda:0")), ("both states are on one device", "a.out is on cpu, b.lse on cuda:0")),
    ],
)
def test_states_that_do_not_belong_together_are_named(states: tuple[Any, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        check_merge(*states)
    for part in words:
        assert part in str(caught.value)


def test_a_state_unpacks() -> None:
    out, lse = State("out", "lse")
    assert (out, lse) == ("out", "lse")
