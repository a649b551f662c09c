"""A call like one before goes straight to its kernel: with the same arguments, but for addresses. A fake takes the kernel's place."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from torch._C._dynamo.guards import _empty_strided_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.compiler import compiler

from strobe import Alibi, Causal, Full, Machine, Mask, SoftCap, Window, attention, using
from strobe.backends.triton import forward, starting
from strobe.faces import torch as face
from strobe.faces.torch import _described
from strobe.layouts import Dense
from strobe.plan import Plan, plan
from strobe.problem import Call, check

pytestmark = pytest.mark.skipif(knobs.runtime.interpret, reason="kernels are interpreted here")


class Made:
    """Machine code that tells what it was started with."""

    def __init__(self, told: list[tuple[Any, ...]]) -> None:
        self.told = told

    function, packed_metadata = 5, (4, 1, 0)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.told.append(("again", grid, args))

    def run(self, x: int, y: int, z: int, stream: int, function: int, packed: Any, metadata: None, enter: None, leave: None, *args: Any) -> None:
        assert (stream, function, packed) == (7, self.function, self.packed_metadata) and metadata is enter is leave is None
        self.told.append(("again", (x, y, z), args))


class Kernel:
    """A kernel that is made at its first start."""

    def __init__(self, kernel: Any, told: list[tuple[Any, ...]]) -> None:
        self.arg_names, self.told = kernel.arg_names, told

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def start(*args: Any, **named: Any) -> Made:
            given = (*args, *(named[name] for name in self.arg_names[len(args) :]))
            self.told.append(("first", grid, given))
            return Made(self.told)

        return start


class Driver:
    """Triton's driver where device `here` is the current one, and each has one stream."""

    def __init__(self, here: int) -> None:
        self.active, self.here = self, here

    def get_current_device(self) -> int:
        return self.here

    def get_current_stream(self, device: int) -> int:
        assert device == self.here
        return 7


@pytest.fixture
def told() -> Iterator[list[tuple[Any, ...]]]:
    found: list[tuple[Any, ...]] = []
    starting._known.clear()
    with (
        patch.object(forward, "attend", Kernel(forward.attend, found)),
        patch.object(starting, "driver", Driver(-1)),
        patch.object(forward, "driver", Driver(-1)),
        patch.object(forward, "empty", _empty_strided_cpu),
        patch("torch.cuda.device_of", lambda x: nullcontext()),
        patch("torch.cuda.device", lambda x: nullcontext()),
    ):
        yield found
    starting._known.clear()


def drawn(heads: int = 8) -> torch.Tensor:
    return torch.randn(2, 130, heads, 64).bfloat16()


def planned(mask: Mask, G: int = 8, **terms: Any) -> Plan:
    return plan(check(_described(Call(drawn(), Dense(drawn(G), drawn(G)), mask, **terms))), Machine.named("h200"), "triton")


def flat(value: Any) -> list[Any]:
    """Arguments as they reach the device."""
    if isinstance(value, tuple):
        return [part for item in value for part in flat(item)]
    if isinstance(value, torch.Tensor):
        return [value.data_ptr()]
    if hasattr(value, "block_shape"):
        return [value.base.data_ptr(), list(value.shape), list(value.strides), list(value.block_shape), value.padding]
    return [value]


@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(before=20)], ids=str)
@pytest.mark.parametrize("G", [8, 2])
def test_the_second_start_is_the_first(mask: Mask, G: int, told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(mask, G))
    assert run is not None
    q, k, v = drawn(), drawn(G), drawn(G)
    first, second = run(q, k, v), run(q, k, v)
    assert first is not None and second is not None
    for made, like in zip(second, first, strict=True):
        assert (made.shape, made.stride(), made.dtype, made.device) == (like.shape, like.stride(), like.dtype, like.device)
    (how, grid, a), (again, same_grid, b) = told
    results = [x.data_ptr() for state in (first, second) for x in state]
    a, b = ([x for x in flat(args) if x not in results] for args in (a, b))  # their addresses are their own
    assert (how, again) == ("first", "again") and tuple(same_grid) == (*grid, 1) and a == b


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


