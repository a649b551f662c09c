"""The law of states: lse = ln(exp(a.lse) + exp(b.lse)), out = Σ exp(lse_i − lse) out_i."""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.plan import Plan
from strobe.state import State


def joined(a: State, b: State) -> State:
    """Both states as one, differentiable; a state that saw no key changes nothing."""
    top = torch.maximum(a.lse, b.lse).detach()
    top = torch.where(top == -torch.inf, 0.0, top)

    def part(state: State) -> tuple[Tensor, Tensor]:
        # where, not a product: the gradient of exp at −∞ would be 0 · ∞
        some = state.lse != -torch.inf
        weight = torch.where(some, torch.exp(torch.where(some, state.lse, 0.0) - top), 0.0)
        return weight, torch.where(some[..., None], state.out.to(weight.dtype) * weight[..., None], 0.0)

    (weight_a, out_a), (weight_b, out_b) = part(a), part(b)
    total = weight_a + weight_b
    some = total != 0
    divisor = torch.where(some, total, 1.0)
    out = (out_a + out_b) / divisor[..., None]
    return State(out.to(a.out.dtype), torch.where(some, top + torch.log(divisor), -torch.inf))


def launch(plan: Plan, a: State, b: State) -> State:
    """The merged state, computed in float64."""
    wide = (State(state.out.double(), state.lse.double()) for state in (a, b))
    out, lse = joined(*wide)
    return State(out.to(a.out.dtype), lse.to(a.lse.dtype))
