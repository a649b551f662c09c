"""The seam: a call that is flattened for an operator and rebuilt is the same call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strobe.problem import Call, map_arrays

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from strobe.appending import Rotary  # noqa: E402 — after torch is known to be there
from strobe.faces.seam import flatten, flatten_append, unflatten, unflatten_append  # noqa: E402
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged  # noqa: E402
from strobe.masks import Blocks, Causal, Documents, Full, Mask, Prefix, Tree, Window  # noqa: E402
from strobe.masks import Dense as DenseMask  # noqa: E402
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap  # noqa: E402

counts = st.integers(0, 2**31)
positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


def arrays() -> st.SearchStrategy[Any]:
    """A tensor of its own each time: only its identity matters here."""
    return st.builds(lambda: torch.empty(1))


def sides() -> st.SearchStrategy[Any]:
    return arrays() | st.builds(Scaled, arrays(), arrays())


def masks() -> st.SearchStrategy[Mask]:
    open_side = st.none() | counts
    one: st.SearchStrategy[Mask] = st.one_of(
        st.just(Full()), st.just(Causal()), st.builds(Window, open_side, open_side), counts.map(Prefix), st.builds(Prefix, arrays()),
        st.builds(Documents, arrays(), arrays()), st.builds(Blocks, arrays(), st.integers(1, 512), st.integers(1, 512)),
        st.builds(Tree, arrays()), st.builds(DenseMask, arrays()),
    )  # fmt: skip
    return st.lists(one, min_size=1, max_size=4).map(_composed)


def _composed(parts: list[Mask]) -> Mask:
    whole: Mask = parts[0]
    for part in parts[1:]:
        whole = whole & part
    return whole


layouts = st.one_of(
    st.builds(Dense, sides(), sides()),
    st.builds(Ranged, sides(), sides(), arrays(), arrays()),
    st.builds(PackedKeys, sides(), sides(), arrays(), counts),
    st.builds(Paged, sides(), sides(), arrays(), arrays(), counts),
)
calls = st.builds(
    Call,
    q=arrays() | st.builds(Packed, arrays(), arrays(), counts),
    keys=layouts,
    mask=masks(),
    scale=st.none() | finite,
    cap=st.none() | positive.map(SoftCap),
    bias=st.none() | arrays(),
    alibi=st.none() | st.builds(Alibi, arrays()),
    sink=st.none() | st.builds(Sink, arrays()),
    dropout=st.none() | st.builds(Dropout, st.floats(0, 1, exclude_max=True), st.integers(0, 2**64 - 1)),
    first=st.none() | st.integers(-(2**31), 2**31) | arrays(),
)


def by_identity(call: Call) -> Call:
    """The call with each array replaced by who it is, so that calls compare."""
    return map_arrays(call, id)


@given(calls)
def test_a_call_comes_back_as_it_went(call: Call) -> None:
    assert by_identity(unflatten(*flatten(call))) == by_identity(call)


@given(calls)
def test_an_operator_can_carry_what_is_flattened(call: Call) -> None:
    q, k, v, bias, slopes, sink, rest, words, sizes = flatten(call)
    assert all(isinstance(x, torch.Tensor) for x in (q, k, v, *rest))
    assert all(x is None or isinstance(x, torch.Tensor) for x in (bias, slopes, sink))
    assert isinstance(words, str)
    assert all(type(n) is int for n in sizes)


@given(calls)
def test_every_array_is_carried_once(call: Call) -> None:
    met: list[int] = []
    map_arrays(call, lambda x: met.append(id(x)))
    q, k, v, bias, slopes, sink, rest, _, _ = flatten(call)
    carried = [id(x) for x in (q, k, v, bias, slopes, sink, *rest) if x is not None]
    assert sorted(carried) == sorted(met)


@given(calls)
def test_one_structure_is_one_word(call: Call) -> None:
    """The words hold numbers and structure, no array: the same call with other arrays has the same words."""
    other = map_arrays(call, torch.clone)
    assert flatten(call)[7] == flatten(other)[7]
    assert flatten(call)[8] == flatten(other)[8]


appends = st.tuples(
    st.builds(Paged, sides(), sides(), arrays(), arrays(), counts),
    arrays() | st.builds(Packed, arrays(), arrays(), counts),
    arrays(),
    st.none() | st.builds(Rotary, arrays(), arrays(), st.none() | arrays(), st.booleans()),
)


@given(appends)
def test_an_append_comes_back_as_it_went(call: tuple[Any, Any, Any, Any]) -> None:
    flat = flatten_append(*call)
    assert map_arrays(unflatten_append(*flat), id) == map_arrays(call, id)
    *tensors, rest, words, sizes = flat
    assert all(x is None or isinstance(x, torch.Tensor) for x in tensors) and all(isinstance(x, torch.Tensor) for x in rest)
    assert isinstance(words, str) and all(type(n) is int for n in sizes)
    met: list[int] = []
    map_arrays(call, lambda x: met.append(id(x)))
    assert sorted(id(x) for x in (*tensors, *rest) if x is not None) == sorted(met)
