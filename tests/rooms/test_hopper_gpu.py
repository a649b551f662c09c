"""The Hopper room on a GPU that is here: the contract, graphs, no waiting, the same bits, launches side by side. One command:

    python -m pytest tests/rooms/test_hopper_gpu.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import (
    Causal, Documents, Full, Mask, Packed, Paged, Prefix, Ranged, Sink, SoftCap, State, Tree, Window, attention, attention_state, using,
)  # fmt: skip
from strobe.backends.hopper.offer import forward as offer
from strobe.answers import Offer
from strobe.faces import torch as face
from strobe.layouts import Dense
from strobe.masks import split
from strobe.machine import installed_triton
from strobe.plan import Plan
from strobe.problem import Call, map_arrays
from strobe.rooms import kernel

from ..contract.cases import CASES, Case, build
from ..contract.poison import poison_unseen, poisoned_memory
from ..contract.rooms import problem_of, run
from ..contract.test_forward import _wide
from ..contract.tolerance import PROMISED, error, plain
from . import test_hopper_float8 as float8
from .test_hopper import DIVIDED, MORE, PAGES, PAGES_DIVIDED, WILD_TREE, nodes, shared_nodes
from .test_hopper_steady import GROWING, GROWN_SHARED, grown, wide as widened


def here() -> bool:
    return installed_triton() is not None and torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


pytestmark = [
    pytest.mark.skipif(not here(), reason="this machine has no Hopper GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it is a prototype
]


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    torch.manual_seed(0)


def on_the_gpu(call: Call) -> State:
    """The state, back where it can be compared."""
    call = map_arrays(call, lambda x: x.to("cuda:0"))
    asked = problem_of(call)
    machine = face.machine("cuda:0")
    offered = offer(asked, machine)
    assert isinstance(offered, Offer)
    found = kernel("hopper", offered.kernel).launch(Plan(asked, machine, "hopper", offered), call)
    return State(found.out.cpu(), found.lse.cpu())


def offered() -> list[Any]:
    if not here():
        return []
    machine = face.machine("cuda:0")
    return [
        pytest.param(case, dtype, id=f"{case.name}-{dtype}")
        for case in (*CASES, *MORE, *DIVIDED, *PAGES, *PAGES_DIVIDED)
        for dtype in case.dtypes
        if isinstance(offer(problem_of(build(case, dtype)), machine), Offer)
    ]


@pytest.mark.parametrize(("case", "dtype"), offered())
def test_error_is_at_most_twice_the_plain_computations(case: Case, dtype: str) -> None:
    call = build(case, dtype)
    close(call, lambda: run("reference", _wide(case, dtype))[0], dtype)


def close(call: Call, wide: Callable[[], State], dtype: str) -> None:
    truth = wide()
    bounds = [PROMISED["triton"] * error(x, true) for x, true in zip(plain(call, problem_of(call)), truth, strict=True)]
    poison_unseen(call, problem_of(call))
    with poisoned_memory():
        first = on_the_gpu(call)
    second = on_the_gpu(call)
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert error(first.out, truth.out) <= max(bounds[0], eps) and error(first.lse, truth.lse) <= max(bounds[1], eps)
    assert torch.equal(first.out, second.out) and torch.equal(first.lse, second.lse)


MASKS = {
    "full": Full(), "causal": Causal(), "window": Causal() & Window(before=100), "both sides": Window(before=130, after=70),
    "prefix": Prefix(170), "documents": lambda case, g: ids(case, g) & Causal(), "documents, full": lambda case, g: ids(case, g),
    "documents without order": lambda case, g: ids(case, g, sort=False) & Window(before=130),
}  # fmt: skip


def ids(case: Case, g: torch.Generator, sort: bool = True) -> Mask:
    """Documents of some hundred keys, or of every few."""
    found = torch.randint(0, max(2, case.S // 250), (case.B, max(case.S, case.T)), generator=g).int()
    found = found.sort(-1).values if sort else found
    return Documents(found[:, found.shape[1] - case.T :].contiguous(), found[:, : case.S].contiguous())


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("T", "S"), [(64, 64), (128, 128), (129, 257), (300, 1000), (513, 511), (1024, 1024), (70, 5000)])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (8, 2), (6, 2)])
@pytest.mark.parametrize(("D", "V"), [(64, 64), (128, 128), (256, 256), (96, 96), (192, 192), (192, 128), (128, 64), (256, 128)])
def test_every_width_mask_group_and_ragged_size(D: int, V: int, H: int, G: int, T: int, S: int, dtype: str, mask: Any) -> None:
    case = Case(f"{D} {V} {H} {G} {T} {S}", 1, T, S, H, G, D, V, mask=mask)
    close(build(case, dtype), lambda: run("reference", _wide(case, dtype))[0], dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("B", "T", "S"), [(3, 1500, 700), (2, 3000, 2049), (1, 9000, 130)])
@pytest.mark.parametrize(("D", "V", "H", "G", "terms"), [(64, 64, 9, 9, ()), (128, 128, 4, 4, ()), (128, 128, 16, 4, ("sink", "cap")),
                                                         (256, 256, 4, 2, ()), (192, 128, 4, 4, ("sink",)), (96, 40, 4, 1, ())])  # fmt: skip
def test_the_last_tiles_are_shared(
    D: int, V: int, H: int, G: int, terms: tuple[str, ...], B: int, T: int, S: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """However few blocks these have."""
    monkeypatch.setattr("strobe.backends.hopper.forms.IDLE", 0)
    case = Case(f"shared {D} {V} {H} {G} {B} {T} {S}", B, T, S, H, G, D, V, terms=terms)
    call = build(case, dtype)
    answer = offer(problem_of(call), face.machine("cuda:0"))
    assert isinstance(answer, Offer) and "share the last" in answer.why
    close(call, lambda: run("reference", _wide(case, dtype))[0], dtype)


@pytest.mark.parametrize(("T", "S", "mask"), [(20, 1100, nodes), (32, 2048, shared_nodes), (64, 5000, shared_nodes), (65, 4161, nodes), (130, 3000, nodes)])
@pytest.mark.parametrize(("H", "G"), [(8, 2), (8, 1), (128, 1)])
@pytest.mark.parametrize(("D", "dtype"), [(64, "bfloat16"), (128, "bfloat16"), (128, "float16"), (96, "float16")])
def test_trees_of_every_width_and_group(D: int, H: int, G: int, T: int, S: int, dtype: str, mask: Callable[..., Mask]) -> None:
    case = Case(f"tree {D} {H} {G} {T} {S}", 2, T, S, H, G, D, mask=mask)
    if H == 128 and T > 32:
        return  # so many rows that keys are not cut, and the tree is another room's
    close(build(case, dtype), lambda: run("reference", _wide(case, dtype))[0], dtype)


@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("D", [64, 128])
def test_a_wild_node_of_a_tree_reaches_only_the_queries_that_see_it(D: int, wild: float) -> None:
    call = build(replace(WILD_TREE, D=D), "bfloat16")
    clean = on_the_gpu(call)
    call.keys.k[0, 1200 - 40 + 17] = wild
    call.keys.v[0, 1200 - 40 + 17] = wild
    state = on_the_gpu(call)
    seen = torch.stack([call.mask.visible[0, :, 17], torch.zeros(40).bool()])
    torch.testing.assert_close(state.out[~seen], clean.out[~seen], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.lse[~seen], clean.lse[~seen])
    assert not bool(torch.isfinite(state.out[seen]).all(-1).any())


@pytest.mark.parametrize("mask", [Causal() & Window(before=1023), Causal() & Window(before=300), Window(before=600, after=99)], ids=str)
@pytest.mark.parametrize(("H", "G"), [(16, 16), (32, 8)])
@pytest.mark.parametrize("D", [64, 128])
def test_windows_of_long_prompts(D: int, H: int, G: int, mask: Mask) -> None:
    """Which have tiles of their own; against float64, some heads of all queries."""
    B, T, S = 2, 4613, 4700
    q, k, v = (drawn(B, n, heads, D) for n, heads in ((T, H), (S, G), (S, G)))
    with using("hopper"):
        found = attention_state(q, k, v, mask=mask)
    before, after, _ = split(mask)
    assert before is not None and after is not None
    for b, h in ((0, 0), (1, H // 2 + 1), (1, H - 1)):
        for low in range(0, T, 769):
            place = torch.arange(low, min(low + 769, T), device="cuda")[:, None] + S - T
            key = torch.arange(S, device="cuda")
            scores = q[b, low : low + 769, h].double() @ k[b, :, h // (H // G)].double().T * D**-0.5
            scores = scores.where((key >= place - before) & (key <= place + after), -torch.inf)
            out = scores.softmax(-1) @ v[b, :, h // (H // G)].double()
            torch.testing.assert_close(found.out[b, low : low + 769, h].double(), out, atol=4e-3, rtol=1e-2)
            torch.testing.assert_close(found.lse[b, low : low + 769, h].double(), scores.logsumexp(-1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_a_wild_key_reaches_only_the_queries_that_see_it(D: int, wild: float) -> None:
    call = build(Case("wild", 1, 300, 500, 4, 2, D, mask=Causal() & Window(before=150)), "bfloat16")
    clean = on_the_gpu(call)
    call.keys.k[:, 310] = wild
    call.keys.v[:, 310] = wild
    state = on_the_gpu(call)
    seen = torch.tensor([0 <= 200 + t - 310 <= 150 for t in range(300)])
    torch.testing.assert_close(state.out[:, ~seen], clean.out[:, ~seen], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.lse[:, ~seen], clean.lse[:, ~seen])
    assert not bool(torch.isfinite(state.out[:, seen]).all(-1).any())


@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(before=100), Prefix(170), Window(before=130, after=70)], ids=str)
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(("T", "S"), [(64, 64), (129, 257), (300, 1000), (513, 511), (1024, 1024), (70, 5000)])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (8, 2), (6, 2)])
@pytest.mark.parametrize(("D", "V"), [(64, 64), (128, 128), (96, 112)])
def test_float8_of_every_width_mask_group_and_ragged_size(D: int, V: int, H: int, G: int, T: int, S: int, each: bool, mask: Mask) -> None:
    call = float8.called(T, S, H, G, D, V, mask=mask, each=each)
    close_float8(call)


@pytest.mark.parametrize("call", float8.CASES.values(), ids=float8.CASES)
def test_float8_of_every_term(call: Call) -> None:
    close_float8(call)


def close_float8(call: Call) -> None:
    known = float8.truth(call)
    with poisoned_memory():
        first = on_the_gpu(call)
    second = on_the_gpu(call)
    assert error(first.out, known.out) <= PROMISED["triton"] * error(float8.plainly(call), known.out)
    assert error(first.lse, known.lse) <= 1e-4
    assert torch.equal(first.out, second.out) and torch.equal(first.lse, second.lse)


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def paged(lengths: Tensor, page: int, D: int) -> Paged:
    """Keys of 2 and, of one sequence, 8 heads in pages without order; entries behind a sequence are no pages, keys behind it NaN."""
    columns = -(-int(lengths.max()) // page)
    G, count = 8 if len(lengths) == 1 else 2, columns * len(lengths) + 5
    table = torch.randperm(count)[: columns * len(lengths)].view(-1, columns).int()
    k, v = drawn(count, page, G, D), drawn(count, page, G, D)
    unused = torch.ones(count, page, dtype=torch.bool)
    for row, n in zip(table, lengths.tolist(), strict=True):
        s = torch.arange(n)
        unused[row[s // page].long(), s % page] = False
        row[-(-n // page) :] = 2**31 - 1
    k[unused.cuda()] = torch.nan
    v[unused.cuda()] = torch.nan
    return Paged(k, v, table.cuda(), lengths.int().cuda(), int(lengths.max()))


@pytest.mark.parametrize("T", [65, 300, 1000])
@pytest.mark.parametrize("page", [8, 64, 256, 1024])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_pages_mean_what_their_keys_in_order_do(D: int, page: int, T: int) -> None:
    """Ragged, with groups of 1, 4 and 8, causal and with a window; NaN behind the ends, and entries that are no pages."""
    keys = paged(torch.tensor([2050, 1, T, 777]), page, D)
    columns = torch.arange(keys.table.shape[1], device="cuda").minimum((keys.lengths[:, None] - 1) // page)
    rows = keys.table.long().gather(1, columns)
    k, v = (side[rows].flatten(1, 2)[:, :2304].contiguous() for side in (keys.keys, keys.values))
    ranges = Ranged(k, v, torch.zeros_like(keys.lengths), keys.lengths)
    for group, mask in ((1, Causal()), (4, Full()), (8, Causal() & Window(before=100))):
        q = drawn(4, T, 2 * group, D)
        machine = face.machine("cuda:0")
        states = []
        for side in (keys, ranges):
            call = Call(q, side, mask)
            answer = offer(problem_of(call), machine)
            assert isinstance(answer, Offer)
            states.append(kernel("hopper", answer.kernel).launch(Plan(problem_of(call), machine, "hopper", answer), call))
        found, other = states
        torch.testing.assert_close(found.out, other.out, atol=5e-3, rtol=2e-2)
        torch.testing.assert_close(found.lse, other.lse, atol=1e-4, rtol=1e-5)
        assert bool(found.out.isfinite().all())


def calls() -> dict[str, Callable[[], State]]:
    """Some with a tile a multiprocessor, some with many, whose programs count them."""
    q, k = drawn(2, 300, 8, 128), drawn(2, 300, 2, 128)
    long_q, long_k = drawn(2, 4096, 16, 128), drawn(2, 4096, 4, 128)
    index = torch.tensor([0, 1000, 4096], device="cuda", dtype=torch.int32)
    few, cached, many = drawn(1, 64, 32, 128), drawn(1, 20000, 8, 128), drawn(1, 4300, 4, 128)
    grown = Tree((drawn(1, 64, 64) > 0) | torch.eye(64, device="cuda").bool())
    narrow = [float8.rounded(x.float()) for x in (long_q, long_k, long_k)]
    sink, lengths = Sink(drawn(8, dtype=torch.float32)), torch.tensor([300, 170], device="cuda", dtype=torch.int32)
    pages, in_pages = (paged(torch.tensor(lies), 16, 128) for lies in ((300, 170), (20000,)))
    return {
        "pages": lambda: attention_state(q, pages, mask=Causal()),
        "pages, divided": lambda: attention_state(few, in_pages, mask=Causal()),
        "short": lambda: attention_state(q, k, k, mask=Causal()),
        "long": lambda: attention_state(long_q, long_k, long_k, mask=Causal()),
        "divided": lambda: attention_state(few, cached, cached, mask=Causal()),
        "tree": lambda: attention_state(few, cached, cached, mask=grown),
        "full": lambda: attention_state(long_q, long_k, long_k),
        "shared": lambda: attention_state(many, many, many),
        "float8": lambda: attention_state(*narrow, mask=Causal()),
        "window": lambda: attention_state(long_q, long_k, long_k, mask=Causal() & Window(before=500)),
        "packed": lambda: attention_state(Packed(long_q[0], index, 3096), Packed(long_k[0], index, 3096), long_k[0], mask=Causal()),
        "ranges": lambda: attention_state(q, Ranged(k, k, torch.zeros_like(lengths), lengths)),
        "terms": lambda: attention_state(q, k, k, mask=Causal(), cap=SoftCap(20.0), sink=sink, first=lengths),
    }


NAMES = ("pages", "pages, divided", "short", "long", "divided", "tree", "full", "float8", "window", "packed", "ranges", "terms")


@pytest.fixture
def inside() -> Iterator[None]:
    with using("hopper"):
        yield


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name: str) -> None:
    run_it = calls()[name]
    run_it()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run_it()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_captured_in_a_graph_and_replayed(name: str) -> None:
    run_it = calls()[name]
    expected = run_it()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run_it()
    for _ in range(3):
        found.out.zero_()
        found.lse.zero_()
        graph.replay()
        assert torch.equal(found.out, expected.out) and torch.equal(found.lse, expected.lse)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_every_time(name: str) -> None:
    run_it = calls()[name]
    first = run_it()
    for _ in range(20):
        other = run_it()
        assert torch.equal(first.out, other.out) and torch.equal(first.lse, other.lse)


@pytest.mark.usefixtures("inside")
def test_launches_on_two_streams_take_no_tiles_from_each_other() -> None:
    run_it = calls()["long"]
    expected = run_it()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    found = []
    for i in range(10):
        with torch.cuda.stream(streams[i % 2]):
            found.append(run_it())
    torch.cuda.synchronize()
    assert all(torch.equal(state.out, expected.out) for state in found)


@pytest.mark.usefixtures("inside")
def test_long_prompts_are_as_near_to_float64_as_the_plain_computation_twice_over() -> None:
    """Some heads and queries of what is too large for the reference."""
    q, k, v = drawn(1, 16384, 16, 128), drawn(1, 16384, 4, 128), drawn(1, 16384, 4, 128)
    place = torch.arange(16384, device="cuda")
    for mask, before in ((Full(), None), (Causal(), 16384), (Causal() & Window(before=1000), 1000)):
        found = attention_state(q, k, v, mask=mask)
        for head, low in ((0, 0), (6, 5000), (15, 16384 - 1024)):
            scores = q[0, low : low + 1024, head].double() @ k[0, :, head // 4].double().T * 128**-0.5
            if before is not None:
                behind = place[low : low + 1024, None] - place
                scores = scores.where((behind >= 0) & (behind <= before), -torch.inf)
            truth = scores.softmax(-1) @ v[0, :, head // 4].double()
            plainly = scores.float().softmax(-1).bfloat16() @ v[0, :, head // 4]
            apart = (found.out[0, low : low + 1024, head].double() - truth).norm() / (plainly.double() - truth).norm()
            assert apart <= PROMISED["triton"], (mask, head, low, float(apart))
            torch.testing.assert_close(found.lse[0, low : low + 1024, head].double(), scores.logsumexp(-1), atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("inside")
def test_a_kept_kernel_takes_other_arrays_of_the_same_plan() -> None:
    q, k = drawn(2, 300, 8, 128), drawn(2, 300, 2, 128)
    attention(q, k, k, mask=Causal())
    wide = drawn(2, 300, 2, 256)
    for keys in (drawn(2, 300, 2, 128), wide[..., :128], wide[..., 128:], drawn(2, 2, 300, 128).transpose(1, 2), wide[..., 4:132]):
        found = attention(q, keys, keys, mask=Causal())
        call = Call(q.cpu(), Dense(keys.cpu(), keys.cpu()), Causal())
        truth, _ = run("reference", map_arrays(call, lambda x: x.double()))
        assert error(found.cpu(), truth.out) < 5e-3


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", [*GROWING, GROWN_SHARED], ids=lambda case: case.name)
def test_tiles_whose_scores_grow_too_far_are_passed_again(case: Case, seed: int) -> None:
    call = grown(case, seed)
    close(call, lambda: run("reference", widened(call))[0], "bfloat16")
