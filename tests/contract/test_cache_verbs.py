"""append and merge in every room that offers them, against what they mean."""

from __future__ import annotations


import pytest
import torch

from strobe import Invalid, Packed, Paged, Scaled, State
from strobe.answers import Offer
from strobe.appending import check_append
from strobe.faces.torch import describe
from strobe.merging import check_merge
from strobe.plan import plan
from strobe.problem import map_arrays
from strobe.rooms import desk, kernel

from .poison import poisoned_memory
from .rooms import exact, launched, machine, present
from .tolerance import error

DTYPES = ("float32", "bfloat16", "float16")


def _append_in(room: str, pages: Paged, k: object, v: torch.Tensor) -> None:
    problem = check_append(map_arrays(pages, describe), map_arrays(k, describe), describe(v))
    chosen = plan(problem, machine(room), room)
    launched(room, chosen, pages, k, v)


def _rooms(verb: str) -> list[str]:
    tables = torch.zeros(1, 1, dtype=torch.int32)
    pages = Paged(torch.zeros(1, 4, 2, 64), torch.zeros(1, 4, 2, 64), tables, torch.ones(1, dtype=torch.int32), 1)
    k = torch.zeros(1, 1, 2, 64)
    question = check_append(map_arrays(pages, describe), describe(k), describe(k))
    if verb == "merge":
        question = check_merge(*map(describe, (k, k[..., 0], k, k[..., 0])))
    return [room for room in present() if isinstance(desk(room).offer(question, machine(room)), Offer)]


