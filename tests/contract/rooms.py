"""Every room that can be asked on this machine, and what each has promised to take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from strobe import using
from strobe.answers import Offer
from strobe.faces import torch as face
from strobe.faces.torch import _described, launch
from strobe.machine import Machine, compiled_library, installed_triton
from strobe.masks import causal_window
from strobe.plan import Plan, plan
from strobe.problem import Call, Problem, check, map_arrays
from strobe.rooms import desk, kernel
from strobe.state import State

from .cases import CASES, LIFE, Case, build


def machine(room: str) -> Machine:
    """This machine; for torch's own room, this machine without the compiled library; for Triton its GPU, or one to interpret for."""
    if room == "triton":
        return face.machine("cuda:0") if on_a_gpu(room) else Machine.named("h200")
    here = Machine.cpu(torch.get_num_threads())
    return replace(here, compiled=room == "cpu" and compiled_library() is not None)


def present() -> tuple[str, ...]:
    """The rooms that can run here."""
    native = ("cpu",) if compiled_library() is not None else ()
    return ("reference", "sdpa", *native, *(("triton",) if interpreted() or on_a_gpu("triton") else ()))


def interpreted() -> bool:
    """Whether Triton is installed and interprets its kernels, so that a CPU runs them."""
    return installed_triton() is not None and os.environ.get("TRITON_INTERPRET") == "1"


def exact(room: str, *kinds: str) -> bool:
    """Whether results may be compared to the last bit: Triton's interpreter rounds to some dtypes in a way of its own."""
    return room != "triton" or not interpreted() or not {"bfloat16", "float8_e4m3fn", "float8_e5m2"} & set(kinds)


def small(case: Case, most: int = 24) -> bool:
    """What the interpreter runs in about a second: it takes milliseconds an operation on a tile, of which there are `most`."""
    rows = case.T * (case.H // case.G)
    steps = case.B * case.G * -(-max(rows, 1) // 64) * -(-max(case.S, 1) // 64)
    return steps <= most


def on_a_gpu(room: str) -> bool:
    """Whether the room computes on a GPU that is here."""
    return room == "triton" and installed_triton() is not None and torch.cuda.is_available() and not interpreted()


def moved(room: str, value: Any) -> Any:
    """A value with its arrays where the room computes; gradients find their way back."""
    return map_arrays(value, lambda x: x.to("cuda:0")) if on_a_gpu(room) else value


def back(state: State) -> State:
    """A state where it can be compared."""
    return State(state.out.cpu(), state.lse.cpu())


@contextmanager
def inside(room: str) -> Iterator[None]:
    """The verbs run in the room, and take this machine for one that has it."""
    here = machine(room)
    with using(room), patch("strobe.faces.torch.machine", lambda device: here), np.errstate(all="ignore"):
        yield


def problem_of(call: Call) -> Problem:
    return check(_described(call))


@lru_cache(maxsize=None)
def posed(case: Case, dtype: str) -> Problem:
    """What a case asks. Its arrays, some of them large, are drawn once for all desks."""
    return problem_of(build(case, dtype))


@lru_cache(maxsize=None)
def taken(room: str, case: Case, dtype: str) -> bool:
    """Whether the room's desk takes the case."""
    return isinstance(desk(room).offer(posed(case, dtype), machine(room)), Offer)


def offered(room: str) -> list[tuple[Case, str]]:
    """All cases that the room takes, in every dtype."""
    return [(case, dtype) for case in CASES for dtype in case.dtypes if taken(room, case, dtype) and asked(room, case, dtype)]


def asked(room: str, case: Case, dtype: str) -> bool:
    """Whether the case is run there: Triton's interpreter runs small ones, those from life in every dtype."""
    return room != "triton" or on_a_gpu(room) or (small(case) and (dtype == "float32" or case in LIFE))


def promised(room: str, case: Case) -> bool:
    """What a room may not refuse, whatever its desk says."""
    if room == "reference":
        return True
    mask = case.mask if not callable(case.mask) else None
    plain = mask is not None and causal_window(mask) is not None
    simple = plain and case.dropout is None and not case.scaled and not {"bias", "bias head", "alibi"} & set(case.terms)
    if room == "cpu":
        return case.D <= 576 and case.width <= 576
    if room == "triton":
        return case.D <= 512 and case.width <= 512
    return simple and not case.terms and case.width == case.D


def launched(room: str, chosen: Plan, changed: Any, *others: Any) -> Any:
    """What a room's kernel returns for arrays here, of which it may change the first; on a GPU, copies of them."""
    start = kernel(room, chosen.offer.kernel).launch
    if not on_a_gpu(room):
        return start(chosen, changed, *others)
    pairs: list[tuple[Any, Any]] = []

    def there(x: Any) -> Any:
        pairs.append((x, x.to("cuda:0")))
        return pairs[-1][1]

    copied = State(*map(there, changed)) if isinstance(changed, State) else map_arrays(changed, there)
    found = start(chosen, copied, *(State(*(moved(room, x) for x in y)) if isinstance(y, State) else moved(room, y) for y in others))
    for mine, theirs in pairs:
        mine.copy_(theirs)
    return back(found) if isinstance(found, State) else found


def run(room: str, call: Call) -> tuple[State, Plan]:
    """The state as the room computes it."""
    call = moved(room, call)
    chosen = plan(problem_of(call), machine(room), room)
    with torch.no_grad(), np.errstate(all="ignore"):  # Triton's interpreter computes with numpy, which warns of NaN
        return back(launch(chosen, call)), chosen
