"""What attention looked at, without the T × S matrix: tiles of it are made, summed up, and forgotten.

    weight   p[t, s] = exp(score[t, s] − lse[t])       entropy[t]      −Σ_s p ln p  =  lse[t] − Σ_s p · score
    first    Σ_{s < n} p[t, s]                         received[s]     Σ_t p[t, s]

Sinks are the usual reason to ask: models that pour their attention on the first keys (Xiao et al., 2023, arXiv:2309.17453).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from strobe import attention_state
from strobe.errors import Invalid
from strobe.masks import Full, Grid, Mask

TILE = 256  # queries, and keys, of a tile


class Statistics(NamedTuple):
    """Of every head: `entropy` and `first` a query, float32 `[B, T, H]`; `received` a key, float32 `[B, S, H]`."""

    entropy: Tensor
    first: Tensor
    received: Tensor


def statistics(q: Tensor, k: Tensor, *, mask: Mask = Full(), scale: float | None = None, first: int = 4) -> Statistics:
    """Entropy of each query's weights, their mass on the first keys, and the mass each key receives; linear memory.

    Args:
        q: queries `[B, T, H, D]`.
        k: keys `[B, S, G, D]`, G dividing H.
        mask, scale: as for `attention`. A query that sees no key has entropy 0 and mass 0.
        first: how many keys `first` counts.

    Raises:
        Invalid: the arrays do not fit together, or `first` is no count.

    >>> q, k = torch.zeros(1, 1, 1, 8), torch.randn(1, 8, 1, 8)
    >>> [round(float(x), 4) for x in (*statistics(q, k).entropy.exp().flatten(), *statistics(q, k).first.flatten())]
    [8.0, 0.5]
    """
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise Invalid(f"first is a number of keys, 0 or more; got {first!r}")
    with torch.no_grad():
        lse = attention_state(q, k, k, mask=mask, scale=scale).lse.float().transpose(1, 2)  # [B, H, T]; checks the call too
        B, T, H, D = q.shape
        S, group = k.shape[1], H // k.shape[2]
        factor = D**-0.5 if scale is None else scale
        entropy, mass, received = lse.new_zeros(B, H, T), lse.new_zeros(B, H, T), lse.new_zeros(B, H, S)
        for t in range(0, T, TILE):
            rows = slice(t, min(T, t + TILE))
            low, high = mask.bounds(S - T + rows.start, S - T + rows.stop - 1, S)
            for s in range(max(0, low) // TILE * TILE, min(S, high), TILE):
                keys = slice(s, min(S, s + TILE))
                score = factor * q[:, rows].float().transpose(1, 2) @ _per_head(k[:, keys].float(), group).mT
                seen = mask.allows(_grid(rows, keys, S - T, B, H, q.device))
                weight = torch.where(seen, torch.exp(score - lse[..., rows, None]), 0.0)
                weight = torch.where(lse[..., rows, None] == -torch.inf, 0.0, weight)
                entropy[..., rows] -= torch.where(weight > 0, weight * (score - lse[..., rows, None]), 0.0).sum(-1)
                mass[..., rows] += weight[..., : max(0, first - s)].sum(-1)
                received[..., keys] += weight.sum(-2)
    return Statistics(*(x.transpose(1, 2).contiguous() for x in (entropy, mass, received)))


def _per_head(k: Tensor, group: int) -> Tensor:
    """`[B, S, G, D]` as `[B, H, S, D]`."""
    return k.transpose(1, 2).repeat_interleave(group, 1)


def _grid(rows: slice, keys: slice, first: int, B: int, H: int, device: torch.device) -> Grid:
    def axis(low: int, high: int, place: int) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[place] = -1
        return torch.arange(low, high, device=device).view(shape)

    t = axis(rows.start, rows.stop, 2)
    return Grid(first + t, axis(keys.start, keys.stop, 3), axis(0, B, 0), axis(0, H, 1), t, first)
