"""Gradients: `backward.cpp`, whose tiles are `backward.hpp`'s. Weights are computed again from the lse of the forward pass."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from strobe.backends.cpu import library as lib
from strobe.backends.cpu.arguments import filled, prepared, strides
from strobe.backends.cpu.extras import broadcast
from strobe.layouts import Dense, Packed, Paged
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.state import Gradients, State


def launch(plan: Plan, call: Call, state: State, grad_out: Tensor, grad_lse: Tensor | None) -> Gradients:
    """The gradients of everything in the call, each in its array's dtype."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    out, lse = state.out.contiguous(), state.lse.contiguous()
    q = call.q.tokens if isinstance(call.q, Packed) else call.q
    dq, dk, dv = torch.empty_like(q, memory_format=torch.contiguous_format), *(_like(x, call) for x in key_sides(call.keys))
    delta = torch.empty(lse.shape, dtype=torch.float32)
    dbias = None if call.bias is None else torch.zeros(call.bias.shape, dtype=torch.float64)
    dslope = None if call.alibi is None else torch.empty_like(delta)
    forward, _held = filled(prepared("strobe_forward", plan), call, State(out, lse))
    lib.run(
        "strobe_backward",
        lib.GRADIENTS,
        lib.GRADIENTS.pack(
            lib.GRADIENTS.size, lib.INTERFACE, ctypes.addressof(forward),
            grad_out.data_ptr(), _address(grad_lse), dq.data_ptr(), _address(dk), _address(dv), delta.data_ptr(), _address(dslope),
            _address(dbias), *((0,) * 4 if dbias is None else broadcast(dbias)),
            *strides(grad_out), *_by_row(grad_lse), *strides(dq), *_by_key(dk), *_by_key(dv), *_by_row(delta),
            *lib.NO_FAULT,
        ),
    )  # fmt: skip
    return Gradients(
        q=dq,
        k=dk,
        v=dv,
        bias=None if call.bias is None or dbias is None else dbias.to(call.bias.dtype),
        slopes=None if call.alibi is None or dslope is None else _slopes(dslope, call, call.alibi.slopes),
        sink=None if call.sink is None else _sink(call.sink.logits, lse, delta),
    )


def _like(side: Tensor, call: Call) -> Tensor | None:
    """Room for the gradient of keys or values; zeros where some token may belong to no sequence."""
    if isinstance(call.keys, Paged):
        return None
    make = torch.empty_like if isinstance(call.keys, Dense) else torch.zeros_like
    return make(side, memory_format=torch.contiguous_format)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _by_key(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else strides(x)


def _by_row(x: Tensor | None) -> tuple[int, ...]:
    """Of one number a row: `[B, T, H]`, or packed `[N, H]`."""
    return (0, 0, 0) if x is None else strides(x[..., None])


def _slopes(rows: Tensor, call: Call, slopes: Tensor) -> Tensor:
    """What the rows `[B, T, H]` or `[N, H]` give, summed to the slopes' shape."""
    if isinstance(call.q, Packed) and slopes.dim() == 2:
        offsets = call.q.offsets.long()
        sequence = torch.arange(len(slopes)).repeat_interleave(offsets.diff())
        return torch.zeros(slopes.shape, dtype=torch.float64).index_add_(0, sequence, rows.double()).to(slopes.dtype)
    rows = rows.double().sum(-2)
    return (rows if rows.dim() == slopes.dim() else rows.sum(0)).to(slopes.dtype)


def _sink(logits: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """−Σ exp(sink − lse) · delta: the sink's weight in each row, with dP = 0."""
    weight = torch.exp(logits.double() - lse)
    given = torch.where(lse == -torch.inf, 0.0, weight * delta)
    return -given.flatten(0, -2).sum(0).to(logits.dtype)
