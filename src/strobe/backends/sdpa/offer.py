"""Will torch's own kernel take it? Plain and causal attention, windows, any layout; no terms but the scale."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.machine import Machine
from strobe.masks import causal_window
from strobe.problem import Problem

# torch's float32 product rounds a score more often for several rows than for one. Packed, that is up to four times the
# error of the plain computation, which takes each head alone; over many keys the sum of the values rounds more than both.
APART_UP_TO = 1024  # keys


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer for forward attention on a CPU; the reasons otherwise."""
    if not isinstance(problem, Problem) or problem.verb != "attention":
        return Refusal(("offers forward attention only",))
    no = []
    call = problem.call
    if machine.device != "cpu":
        no.append(f"runs on a CPU; this is {machine.device}")
    if problem.dtype == "float64":
        no.append("float64 is the reference room's")
    if causal_window(call.mask) is None:
        no.append("masks are Full, Causal and Window")
    if problem.scaled:
        no.append("keys and values that carry scales are not read")
    if problem.invariant:
        no.append("torch's kernel cuts its work as the whole batch asks, so it is not invariant")
    no += [f"no {name}" for name in ("cap", "bias", "alibi", "sink", "dropout") if getattr(call, name) is not None]
    if problem.V != problem.D:
        no.append(f"V has to be D; got D={problem.D}, V={problem.V}")
    if no:
        return Refusal(tuple(no))
    few = problem.dtype == "float32" and problem.S <= APART_UP_TO
    why = f"torch's kernel, {'each head apart: few keys in float32' if few else 'the queries of a group packed into one head'}"
    if not machine.compiled:
        why += "; the compiled library would take about 0.6 × its time in bfloat16 prefill (docs/rooms/sdpa.md)"
    return Offer("forward", why)
