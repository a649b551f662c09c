"""The reference room takes every problem that does not ask for invariant bits, and is asked last."""

from __future__ import annotations

from math import isqrt

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.machine import Machine
from strobe.merging import Merge
from strobe.problem import Problem

SCORES = 2**17  # of a tile, over all heads
SHORTEST = 16  # side of a tile, however many heads there are


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer: the definition in float64. Its sums are torch's products, whose order may depend on the whole batch."""
    if isinstance(problem, Merge):
        return Offer("merge", "the law of states, in float64")
    if isinstance(problem, Append):
        return Offer("append", "an indexed copy")
    if problem.invariant:
        return Refusal(("sums are torch's products over the padded batch, so it is not invariant",))
    if problem.verb == "backward":
        return Offer("backward", "the gradient as the paper's formula, in float64", workspace_bytes=_square(problem, 4))
    if problem.verb == "double backward":
        why = "the gradient of the gradient in float64, a tile of scores at a time; memory grows with T + S, not T × S"
        return Offer("double_backward", why, _tile(problem))
    return Offer("forward", "the definition in float64: every score at once", workspace_bytes=_square(problem, 3))


def _tile(problem: Problem) -> tuple[int, int]:
    """About `SCORES` scores over all heads, square where there are rows enough."""
    each = SCORES // max(1, problem.B * problem.H)
    rows = max(SHORTEST, min(problem.T, isqrt(each)))
    return rows, max(SHORTEST, each // rows)


def _square(problem: Problem, copies: int) -> int:
    return copies * 8 * problem.B * problem.H * problem.T * problem.S
