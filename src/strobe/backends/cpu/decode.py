"""Few queries: `decode.cpp`, whose tiles are `few.hpp`'s or `isa/amx_few.hpp`'s. The keys are split over the threads."""

from __future__ import annotations

from strobe.backends.cpu.arguments import attend
from strobe.plan import Plan
from strobe.problem import Call
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state."""
    return attend("strobe_decode", plan, call)
