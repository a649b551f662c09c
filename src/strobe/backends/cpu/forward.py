"""Many queries: `forward.cpp`, whose tiles are `tile.hpp`'s or `isa/amx.hpp`'s."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from strobe.backends.cpu import arguments
from strobe.plan import Plan
from strobe.problem import Call
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state."""
    return arguments.attend("strobe_forward", plan, call)


def kept_run(plan: Plan) -> Callable[[Tensor, Tensor, Tensor], State] | None:
    """What runs a plan on dense arrays that are known to fit it, None where they are not all of the call."""
    return arguments.kept("strobe_forward", plan)
