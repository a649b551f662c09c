"""The reference room takes every problem, and is asked last."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.machine import Machine
from strobe.merging import Merge
from strobe.problem import Problem

SCORES = 2**18  # of a tile, over all heads: in float64 a tenth or so of them fills a core's own cache
SMALLEST_SIDE, LARGEST_SIDE = 32, 512


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """Always an offer: the definition in float64."""
    if isinstance(problem, Merge):
        return Offer("merge", "the law of states, in float64")
    if isinstance(problem, Append):
        return Offer("append", "an indexed copy")
    if problem.verb == "backward":
        return Offer("backward", "the gradient as the paper's formula, in float64", workspace_bytes=_square(problem, 4))
    if problem.verb == "double backward":
        side = _side(problem.B * problem.H)
        why = "the gradient of the gradient in float64, a tile of scores at a time; memory grows with T + S, not T × S"
        return Offer("double_backward", why, (side, side))
    return Offer("forward", "the definition in float64: every score at once", workspace_bytes=_square(problem, 3))


def _side(heads: int) -> int:
    """Of the tiles of all heads at once: `SCORES` of them, as nearly as a power of two allows."""
    side = SMALLEST_SIDE
    while side < LARGEST_SIDE and heads * (2 * side) ** 2 <= SCORES:
        side *= 2
    return side


def _square(problem: Problem, copies: int) -> int:
    return copies * 8 * problem.B * problem.H * problem.T * problem.S
