"""What runs under compute-sanitizer on a GPU: one small problem of each kernel and feature, in the room that takes it.

    compute-sanitizer --tool memcheck python -m pytest tests/rooms/sanitized.py     (tools/check gpu-memory)

Lengths end inside tiles and pages, so that an address too far is outside its array. Rooms are asked by name, so that none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from strobe import Alibi, Blocks, Causal, Documents, Dropout, Full, Mask, Packed, Paged, Prefix, Ranged, Scaled, Sink, SoftCap, State, Tree, Window
from strobe import append, attention, merge, using

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@pytest.fixture(autouse=True)
def asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """The room of a test's parameter, else Triton's."""
    room = getattr(request.node, "callspec", None)
    room = "triton" if room is None else room.params.get("room", "triton")
    if room == "hopper" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this is no Hopper GPU")
    with using(room):
        yield


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, gradients: bool = False) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=gradients)


def masks(T: int, S: int) -> dict[str, Mask]:
    ids = (torch.arange(S, device="cuda") // 50).int()[None]
    kept = torch.rand(1, 1, -(-T // 64), -(-S // 128), device="cuda") < 0.5
    return {
        "full": Full(), "causal": Causal(), "window": Causal() & Window(before=40), "prefix": Prefix(30),
        "documents": Documents(ids[:, S - T :].contiguous(), ids), "blocks": Blocks(kept, 64, 128) & Causal(),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["full", "causal", "window", "prefix", "documents", "blocks"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_forward_and_backward(name: str, dtype: torch.dtype) -> None:
    T, S = 131, 203
    q, k, v = (drawn(1, n, heads, 64, dtype=dtype, gradients=True) for n, heads in ((T, 4), (S, 2), (S, 2)))
    torch.autograd.grad(attention(q, k, v, mask=masks(T, S)[name]).float().sum(), (q, k, v))
    torch.cuda.synchronize()


def test_everything_that_shapes_a_score() -> None:
    q, k, v = (drawn(2, 77, heads, 64, gradients=True) for heads in (4, 2, 2))
    bias, sink = drawn(1, 4, 77, 77, gradients=True), drawn(4, dtype=torch.float32, gradients=True)
    slopes = drawn(4, dtype=torch.float32, gradients=True)
    out = attention(q, k, v, mask=Causal(), bias=bias, sink=Sink(sink), alibi=Alibi(slopes), cap=SoftCap(20.0), dropout=Dropout(0.1, 3))
    torch.autograd.grad(out.float().sum(), (q, k, v, bias, sink, slopes))
    torch.cuda.synchronize()


def test_packed() -> None:
    offsets = torch.tensor([0, 1, 1, 70, 133], device="cuda", dtype=torch.int32)
    q, k, v = (drawn(133, heads, 64, gradients=True) for heads in (4, 2, 2))
    out = attention(Packed(q, offsets, 69), Packed(k, offsets, 69), v, mask=Causal())
    torch.autograd.grad(out.float().sum(), (q, k, v))
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(before=40)], ids=str)
@pytest.mark.parametrize("D", [64, 128])
def test_float8_prompts(D: int, mask: Mask, room: str) -> None:
    q, k, v = (
        Scaled(drawn(2, n, heads, D).to(torch.float8_e4m3fn), torch.rand(2, 1, heads, device="cuda"))
        for n, heads in ((131, 4), (203, 2), (203, 2))
    )  # fmt: skip
    attention(q, k, v, mask=mask)
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize("name", ["full", "causal", "window", "prefix"])
def test_prompts(name: str, times: int, D: int, room: str) -> None:
    """Of ordinary scores, and of some so far above the first that tiles are passed again."""
    T, S = 261, 403
    q, k, v = (drawn(1, n, heads, D) for n, heads in ((T, 4), (S, 2), (S, 2)))
    k[:, 200:210] *= times
    assert bool(torch.isfinite(attention(q, k, v, mask=masks(T, S)[name])).all())


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize("D", [64, 128])
def test_prompts_whose_last_tiles_are_shared(D: int, times: int, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strobe.backends.hopper.forms.IDLE", 0)
    k = drawn(1, 403, 2, D)
    k[:, 200:210] *= times
    assert bool(torch.isfinite(attention(drawn(1, 9001, 4, D), k, drawn(1, 403, 2, D))).all())


@pytest.mark.parametrize("room", ["hopper"])
def test_packed_prompts(room: str) -> None:
    offsets = torch.tensor([0, 70, 70, 333], device="cuda", dtype=torch.int32)
    q, k, v = (drawn(333, heads, 64) for heads in (4, 2, 2))
    attention(Packed(q, offsets, 263), Packed(k, offsets, 263), v, mask=Causal())
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize("page", [8, 64, 256])
def test_prompts_over_pages(page: int, room: str) -> None:
    """One sequence of few queries, whose keys are cut into parts, and two of many; the last page of each is not full."""
    for B, T, S in ((1, 40, 3003), (2, 261, 403)):
        columns = -(-S // page)
        table = torch.randperm(B * columns, device="cuda").view(B, columns).int()
        lengths = torch.full((B,), S, device="cuda", dtype=torch.int32)
        pages = Paged(drawn(B * columns, page, 2, 128), drawn(B * columns, page, 2, 128), table, lengths, S)
        attention(drawn(B, T, 8, 128), pages, mask=Causal())
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
def test_a_tree_of_prompts_in_parts(room: str) -> None:
    visible = torch.tril(torch.ones(1, 40, 40, device="cuda")).bool()
    attention(drawn(1, 40, 8, 128), drawn(1, 3003, 2, 128), drawn(1, 3003, 2, 128), mask=Tree(visible))
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["triton", "hopper"])
@pytest.mark.parametrize("T", [1, 5, 40])
@pytest.mark.parametrize("narrow", ["", "int8", "int4", "float8"])
@pytest.mark.parametrize("D", [64, 128])
def test_pages(D: int, T: int, narrow: str, room: str) -> None:
    """Sequences of no, one and many keys; the last page of each is not full."""
    B, z, G = 4, 16, 2
    lengths = torch.tensor([T, T, 333, 1000], device="cuda", dtype=torch.int32)
    table = torch.randperm(B * 63, device="cuda").view(B, 63).int()

    def side() -> torch.Tensor | Scaled:
        if not narrow:
            return drawn(B * 63, z, G, D)
        kind = {"int8": torch.int8, "int4": torch.uint8, "float8": torch.float8_e4m3fn}[narrow]
        data = torch.randint(0, 100, (B * 63, z, G, D // 2 if narrow == "int4" else D), device="cuda")
        return Scaled((data.float() if narrow == "float8" else data).to(kind), torch.rand(B * 63, z, G, device="cuda"))

    pages = Paged(side(), side(), table, lengths, 1000)
    with using("triton"):
        append(pages, drawn(B, T, G, D), drawn(B, T, G, D))
    pages = replace(pages, lengths=lengths * (lengths > T))
    state = State(attention(drawn(B, T, 8, D), pages, mask=Causal()), drawn(B, T, 8, dtype=torch.float32))
    with using("triton"):
        merge(state, state)
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["triton", "hopper"])
def test_long_caches_in_parts(room: str) -> None:
    attention(drawn(1, 1, 8, 128), drawn(1, 5003, 1, 128), drawn(1, 5003, 1, 128), mask=Causal())
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize(("H", "S"), [(4, 5003), (16, 40_003), (128, 9003)])
def test_cuts_at_fixed_keys(H: int, S: int, room: str) -> None:
    k = drawn(1, S, 1, 128)
    columns = -(-S // 64)
    paged, table = drawn(columns, 64, 1, 128), torch.randperm(columns, device="cuda")[None].int()
    length = torch.tensor([S], device="cuda", dtype=torch.int32)
    with using(room, invariant=True):
        for keys in (Ranged(k, k, torch.zeros_like(length), length), Paged(paged, paged, table, length, S)):
            attention(drawn(1, 2, H, 128), keys, mask=Causal())
        attention(drawn(1, 1, H, 128), k, k, mask=Causal())
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", ["hopper"])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("page", [0, 8, 64])
def test_latent_attention(page: int, T: int, room: str) -> None:
    """Values that are a part of the keys, and values apart; sequences of no, one and many keys, which end inside blocks and pages."""
    B, S, D, V = 3, 1000, 576, 512
    lengths, columns = torch.tensor([0, 1, 1000], device="cuda", dtype=torch.int32), -(-S // max(page, 1))
    k = drawn(B * columns, page, 1, D) if page else drawn(B, S, 1, D)
    for v in (k[..., :V], k[..., :V].clone()):
        keys = Ranged(k, v, torch.zeros_like(lengths), lengths)
        if page:
            keys = Paged(k, v, torch.randperm(B * columns, device="cuda").view(B, columns).int(), lengths, S)
        attention(drawn(B, T, 16, D), keys, mask=Causal())
    attention(drawn(1, T, 128, D), drawn(1, 5003, 1, D), drawn(1, 5003, 1, V), mask=Causal())
    torch.cuda.synchronize()
