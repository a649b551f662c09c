"""A call like one before is neither checked nor planned; one that differs in anything is. A fake takes a room's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import Causal, Full, Invalid, Machine, SoftCap, Window, attention, attention_state, using
from strobe.faces import recording
from strobe.faces import torch as face
from strobe.plan import Plan
from strobe.problem import Call
from strobe.state import State


@dataclass
class Room:
    """Every room's kernels; tells what they were asked for, and of which plan."""

    told: list[str] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def launch(self, plan: Plan, call: Call) -> State:
        """A call that goes the long way."""
        self.told.append("launch")
        self.plans.append(plan)
        return State(call.q.detach().clone(), call.q.detach()[..., 0].float())

    def kept_run(self, plan: Plan) -> Callable[[Tensor, Tensor, Tensor], State | None]:
        """What calls like the first one go through."""
        self.told.append("kept")
        self.plans.append(plan)

        def run(q: Tensor, k: Tensor, v: Tensor) -> State | None:
            self.told.append("run")
            return None if q.data_ptr() % 16 else State(q.detach().clone(), q.detach()[..., 0].float())

        return run


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    """A GPU, as far as a call can tell."""
    found = Room()
    face._ready.cache_clear()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(face, "machine", lambda device: Machine.named("h200"))
    monkeypatch.setattr(face, "kernel", lambda room, kernel: found)
    yield found
    face._ready.cache_clear()


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, **more: Any) -> Tensor:
    return torch.randn(*(shape or (1, 40, 4, 64)), **more).to(dtype)


def test_the_second_call_is_not_planned(room: Room) -> None:
    for first in (attention, attention_state):
        first(drawn(), drawn(), drawn(), mask=Causal() & Window(before=9), scale=0.5, cap=SoftCap(30.0))
    assert room.told == ["kept", "run", "run"]


