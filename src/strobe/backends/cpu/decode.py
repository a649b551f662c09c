"""Few queries: `decode.cpp`, whose tiles are `few.hpp`'s or `isa/amx_few.hpp`'s. The keys are split over the threads."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from strobe.backends.cpu import arguments
from strobe.plan import Plan
from strobe.problem import Call
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state."""
    return arguments.attend("strobe_decode", plan, call)


def kept_run(plan: Plan) -> Callable[[Tensor, Tensor, Tensor], State] | None:
    """What runs a plan on dense arrays that are known to fit it, None where they are not all of the call."""
    return arguments.kept("strobe_decode", plan)
