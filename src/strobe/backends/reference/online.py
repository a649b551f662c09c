"""The FlashAttention recurrence in plain loops: the living definition that every kernel imitates.

For one query row and tile after tile of keys, with m the largest score so far, l the sum of weights, o the
weighted sum of values (Dao, 2023, arXiv:2307.08691, algorithm 1):

    m' = max(m, max s)      l' = l · exp(m − m') + Σ exp(s − m')      o' = o · exp(m − m') + Σ exp(s − m') v

and at the end out = o / l, lse = m + ln l. Nothing of size T × S ever exists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from strobe.backends.reference.padded import Padded, pad
from strobe.masks import Grid
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State


def row(scores: list[float], seen: list[bool], values: Tensor, tile: int) -> tuple[Tensor, float]:
    """(out `[V]`, lse) of one query over its keys, `tile` keys at a time."""
    m, l, o = -math.inf, 0.0, torch.zeros_like(values[0]) if len(scores) else values.new_zeros(values.shape[-1])
    for low in range(0, len(scores), tile):
        visible = [s for s in range(low, min(low + tile, len(scores))) if seen[s]]
        if not visible:
            continue
        m_new = max(m, max(scores[s] for s in visible))
        if m_new == -math.inf:
            continue
        shrink = math.exp(m - m_new)
        o, l, m = o * shrink, l * shrink, m_new
        for s in visible:
            weight = math.exp(scores[s] - m)
            l += weight
            o = o + weight * values[s]
    if l == 0.0:
        return o, -math.inf
    return o / l, m + math.log(l)


def launch(plan: Plan, call: Call) -> State:
    """The state by the recurrence, a row at a time; plain attention only (masks, scale, cap)."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    padded = pad(call, problem)
    out = padded.q.new_zeros((problem.B, problem.T, problem.H, problem.V))
    lse = padded.q.new_full((problem.B, problem.T, problem.H), -math.inf)
    for b in range(problem.B):
        for t in range(int(padded.queries[b])):
            for h in range(problem.H):
                out[b, t, h], lse[b, t, h] = _one(padded, call, problem, b, t, h, max(1, plan.offer.tile[1]))
    return State(padded.unpad(out), padded.unpad(lse))


def _one(padded: Padded, call: Call, problem: Problem, b: int, t: int, h: int, tile: int) -> tuple[Tensor, float]:
    g, first, keys = h // problem.group, int(padded.first[b]), int(padded.keys[b])
    scores = [problem.scale * float(padded.q[b, t, h] @ padded.k[b, s, g]) for s in range(keys)]
    if call.cap is not None:
        scores = [call.cap.limit * math.tanh(score / call.cap.limit) for score in scores]
    seen = [bool(call.mask.allows(Grid(first + t, s, b, h, t, first))) for s in range(keys)]
    return row(scores, seen, padded.v[b, :, g], tile)
