"""Flash-Decoding as a definition: cut the keys into splits, attend to each, merge the states."""

from __future__ import annotations

import torch

from strobe.backends.reference.forward import define
from strobe.backends.reference.merge import joined
from strobe.backends.reference.padded import pad
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state over the keys in `plan.offer.splits` parts, in float64; it does not depend on their number.

    A sink is a state of its own, that saw no value: lse its logit, out 0. So it is merged once, not once a split.
    """
    problem = plan.problem
    assert isinstance(problem, Problem)
    padded = pad(call, problem)
    step = max(1, -(-problem.S // plan.offer.splits))
    without_sink = call._replace(sink=None)
    states = [
        State(*define(padded, without_sink, problem, slice(low, low + step))) for low in range(0, max(1, problem.S), step)
    ]
    if call.sink is not None:
        lse = call.sink.logits.to(torch.float64).expand_as(states[0].lse)
        states.append(State(torch.zeros_like(states[0].out), lse))
    state = states[0]
    for other in states[1:]:
        state = joined(state, other)
    return State(padded.unpad(state.out), padded.unpad(state.lse))
