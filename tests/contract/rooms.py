"""Every room that can be asked on this machine, and what each has promised to take."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch

from strobe.answers import Offer
from strobe.faces.torch import _described, launch
from strobe.machine import Machine, compiled_library
from strobe.masks import causal_window
from strobe.plan import Plan, plan
from strobe.problem import Call, Problem, check
from strobe.rooms import desk
from strobe.state import State

from .cases import CASES, Case, build


def machine(room: str) -> Machine:
    """This machine; for torch's own room, this machine without the compiled library."""
    here = Machine.cpu(torch.get_num_threads())
    return replace(here, compiled=room == "cpu" and compiled_library() is not None)


def present() -> tuple[str, ...]:
    """The rooms that can run here."""
    return ("reference", "sdpa", *(("cpu",) if compiled_library() is not None else ()))


def problem_of(call: Call) -> Problem:
    return check(_described(call))


@lru_cache(maxsize=None)
def taken(room: str, case: Case, dtype: str) -> bool:
    """Whether the room's desk takes the case."""
    return isinstance(desk(room).offer(problem_of(build(case, dtype)), machine(room)), Offer)


def offered(room: str) -> list[tuple[Case, str]]:
    """All cases that the room takes, in every dtype."""
    return [(case, dtype) for case in CASES for dtype in case.dtypes if taken(room, case, dtype)]


def promised(room: str, case: Case) -> bool:
    """What a room may not refuse, whatever its desk says."""
    if room == "reference":
        return True
    mask = case.mask if not callable(case.mask) else None
    plain = mask is not None and causal_window(mask) is not None
    simple = plain and case.dropout is None and not case.scaled and not {"bias", "bias head", "alibi"} & set(case.terms)
    if room == "cpu":
        return case.D <= 576 and case.width <= 576
    return simple and not case.terms and case.width == case.D


def run(room: str, call: Call) -> tuple[State, Plan]:
    """The state as the room computes it."""
    chosen = plan(problem_of(call), machine(room), room)
    with torch.no_grad():
        return launch(chosen, call), chosen