def test_no_array_is_kept(told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    k = drawn()
    seen = weakref.ref(k)
    run(drawn(), k, drawn())
    told.clear()
    del k
    gc.collect()
    assert seen() is None


def test_what_has_arrays_of_its_own_has_no_such_way() -> None:
    for asked in (planned(Causal(), bias=torch.zeros(1, 8, 130, 130).bfloat16()), planned(Causal(), alibi=Alibi(torch.ones(8)))):
        assert forward.kept_run(asked) is None
    assert forward.kept_run(planned(Causal(), cap=SoftCap(30.0))) is None
    long = torch.empty(1, 8192, 8, 64, dtype=torch.bfloat16, device="meta")
    split = plan(check(_described(Call(long[:, :1], Dense(long, long), Causal()))), Machine.named("h200"), "triton")
    assert split.offer.splits > 1 and forward.kept_run(split) is None


def test_another_device_is_made_the_current_one(told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    arrays = drawn(), drawn(), drawn()
    run(*arrays)
    entered: list[int] = []
    driver = Driver(-1)

    @contextmanager
    def device(index: int) -> Iterator[None]:
        before, driver.here = driver.here, index
        entered.append(index)
        yield
        driver.here = before

    monkeypatch.setattr("torch.cuda.device", device)
    monkeypatch.setattr(starting, "driver", driver)
    monkeypatch.setattr(forward, "driver", driver)
    run(*arrays)
    assert not entered
    driver.here = 1
    run(*arrays)
    assert entered == [-1] and driver.here == 1 and [how for how, *_ in told] == ["first", "again", "again"]


def test_a_verb_starts_again_what_it_started(told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(face, "machine", lambda device: Machine.named("h200"))
    q, k, v = drawn(), drawn(2), drawn(2)
    with using("triton"):
        outs = [attention(q, k, v, mask=Causal()) for _ in range(3)]
    assert [how for how, *_ in told] == ["first", "again", "again"]
    for out, (_, _, args) in zip(outs, told, strict=True):
        assert all(x.data_ptr() in flat(args) for x in (q, k, v, out))


def test_where_a_mode_of_torch_sees_all_it_does_there_is_no_such_way(told: list[tuple[Any, ...]]) -> None:
    run = forward.kept_run(planned(Causal()))
    assert run is not None
    arrays = drawn(), drawn(), drawn()
    run(*arrays)
    with TorchDispatchMode():
        assert run(*arrays) is None
    assert run(*arrays) is not None and [how for how, *_ in told] == ["first", "again"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[tuple[Any, ...]]]:
    """Triton's own kind of machine code, and what its launcher is given."""
    found = compiler.CompiledKernel.__new__(compiler.CompiledKernel)
    launched: list[tuple[Any, ...]] = []
    found.module, found.function, found.packed_metadata, found.src, found.name = 1, 5, (4, 1, 0), None, "attend"
    found._run = lambda *args: launched.append(args)
    for module in (compiler, starting):
        monkeypatch.setattr(module, "driver", Driver(0))
    return found, launched


def test_triton_would_start_it_so(made: tuple[Any, list[tuple[Any, ...]]]) -> None:
    code, launched = made
    code[(8, 2, 1)]("q", "k")
    starting.again(code, (8, 2, 1), 0, ("q", "k"))
    theirs, ours = launched
    told = slice(6, 9)  # what listeners are told, and who listens
    assert theirs[:6] == ours[:6] and theirs[9:] == ours[9:] and ours[told] == (None, None, None)
    assert theirs[told][1:] == (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)


@pytest.mark.parametrize("name", ["launch_enter_hook", "launch_exit_hook"])
@pytest.mark.parametrize("chained", [True, False], ids=["in Triton's chain", "in its place"])
def test_who_listens_to_starts_is_told(
    name: str, chained: bool, made: tuple[Any, list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener: Callable[[Any], None] = lambda metadata: None
    if chained:
        monkeypatch.setattr(getattr(knobs.runtime, name), "calls", [listener])
    else:
        monkeypatch.setattr(knobs.runtime, name, listener)
    code, launched = made
    starting.again(code, (8, 2, 1), 0, ("q", "k"))
    ((*_, enter, leave, _q, _k),) = launched
    assert (enter, leave) == (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)
    assert launched[0][6].get()["name"] == "attend"