def turned(x: Tensor) -> Tensor:
    """The same numbers, heads before tokens in memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


Asked = Callable[[], Any]
OTHERS: dict[str, Asked] = {
    "strides of q": lambda: attention(turned(drawn()), drawn(), drawn(), mask=Causal()),
    "strides of k": lambda: attention(drawn(), turned(drawn()), drawn(), mask=Causal()),
    "strides of v": lambda: attention(drawn(), drawn(), turned(drawn()), mask=Causal()),
    "dtype": lambda: attention(*(drawn(dtype=torch.float16) for _ in range(3)), mask=Causal()),
    "queries": lambda: attention(drawn()[:, :39], drawn(), drawn(), mask=Causal()),  # a part of an array has the strides of the whole
    "keys": lambda: attention(drawn(), drawn()[:, :39], drawn()[:, :39], mask=Causal()),
    "heads": lambda: attention(drawn(), drawn(1, 40, 2, 64), drawn(1, 40, 2, 64), mask=Causal()),
    "width of v": lambda: attention(drawn(), drawn(), drawn()[..., :32], mask=Causal()),
    "mask": lambda: attention(drawn(), drawn(), drawn(), mask=Full()),
    "scale": lambda: attention(drawn(), drawn(), drawn(), mask=Causal(), scale=1.0),
    "cap": lambda: attention(drawn(), drawn(), drawn(), mask=Causal(), cap=SoftCap(30.0)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_call_is_planned(what: str, room: Room) -> None:
    attention(drawn(), drawn(), drawn(), mask=Causal())
    OTHERS[what]()
    attention(drawn(), drawn(), drawn(), mask=Causal())
    OTHERS[what]()
    assert room.told == ["kept", "run"] * 2 + ["run"] * 2
    assert (room.plans[0] == room.plans[1]) == ("strides" in what)


def test_another_first_position_or_term_is_planned(room: Room) -> None:
    q, k, v = drawn(), drawn(), drawn()
    attention(q, k, v, mask=Causal())
    attention(q, k, v, mask=Causal(), first=0)
    attention(q, k, v, mask=Causal(), bias=torch.zeros(1, 4, 40, 40).bfloat16())
    assert room.told == ["kept", "run", "launch", "launch"] and len(set(room.plans)) == 3


@pytest.mark.parametrize(
    ("context", "says"),
    [(lambda: using("reference"), ("reference", False)), (lambda: using(invariant=True), (None, True)),
     (lambda: using("triton", invariant=True), ("triton", True))],
    ids=["room", "invariant", "both"],
)  # fmt: skip
def test_a_context_asks_for_another_plan(
    context: Callable[[], AbstractContextManager[None]], says: tuple[str | None, bool], room: Room
) -> None:
    q, k, v = drawn(), drawn(), drawn()
    for around in (nullcontext, context, nullcontext, context):
        with around():
            attention(q, k, v, mask=Causal())
    plain, asked = room.plans
    assert room.told == ["kept", "run"] * 2 + ["run"] * 2
    assert (plain.problem.invariant, asked.problem.invariant) == (False, says[1])  # type: ignore[union-attr]
    assert asked.room == (says[0] or asked.room) and plain != asked


def test_a_room_that_refuses_does_so_after_one_that_does_not(room: Room) -> None:
    from strobe import Unsupported

    q, k, v = drawn(), drawn(), drawn()
    attention(q, k, v, mask=Causal())
    for _ in range(2):
        with using("cpu"), pytest.raises(Unsupported, match="cpu: "):
            attention(q, k, v, mask=Causal())
    assert room.told == ["kept", "run"]


MISTAKES: dict[str, tuple[Asked, str]] = {
    "last axis": (lambda: attention(drawn(), drawn(1, 40, 64, 4).transpose(2, 3), drawn(), mask=Causal()), "last axis of k"),
    "dtype of k": (lambda: attention(drawn(), drawn(dtype=torch.float16), drawn(), mask=Causal()), "have one dtype"),
    "dtype of v": (lambda: attention(drawn(), drawn(), drawn(dtype=torch.float16), mask=Causal()), "have one dtype"),
    "keys without values": (lambda: attention(drawn(), drawn(), drawn()[:, :39], mask=Causal()), "each key has its value"),
    "width": (lambda: attention(drawn(), drawn()[..., :32], drawn(), mask=Causal()), "one width D"),
    "no values": (lambda: attention(drawn(), drawn(), mask=Causal()), "v is missing"),
    "scale of truth": (lambda: attention(drawn(), drawn(), drawn(), mask=Causal(), scale=True), "scale is a finite number"),
    "scale of none": (lambda: attention(drawn(), drawn(), drawn(), mask=Causal(), scale=float("nan")), "scale is a finite number"),
    "a type for a mask": (lambda: attention(drawn(), drawn(), drawn(), mask=Causal), "mask is a value"),  # type: ignore[arg-type]
    "a number for a cap": (lambda: attention(drawn(), drawn(), drawn(), mask=Causal(), cap=30.0), "cap"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_named_each_time(what: str, room: Room) -> None:
    asked, says = MISTAKES[what]
    attention(drawn(), drawn(), drawn(), mask=Causal())
    attention(drawn(), drawn(), drawn(), mask=Causal(), scale=1.0)
    before = list(room.told)
    for _ in range(2):
        with pytest.raises(Invalid, match=says):
            asked()
    assert room.told == before


def test_each_device_has_its_own(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = drawn(), drawn(), drawn()
    where = {id(x): 0 for x in arrays}
    monkeypatch.setattr(torch.Tensor, "get_device", lambda x: where[id(x)])
    here = face.ready(*arrays, Causal(), None, None)
    assert here is not None and face.ready(*arrays, Causal(), None, None) is here
    for moved in (1, 2):
        where[id(arrays[moved])] = 1
        assert face.ready(*arrays, Causal(), None, None) is None
        where[id(arrays[moved])] = 0
    where.update((id(x), 1) for x in arrays)
    assert face.ready(*arrays, Causal(), None, None) is not here


def test_a_whole_number_is_the_same_scale(room: Room) -> None:
    q, k, v = drawn(), drawn(), drawn()
    for scale in (1.0, 1, 1.0):
        attention(q, k, v, mask=Causal(), scale=scale)
    assert room.told == ["kept", "run", "run", "run"]


def test_a_gradient_is_recorded_after_calls_without(room: Room) -> None:
    q, k, v = drawn(), drawn(), drawn()
    attention(q, k, v, mask=Causal())
    for x in (q, k, v):
        x.requires_grad_()
        assert attention(q, k, v, mask=Causal()).grad_fn is not None
        with torch.no_grad():
            assert attention(q, k, v, mask=Causal()).grad_fn is None
        x.requires_grad_(False)
    assert room.told == ["kept", *["run"] * 7]


def test_where_the_kernel_does_not_want_to_the_long_way_is_gone(room: Room) -> None:
    q, k, v = drawn(), drawn(), drawn()
    beside = torch.cat((q.new_zeros(1), q.flatten()))[1:].view(q.shape)
    attention(q, k, v, mask=Causal())
    attention(beside, k, v, mask=Causal())
    assert room.told[:2] == ["kept", "run"] and room.told[-1] == "launch" and room.told.count("launch") == 1


class Marked(Tensor):
    """A tensor that is more than one."""


def test_what_is_more_than_a_tensor_goes_the_long_way(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = drawn(), drawn(), drawn()
    attention(q, k, v, mask=Causal())
    assert recording.again(q.as_subclass(Marked), k, v, Causal(), None, None) is None
    assert recording.again(torch.nn.Parameter(q, requires_grad=False), k, v, Causal(), None, None) is not None
    monkeypatch.setattr(torch.Tensor, "is_cuda", False)
    assert recording.again(q, k, v, Causal(), None, None) is None
    assert room.told == ["kept", "run", "run"]
