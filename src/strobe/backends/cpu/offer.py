"""Will the CPU room take it? Standard library only; imports no kernel."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.machine import Machine


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """The reasons against, while the kernels are being built."""
    return Refusal(("its kernels are not built yet",))
