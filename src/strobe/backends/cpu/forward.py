"""Many queries: `forward.cpp`, whose tiles are `tile.hpp`'s or `isa/amx.hpp`'s."""

from __future__ import annotations

from strobe.backends.cpu.arguments import attend
from strobe.plan import Plan
from strobe.problem import Call
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state."""
    return attend("strobe_forward", plan, call)
