"""How far from float64 a room may be: relative to what the same precision costs the plain computation."""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.reference.forward import distance, keep_weights
from strobe.backends.reference.padded import Padded, pad
from strobe.problem import Call, Problem

# Times the plain computation's error, by room; the table of docs/contract.md, never loosened for CI.
PROMISED = {"reference": 2.0, "cpu": 2.0, "sdpa": 2.0, "triton": 2.0}
GRADIENTS = {"reference": 2.0, "cpu": 4.0, "triton": 4.0}


def plain(call: Call, problem: Problem) -> tuple[Tensor, Tensor]:
    """Attention as one would write it in the dtype of the call: scores, softmax, product, each rounded to it."""
    padded = pad(call, problem)
    dtype = getattr(torch, problem.dtype)
    q, k, v = (x.to(dtype) for x in (padded.q, padded.k, padded.v))
    k, v = (x.transpose(1, 2).repeat_interleave(problem.group, 1) for x in (k, v))
    s = torch.einsum("bthd,bhsd->bhts", q, k) * problem.scale
    if call.cap is not None:
        s = call.cap.limit * torch.tanh(s / call.cap.limit)
    if call.bias is not None:
        s = s + call.bias
    if call.alibi is not None:
        s = s - call.alibi.slopes.view(-1, 1, 1).to(dtype) * distance(padded.grid()).to(dtype)
    seen = padded.seen(call)
    blind = ~seen.any(-1, keepdim=True) & (call.sink is None)  # its softmax would be NaN, and so would all gradients
    s = s.masked_fill(~seen & ~blind, -torch.inf)
    if call.sink is not None:
        s = torch.cat([s, call.sink.logits.to(dtype).view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    lse = s.logsumexp(-1) if s.shape[-1] else s.sum(-1)
    lse = lse.masked_fill(blind[..., 0], -torch.inf)
    p = torch.softmax(s, -1).masked_fill(blind, 0.0)[..., : seen.shape[-1]]
    keep = keep_weights(padded, call)
    if keep is not None:
        p = p * keep.to(dtype)
    out = p @ v
    return _lies(padded, out), _lies(padded, lse)


def _lies(padded: Padded, x: Tensor) -> Tensor:
    return padded.unpad(x.transpose(1, 2))


def error(found: Tensor, truth: Tensor) -> float:
    """‖found − truth‖ / ‖truth‖ over the finite part; infinite places must agree exactly."""
    found, truth = found.double(), truth.double()
    assert found.shape == truth.shape, f"shape {list(found.shape)} where {list(truth.shape)} is due"
    wild = ~torch.isfinite(truth)
    assert torch.equal(found[wild], truth[wild]), "infinite places differ"
    assert bool(torch.isfinite(found[~wild]).all()), f"{int((~torch.isfinite(found[~wild])).sum())} places are not finite"
    size = truth[~wild].norm()
    return float((found - truth)[~wild].norm() / size) if size > 0 else float(found[~wild].norm())


def allowed(plain_error: float, dtype: str, room: str) -> float:
    """The promise: PROMISED × the plain error, and never less than one rounding to the dtype."""
    return max(PROMISED[room] * plain_error, torch.finfo(getattr(torch, dtype)).eps)


def allowed_gradient(plain_error: float, dtype: str, room: str, lse: Tensor) -> float:
    """The promise for gradients. Weights are computed again as exp(score − lse) from a float32 lse, whose rounding grows with it."""
    size = float(lse[torch.isfinite(lse)].abs().max()) if bool(torch.isfinite(lse).any()) else 0.0
    rounding = max(torch.finfo(getattr(torch, dtype)).eps, GRADIENTS[room] * torch.finfo(torch.float32).eps * size)
    return max(GRADIENTS[room] * plain_error, rounding)
