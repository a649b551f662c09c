"""Latent attention of the Hopper room on a GPU that is here: the contract, graphs, no waiting, the same bits, poison. One command:

    python -m pytest tests/rooms/test_hopper_latent_gpu.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from strobe import Causal, Full, Mask, Paged, State, Window, attention
from strobe.answers import Offer
from strobe.backends.hopper import latent, latent_desk
from strobe.faces import torch as face
from strobe.layouts import Dense as Keys
from strobe.plan import Plan, plan
from strobe.problem import Call, map_arrays

from ..contract.cases import Case, build
from ..contract.poison import poison_unseen
from ..contract.rooms import problem_of
from ..contract.tolerance import allowed, error, plain
from .hopper_latent_run import CASES, in_one, truth

HERE = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [
    pytest.mark.skipif(not HERE, reason="this machine has no Hopper GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it is a prototype
]
SIZES = (0, 1, 63, 64, 65, 128, 129, 700)  # the reference room has keys of its own for each head, in float64: gigabytes


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.cuda.synchronize()


def there(call: Call) -> Call:
    """The call on the GPU; values that are a part of the keys are so there."""
    keys: Any = call.keys
    k, v = (keys.keys, keys.values) if isinstance(keys, Paged) else (keys.k, keys.v)
    moved = map_arrays(call, lambda x: x.to("cuda:0"))
    return in_one(moved) if k.data_ptr() == v.data_ptr() else moved


def planned(call: Call) -> Plan:
    """The plan of this kernel, whatever rooms there are."""
    problem, machine = problem_of(call), face.machine("cuda:0")
    offer = latent_desk.latent(problem, machine)
    assert isinstance(offer, Offer), offer
    return Plan(problem, machine, "hopper", offer)


def launched(call: Call) -> State:
    """Of arrays on this processor; whatever torch hands out is NaN."""
    call = there(call)
    for size in (1 << 26, 1 << 24, 1 << 20, 1 << 16, 1 << 12):  # what the allocator hands out next
        torch.full((size,), torch.nan, device="cuda")
    found = latent.launch(planned(call), call)
    return State(found.out.cpu(), found.lse.cpu())


def close(case: Case, dtype: str, apart: bool) -> None:
    call = build(case, dtype)
    call = call if apart else in_one(call)
    true, (plain_out, plain_lse) = truth(call), plain(call, problem_of(call))
    poison_unseen(call, problem_of(call))
    first, second = launched(call), launched(call)
    assert error(first.out, true.out) <= allowed(error(plain_out, true.out), dtype, "triton")
    assert error(first.lse, true.lse) <= allowed(error(plain_lse, true.lse), dtype, "triton")
    assert torch.equal(first.out, second.out) and torch.equal(first.lse, second.lse)


@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_error_is_at_most_twice_the_plain_computations(case: Case, dtype: str, apart: bool) -> None:
    close(case, dtype, apart)


MASKS = {"causal": Causal(), "full": Full(), "window": Causal() & Window(before=200), "both sides": Window(before=300, after=2)}


@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("keys", ["ranged", "paged 8", "paged 16", "paged 64", "paged 256"])
@pytest.mark.parametrize(("T", "H"), [(1, 16), (2, 64), (5, 128), (5, 16), (3, 12)])
def test_ragged_batches(T: int, H: int, keys: str, mask: Mask, apart: bool) -> None:
    terms = ("sink",) if T == 2 else ()
    close(Case(f"ragged {T} {H}", len(SIZES), T, max(SIZES), H, 1, 576, 512, keys=keys, mask=mask, lengths=SIZES, terms=terms), "bfloat16", apart)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("B", "T", "S", "H", "G"), [(1, 1, 6000, 128, 1), (1, 2, 3003, 128, 1), (2, 70, 2100, 16, 1), (3, 1, 2048, 64, 2), (40, 1, 100, 128, 1)])
def test_dense_keys(B: int, T: int, S: int, H: int, G: int, mask: Mask) -> None:
    for dtype in ("bfloat16", "float16"):
        close(Case(f"dense {B} {T} {S}", B, T, S, H, G, 576, 512, mask=mask), dtype, False)


@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
@pytest.mark.parametrize(("T", "H"), [(5, 16), (5, 64), (70, 8)])
def test_a_wild_key_reaches_only_the_queries_that_see_it(T: int, H: int, apart: bool, wild: float) -> None:
    call = build(Case("wild", 1, T, 1000, H, 1, 576, 512, mask=Causal()), "bfloat16")
    call, blind = (call if apart else in_one(call)), T - 2
    clean = launched(call)
    call.keys.k[:, 998] = wild
    call.keys.v[:, 998] = wild
    state = launched(call)
    assert torch.equal(state.out[:, :blind], clean.out[:, :blind]) and torch.equal(state.lse[:, :blind], clean.lse[:, :blind])
    assert not bool(torch.isfinite(state.out[:, blind:]).all(-1).any())


def cached(B: int = 4, S: int = 8192, T: int = 1, z: int = 64, H: int = 128) -> Call:
    lengths = tuple(int(n) for n in torch.randint(1, S + 1, (B,)))
    return there(in_one(build(Case("cache", B, T, S, H, 1, 576, 512, keys=f"paged {z}", mask=Causal(), lengths=lengths), "bfloat16")))


CALLS = {
    "dense": lambda: there(in_one(build(Case("dense", 1, 1, 9000, 128, 1, 576, 512, mask=Causal()), "bfloat16"))),
    "dense, apart": lambda: there(build(Case("dense", 1, 1, 9000, 128, 1, 576, 512, mask=Causal()), "bfloat16")),
    "one part": lambda: there(in_one(build(Case("many", 140, 1, 300, 64, 1, 576, 512, mask=Causal()), "bfloat16"))),
    "pages": cached,
    "pages of 8": lambda: cached(z=8),
    "five queries": lambda: cached(T=5),
    "five queries of 16 heads": lambda: cached(T=5, H=16),
    "window": lambda: cached()._replace(mask=Causal() & Window(before=500)),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits_every_time(name: str) -> None:
    call = CALLS[name]()
    chosen = planned(call)
    first = latent.launch(chosen, call)
    for _ in range(30):
        again = latent.launch(chosen, call)
        assert torch.equal(again.out, first.out) and torch.equal(again.lse, first.lse)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_for_the_device(name: str) -> None:
    call = CALLS[name]()
    chosen = planned(call)
    latent.launch(chosen, call)
    try:
        torch.cuda.set_sync_debug_mode("error")
        latent.launch(chosen, call)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["pages", "pages of 8", "five queries", "five queries of 16 heads", "window"])
def test_a_captured_call_follows_lengths_tables_and_queries(name: str) -> None:
    call = CALLS[name]()
    chosen = planned(call)
    latent.launch(chosen, call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = latent.launch(chosen, call)
    for lengths in ((8192, 1, 0, 4097), (17, 8192, 8192, 8192), (5, 5, 6, 0)):
        call.keys.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        call.keys.table.copy_(call.keys.table.flip(0).clone())
        call.q.normal_()
        found.out.fill_(torch.nan)
        graph.replay()
        expected = latent.launch(chosen, call)
        assert torch.equal(found.out, expected.out) and torch.equal(found.lse, expected.lse)


def test_a_step_of_many_layers_in_one_graph() -> None:
    """Kernels that start before their forerunners end write what these still read, if anything is wrong with that."""
    layers = [cached() for _ in range(6)]
    chosen = planned(layers[0])
    expected = []
    for call in layers:
        expected.append(latent.launch(chosen, call))
        torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [latent.launch(chosen, call) for call in layers]
    for _ in range(20):
        for state in found:
            state.out.fill_(torch.nan)
        graph.replay()
        assert all(torch.equal(a.out, b.out) and torch.equal(a.lse, b.lse) for a, b in zip(found, expected, strict=True))


def test_tables_and_lengths_that_lie_are_not_followed() -> None:
    """Run it under compute-sanitizer to see more than that it ends."""
    call = cached()
    call.keys.table[0], call.keys.table[1, 3] = -7, 2**31 - 1
    call.keys.lengths.copy_(torch.tensor([2**31 - 1, 8192, -3, -(2**31)], dtype=torch.int32))
    state = latent.launch(planned(call), call)
    torch.cuda.synchronize()
    assert torch.equal(state.out[2:], torch.zeros_like(state.out[2:])) and bool((state.lse[2:] == -torch.inf).all())


def test_keys_that_lie_otherwise() -> None:
    """A slice of wider rows, and keys the copy engine cannot read."""
    q, k = (torch.randn(2, n, heads, 576, device="cuda", dtype=torch.bfloat16) for n, heads in ((3, 16), (900, 1)))
    expected = latent.launch(planned(Call(q, Keys(k, k[..., :512]), Causal())), Call(q, Keys(k, k[..., :512]), Causal()))
    for width, at in ((640, 8), (640, 64), (584, 3), (580, 0)):
        wide = torch.full((2, 900, 1, width), torch.nan, device="cuda", dtype=torch.bfloat16)
        wide[..., at : at + 576] = k
        other = wide[..., at : at + 576]
        call = Call(q, Keys(other, other[..., :512]), Causal())
        found = latent.launch(planned(call), call)
        assert torch.equal(found.out, expected.out) and torch.equal(found.lse, expected.lse)


def test_it_is_what_attention_runs() -> None:
    call = CALLS["dense"]()
    chosen = plan(problem_of(call), face.machine("cuda:0"))
    assert (chosen.room, chosen.offer.kernel) == ("hopper", "latent")
    assert torch.equal(attention(call.q, call.keys.k, call.keys.k[..., :512], mask=Causal()), latent.launch(planned(call), call).out)
