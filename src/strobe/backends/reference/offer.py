"""The reference room takes every problem, and is asked last."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.machine import Machine
from strobe.merging import Merge
from strobe.problem import Problem


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """Always an offer: the definition in float64."""
    if isinstance(problem, Merge):
        return Offer("merge", "the law of states, in float64")
    if isinstance(problem, Append):
        return Offer("append", "an indexed copy")
    if problem.verb == "backward":
        return Offer("backward", "the gradient as the paper's formula, in float64", workspace_bytes=_square(problem, 4))
    return Offer("forward", "the definition in float64: every score at once", workspace_bytes=_square(problem, 3))


def _square(problem: Problem, copies: int) -> int:
    return copies * 8 * problem.B * problem.H * problem.T * problem.S
