"""Every mistake of a caller is named: what came, what was wanted, what to do. And what makes sense becomes letters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from strobe.errors import Invalid
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import Blocks, Causal, Documents, Full, Prefix, Tree, Window
from strobe.masks import Dense as DenseMask
from strobe.problem import Call, Described, Problem, check, map_arrays
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap

from .values import array, ints

Q, K, V = array(2, 3, 8, 64), array(2, 5, 2, 64), array(2, 5, 2, 32)
CALL = Call(Q, Dense(K, V))
PAGED = Paged(array(9, 4, 2, 64), array(9, 4, 2, 32), ints(2, 3), ints(2), longest=12)
PACKED_Q, PACKED = Packed(array(6, 8, 64), ints(3), 4), PackedKeys(array(10, 2, 64), array(10, 2, 32), ints(3), 7)
RANGED = Ranged(K, V, ints(2), ints(2))


def bits(*shape: int) -> Described:
    return array(*shape, dtype="bool")


def keys(**what: Any) -> Call:
    return CALL._replace(keys=replace(CALL.keys, **what))


def paged(**what: Any) -> Call:
    return Call(Q, replace(PAGED, **what))


def packed(**what: Any) -> Call:
    return Call(replace(PACKED_Q, **what), PACKED)


INT8, SCALES = array(2, 5, 2, 64, dtype="int8"), array(2, 5, 2)


def narrow(data: Described = INT8, scale: Any = SCALES) -> Call:
    return keys(k=Scaled(data, scale))


def test_what_makes_sense_becomes_letters() -> None:
    found = check(CALL)
    assert (found.B, found.T, found.S, found.H, found.G, found.D, found.V) == (2, 3, 5, 8, 2, 64, 32)
    assert (found.dtype, found.device, found.scale, found.verb) == ("float32", "cpu", 64**-0.5, "attention")
    assert (found.layout, found.group, found.scaled) == (Dense, 4, False)
    assert check(CALL) is check(CALL._replace())


@pytest.mark.parametrize(
    ("call", "letters", "layout"),
    [
        (Call(Q, RANGED), (2, 3, 5), Ranged),
        (Call(Q, PAGED), (2, 3, 12), Paged),
        (Call(PACKED_Q, PACKED), (2, 4, 7), PackedKeys),
        (Call(PACKED_Q, Dense(K, V)), (2, 4, 5), Dense),
        (Call(PACKED_Q, PAGED), (2, 4, 12), Paged),
        (Call(Q, PACKED), (2, 3, 7), PackedKeys),
        (Call(array(2, 3, 8, 64, dtype="bfloat16"), Dense(Scaled(array(2, 5, 2, 64, dtype="int8"), array(2, 5, 2)), array(2, 5, 2, 32, dtype="bfloat16"))), (2, 3, 5), Dense),
        (Call(array(0, 3, 8, 64), Dense(array(0, 5, 2, 64), array(0, 5, 2, 64))), (0, 3, 5), Dense),
        (Call(array(2, 0, 8, 64), Dense(array(2, 0, 2, 64), array(2, 0, 2, 64))), (2, 0, 0), Dense),
    ],
)  # fmt: skip
def test_layouts_become_letters(call: Call, letters: tuple[int, int, int], layout: type) -> None:
    found = check(call)
    assert ((found.B, found.T, found.S), found.layout) == (letters, layout)


@pytest.mark.parametrize(
    "what",
    [
        {"mask": Causal() & Window(before=3)}, {"mask": Prefix(ints(2))}, {"mask": Documents(ints(2, 3), ints(2, 5))},
        {"mask": Blocks(bits(1, 8, 2, 2), rows=2, columns=3)}, {"mask": Tree(bits(1, 3, 3))}, {"mask": DenseMask(bits(3, 5))},
        {"mask": DenseMask(bits(2, 1, 1, 5))}, {"bias": array(3, 5)}, {"bias": array(2, 1, 3, 1, dtype="bfloat16")},
        {"alibi": Alibi(array(8))}, {"alibi": Alibi(array(2, 8))}, {"sink": Sink(array(8))}, {"cap": SoftCap(5.0)},
        {"dropout": Dropout(0.5, 1)}, {"first": 0}, {"first": -3}, {"first": ints(2)}, {"scale": 1}, {"scale": -0.5},
    ],
)  # fmt: skip
def test_what_may_be_asked_for_is_taken(what: dict[str, Any]) -> None:
    assert isinstance(check(CALL._replace(**what)), Problem)


# The mistake, the call, and the words that name it: what came, what was wanted, what to do.
MISTAKES: dict[str, tuple[Call, tuple[str, ...]]] = {
    "q is no array": (CALL._replace(q="a list"), ("q is an array [B, T, H, D]", "got 'a list'")),
    "q has three axes": (CALL._replace(q=array(3, 8, 64)), ("q is [B, T, H, D]", "got 3 axes: [3, 8, 64]")),
    "k has five axes": (keys(k=array(1, 2, 5, 2, 64)), ("k is [B, S, G, D]", "got 5 axes")),
    "v is no array": (keys(v=None), ("v is an array [B, S, G, V]", "got None")),
    "keys are no layout": (CALL._replace(keys="K"), ("Packed, Ranged or Paged", "got 'K'")),
    "another batch": (keys(k=array(3, 5, 2, 64), v=array(3, 5, 2, 32)), ("one batch", "B=2 in q [2, 3, 8, 64]", "B=3 in the keys")),
    "another width": (keys(k=array(2, 5, 2, 32)), ("one width D", "D=64 in q", "D=32 in k [2, 5, 2, 32]")),
    "a value too few": (keys(v=array(2, 4, 2, 32)), ("each key has its value", "k [2, 5, 2, 64], v [2, 4, 2, 32]")),
    "H is no multiple of G": (keys(k=array(2, 5, 3, 64), v=array(2, 5, 3, 32)), ("G must divide H", "H=8", "G=3", "Are tokens and heads exchanged?")),
    "no key heads": (keys(k=array(2, 5, 0, 64), v=array(2, 5, 0, 32)), ("G must divide H", "G=0")),
    "no width": (Call(array(2, 3, 8, 0), Dense(array(2, 5, 2, 0), V)), ("widths are 1 or more", "D=0")),
    "queries of integers": (Call(array(2, 3, 8, 64, dtype="int32"), CALL.keys), ("queries are one of float16, bfloat16, float32, float64", "got int32")),
    "two dtypes": (keys(k=array(2, 5, 2, 64, dtype="float16")), ("one dtype", "q is float32, the keys are float16", "convert one of them")),
    "bare int8": (keys(v=array(2, 5, 2, 32, dtype="int8")), ("the values are int8", "wrap them as Scaled(data, scale)")),
    "two devices": (keys(v=array(2, 5, 2, 32, device="cuda:0")), ("one device", "q is on cpu, values on cuda:0")),
    "a last axis with gaps": (CALL._replace(q=array(2, 3, 8, 64, last_stride=2)), ("last axis of q has to be contiguous", "got stride 2", "Call .contiguous()")),
    "a NaN scale": (CALL._replace(scale=math.nan), ("scale is a finite number", "got nan")),
    "an infinite scale": (CALL._replace(scale=math.inf), ("scale is a finite number", "got inf")),
    "a scale of words": (CALL._replace(scale="auto"), ("scale is a finite number", "got 'auto'")),  # type: ignore[arg-type]
    "a scale of truth": (CALL._replace(scale=True), ("scale is a finite number", "got True")),
    "a mask's type": (CALL._replace(mask=Causal), ("mask is a value, not a type", "write Causal(…)")),  # type: ignore[arg-type]
    "a flag for a mask": (CALL._replace(mask=True), ("mask is a Mask (Full, Causal", "got True")),  # type: ignore[arg-type]
    "a bool array for a mask": (CALL._replace(mask=bits(3, 5)), ("mask is a Mask", "got bool [3, 5]", "wrapped as Dense(array)")),  # type: ignore[arg-type]
    "a prefix of another batch": (CALL._replace(mask=Prefix(ints(3))), ("Prefix.length is [B] = [2]", "got [3]")),
    "a prefix of int64": (CALL._replace(mask=Prefix(array(2, dtype="int64"))), ("Prefix.length is int32", "got int64", "Call .int()")),
    "documents of the keys' length": (CALL._replace(mask=Documents(ints(2, 5), ints(2, 5))), ("Documents.queries is [B, T] = [2, 3]", "got [2, 5]")),
    "documents without keys": (CALL._replace(mask=Documents(ints(2, 3), None)), ("Documents.keys is an array [B, S]", "got None")),
    "blocks of another grid": (CALL._replace(mask=Blocks(bits(1, 1, 3, 5), rows=2, columns=2)), ("Blocks.kept is [B or 1, H or 1", "= [2, 8, 2, 3]", "got [1, 1, 3, 5]")),
    "a tree of keys": (CALL._replace(mask=Tree(bits(1, 3, 5))), ("Tree.visible is [B or 1, T, T] = [2, 3, 3]", "got [1, 3, 5]")),
    "a dense mask of floats": (CALL._replace(mask=DenseMask(array(3, 5))), ("Dense.visible is bool, true where the query sees the key", "got float32")),
    "a dense mask transposed": (CALL._replace(mask=Causal() & DenseMask(bits(5, 3))), ("Dense.visible is [B, H, T, S] = [3, 5] here", "got [5, 3]")),
    "a dense mask of five axes": (CALL._replace(mask=DenseMask(bits(1, 1, 1, 3, 5))), ("Dense.visible is [B, H, T, S]", "got [1, 1, 1, 3, 5]")),
    "a dense mask elsewhere": (CALL._replace(mask=DenseMask(array(3, 5, dtype="bool", device="cuda:0"))), ("one device", "Dense.visible on cuda:0")),
    "a dense mask that is no array": (CALL._replace(mask=DenseMask("x")), ("Dense.visible is an array", "got 'x'")),
    "a bare number for a cap": (CALL._replace(cap=30.0), ("cap is a SoftCap or None", "got 30.0")),  # type: ignore[arg-type]
    "bare slopes": (CALL._replace(alibi=array(8)), ("alibi is a Alibi or None",)),  # type: ignore[arg-type]
    "a bare probability": (CALL._replace(dropout=0.1), ("dropout is a Dropout or None", "got 0.1")),  # type: ignore[arg-type]
    "a bias of truth": (CALL._replace(bias=bits(3, 5)), ("bias is a floating array", "For true and false use mask=Dense(…)")),
    "a bias of another shape": (CALL._replace(bias=array(4, 5)), ("broadcastable to [B, H, T, S] = [2, 8, 3, 5]", "got [4, 5]")),
    "a bias of five axes": (CALL._replace(bias=array(1, 1, 1, 3, 5)), ("broadcastable", "got [1, 1, 1, 3, 5]")),
    "slopes a group": (CALL._replace(alibi=Alibi(array(2))), ("Alibi.slopes is a floating array [H] = [8] or [B, H] = [2, 8]", "got float32 [2]")),
    "a sink a batch": (CALL._replace(sink=Sink(array(2, 8))), ("Sink.logits is a floating array [H] = [8]", "got float32 [2, 8]")),
    "a first of floats": (CALL._replace(first=array(2)), ("first is int32", "got float32", "Call .int()")),
    "a first of another batch": (CALL._replace(first=ints(3)), ("first is [B] = [2]", "got [3]")),
    "a first of truth": (CALL._replace(first=True), ("first is an array [B]", "got True")),
    "scales of float16": (narrow(scale=array(2, 5, 2, dtype="float16")), ("k.scale is float32 [2, 5, 2], one a token and head", "got float16")),
    "one scale a token": (narrow(scale=array(2, 5, 1)), ("k.scale is float32 [2, 5, 2]", "got float32 [2, 5, 1]")),
    "no scale": (narrow(scale=None), ("k.scale is an array", "got None")),
    "scaled floats": (narrow(data=array(2, 5, 2, 64)), ("Scaled keys are one of int8, float8_e4m3fn, float8_e5m2", "got float32")),
    "a table of int64": (paged(table=array(2, 3, dtype="int64")), ("pages.table is int32", "got int64", "Call .int()")),
    "a table of one row": (paged(table=ints(3)), ("pages.table is [B, pages]", "got 1 axes")),
    "lengths of another batch": (paged(lengths=ints(3)), ("pages.lengths is [B] = [2]", "got [3]")),
    "longer than the pages": (paged(longest=13), ("3 page(s) of 4 token(s) hold 12 keys", "longest is at most 12; got 13", "Give the table more columns")),
    "pages without a token axis": (paged(keys=array(9, 2, 64)), ("pages.keys is [P, Z, G, D]", "got 3 axes")),
    "pages of another batch": (Call(PACKED_Q, replace(PAGED, table=ints(3, 3), lengths=ints(3))), ("pages.table is [B, pages]", "got [3, 3]")),
    "offsets of int64": (packed(offsets=array(3, dtype="int64")), ("q.offsets is int32", "got int64")),
    "no offsets": (packed(offsets=ints(0)), ("q.offsets holds B + 1 integers, the first of them 0", "got none")),
    "packed queries with a batch": (packed(tokens=array(2, 3, 8, 64)), ("q.tokens is [N, H, D]", "got 4 axes")),
    "packed keys of another batch": (Call(PACKED_Q, replace(PACKED, offsets=ints(4))), ("k.offsets is [B + 1] = [3]", "got [4]")),
    "dense keys of another batch": (Call(PACKED_Q, Dense(array(3, 5, 2, 64), array(3, 5, 2, 32))), ("q.offsets holds 2 sequence(s), the keys 3",)),
    "packed values too few": (Call(PACKED_Q, replace(PACKED, v=array(9, 2, 32))), ("each key has its value",)),
    "starts of floats": (Call(Q, replace(RANGED, starts=array(2))), ("starts is int32", "got float32")),
    "lengths elsewhere": (Call(Q, replace(RANGED, lengths=array(2, dtype="int32", device="cuda:1"))), ("one device", "lengths on cuda:1")),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    call, words = MISTAKES[mistake]
    check.cache_clear()  # True is 1 to a cache, and 5.0 is 5
    with pytest.raises(Invalid) as caught:
        check(call)
    for part in words:
        assert part in str(caught.value)


@pytest.mark.parametrize("what", [{"q": array(2, 3, 8, 1, last_stride=7)}, {"bias": array(1, 1, 3, 5)}])
def test_an_axis_of_one_may_have_any_stride(what: dict[str, Any]) -> None:
    call = CALL._replace(**what)
    if call.q.shape[-1] == 1:
        call = call._replace(keys=Dense(array(2, 5, 2, 1, last_stride=9), array(2, 5, 2, 1)))
    assert isinstance(check(call), Problem)


def test_a_problem_prints_its_letters() -> None:
    assert str(check(CALL)) == "attention B=2 T=3 S=5 H=8 G=2 D=64 V=32 float32 Full()"
    call = CALL._replace(mask=Causal() & DenseMask(bits(3, 5)), cap=SoftCap(2.0), sink=Sink(array(8)), first=0)
    assert str(check(call)).endswith("float32 Causal() & Dense() SoftCap(limit=2.0) sink first")
    assert " Paged " in str(check(paged()))
    assert " int8 " in str(check(narrow()))


def test_an_array_prints_its_dtype_and_shape() -> None:
    assert str(Q) == "float32 [2, 3, 8, 64]"


WALKED = Call(
    Packed("q", "q offsets", 3), Paged(Scaled("k", "k scale"), "v", "table", "lengths", 9), mask=Causal() & Documents("a", "b") & DenseMask("c"),
    scale=0.5, cap=SoftCap(2.0), bias="bias", alibi=Alibi("slopes"), sink=Sink("logits"), dropout=Dropout(0.5, 3), first="first",
)  # fmt: skip
ORDER = ["q", "q offsets", "k", "k scale", "v", "table", "lengths", "a", "b", "c", "bias", "slopes", "logits", "first"]


def test_a_walk_meets_every_array_once_and_in_order() -> None:
    met: list[str] = []
    map_arrays(WALKED, met.append)
    assert met == ORDER


def test_a_walk_changes_arrays_and_nothing_else() -> None:
    assert map_arrays(WALKED, lambda x: x) == WALKED
    there = map_arrays(WALKED, lambda x: ("there", x)[1] + "!")
    assert map_arrays(there, lambda x: x[:-1]) == WALKED
    assert (there.scale, there.cap, there.dropout, there.q.longest) == (0.5, SoftCap(2.0), Dropout(0.5, 3), 3)


@pytest.mark.parametrize("value", [None, 3, 0.5, Full(), Causal(), Window(1, 2), Prefix(4), SoftCap(2.0), Dropout(0.1, 0)], ids=repr)
def test_a_value_without_arrays_is_walked_past(value: Any) -> None:
    assert map_arrays(value, lambda x: pytest.fail(f"met {x!r}")) == value
