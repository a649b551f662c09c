"""The problem of `append`: tokens that fit their pages, and every way in which they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strobe.answers import Offer, Refusal
from strobe.appending import Append, Rotary, check_append
from strobe.backends.cpu import offer as cpu
from strobe.backends.reference import offer as reference
from strobe.backends.sdpa import offer as sdpa
from strobe.errors import Invalid
from strobe.layouts import Packed, Paged
from strobe.machine import Machine
from strobe.terms import Scaled

from .values import array, ints

PAGES = Paged(array(9, 4, 2, 64), array(9, 4, 2, 32), ints(3, 3), ints(3), longest=12)
K, V = array(3, 5, 2, 64), array(3, 5, 2, 32)
TURNS = Rotary(array(12, 32), array(12, 32))
INT8, SCALES = array(9, 4, 2, 64, dtype="int8"), array(9, 4, 2)


def scaled(data: Any = INT8, scale: Any = SCALES) -> Paged:
    return replace(PAGES, keys=Scaled(data, scale))


def test_tokens_that_fit_become_letters() -> None:
    found = check_append(PAGES, K, V)
    assert (found.B, found.T, found.G, found.D, found.V, found.Z, found.packed) == (3, 5, 2, 64, 32, 4, False)
    assert str(found) == "append B=3 T=5 G=2 D=64 V=32 Z=4 float32 into float32"


def test_packed_tokens_have_their_longest() -> None:
    found = check_append(PAGES, Packed(array(7, 2, 64), ints(4), 4), array(7, 2, 32))
    assert (found.B, found.T, found.packed) == (3, 4, True)


def test_narrow_pages_carry_scales() -> None:
    assert check_append(scaled(), K, V).page_dtype == "int8"


@pytest.mark.parametrize(
    ("pages", "k", "v", "words"),
    [
        ("pages", K, V, ("append writes into Paged", "got 'pages'")),
        (PAGES, array(5, 2, 64), V, ("k is [B, T, G, width]",)),
        (PAGES, Packed(K, ints(4), 5), V, ("k is [N, G, width]",)),
        (PAGES, K, None, ("v is [B, T, G, width]", "got None")),
        (PAGES, K, "a ndarray", ("v is [B, T, G, width]", "got a ndarray")),
        (PAGES, K, array(3, 5, 2, 32, device="cuda:0"), ("one device", "v is on cuda:0, the new keys on cpu")),
        (PAGES, K, array(3, 5, 2, 32, dtype="float16"), ("one floating dtype", "got k float32, v float16")),
        (PAGES, array(3, 5, 2, 64, dtype="int8"), array(3, 5, 2, 32, dtype="int8"), ("one floating dtype", "int8")),
        (PAGES, array(3, 5, 2, 64, last_stride=2), V, ("last axis of k has to be contiguous", "Call .contiguous()")),
        (PAGES, K, array(3, 4, 2, 32), ("each key has its value",)),
        (PAGES, array(3, 5, 2, 32), array(3, 5, 2, 32), ("new keys are [..., G, width] = [..., 2, 64]", "got [3, 5, 2, 32]")),
        (PAGES, array(3, 5, 4, 64), array(3, 5, 4, 32), ("new keys are", "got [3, 5, 4, 64]")),
        (replace(PAGES, keys=array(9, 4, 2, 64, dtype="int8")), K, V, ("pages.keys of int8 carry scales", "wrap them as Scaled(data, scale)")),
        (replace(PAGES, keys=array(9, 8, 64)), K, V, ("pages.keys is [P, Z, G, width]",)),
        (replace(PAGES, values=array(9, 4, 2, 32, device="cuda:0")), K, V, ("one device", "pages.values is on cuda:0")),
        (replace(PAGES, values=array(9, 8, 2, 32)), K, V, ("one [P, Z, G]", "[9, 4, 2, 64] and [9, 8, 2, 32]")),
        (replace(PAGES, table=ints(2, 3)), K, V, ("pages.table is int32 with a row for each of the 3 sequence(s)", "got int32 [2, 3]")),
        (replace(PAGES, table=array(3, 3, dtype="int64")), K, V, ("pages.table is int32", "got int64")),
        (replace(PAGES, table=array(3, 3, dtype="int32", last_stride=3)), K, V, ("last axis of pages.table has to be contiguous",)),
        (replace(PAGES, table=array(3, 3, dtype="int32", device="cuda:0")), K, V, ("one device", "pages.table is on cuda:0")),
        (replace(PAGES, lengths=array(3, dtype="int32", device="meta")), K, V, ("one device", "pages.lengths is on meta")),
        (replace(PAGES, lengths="a list"), K, V, ("pages.lengths is int32", "got a list")),
        (PAGES, Packed(array(7, 2, 64), array(4, dtype="int64"), 4), array(7, 2, 32), ("k.offsets is int32, [B + 1]", "got int64 [4]")),
        (PAGES, Packed(array(7, 2, 64), "a list", 4), array(7, 2, 32), ("k.offsets is int32", "got a list")),
        (PAGES, Packed(array(7, 2, 64), ints(0), 4), array(7, 2, 32), ("k.offsets holds B + 1 integers", "got none")),
        (PAGES, Packed(array(7, 2, 64), array(4, dtype="int32", device="cuda:0"), 4), array(7, 2, 32), ("one device", "k.offsets is on cuda:0")),
        (replace(PAGES, keys=array(9, 4, 2, 64, last_stride=2)), K, V, ("last axis of pages.keys has to be contiguous", "Call .contiguous()")),
        (replace(PAGES, keys=array(9, 4, 2, 64, dtype="int32")), K, V, ("pages.keys are one of float16", "or Scaled", "got int32")),
        (scaled(array(9, 4, 2, 64)), K, V, ("Scaled pages.keys are one of int8", "got float32", "Plain pages carry no scales")),
        (scaled(scale=array(9, 4)), K, V, ("pages.keys.scale is float32 [9, 4, 2], one a token and head", "got float32 [9, 4]")),
        (scaled(scale=array(9, 4, 2, dtype="float16")), K, V, ("pages.keys.scale is float32", "got float16")),
        (scaled(scale=array(9, 4, 2, device="cuda:0")), K, V, ("one device", "pages.keys.scale is on cuda:0")),
        (replace(PAGES, lengths=ints(4)), K, V, ("pages.lengths is int32 with a row",)),
        (replace(PAGES, longest=13), K, V, ("3 page(s) of 4 token(s) hold 12 keys", "longest is 13")),
    ],
)
def test_tokens_that_do_not_fit_are_named(pages: Any, k: Any, v: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        check_append(pages, k, v)
    for part in words:
        assert part in str(caught.value)


def test_a_problem_says_what_is_turned() -> None:
    plain, halves = check_append(PAGES, K, V), check_append(PAGES, K, V, TURNS)
    assert (plain.rotated, plain.interleaved) == (0, False) and (halves.rotated, halves.interleaved) == (64, False)
    part = check_append(PAGES, K, V, Rotary(array(12, 8), array(12, 8), ints(3, 5), interleaved=True))
    assert (part.rotated, part.interleaved) == (16, True)
    assert str(halves) == f"{plain} Rotary 64" and str(part) == f"{plain} Rotary 16 interleaved"
    packed = Packed(array(7, 2, 64), ints(4), 4), array(7, 2, 32)
    assert check_append(PAGES, *packed, replace(TURNS, positions=ints(7))).rotated == 64
    assert check_append(PAGES, K, V, Rotary(array(0, 1), array(0, 1))).rotated == 2, "rows are counted where positions are read"


def test_pairs_of_int4_pages_are_counted_in_numbers() -> None:
    problem = check_append(scaled(array(9, 4, 2, 32, dtype="uint8")), K, V, TURNS)
    assert (problem.D, problem.rotated) == (64, 64)


def test_rooms_without_rotation_or_append_say_so() -> None:
    problem = check_append(PAGES, K, V, TURNS)
    here = Machine.named("avx2-4")
    assert isinstance(cpu.offer(problem, here), Offer) and isinstance(reference.offer(problem, here), Offer)
    refusal = sdpa.offer(problem, here)
    assert isinstance(refusal, Refusal) and refusal.reasons == ("offers forward attention only",)
    assert isinstance(problem, Append) and hash(problem) != hash(check_append(PAGES, K, V))


def at(*shape: int, **more: Any) -> Rotary:
    return replace(TURNS, positions=array(*shape, **{"dtype": "int32", **more}))


@pytest.mark.parametrize(
    ("rotary", "words"),
    [
        ((array(12, 32), array(12, 32)), ("rotary is Rotary(cos, sin) or None", "got (float32 [12, 32]")),
        (Rotary, ("rotary is Rotary(cos, sin) or None",)),
        (replace(TURNS, cos="a list"), ("rotary.cos is float32 [positions, width / 2]", "got a list")),
        (replace(TURNS, cos=array(1, 12, 32)), ("rotary.cos is float32 [positions, width / 2]", "got float32 [1, 12, 32]")),
        (replace(TURNS, sin=array(12, 32, dtype="bfloat16")), ("rotary.sin is float32", "got bfloat16", "computed in float32")),
        (replace(TURNS, cos=array(12, 32, last_stride=2)), ("last axis of rotary.cos has to be contiguous", "Call .contiguous()")),
        (replace(TURNS, sin=array(12, 32, device="cuda:0")), ("one device", "rotary.sin is on cuda:0")),
        (replace(TURNS, sin=array(13, 32)), ("each cosine has its sine", "got [12, 32] and [13, 32]")),
        (Rotary(array(12, 64), array(12, 64)), ("1 … 32 of them where D=64; got 64", "cos[:, : width // 2]")),
        (Rotary(array(12, 0), array(12, 0)), ("1 … 32 of them where D=64; got 0",)),
        (at(3, 4), ("rotary.positions is int32 [3, 5], a position for each new token", "got int32 [3, 4]")),
        (at(15), ("rotary.positions is int32 [3, 5]", "got int32 [15]")),
        (at(3, 5, dtype="int64"), ("rotary.positions is int32 [3, 5]", "got int64 [3, 5]")),
        (at(3, 5, device="meta"), ("one device", "rotary.positions is on meta")),
        (at(3, 5, last_stride=3), ("last axis of rotary.positions has to be contiguous",)),
        (replace(TURNS, positions="a list"), ("rotary.positions is int32 [3, 5]", "got a list")),
    ],
)
def test_a_rotation_that_does_not_fit_is_named(rotary: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        check_append(PAGES, K, V, rotary)
    for part in words:
        assert part in str(caught.value)


@pytest.mark.parametrize("interleaved", [1, 0, None, "halves"])
def test_interleaved_is_yes_or_no(interleaved: Any) -> None:
    with pytest.raises(Invalid, match=r"Rotary\(interleaved\) is True \(pairs of neighbours\) or False"):
        Rotary(array(12, 32), array(12, 32), interleaved=interleaved)
