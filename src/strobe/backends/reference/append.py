"""New keys, turned if asked, and values written into pages: token t of T of sequence b stands at lengths[b] − T + t."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strobe.appending import Append, Rotary
from strobe.errors import Invalid
from strobe.layouts import Packed, Paged
from strobe.plan import Plan
from strobe.terms import Scaled


def launch(plan: Plan, pages: Paged, k: Any, v: Tensor, rotary: Rotary | None = None) -> None:
    """Writes in place; nothing is written if any token has no place."""
    problem = plan.problem
    assert isinstance(problem, Append)
    tokens = k.tokens if isinstance(k, Packed) else k.reshape(-1, *k.shape[-2:])
    values = v.reshape(-1, *v.shape[-2:])
    device = tokens.device
    if isinstance(k, Packed):
        offsets = k.offsets.long()
        counts = offsets.diff()
        sequence = torch.repeat_interleave(torch.arange(problem.B, device=device), counts)
        t = torch.arange(tokens.shape[0], device=device) - offsets[sequence]
    else:
        counts = torch.full((problem.B,), problem.T, device=device)
        sequence = torch.arange(problem.B, device=device).repeat_interleave(problem.T)
        t = torch.arange(problem.T, device=device).repeat(problem.B)
    at = (pages.lengths.long() - counts)[sequence] + t
    held = pages.keys.data.shape if isinstance(pages.keys, Scaled) else pages.keys.shape
    if at.numel() and (int(at.min()) < 0 or int(at.max()) >= pages.table.shape[1] * problem.Z):
        raise Invalid(
            f"new tokens stand at lengths − T … lengths − 1, within 0 … {pages.table.shape[1] * problem.Z - 1}; "
            f"got positions {int(at.min())} … {int(at.max())} for lengths {pages.lengths.tolist()}"
        )
    page = pages.table.long()[sequence, at // problem.Z]
    wrong = (page < 0) | (page >= held[0])
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise Invalid(
            f"table[{int(sequence[i])}, {int(at[i]) // problem.Z}] = {int(page[i])} is not a page: pages are 0 … {held[0] - 1}"
        )
    if rotary is not None:
        position = at if rotary.positions is None else rotary.positions.reshape(-1).long()
        strange = (position < 0) | (position >= rotary.cos.shape[0])
        if bool(strange.any()):
            i = int(strange.nonzero()[0])
            raise Invalid(
                f"token {int(t[i])} of the new ones of sequence {int(sequence[i])} stands at position {int(position[i])}, "
                "for which rotary has no row: cos and sin have a row for each position, from 0 on"
            )
        tokens = turned(tokens, rotary, position)
    _write(pages.keys, page, at % problem.Z, tokens)
    _write(pages.values, page, at % problem.Z, values)


def turned(tokens: Tensor, rotary: Rotary, position: Tensor) -> Tensor:
    """Tokens `[N, G, D]`, the first numbers of each turned by the angles of its position: float32, or float64 from float64."""
    wide = tokens if tokens.dtype == torch.float64 else tokens.float()
    cos, sin = (table[position][:, None].to(wide.dtype) for table in (rotary.cos, rotary.sin))  # [N, 1, pairs]
    pairs = cos.shape[-1]
    first, rest = wide[..., : 2 * pairs], wide[..., 2 * pairs :]
    a, b = (first[..., ::2], first[..., 1::2]) if rotary.interleaved else first.split(pairs, -1)
    pair = a * cos - b * sin, b * cos + a * sin
    return torch.cat([torch.stack(pair, -1).flatten(-2) if rotary.interleaved else torch.cat(pair, -1), rest], -1)


def _write(side: Any, page: Tensor, row: Tensor, tokens: Tensor) -> None:
    if not isinstance(side, Scaled):
        side[page, row] = tokens.to(side.dtype)
        return
    kind = side.data.dtype
    whole = {torch.int8: 127.0, torch.uint8: 7.0}.get(kind)
    wide = tokens.float()
    scale = wide.abs().amax(-1) / (torch.finfo(kind).max if whole is None else whole)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 0.0, scale)  # a subnormal scale rounds too coarsely to divide by
    steps = wide / torch.where(scale == 0, 1.0, scale)[..., None]
    if whole is None:
        side.data[page, row] = steps.to(kind)
    else:
        steps = torch.where(scale.isfinite()[..., None], steps, 0.0).round().to(torch.int8)
        side.data[page, row] = steps if kind == torch.int8 else (steps[..., ::2] & 15 | steps[..., 1::2] << 4).view(torch.uint8)
    side.scale[page, row] = scale
