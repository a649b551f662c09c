"""append with rotary embedding, in every room that offers append: against complex numbers, and bit for bit between rooms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import Invalid, Packed, Paged, Rotary, Scaled, append
from strobe.appending import check_append
from strobe.faces.seam import flatten_append
from strobe.faces.torch import describe
from strobe.plan import plan
from strobe.problem import map_arrays

from .rooms import exact, launched, machine, present
from .test_cache_verbs import DTYPES

ROOMS = [room for room in present() if room != "sdpa"]
RAISING = [room for room in ROOMS if room != "triton"]  # a device cannot: tests/rooms/test_triton.py says what it does instead
TYPES = {"triton": ("float32",), "reference": (*DTYPES, "float64")}  # few in Triton's interpreter, which is slow
WIDE = [(room, dtype) for room in ROOMS for dtype in TYPES.get(room, DTYPES)]
NARROW = {"int8": torch.int8, "int4": torch.uint8, "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
G, D, V, ROWS = 2, 64, 40, 30
LENGTHS, COUNTS = (9, 4, 20), {False: (4, 4, 4), True: (9, 0, 3)}  # of three sequences; packed or not


def append_in(room: str, pages: Paged, k: Any, v: Tensor, rotary: Rotary | None) -> None:
    problem = check_append(map_arrays(pages, describe), map_arrays(k, describe), describe(v), map_arrays(rotary, describe))
    chosen = plan(problem, machine(room), room)
    launched(room, chosen, pages, k, v, rotary)


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def tables(width: int, g: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    angles = torch.rand(rows, width // 2, generator=g) * 20 - 10
    return angles.cos(), angles.sin()


def paged(z: int, g: torch.Generator, kind: str) -> Paged:
    """Pages of NaN, or of bytes that no one wrote, in any order."""
    columns = -(-max(LENGTHS) // z)
    count = columns * len(LENGTHS) + 2
    table = torch.randperm(count, generator=g)[: columns * len(LENGTHS)].view(len(LENGTHS), columns).int()
    if kind not in NARROW:
        k, v = (torch.full((count, z, G, width), torch.nan, dtype=getattr(torch, kind)) for width in (D, V))
        return Paged(k, v, table, ints(*LENGTHS), max(LENGTHS))
    sides = (
        Scaled(torch.full((count, z, G, width // (2 if kind == "int4" else 1)), 0x5B, dtype=torch.uint8).view(NARROW[kind]), torch.full((count, z, G), torch.nan))
        for width in (D, V)
    )
    return Paged(*sides, table, ints(*LENGTHS), max(LENGTHS))


def laid(k: Tensor, v: Tensor, packed: bool) -> tuple[Any, Tensor]:
    """Tokens [N, G, width] as a call takes them."""
    if packed:
        return Packed(k, ints(0, 9, 9, 12), 9), v
    return k.view(3, 4, G, D), v.view(3, 4, G, V)


def places(pages: Paged, packed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(place in its sequence, page, row of the page) of each new token."""
    found = [(at, b) for b, (length, count) in enumerate(zip(LENGTHS, COUNTS[packed], strict=True)) for at in range(length - count, length)]
    at, b = torch.tensor(found).T
    side = pages.keys.data if isinstance(pages.keys, Scaled) else pages.keys
    return at, pages.table[b, at // side.shape[1]].long(), at % side.shape[1]


def as_complex(k: Tensor, rotary: Rotary, at: Tensor) -> Tensor:
    """Tokens [N, G, D] in float64: a pair is a complex number, and turning it is a product."""
    pairs = rotary.cos.shape[1]
    first = k[..., : 2 * pairs].double()
    first = first.view(*k.shape[:2], pairs, 2) if rotary.interleaved else first.view(*k.shape[:2], 2, pairs).transpose(2, 3)
    by = torch.complex(rotary.cos[at].double(), rotary.sin[at].double())[:, None]
    turned = torch.view_as_real(torch.view_as_complex(first.contiguous()) * by)
    turned = turned.flatten(2) if rotary.interleaved else turned.transpose(2, 3).flatten(2)
    return torch.cat([turned, k[..., 2 * pairs :].double()], -1)


def untouched(side: Any, page: Tensor, row: Tensor) -> None:
    """What no new token was written to holds what it held."""
    parts = (side.data.view(torch.uint8), side.scale) if isinstance(side, Scaled) else (side,)
    for part in parts:
        others = torch.ones(part.shape[:2], dtype=torch.bool)
        others[page, row] = False
        assert others.any()
        assert bool((part[others] == 0x5B).all() if part.dtype == torch.uint8 else torch.isnan(part[others]).all())


@pytest.mark.parametrize(("room", "dtype"), WIDE)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("width", [2, 24, 64])
@pytest.mark.parametrize("z", [1, 5, 16])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("placed", [False, True], ids=["in order", "placed"])
def test_keys_are_turned_and_values_are_not(
    room: str, dtype: str, interleaved: bool, width: int, z: int, packed: bool, placed: bool
) -> None:
    g = torch.Generator().manual_seed(width)
    kind = getattr(torch, dtype)
    k, v = torch.randn(12, G, D, generator=g).to(kind), torch.randn(12, G, V, generator=g).to(kind)
    where = torch.randint(0, ROWS, (12,), generator=g, dtype=torch.int32) if placed else None
    rotary = Rotary(*tables(width, g), where if packed or where is None else where.view(3, 4), interleaved)
    pages = paged(z, g, dtype)
    append_in(room, pages, *laid(k, v, packed), rotary)
    at, page, row = places(pages, packed)
    at = at if where is None else where.long()
    found, truth = pages.keys[page, row].double(), as_complex(k, rotary, at)
    size = torch.maximum(*(as_complex(k.abs(), replace(rotary, cos=rotary.cos.abs(), sin=sin), at).abs() for sin in (rotary.sin.abs(), -rotary.sin.abs())))
    # `size` is |k[i] cos| + |k[j] sin|: the products and their sum cost two roundings of it; then there is one to the pages' dtype
    step = torch.finfo(torch.float64 if dtype == "float64" else torch.float32).eps / 2
    rounding = 0.0 if dtype in ("float32", "float64") else torch.finfo(kind).eps / 2
    assert bool(((found - truth).abs() <= size * 2.001 * step + truth.abs() * 1.001 * rounding).all())
    assert torch.equal(pages.keys[page, row][..., width:], k[..., width:]), "numbers past the width are copied"
    assert torch.equal(pages.values[page, row], v)
    untouched(pages.keys, page, row)
    untouched(pages.values, page, row)


SAME = [
    (room, dtype, kind)
    for room in ROOMS if room != "reference"
    for dtype in TYPES.get(room, DTYPES)
    for kind in ("as they come", "bfloat16", "float16", *NARROW) if exact(room, dtype, kind)
]  # fmt: skip


@pytest.mark.parametrize(("room", "dtype", "kind"), SAME)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("width", [24, 64])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_every_room_writes_the_same_bits(room: str, dtype: str, kind: str, interleaved: bool, width: int, packed: bool) -> None:
    if kind in ("bfloat16", "float16") and dtype != "float32":
        kind = dtype  # of 16 bits, pages are of the tokens' dtype
    g = torch.Generator().manual_seed(width + 7)
    k, v = (torch.randn(12, G, n, generator=g).to(getattr(torch, dtype)) for n in (D, V))
    k[0, 0], k[1, 1] = k[0, 0] * 1e-6, 0.0
    k[2, 1] *= torch.logspace(-4, 4, D).to(k.dtype)
    rotary = Rotary(*tables(width, g), interleaved=interleaved)
    found = []
    for name in ("reference", room):
        pages = paged(5, torch.Generator().manual_seed(0), dtype if kind == "as they come" else kind)
        append_in(name, pages, *laid(k, v, packed), rotary)
        untouched(pages.keys, *places(pages, packed)[1:])
        parts = (x for side in (pages.keys, pages.values) for x in ((side.data, side.scale) if isinstance(side, Scaled) else (side,)))
        found.append([x.contiguous().view(torch.uint8) for x in parts])
    for want, have in zip(*found, strict=True):
        assert torch.equal(want, have)


@pytest.mark.parametrize(("room", "kind"), [(room, kind) for room in ROOMS for kind in NARROW if exact(room, kind)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_pages_hold_the_turned_numbers_rounded_once(room: str, kind: str, dtype: str) -> None:
    """As if the keys had come in float32, turned by hand: there is no rounding to the dtype of the tokens between."""
    g = torch.Generator().manual_seed(3)
    k, v = (torch.randn(12, G, n, generator=g).to(getattr(torch, dtype)) for n in (D, V))
    rotary = Rotary(*tables(D, g))
    pages, by_hand = paged(5, torch.Generator().manual_seed(0), kind), paged(5, torch.Generator().manual_seed(0), kind)
    append_in(room, pages, *laid(k, v, True), rotary)
    at = places(pages, True)[0]
    cos, sin = (torch.cat([x, x], -1)[at][:, None] for x in (rotary.cos, rotary.sin))
    a, b = k.float().chunk(2, -1)
    append_in(room, by_hand, *laid(k.float() * cos + torch.cat([-b, a], -1) * sin, v.float(), True), None)
    for side, other in ((pages.keys, by_hand.keys), (pages.values, by_hand.values)):
        assert torch.equal(side.data.view(torch.uint8), other.data.view(torch.uint8))
        assert torch.equal(side.scale.nan_to_num(-1), other.scale.nan_to_num(-1))


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_strides_are_followed(room: str, interleaved: bool) -> None:
    """Tokens, tables and positions as views of larger arrays, with NaN and far positions between them."""
    g = torch.Generator().manual_seed(1)
    k, v = torch.randn(3, 4, G, D, generator=g), torch.randn(3, 4, G, V, generator=g)
    cos, sin = tables(24, g)
    where = torch.randint(0, ROWS, (3, 4), generator=g, dtype=torch.int32)
    wild = torch.full((G, 4, 3, D + V), torch.nan)
    wild[..., :D], wild[..., D:] = k.permute(2, 1, 0, 3), v.permute(2, 1, 0, 3)
    rows = torch.full((2 * ROWS, 2, 13), torch.nan)
    rows[::2, 0, 1:], rows[::2, 1, :12] = cos, sin
    far = torch.full((3, 9), 10**6, dtype=torch.int32)
    far[:, 2:6] = where
    views = wild[..., :D].permute(2, 1, 0, 3), wild[..., D:].permute(2, 1, 0, 3)
    found = []
    for (new_k, new_v), rotary in (((k, v), Rotary(cos, sin, where)), (views, Rotary(rows[::2, 0, 1:], rows[::2, 1, :12], far[:, 2:6]))):
        pages = paged(5, torch.Generator().manual_seed(0), "float32")
        append_in(room, pages, new_k, new_v, replace(rotary, interleaved=interleaved))
        found.append((pages.keys.nan_to_num(9), pages.values.nan_to_num(9)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("room", ROOMS)
def test_one_row_of_angles_serves_every_position_with_a_stride_of_zero(room: str) -> None:
    g = torch.Generator().manual_seed(1)
    k, v = torch.randn(3, 4, G, D, generator=g), torch.randn(3, 4, G, V, generator=g)
    cos, sin = tables(D, g, rows=1)
    found = []
    for rotary in (Rotary(cos.expand(ROWS, -1), sin.expand(ROWS, -1)), Rotary(cos, sin, torch.zeros(3, 4, dtype=torch.int32))):
        pages = paged(5, torch.Generator().manual_seed(0), "float32")
        append_in(room, pages, k, v, rotary)
        found.append(pages.keys.nan_to_num(9))
    assert torch.equal(*found)


@pytest.mark.parametrize("room", RAISING)
@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(
    ("packed", "rows", "where", "words"),
    [
        (False, 19, None, "token 3 of the new ones of sequence 2 stands at position 19"),
        (False, 17, None, "token 1 of the new ones of sequence 2 stands at position 17"),
        (False, 0, None, "token 0 of the new ones of sequence 0 stands at position 5"),
        (True, 19, None, "token 2 of the new ones of sequence 2 stands at position 19"),
        (False, 30, (1, 2), "token 2 of the new ones of sequence 1 stands at position -1"),
        (False, 30, (2, 0), "token 0 of the new ones of sequence 2 stands at position -1"),
        (True, 30, (10,), "token 1 of the new ones of sequence 2 stands at position -1"),
        (True, 1, (8,), "token 8 of the new ones of sequence 0 stands at position -1"),
    ],
)
def test_a_position_without_a_row_is_named_and_nothing_is_written(
    room: str, kind: str, packed: bool, rows: int, where: tuple[int, ...] | None, words: str
) -> None:
    g = torch.Generator().manual_seed(2)
    positions = None
    if where is not None:
        positions = torch.zeros(12 if packed else (3, 4), dtype=torch.int32)
        positions[where] = -1
    k, v = torch.randn(12, G, D, generator=g), torch.randn(12, G, V, generator=g)
    pages = paged(5, g, kind)
    with pytest.raises(Invalid, match=f"{words}, for which rotary has no row"):
        append_in(room, pages, *laid(k, v, packed), Rotary(*tables(24, g, rows), positions))
    nobody = torch.zeros(0, dtype=torch.long)
    untouched(pages.keys, nobody, nobody)
    untouched(pages.values, nobody, nobody)


@pytest.mark.parametrize("room", ROOMS)
def test_only_new_tokens_need_a_row(room: str) -> None:
    """A sequence may be longer than the tables, if none of its tokens is new; and nothing new needs nothing."""
    g = torch.Generator().manual_seed(2)
    k, v = torch.randn(12, G, D, generator=g), torch.randn(12, G, V, generator=g)
    pages = paged(5, g, "float32")
    append_in(room, pages, Packed(k, ints(0, 9, 12, 12), 9), v, Rotary(*tables(24, g, rows=9)))
    assert int(torch.isnan(pages.keys).any(-1).logical_not().sum()) == 12 * G
    none = Rotary(*tables(24, g, rows=0))
    append_in(room, pages, torch.ones(3, 0, G, D), torch.ones(3, 0, G, V), none)
    append_in(room, replace(pages, table=pages.table[:0], lengths=pages.lengths[:0]), Packed(k[:0], ints(0), 0), v[:0], none)


@pytest.mark.parametrize("room", ROOMS)
def test_infinities_and_nan_stay_in_their_pair(room: str) -> None:
    k = torch.ones(3, 4, G, D)
    k[0, 0, 0, 3], k[1, 1, 1, 40] = torch.nan, torch.inf
    cos, sin = tables(D, torch.Generator().manual_seed(4))
    pages = paged(5, torch.Generator().manual_seed(0), "float32")
    append_in(room, pages, k, torch.ones(3, 4, G, V), Rotary(cos, sin))
    _, page, row = places(pages, False)
    finite = torch.isfinite(pages.keys[page, row].view(3, 4, G, D))
    assert not bool(finite[0, 0, 0, [3, 35]].any()) and not bool(finite[1, 1, 1, [8, 40]].any())
    assert int((~finite).sum()) == 4


def test_arrays_that_ask_for_a_gradient_are_written_without_one() -> None:
    g = torch.Generator().manual_seed(2)
    k, v = torch.randn(3, 4, G, D, generator=g), torch.randn(3, 4, G, V, generator=g)
    cos, sin = tables(24, g)
    pages, other = paged(5, torch.Generator().manual_seed(0), "float32"), paged(5, torch.Generator().manual_seed(0), "float32")
    append(pages, k.requires_grad_(), v, rotary=Rotary(cos.requires_grad_(), sin))
    append(other, k.detach(), v, rotary=Rotary(cos.detach(), sin))
    assert not pages.keys.requires_grad and torch.equal(pages.keys.nan_to_num(9), other.keys.nan_to_num(9))


def _asked(kind: str, packed: bool, rotary: bool) -> tuple[Paged, Any, Tensor, Rotary | None]:
    g = torch.Generator().manual_seed(8)
    k, v = torch.randn(12, G, D, generator=g), torch.randn(12, G, V, generator=g)
    where = torch.arange(12, dtype=torch.int32)
    turned = Rotary(*tables(24, g), where if packed else None, interleaved=packed) if rotary else None
    return paged(5, g, kind), *laid(k, v, packed), turned


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
def test_opcheck(kind: str, packed: bool, rotary: bool) -> None:
    pages, k, v, turned = _asked(kind, packed, rotary)
    pages = replace(pages, **{  # opcheck compares what is left alone too, and NaN is not NaN
        name: Scaled(side.data, torch.zeros_like(side.scale)) if isinstance(side, Scaled) else torch.zeros_like(side)
        for name, side in (("keys", pages.keys), ("values", pages.values))
    })  # fmt: skip
    torch.library.opcheck(torch.ops.strobe.append.default, flatten_append(pages, k, v, turned))


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
def test_compiles_without_a_break(kind: str, dynamic: bool, rotary: bool) -> None:
    """A compiled step writes what the step writes, and reads it behind that."""

    def step(pages: Paged, k: Packed, v: Tensor, turned: Rotary | None) -> Tensor:
        append(pages, Packed(k.tokens * 2, k.offsets, k.longest), v + 1, rotary=turned)
        side = pages.values.scale if isinstance(pages.values, Scaled) else pages.values
        return side.nan_to_num(0).sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (12, 9) if dynamic else (12,):
        found = []
        for f in (step, compiled):
            pages, k, v, turned = _asked(kind, True, rotary)
            new = Packed(k.tokens[:n].clone(), ints(0, 9, 9, n), 9)
            if turned is not None:
                turned = replace(turned, positions=turned.positions[:n].clone())
            parts = [f(pages, new, v[:n].clone(), turned)]
            for side in (pages.keys, pages.values):
                parts += [side.data.view(torch.uint8), side.scale.nan_to_num(9)] if isinstance(side, Scaled) else [side.nan_to_num(9)]
            found.append(parts)
        assert float(found[0][0]) != 0
        for want, have in zip(*found, strict=True):
            assert torch.equal(want, have)


def test_a_compiled_step_writes_into_views_of_one_array() -> None:
    """As pages of vLLM lie: keys and values are halves of the same rows."""

    def step(both: Tensor, table: Tensor, lengths: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pages = Paged(both[..., :D].transpose(1, 2), both[..., D:].transpose(1, 2), table, lengths, 3)
        append(pages, k, v, rotary=Rotary(cos, sin))
        return both.sum()

    g = torch.Generator().manual_seed(2)
    rest = torch.tensor([[2]]).int(), ints(3), torch.randn(1, 3, G, D, generator=g), torch.randn(1, 3, G, D, generator=g), *tables(D, g)
    plain, compiled = torch.zeros(3, G, 4, 2 * D), torch.zeros(3, G, 4, 2 * D)
    want = step(plain, *rest)
    have = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled, *rest)
    assert torch.equal(plain, compiled) and torch.equal(want, have) and bool(plain.any())