def _pages(dtype: torch.dtype, z: int, lengths: list[int], g: torch.Generator) -> Paged:
    columns = -(-max(lengths) // z)
    count = columns * len(lengths) + 2
    table = torch.randperm(count, generator=g)[: columns * len(lengths)].view(len(lengths), columns).int()
    k, v = (torch.full((count, z, 2, width), torch.nan, dtype=dtype) for width in (64, 40))
    return Paged(k, v, table, torch.tensor(lengths, dtype=torch.int32), max(lengths))


@pytest.mark.parametrize("room", _rooms("append"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("z", [1, 3, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_append_writes_each_token_where_its_sequence_says(room: str, dtype: str, z: int, packed: bool) -> None:
    g = torch.Generator().manual_seed(z)
    kind = getattr(torch, dtype)
    lengths, counts = [9, 4, 20], [4, 4, 4] if not packed else [9, 0, 3]
    pages = _pages(kind, z, lengths, g)
    n = sum(counts)
    k, v = torch.randn(n, 2, 64, generator=g).to(kind), torch.randn(n, 2, 40, generator=g).to(kind)
    if packed:
        offsets = torch.tensor([0, 9, 9, 12], dtype=torch.int32)
        _append_in(room, pages, Packed(k, offsets, 9), v)
    else:
        _append_in(room, pages, k.view(3, 4, 2, 64), v.view(3, 4, 2, 40))
    row, written = 0, torch.zeros(pages.keys.shape[:2], dtype=torch.bool)
    for b, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for at in range(length - count, length):
            place = (int(pages.table[b, at // z]), at % z)
            assert torch.equal(pages.keys[place], k[row]) and torch.equal(pages.values[place], v[row])
            written[place] = True
            row += 1
    assert bool(torch.isnan(pages.keys[~written]).all()) and bool(torch.isnan(pages.values[~written]).all())


@pytest.mark.parametrize("room", _rooms("append"))
def test_append_into_views_of_one_array(room: str) -> None:
    both = torch.zeros(3, 2, 4, 128)  # [P, G, Z, 2D]: keys and values share storage
    keys, values = both[..., :64].transpose(1, 2), both[..., 64:].transpose(1, 2)
    table, lengths = torch.tensor([[2]], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    k, v = torch.randn(1, 3, 2, 64), torch.randn(1, 3, 2, 64)
    _append_in(room, Paged(keys, values, table, lengths, 3), k, v)
    assert torch.equal(keys[2, :3], k[0]) and torch.equal(values[2, :3], v[0])


@pytest.mark.parametrize("room", [room for room in _rooms("append") if room != "triton"])  # a device cannot raise
@pytest.mark.parametrize(("table", "length"), [([[0, 9]], 8), ([[0, -1]], 8), ([[0, 1]], 1), ([[0, 1]], 9)])
def test_append_refuses_what_has_no_place_and_writes_nothing(room: str, table: list[list[int]], length: int) -> None:
    keys, values = torch.zeros(2, 4, 2, 64), torch.zeros(2, 4, 2, 64)
    pages = Paged(keys, values, torch.tensor(table, dtype=torch.int32), torch.tensor([length], dtype=torch.int32), 8)
    with pytest.raises(Invalid, match=r"table\[0, 1\]|position|length"):
        _append_in(room, pages, torch.ones(1, 5, 2, 64), torch.ones(1, 5, 2, 64))
    assert not bool(keys.any()) and not bool(values.any())


@pytest.mark.parametrize("room", _rooms("append"))
@pytest.mark.parametrize("mistake", ["a table elsewhere", "pages with gaps", "offsets of int64", "pages of integers"])
def test_a_mistake_is_named_before_a_room_sees_it_and_nothing_is_written(room: str, mistake: str) -> None:
    """Each of these once reached the compiled room, which believes what it is told: a crash, or rows at the wrong place."""
    keys, values = torch.zeros(2, 4, 2, 64), torch.zeros(2, 4, 2, 64)
    table, lengths = torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([5], dtype=torch.int32)
    k: object = torch.ones(1, 5, 2, 64)
    v = torch.ones(1, 5, 2, 64)
    if mistake == "a table elsewhere":
        table = table.to("meta")
    elif mistake == "pages with gaps":
        keys = torch.zeros(2, 4, 64, 2).transpose(2, 3)
    elif mistake == "pages of integers":
        keys = keys.int()
    else:
        k, v = Packed(v[0], torch.tensor([0, 5]), 5), v[0]
    with pytest.raises(Invalid, match="one device|contiguous|is int32|are one of"):
        _append_in(room, Paged(keys, values, table, lengths, 5), k, v)
    assert not bool(keys.any()) and not bool(values.any())


def test_scales_that_do_not_fit_their_pages_are_refused_before_the_data_is_written() -> None:
    data, table, lengths = torch.zeros(2, 4, 2, 64, dtype=torch.int8), torch.tensor([[1]], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    k = torch.ones(1, 3, 2, 64)
    with pytest.raises(Invalid, match=r"pages.keys.scale is float32 \[2, 4, 2\]"):
        _append_in("reference", Paged(Scaled(data, torch.zeros(2, 4)), data.float(), table, lengths, 3), k, k)
    assert not bool(data.any())


@pytest.mark.parametrize("kind", ["int8", "float8_e4m3fn"])
def test_append_quantises_into_scaled_pages(kind: str) -> None:
    dtype = getattr(torch, kind)
    keys, values = (Scaled(torch.zeros(2, 4, 2, 64).to(dtype), torch.zeros(2, 4, 2)) for _ in range(2))
    table, lengths = torch.tensor([[1]], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    k, v = torch.randn(1, 3, 2, 64), torch.zeros(1, 3, 2, 64)
    _append_in("reference", Paged(keys, values, table, lengths, 3), k, v)
    found = keys.data[1, :3].float() * keys.scale[1, :3, :, None]
    step = keys.scale[1, :3, :, None] if kind == "int8" else found.abs() / 8
    assert bool(((found - k[0]).abs() <= step * 0.51 + 1e-3).all())
    assert not bool(values.data[1].float().any()), "zeros stay zeros"


NARROW = ("int8", "int4", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize(("room", "kind"), [(room, kind) for room in _rooms("append") for kind in NARROW if exact(room, kind)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
def test_append_writes_the_same_narrow_numbers_in_every_room(room: str, dtype: str, kind: str, packed: bool) -> None:
    """Rounding is defined (nearest even of x / scale, scale = max|x| / greatest), so rooms agree bit for bit."""
    g = torch.Generator().manual_seed(11)
    store, halves = (torch.uint8, 2) if kind == "int4" else (getattr(torch, kind), 1)
    k, v = (torch.randn(9, 2, width, generator=g).to(getattr(torch, dtype)) for width in (64, 40))
    k[0, 0], k[1, 1] = k[0, 0] * 1e-4, 0.0  # subnormal float8 under a scale of their own; a row of zeros
    k[2, 0, :4] = torch.tensor([127.0, 0.5, 1.5, -2.5]).to(k.dtype)  # halves go to the even neighbour
    k[3, 0] = torch.linspace(-3, 3, 64).exp().to(k.dtype)
    k[4, 1], v[4, 1, 0] = 190 * 2.0**-149, 1.2e-38  # below what a scale can be divided by: zeros with scale 0
    found = []
    for name in ("reference", room):
        keys, values = (Scaled(torch.zeros(4, 3, 2, width // halves, dtype=torch.uint8).view(store), torch.zeros(4, 3, 2)) for width in (64, 40))
        pages = Paged(keys, values, torch.tensor([[2, 0], [3, 1]], dtype=torch.int32), torch.tensor([6, 3], dtype=torch.int32), 6)
        if packed:
            _append_in(name, pages, Packed(k, torch.tensor([0, 6, 9], dtype=torch.int32), 6), v)
        else:
            _append_in(name, pages, k[:6].view(2, 3, 2, 64), v[:6].view(2, 3, 2, 40))
        found.append([x.view(torch.uint8) if x.dtype != torch.float32 else x for side in (keys, values) for x in (side.data, side.scale)])
    assert bool(found[0][0].any())
    for want, have in zip(*found, strict=True):
        assert torch.equal(want, have)


@pytest.mark.parametrize("room", _rooms("merge"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_merge_is_the_law(room: str, dtype: str) -> None:
    g = torch.Generator().manual_seed(5)
    kind = getattr(torch, dtype)

    def state() -> State:
        lse = torch.randn(3, 17, 4, generator=g) * 20
        empty = torch.rand(3, 17, 4, generator=g) < 0.2
        out = torch.randn(3, 17, 4, 72, generator=g).to(kind).masked_fill(empty[..., None], 0.0)
        return State(out, lse.masked_fill(empty, -torch.inf))

    a, b = state(), state()
    problem = check_merge(*map(describe, (*a, *b)))
    truth = kernel("reference", "merge").joined(State(a.out.double(), a.lse.double()), State(b.out.double(), b.lse.double()))
    chosen = plan(problem, machine(room), room)
    with poisoned_memory():
        found = launched(room, chosen, a, b)
    eps = torch.finfo(kind).eps
    assert found.out.dtype == kind and found.lse.dtype == torch.float32
    assert error(found.out, truth.out) <= eps and error(found.lse, truth.lse) <= 1e-6
    permuted = State(a.out.transpose(0, 1).contiguous().transpose(0, 1), a.lse)
    assert torch.equal(launched(room, chosen, permuted, b).out, found.out)
