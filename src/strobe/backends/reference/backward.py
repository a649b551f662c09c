"""The gradient as the paper's formula (Dao, 2023, arXiv:2307.08691, section 2.2), with every term of the contract.

    P  = exp(score − lse)                                   dV = (P ∘ keep)ᵀ dO
    dP = (dO Vᵀ) ∘ keep          δ = rowsum(dO ∘ O)         dS = P ∘ (dP − δ + dlse)
    through the cap: dS ∘ (1 − tanh²)                       dQ = scale · dS K,   dK = scale · dSᵀ Q
    dbias = dS summed to its shape       dslope = −Σ dS · distance       dsink = Σ exp(sink − lse) (dlse − δ)
"""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.reference.forward import define, distance, keep_weights, per_query_head, scores, weigh
from strobe.backends.reference.padded import Padded, pad
from strobe.layouts import Packed, Paged
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import Gradients, State
from strobe.terms import Scaled


def to_keys(x: Tensor, group: int) -> Tensor:
    """`[B, H, S, ·]` gradients a query head, summed to `[B, S, G, ·]` a key head."""
    b, h, s, width = x.shape
    return x.view(b, h // group, group, s, width).sum(2).transpose(1, 2)


def launch(plan: Plan, call: Call, state: State, grad_out: Tensor, grad_lse: Tensor | None) -> Gradients:
    """The gradients of everything in the call, each in its array's dtype. `state` was rounded, so it is computed again."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    padded = pad(call, problem)
    seen = padded.seen(call)
    out, lse = (x.transpose(1, 2) for x in define(padded, call, problem))  # [B, H, T, V], [B, H, T]
    raw = scores(padded, call, problem)
    d_out = padded.pad(grad_out).transpose(1, 2)
    d_lse = torch.zeros_like(lse) if grad_lse is None else padded.pad(grad_lse).transpose(1, 2)
    d_lse = torch.where(lse == -torch.inf, 0.0, d_lse)
    k, v = (per_query_head(x, problem.group) for x in (padded.k, padded.v))
    q = padded.q.transpose(1, 2)

    p = torch.where(seen, torch.exp(raw - lse[..., None]), 0.0)
    keep = keep_weights(padded, call)
    kept_p = p if keep is None else p * keep
    d_v = weigh(kept_p.transpose(-1, -2), d_out, seen.transpose(-1, -2))
    d_p = d_out @ v.transpose(-1, -2)
    if keep is not None:
        d_p = d_p * keep
    delta = (d_out * out).sum(-1)
    d_s = torch.where(seen, p * (d_p - (delta - d_lse)[..., None]), 0.0)
    d_raw = d_s if call.cap is None else d_s * (1.0 - _tanh(padded, call, problem) ** 2)
    d_raw = torch.where(seen, d_raw, 0.0)
    d_q = problem.scale * weigh(d_raw, k, seen)
    d_k = problem.scale * weigh(d_raw.transpose(-1, -2), q, seen.transpose(-1, -2))

    def as_keys(x: Tensor, side: object) -> Tensor | None:
        if isinstance(side, Scaled) or isinstance(call.keys, Paged):
            return None
        assert isinstance(side, Tensor)
        return padded.unpad_keys(to_keys(x, problem.group), side).to(side.dtype)

    sides = key_sides(call.keys)
    tokens = call.q.tokens if isinstance(call.q, Packed) else call.q
    return Gradients(
        q=padded.unpad(d_q.transpose(1, 2)).to(tokens.dtype),
        k=as_keys(d_k, sides[0]),
        v=as_keys(d_v, sides[1]),
        bias=None if call.bias is None else d_s.sum_to_size(call.bias.shape).to(call.bias.dtype),
        slopes=None if call.alibi is None else slope_gradient((d_s * -distance(padded.grid())).sum((-1, -2)), call.alibi.slopes),
        sink=None if call.sink is None else _sink_gradient(call.sink.logits, lse, d_lse - delta),
    )


def _tanh(padded: Padded, call: Call, problem: Problem) -> Tensor:
    assert call.cap is not None
    s = problem.scale * torch.einsum("bthd,bhsd->bhts", padded.q, per_query_head(padded.k, problem.group))
    return torch.tanh(s / call.cap.limit)


def slope_gradient(per_head: Tensor, slopes: Tensor) -> Tensor:
    """`[B, H]` in the shape of the slopes."""
    return (per_head if slopes.dim() == 2 else per_head.sum(0)).to(slopes.dtype)


def _sink_gradient(logits: Tensor, lse: Tensor, d_lse_minus_delta: Tensor) -> Tensor:
    weight = torch.exp(logits.to(torch.float64).view(1, -1, 1) - lse)
    return (weight * d_lse_minus_delta).sum((0, 2)).to(logits.dtype)
