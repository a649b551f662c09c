"""The definition of attention, every score at once.

    score = cap(scale · q kᵀ) + bias − slope · distance        where the mask allows, else −∞
    lse   = ln(Σ_s exp(score) + exp(sink))
    out   = (exp(score − lse) ∘ dropout) v
"""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.reference.padded import Padded, pad
from strobe.backends.reference.philox import kept
from strobe.masks import Grid
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State


def per_query_head(keys: Tensor, group: int) -> Tensor:
    """`[B, S, G, ·]` keys or values as `[B, H, S, ·]`: each serves the `group` query heads it belongs to."""
    return keys.transpose(1, 2).repeat_interleave(group, 1)


def scores(padded: Padded, call: Call, problem: Problem, part: slice = slice(None)) -> Tensor:
    """The scores before masking, float64 `[B, H, T, S]`, or those of the keys of `part`."""
    s = problem.scale * torch.einsum("bthd,bhsd->bhts", padded.q, per_query_head(padded.k[:, part], problem.group))
    if call.cap is not None:
        s = call.cap.limit * torch.tanh(s / call.cap.limit)
    if call.bias is not None:
        s = s + call.bias.to(torch.float64).expand(problem.B, problem.H, problem.T, problem.S)[..., part]
    if call.alibi is not None:
        s = s - slope_weights(call.alibi.slopes) * distance(padded.grid(columns=part))
    return s


def slope_weights(slopes: Tensor) -> Tensor:
    """`[H]` or `[B, H]` slopes, to broadcast against `[B, H, T, S]`."""
    return slopes.to(torch.float64).view(*((1,) * (2 - slopes.dim())), *slopes.shape, 1, 1)


def distance(grid: Grid) -> Tensor:
    """|position of the query − position of the key|, broadcastable to `[B, H, T, S]`."""
    return (grid.query - grid.key).abs().to(torch.float64)


def keep_weights(padded: Padded, call: Call, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor | None:
    """1 / (1 − p) where dropout keeps the weight, 0 where it drops it, or a tile of that; None without dropout."""
    if call.dropout is None:
        return None
    grid = padded.grid(rows, columns)
    return kept(call.dropout, grid.b, grid.h, grid.t, grid.key).to(torch.float64) / (1.0 - call.dropout.p)


def weigh(weights: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
    """`weights @ rows` where an unseen row does not reach the result even if it holds NaN or infinity.

    weights, seen `[B, H, T, S]` (weights are 0 where not seen), rows `[B, H, S, ·]`.
    """
    finite = torch.isfinite(rows)
    result = weights @ torch.where(finite, rows, 0.0)
    wild = ~finite.all(-1).all(1).all(0)  # [S]: few or none
    for s in wild.nonzero().flatten().tolist():
        wrong = torch.where(finite[:, :, None, s], 0.0, weights[..., s, None] * rows[:, :, None, s])
        result = result + torch.where(seen[..., s, None], wrong, 0.0)
    return result


def define(padded: Padded, call: Call, problem: Problem, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """(out `[B, T, H, V]`, lse `[B, T, H]`) over the keys of `part`, float64 and differentiable."""
    seen = padded.seen(call, columns=part)
    s = torch.where(seen, scores(padded, call, problem, part), 0.0)
    top = torch.where(seen, s, -torch.inf).detach()
    top = top.amax(-1) if top.shape[-1] else top.sum(-1) - torch.inf  # [B, H, T]
    sink = None if call.sink is None else call.sink.logits.to(torch.float64).view(1, -1, 1)
    if sink is not None:
        top = torch.maximum(top, sink.detach())
    top = torch.where(top == -torch.inf, 0.0, top)
    p = torch.where(seen, torch.exp(s - top[..., None]), 0.0)
    total = p.sum(-1) if sink is None else p.sum(-1) + torch.exp(sink - top)
    some = total != 0
    divisor = torch.where(some, total, 1.0)
    lse = torch.where(some, top + torch.log(divisor), -torch.inf)
    p = p / divisor[..., None]
    keep = keep_weights(padded, call, columns=part)
    if keep is not None:
        p = p * keep
    out = weigh(p, per_query_head(padded.v[:, part], problem.group), seen)
    return out.transpose(1, 2), lse.transpose(1, 2)


def launch(plan: Plan, call: Call) -> State:
    """The state in the dtype of the queries, of narrow ones in bfloat16; lse float32, or float64 for float64 queries."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    padded = pad(call, problem)
    out, lse = define(padded, call, problem)
    dtype = getattr(torch, problem.result_dtype)
    lse_dtype = torch.float64 if problem.dtype == "float64" else torch.float32
    return State(padded.unpad(out).to(dtype).contiguous(), padded.unpad(lse).to(lse_dtype).contiguous())
