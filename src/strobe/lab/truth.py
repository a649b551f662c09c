"""Attention written out plainly, in any precision: what the doctor and the benchmarks' gate compare with.

It shares no line with the rooms, not even with the reference room, so it can find that one wrong too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.masks import Grid, Mask

PROMISED = 2.0  # times the plain computation's error in the same dtype: the contract's promise
GRADIENTS = 4.0  # the same for gradients


def plainly(q: Tensor, k: Tensor, v: Tensor, mask: Mask, kind: torch.dtype, rows: Tensor | None = None) -> Tensor:
    """`softmax(mask(q kᵀ / √D)) v`, every step rounded to `kind`: float64 is the truth, the inputs' own dtype the yardstick.

    Args:
        q, k, v: `[B, T, H, D]`, `[B, S, G, D]`, `[B, S, G, V]`; the last query stands at the last key.
        rows: the queries to compute, all unless given.

    Returns:
        `[B, rows, H, V]` in `kind`; zeros where a query sees no key.
    """
    B, T, H, D = q.shape
    S, G = k.shape[1:3]
    rows = torch.arange(T) if rows is None else rows
    t, first, group = rows[:, None], S - T, H // G
    seen = torch.as_tensor(mask.allows(Grid(query=first + t, key=torch.arange(S)[None], t=t, first=first))).expand(len(rows), S)
    batches = []
    for b in range(B):
        heads = []
        for g in range(G):  # a head at a time, so that float64 copies stay small
            few, keys, values = (x.to(kind) for x in (q[b, rows, g * group : (g + 1) * group], k[b, :, g], v[b, :, g]))
            scores = torch.einsum("rhd,sd->hrs", few, keys) * D**-0.5
            weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1).masked_fill(~seen, 0.0)
            heads.append(torch.einsum("hrs,sv->rhv", weights, values))
        batches.append(torch.cat(heads, 1))
    return torch.stack(batches)


def distance(found: Tensor, truth: Tensor) -> float:
    """‖found − truth‖ / ‖truth‖; infinite where a number is not finite, and ‖found‖ where the truth is zero."""
    found, truth = found.double(), truth.double()
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    size = truth.norm()
    return float((found - truth).norm() / size) if size > 0 else float(found.norm())


def allowed(plain_error: float, kind: torch.dtype, times: float = PROMISED) -> float:
    """The largest error that passes: so many times the plain computation's, and never less than one rounding."""
    return max(times * plain_error, torch.finfo(kind).eps)
