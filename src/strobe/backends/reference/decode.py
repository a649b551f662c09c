"""Flash-Decoding as a definition: cut the keys into splits, attend to each, merge the states."""

from __future__ import annotations

from dataclasses import replace

from strobe.backends.reference import forward
from strobe.backends.reference.merge import joined
from strobe.backends.reference.padded import pad
from strobe.layouts import Dense
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State


def launch(plan: Plan, call: Call) -> State:
    """The state over dense keys in `plan.offer.splits` parts; the result does not depend on their number."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    padded = pad(call, problem)
    first = padded.first.to(call.q.device).int()
    step = max(1, -(-problem.S // plan.offer.splits))
    states = []
    for low in range(0, max(1, problem.S), step):
        part = slice(low, min(low + step, problem.S))
        keys = Dense(padded.k[:, part], padded.v[:, part])
        # positions count from the part's first key, so the queries move back by as much
        sub = replace(call, q=padded.q, keys=keys, first=first - low, sink=None)
        sub_problem = replace(problem, S=part.stop - part.start, dtype="float64")
        states.append(forward.launch(replace(plan, problem=sub_problem), sub))
    state = states[0]
    for other in states[1:]:
        state = joined(state, other)
    return state
