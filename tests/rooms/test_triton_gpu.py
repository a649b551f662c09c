"""The Triton room on a GPU that is here: graphs, no waiting, torch.compile, far elements, the same bits, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from strobe import Causal, Mask, Packed, Paged, Ranged, State, append, attention, attention_state, explain, merge, using
from strobe.faces import torch as face
from strobe.layouts import Dense
from strobe.masks import Window
from strobe.problem import Call

from ..contract.rooms import on_a_gpu
from . import own_bits

pytestmark = [
    pytest.mark.skipif(not on_a_gpu("triton"), reason="this machine has no GPU that runs Triton"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it is a prototype
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's compiler, of torch
]


@pytest.fixture(autouse=True)
def in_triton() -> Iterator[None]:
    torch.manual_seed(0)
    with using("triton"):
        yield


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, gradients: bool = False) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=gradients)


def pages(B: int, S: int, G: int = 2, D: int = 64, z: int = 16) -> Paged:
    columns = S // z
    table = torch.randperm(B * columns, device="cuda").view(B, columns).int()
    lengths = torch.full((B,), S, device="cuda", dtype=torch.int32)
    return Paged(drawn(B * columns, z, G, D), drawn(B * columns, z, G, D), table, lengths, S)


def calls() -> dict[str, Callable[[], Any]]:
    """What a server does: a prompt, a token over pages, writing them, merging; and a step of training."""
    q, k, v = drawn(2, 300, 8, 64), drawn(2, 300, 2, 64), drawn(2, 300, 2, 64)
    token, paged, new = drawn(2, 1, 8, 64), pages(2, 2048), drawn(2, 1, 2, 64)
    packed = Packed(drawn(300, 8, 64), torch.tensor([0, 100, 300], device="cuda", dtype=torch.int32), 200)
    leaves = drawn(2, 300, 8, 64, gradients=True), drawn(2, 300, 2, 64, gradients=True), drawn(2, 300, 2, 64, gradients=True)
    state = State(drawn(2, 8, 8, 64), drawn(2, 8, 8, dtype=torch.float32))
    return {
        "prompt": lambda: attention(q, k, v, mask=Causal()),
        "packed": lambda: attention(packed, Packed(k[0], packed.offsets, 200), v[0], mask=Causal()),
        "window": lambda: attention(q, k, v, mask=Causal() & Window(before=50)),
        "token": lambda: attention(token, paged, mask=Causal()),
        "append": lambda: append(paged, new, new),
        "merge": lambda: merge(state, state).out,
        "training": lambda: torch.autograd.grad(attention(*leaves, mask=Causal()).sum(), leaves),
    }


NAMES = ("prompt", "packed", "window", "token", "append", "merge", "training")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name: str) -> None:
    run = calls()[name]
    run()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["prompt", "window", "token"])
def test_a_call_is_captured_in_a_graph(name: str) -> None:
    run = calls()[name]
    expected = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    found.zero_()
    graph.replay()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compiles_a_step_without_a_break(dynamic: bool) -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q * 1.0, k, v, mask=Causal()).float().square().mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for T in (128, 192):
        leaves = drawn(1, T, 4, 64, gradients=True), drawn(1, T, 2, 64, gradients=True), drawn(1, T, 2, 64, gradients=True)
        for found, expected in zip(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("T", [1, 64])
def test_elements_beyond_two_to_the_31_are_read_where_they_are(T: int) -> None:
    S, G, D = 2**20 + 512, 16, 128
    k, v, q = drawn(1, S, G, D), drawn(1, S, G, D), drawn(1, T, G, D)
    assert k.numel() > 2**31
    whole = attention_state(q, k, v)
    parts = [attention_state(q, k[:, a:b], v[:, a:b]) for a, b in ((0, S // 2), (S // 2, S))]
    joined = merge(*parts)
    torch.testing.assert_close(whole.lse, joined.lse, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(whole.out.float(), joined.out.float(), atol=2e-5, rtol=2e-2)
    last = attention(q, k[:, -64:], v[:, -64:])
    turned = attention(q, torch.cat([k[:, :1], k[:, -64:]], 1)[:, 1:], torch.cat([v[:, :1], v[:, -64:]], 1)[:, 1:])
    torch.testing.assert_close(last, turned)


LIES: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "heads first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every other token": lambda x: torch.cat((x, x), 2).view(x.shape[0], 2 * x.shape[1], *x.shape[2:])[:, ::2],
    "beside 16 bytes": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
}


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=30)], ids=["causal", "window"])
@pytest.mark.parametrize("name", LIES)
def test_a_call_like_one_before_has_its_own_arrays(name: str, mask: Mask) -> None:
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.current_stream()):
        q, k, v = (LIES[name](drawn(2, 150, heads, 64)) for heads in (8, 2, 2))
        call = Call(q, Dense(k, v), mask)
        expected = face.launch(face.plan_of(call), call)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            found = attention_state(q, k, v, mask=mask)
        torch.cuda.synchronize()
        assert torch.equal(found.out, expected.out) and torch.equal(found.lse, expected.lse)


def test_who_listens_to_starts_is_told_of_each() -> None:
    from triton import knobs

    q, k, v = drawn(2, 150, 8, 64), drawn(2, 150, 2, 64), drawn(2, 150, 2, 64)
    attention(q, k, v, mask=Causal())
    told: list[str] = []
    listener = lambda metadata: told.append(metadata.get()["name"])
    knobs.runtime.launch_enter_hook.add(listener)
    try:
        listened = [attention(q, k, v, mask=Causal()) for _ in range(2)]
    finally:
        knobs.runtime.launch_enter_hook.remove(listener)
    assert len(told) == 2 and all("attend" in name for name in told)
    assert all(torch.equal(out, attention(q, k, v, mask=Causal())) for out in listened)


@pytest.mark.parametrize("D", [64, 128, 96])
def test_the_same_bits_every_time(D: int) -> None:
    leaves = drawn(2, 777, 8, D, gradients=True), drawn(2, 777, 2, D, gradients=True), drawn(2, 777, 2, D, gradients=True)
    first, *others = ([(out := attention(*leaves, mask=Causal())), *torch.autograd.grad(out.float().square().sum(), leaves)] for _ in range(4))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_step_takes_the_memory_that_torchs_takes() -> None:
    def peak(run: Callable[..., Tensor]) -> int:
        leaves = [drawn(1, 16384, 16, 128, gradients=True) for _ in range(3)]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = run(*leaves)
        out.backward(torch.ones_like(out))
        return torch.cuda.max_memory_allocated() - before

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)

    assert peak(lambda q, k, v: attention(q, k, v, mask=Causal())) <= 1.05 * peak(flash)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=1500)], ids=str)
@pytest.mark.parametrize("T", [1, 5])
def test_a_ragged_batch_is_cut_by_its_lengths(T: int, mask: Mask) -> None:
    lengths = [9000, 1, 0, 2500, 16384, 700]
    k, v = drawn(len(lengths), 16384, 2, 64), drawn(len(lengths), 16384, 2, 64)
    there = torch.tensor(lengths, device="cuda", dtype=torch.int32)
    keys = Ranged(k, v, torch.zeros_like(there), there)
    q = drawn(len(lengths), T, 8, 64)
    assert "even share(s)" in explain(q, keys, mask=mask).offer.why
    found = attention_state(q, keys, mask=mask)
    with using("reference"):
        known = attention_state(q, keys, mask=mask)
    assert torch.equal(found.lse.isinf(), known.lse.isinf())
    torch.testing.assert_close(found.lse, known.lse, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.out, known.out, atol=4e-3, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=1000)], ids=str)
def test_a_sequences_bits_are_its_own(dtype: torch.dtype, mask: Mask) -> None:
    q, k, v = drawn(150, 8, 128, dtype=dtype), drawn(4800, 2, 128, dtype=dtype), drawn(4800, 2, 128, dtype=dtype)

    def decoded(call: Call) -> State:
        with using(invariant=True):
            keys = call.keys
            return attention_state(call.q, *((keys,) if isinstance(keys, Paged) else (keys.k, keys.v)), mask=call.mask)

    own_bits.same(decoded, q, (k, v), mask, 50, 9000, (1, 16, 64, 100))
