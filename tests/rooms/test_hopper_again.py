"""A call like one before in the Hopper room: the same arguments, but for addresses and a counter. A fake takes the kernel's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from torch._C._dynamo.guards import _empty_strided_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs

from strobe import Causal, Full, Machine, Mask, Prefix, Sink, SoftCap, Window
from strobe.backends.hopper import again, forward, starting
from strobe.faces.torch import _described
from strobe.layouts import Dense
from strobe.plan import Plan, plan
from strobe.problem import Call, check

from .test_triton_again import Kernel, flat

pytestmark = pytest.mark.skipif(knobs.runtime.interpret, reason="kernels are interpreted here")
COUNTER = 12  # its place among the arguments


class Driver:
    """Triton's driver, with a device and a stream that are the current ones."""

    def __init__(self, device: int = -1) -> None:
        self.active, self.device, self.stream = self, device, 7

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return self.stream


@pytest.fixture
def told() -> Iterator[list[tuple[Any, ...]]]:
    found: list[tuple[Any, ...]] = []
    zeros = torch.zeros
    with (
        patch.object(forward, "attend", Kernel(forward.attend, found)),
        patch.object(again, "driver", Driver()),
        patch.object(starting, "driver", Driver()),
        patch.object(again, "empty", _empty_strided_cpu),
        patch.object(again.torch, "zeros", lambda *shape, dtype, device: zeros(*shape, dtype=dtype)),
        patch("torch.cuda.is_current_stream_capturing", lambda: False),
        patch("torch.cuda.device_of", lambda x: nullcontext()),
        patch("torch.cuda.device", lambda x: nullcontext()),
    ):
        yield found


def drawn(heads: int = 8, T: int = 130) -> torch.Tensor:
    return torch.randn(2, T, heads, 64).bfloat16()


def planned(mask: Mask, G: int = 8, T: int = 130, **terms: Any) -> Plan:
    return plan(check(_described(Call(drawn(T=T), Dense(drawn(G, T), drawn(G, T)), mask, **terms))), Machine.named("h200"), "hopper")


@pytest.mark.parametrize("terms", [{}, {"cap": SoftCap(30.0)}], ids=["", "cap"])
@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(before=20)], ids=str)
@pytest.mark.parametrize("G", [8, 2])
def test_the_second_start_is_the_first(mask: Mask, G: int, terms: dict[str, Any], told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(mask, G, **terms))
    assert run is not None
    q, k, v = drawn(), drawn(G), drawn(G)
    states = run(q, k, v), run(q, k, v), run(q, k, v)
    assert len({state.out.data_ptr() for state in states if state is not None}) == 3
    (how, grid, a), (again_, same_grid, b), (_, _, c) = told
    own = [x.data_ptr() for state in states if state is not None for x in state] + [args[COUNTER].data_ptr() for args in (a, b, c)]
    first, second = ([x for x in flat(args) if x not in own] for args in (a, b))
    assert (how, again_) == ("first", "again") and tuple(same_grid) == (*grid, 1, 1) and first == second
    assert b[COUNTER].data_ptr() != c[COUNTER].data_ptr() and int(b[COUNTER]) == 0


def test_triton_is_asked_for_its_hash_once_before_it_compiles(told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(starting.triton_hash, "know", lambda: asked.append(len(told)))
    run = forward.kept_run(planned(Causal(), T=131))
    assert run is not None
    arrays = drawn(T=131), drawn(T=131), drawn(T=131)
    run(*arrays), run(*arrays)
    assert asked == [0] and [how for how, *_ in told] == ["first", "again"]


def test_counters_are_of_one_launch_and_one_stream(told: list[tuple[Any, ...]]) -> None:
    counters = again.Counters()
    taken = [counters.taken(0, 7) for _ in range(2 * again.AT_ONCE + 3)]
    taken += [counters.taken(0, 8) for _ in range(3)]
    assert len({x.data_ptr() for x in taken}) == len(taken) and all(x.shape == (1,) and int(x) == 0 for x in taken)
    storages = [x.untyped_storage().data_ptr() for x in taken]
    assert storages[-1] not in storages[:-3], "a stream's counters were made on another"


def test_a_graph_has_a_counter_of_its_own(told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    counters = again.Counters()
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    assert [counters.taken(0, 7).untyped_storage().nbytes() for _ in range(2)] == [4, 4]


def test_arrays_that_lie_otherwise_start_anew(told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    q, k, v = drawn(), drawn(), drawn()
    turned = v.transpose(1, 2).contiguous().transpose(1, 2)
    for values in (v, turned, drawn(), turned):
        run(q, k, values)
    assert [how for how, *_ in told] == ["first", "first", "again", "again"]
    assert turned.data_ptr() in flat(told[3][2]) and v.data_ptr() not in flat(told[2][2])
    beside = torch.cat((q.new_zeros(1), q.flatten()))[1:].view(q.shape)  # begins beside a multiple of 16 bytes
    assert run(beside, k, v) is None and len(told) == 4


def test_what_the_copy_engine_cannot_read_is_copied_each_time(told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    q, k, wide = drawn(), drawn(), torch.randn(2, 130, 8, 68).bfloat16()
    for _ in range(2):
        run(q, k, wide[..., :64])  # steps of 136 bytes
    assert [args[2].base.shape for _, _, args in told] == [k.shape] * 2 and all(args[2].base.is_contiguous() for _, _, args in told)


def test_what_has_arrays_of_its_own_has_no_such_way() -> None:
    assert forward.kept_run(planned(Causal(), sink=Sink(torch.zeros(8)))) is None
    assert forward.kept_run(planned(Causal(), first=0)) is None and forward.kept_run(planned(Prefix(40))) is None
    long = torch.empty(1, 32768, 8, 64, dtype=torch.bfloat16, device="meta")
    divided = plan(check(_described(Call(long[:, :100], Dense(long, long), Causal()))), Machine.named("h200"), "hopper")
    assert divided.offer.splits > 1 and forward.kept_run(divided) is None
    shared = plan(check(_described(Call(long, Dense(long, long), Full()))), Machine.named("h200"), "hopper")
    assert "share the last" in shared.offer.why and forward.kept_run(shared) is None


def test_who_watches_torchs_operators_sees_the_long_way(told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    arrays = drawn(), drawn(), drawn()
    run(*arrays)
    with TorchDispatchMode():
        assert run(*arrays) is None
    assert [how for how, *_ in told] == ["first"]


def test_another_device_is_made_the_current_one(told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    arrays = drawn(), drawn(), drawn()
    run(*arrays)
    entered: list[int] = []

    def enter(device: int) -> nullcontext[None]:
        entered.append(device)
        monkeypatch.setattr(again, "driver", Driver(device))
        return nullcontext()

    monkeypatch.setattr("torch.cuda.device", enter)
    run(*arrays)
    assert not entered
    monkeypatch.setattr(again, "driver", Driver(1))
    run(*arrays)
    assert entered == [-1] and [how for how, *_ in told] == ["first", "again", "again"]
