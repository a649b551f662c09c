"""Decode of the Hopper room on a GPU that is here: the contract's cases, ragged batches, graphs, no waiting, the same bits, poison.

    python -m pytest tests/rooms/test_hopper_decode_gpu.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from strobe import Causal, Mask, Paged, Scaled, State, Tree, Window
from strobe.backends.hopper import decode, decoding
from strobe.layouts import Dense as Keys
from strobe.machine import Machine
from strobe.plan import Plan
from strobe.problem import Call, map_arrays

from ..contract.cases import Case, build
from ..contract.poison import poison_unseen
from ..contract.tolerance import allowed, error, plain
from . import own_bits
from .hopper_decode_run import offered, problem_of, ragged, taken, truth

H200 = Machine.named("h200")
HERE = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [
    pytest.mark.skipif(not HERE, reason="this machine has no Hopper GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it is a prototype
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.cuda.synchronize()


def there(value: Any) -> Any:
    return map_arrays(value, lambda x: x.to("cuda:0"))


def planned(call: Call, invariant: bool = False) -> Plan:
    return offered(problem_of(call, invariant), H200)


def decoded(call: Call, invariant: bool = False) -> State:
    """Of arrays on this processor; whatever torch hands out is NaN."""
    call = there(call)
    for shape in ((1 << 24,), (1 << 20,), (1 << 16,), (1 << 12,)):  # what the allocator hands out next
        torch.full(shape, torch.nan, device="cuda")
    found = decode.launch(planned(call, invariant), call)
    return State(found.out.cpu(), found.lse.cpu())


@pytest.mark.parametrize(("case", "dtype"), taken() if HERE else [], ids=lambda x: x.name if isinstance(x, Case) else x)
def test_the_error_is_at_most_twice_the_plain_computations(case: Case, dtype: str) -> None:
    call = build(case, dtype)
    problem, true = problem_of(call), truth(call)
    plain_out, plain_lse = plain(call, problem)
    poison_unseen(call, problem)
    state = decoded(call)
    assert error(state.out, true.out) <= allowed(error(plain_out, true.out), dtype, "triton")
    assert error(state.lse, true.lse) <= allowed(error(plain_lse, true.lse), dtype, "triton")


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("form", ["even", "stream"])
@pytest.mark.parametrize("seed", range(12))
def test_ragged_batches(seed: int, form: str, invariant: bool) -> None:
    call = ragged(seed, form)
    true = truth(call)
    poison_unseen(call, problem_of(call))
    state = decoded(call, invariant)
    assert error(state.out, true.out) < 5e-3 and error(state.lse, true.lse) < 2e-6


@pytest.mark.parametrize("narrow", ["", "int8", "int4", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize(("T", "group"), [(1, 4), (8, 4), (16, 4), (2, 128), (256, 1)])
def test_every_tile(D: int, T: int, group: int, narrow: str) -> None:
    call = build(Case("tile", 2, T, 3000, 2 * group, 2, D, keys="paged 16", mask=Causal(), lengths=(3000, 1777), scaled=narrow), "bfloat16")
    true, (plain_out, _) = truth(call), plain(call, problem_of(call))
    state = decoded(call)
    assert error(state.out, true.out) <= allowed(error(plain_out, true.out), "bfloat16", "triton") and error(state.lse, true.lse) < 2e-6


@pytest.mark.parametrize("keys", ["dense", "ranged", "paged 1", "paged 16", "paged 256"])
@pytest.mark.parametrize(("T", "S"), [(1, 256), (1, 1024), (4, 300)])
def test_many_short_sequences(T: int, S: int, keys: str) -> None:
    lengths = tuple(int(n) for n in torch.randint(0, S + 1, (150,))) if keys != "dense" else ()
    call = build(Case("short", 150, T, S, 8, 2, 128, keys=keys, mask=Causal(), lengths=lengths), "bfloat16")
    how = decoding.chosen(problem_of(call), H200)
    assert (how.keys, how.stages, how.held) == (decoding.SHORT_SMALL if keys.startswith("paged") else decoding.SHORT_TILES[how.rows])
    true, (plain_out, _) = truth(call), plain(call, problem_of(call))
    poison_unseen(call, problem_of(call))
    state = decoded(call)
    assert error(state.out, true.out) <= allowed(error(plain_out, true.out), "bfloat16", "triton") and error(state.lse, true.lse) < 2e-6


@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("T", "H"), [(5, 8), (70, 4), (40, 8)])
def test_a_wild_key_reaches_only_the_queries_that_see_it(wild: float, T: int, H: int) -> None:
    call = build(Case("wild", 1, T, 90, H, 2, 64, mask=Causal()), "bfloat16")
    clean, blind = decoded(call), T - 2
    call.keys.k[:, 88] = wild
    call.keys.v[:, 88] = wild
    state = decoded(call)
    assert torch.equal(state.out[:, :blind], clean.out[:, :blind]) and torch.equal(state.lse[:, :blind], clean.lse[:, :blind])
    assert not bool(torch.isfinite(state.out[:, blind:]).all())


def cached(B: int = 4, S: int = 8192, T: int = 1, z: int = 16, scaled: str = "", D: int = 128) -> Call:
    lengths = tuple(int(n) for n in torch.randint(1, S + 1, (B,)))
    return there(build(Case("cache", B, T, S, 32, 8, D, keys=f"paged {z}", mask=Causal(), lengths=lengths, scaled=scaled), "bfloat16"))


CALLS = {
    "dense": lambda: there(build(Case("dense", 1, 1, 8192, 32, 8, 128, mask=Causal()), "bfloat16")),
    "ranges": lambda: there(build(Case("ranges", 3, 1, 900, 32, 8, 128, keys="ranged", mask=Causal(), lengths=(900, 1, 300)), "bfloat16")),
    "pages": cached,
    "five queries": lambda: cached(T=5),
    "64 queries": lambda: cached(T=64),
    "int8 pages": lambda: cached(scaled="int8"),
    "int4 pages": lambda: cached(scaled="int4"),
    "many short": lambda: cached(B=40, S=700),
    "window": lambda: cached()._replace(mask=Causal() & Window(before=500)),
    "tree": lambda: cached(T=9)._replace(mask=Tree(torch.ones(1, 9, 9, dtype=torch.bool, device="cuda").tril())),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits_every_time(name: str) -> None:
    call = CALLS[name]()
    plan = planned(call)
    first = decode.launch(plan, call)
    for _ in range(5):
        again = decode.launch(plan, call)
        assert torch.equal(again.out, first.out) and torch.equal(again.lse, first.lse)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_for_the_device(name: str) -> None:
    call = CALLS[name]()
    plan = planned(call)
    decode.launch(plan, call)
    try:
        torch.cuda.set_sync_debug_mode("error")
        decode.launch(plan, call)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["pages", "five queries", "int8 pages", "window", "tree"])
def test_a_captured_call_follows_lengths_tables_and_queries(name: str) -> None:
    call = CALLS[name]()
    plan = planned(call)
    decode.launch(plan, call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = decode.launch(plan, call)
    for lengths in ((8192, 1, 0, 4097), (17, 8192, 8192, 8192), (5, 5, 6, 0)):
        call.keys.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        call.keys.table.copy_(call.keys.table.flip(0).clone())
        call.q.normal_()
        graph.replay()
        expected = decode.launch(plan, call)
        assert torch.equal(found.out, expected.out) and torch.equal(found.lse, expected.lse)


def test_a_step_of_many_layers_in_one_graph() -> None:
    """Kernels that start before their forerunners end write what these still read, if anything is wrong with that."""
    layers = [cached() for _ in range(8)]
    plan = planned(layers[0])
    assert all(planned(call) == plan for call in layers)
    expected = []
    for call in layers:
        expected.append(decode.launch(plan, call))
        torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [decode.launch(plan, call) for call in layers]
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
    state = decode.launch(planned(call), call)
    torch.cuda.synchronize()
    assert torch.equal(state.out[2:], torch.zeros_like(state.out[2:])) and bool((state.lse[2:] == -torch.inf).all())


def test_elements_beyond_two_to_the_31_are_read_where_they_are() -> None:
    S, G, D = 2**20 + 512, 16, 128
    q, k, v = (torch.randn(1, n, G, D, device="cuda", dtype=torch.bfloat16) for n in (1, S, S))
    assert k.numel() > 2**31
    for x in (k, v):
        x[:, :-64] = x[:, :1]
    first = Call(q, Keys(k[:, -64:], v[:, -64:]), Window(before=63, after=0), first=63)
    last = Call(q, Keys(k, v), Window(before=63, after=0))
    a, b = (decode.launch(planned(call), call) for call in (first, last))
    torch.testing.assert_close(a.out, b.out)
    torch.testing.assert_close(a.lse, b.lse)


@pytest.mark.parametrize("scaled", ["", "int8"])
def test_a_sequences_bits_are_its_own(scaled: str) -> None:
    """Alone, beside others, in pages of any size and in chunks."""
    call = build(Case("own", 1, 60, 4800, 8, 2, 128, mask=Causal(), scaled=scaled), "bfloat16")
    call = there(call)
    whole = decode.launch(planned(call, True), call)
    for a, b in ((0, 1), (1, 6), (6, 60)):
        part = call._replace(q=call.q[:, a:b], first=4740 + a)
        found = decode.launch(planned(part, True), part)
        assert torch.equal(found.out, whole.out[:, a:b]) and torch.equal(found.lse, whole.lse[:, a:b])
    sides = [side if isinstance(side, Scaled) else (side,) for side in (call.keys.k, call.keys.v)]
    for z in (1, 16, 480):
        columns = 4800 // z
        table = torch.randperm(2 * columns, device="cuda").view(2, columns).int()

        def paged(x: torch.Tensor, z: int = z, columns: int = columns, table: torch.Tensor = table) -> torch.Tensor:
            pages = torch.zeros(2 * columns, z, *x.shape[2:], device="cuda", dtype=x.dtype)
            pages[table[1].long()] = x[0].view(columns, z, *x.shape[2:])
            return pages

        made = [Scaled(paged(side.data), paged(side.scale)) if isinstance(side, Scaled) else paged(side[0]) for side in sides]
        keys = Paged(*made, table, torch.tensor([3000, 4800], dtype=torch.int32, device="cuda"), 4800)
        both = Call(torch.cat([torch.randn_like(call.q), call.q]), keys, Causal())
        found = decode.launch(planned(both, True), both)
        assert torch.equal(found.out[1:], whole.out) and torch.equal(found.lse[1:], whole.lse)


@pytest.mark.parametrize(("n", "H", "batches"), [(4800, 8, 100), (40_000, 8, 20), (40_000, 80, 10), (40_000, 256, 10)])
@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=1000)], ids=str)
def test_hundreds_of_batches_do_not_show(mask: Mask, n: int, H: int, batches: int) -> None:
    """Of a short sequence and of long ones, which have more parts than a merge adds at once; of 4, 40 and 128 heads a key head."""
    q, k, v = (torch.randn(length, heads, 128, device="cuda", dtype=torch.bfloat16) for length, heads in ((150, H), (n, 2), (n, 2)))
    own_bits.same(lambda call: decode.launch(planned(call, True), call), q, (k, v), mask, batches, 2 * n, (1, 16, 64, 100, 256))


def test_the_desk_knows_how_many_units_there_are() -> None:
    assert torch.cuda.get_device_properties(0).multi_processor_count == H200.units
