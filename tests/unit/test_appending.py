"""The problem of `append`: tokens that fit their pages, and every way in which they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strobe.appending import check_append
from strobe.errors import Invalid
from strobe.layouts import Packed, Paged
from strobe.terms import Scaled

from .values import array, ints

PAGES = Paged(array(9, 4, 2, 64), array(9, 4, 2, 32), ints(3, 3), ints(3), longest=12)
K, V = array(3, 5, 2, 64), array(3, 5, 2, 32)


def test_tokens_that_fit_become_letters() -> None:
    found = check_append(PAGES, K, V)
    assert (found.B, found.T, found.G, found.D, found.V, found.Z, found.packed) == (3, 5, 2, 64, 32, 4, False)
    assert str(found) == "append B=3 T=5 G=2 D=64 V=32 Z=4 float32 into float32"


def test_packed_tokens_have_their_longest() -> None:
    found = check_append(PAGES, Packed(array(7, 2, 64), ints(4), 4), array(7, 2, 32))
    assert (found.B, found.T, found.packed) == (3, 4, True)


def test_narrow_pages_carry_scales() -> None:
    narrow = replace(PAGES, keys=Scaled(array(9, 4, 2, 64, dtype="int8"), array(9, 4, 2)))
    assert check_append(narrow, K, V).page_dtype == "int8"


@pytest.mark.parametrize(
    ("pages", "k", "v", "words"),
    [
        ("pages", K, V, ("append writes into Paged", "got 'pages'")),
        (PAGES, array(5, 2, 64), V, ("k is [B, T, G, width]",)),
        (PAGES, Packed(K, ints(4), 5), V, ("k is [N, G, width]",)),
        (PAGES, K, None, ("v is [B, T, G, width]", "got None")),
        (PAGES, K, array(3, 5, 2, 32, dtype="float16"), ("one floating dtype", "got k float32, v float16")),
        (PAGES, array(3, 5, 2, 64, dtype="int8"), array(3, 5, 2, 32, dtype="int8"), ("one floating dtype", "int8")),
        (PAGES, array(3, 5, 2, 64, last_stride=2), V, ("last axis of k has to be contiguous", "Call .contiguous()")),
        (PAGES, K, array(3, 4, 2, 32), ("each key has its value",)),
        (PAGES, array(3, 5, 2, 32), array(3, 5, 2, 32), ("new keys are [..., G, width] = [..., 2, 64]", "got [3, 5, 2, 32]")),
        (PAGES, array(3, 5, 4, 64), array(3, 5, 4, 32), ("new keys are", "got [3, 5, 4, 64]")),
        (replace(PAGES, keys=array(9, 4, 2, 64, dtype="int8")), K, V, ("pages.keys of int8 carry scales", "wrap them as Scaled(data, scale)")),
        (replace(PAGES, keys=array(9, 8, 64)), K, V, ("pages.keys is [P, Z, G, width]",)),
        (replace(PAGES, values=array(9, 4, 2, 32, device="cuda:0")), K, V, ("one device", "pages.values are on cuda:0")),
        (replace(PAGES, values=array(9, 8, 2, 32)), K, V, ("one [P, Z, G]", "[9, 4, 2, 64] and [9, 8, 2, 32]")),
        (replace(PAGES, table=ints(2, 3)), K, V, ("pages.table is int32 with a row for each of the 3 sequence(s)", "got int32 [2, 3]")),
        (replace(PAGES, table=array(3, 3, dtype="int64")), K, V, ("pages.table is int32", "got int64")),
        (replace(PAGES, lengths=ints(4)), K, V, ("pages.lengths is int32 with a row",)),
        (replace(PAGES, longest=13), K, V, ("3 page(s) of 4 token(s) hold 12 keys", "longest is 13")),
    ],
)
def test_tokens_that_do_not_fit_are_named(pages: Any, k: Any, v: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        check_append(pages, k, v)
    for part in words:
        assert part in str(caught.value)
