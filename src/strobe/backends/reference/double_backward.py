"""The gradient of the gradient: the definition differentiated twice by torch, with every score in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.reference.forward import define
from strobe.backends.reference.padded import pad
from strobe.layouts import Dense
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.terms import Alibi, Sink


def launch(
    plan: Plan, call: Call, grad_out: Tensor, grad_lse: Tensor | None, cotangents: list[Tensor | None]
) -> list[Tensor | None]:
    """Gradients with respect to (grad_out, grad_lse, q, k, v, bias, slopes, sink).

    `cotangents` are what the gradients of q, k, v, bias, slopes and sink receive. Dense layouts only.
    """
    problem = plan.problem
    assert isinstance(problem, Problem) and isinstance(call.keys, Dense)
    leaves: list[Tensor | None] = [
        call.q, call.keys.k, call.keys.v, call.bias,
        None if call.alibi is None else call.alibi.slopes,
        None if call.sink is None else call.sink.logits,
    ]  # fmt: skip
    with torch.enable_grad():
        seeds = [None if x is None else x.detach().double().requires_grad_() for x in (grad_out, grad_lse)]
        wide = [None if x is None else x.detach().double().requires_grad_() for x in leaves]
        q, k, v, bias, slopes, sink = wide
        again = call._replace(
            q=q, keys=Dense(k, v), bias=bias,
            alibi=None if slopes is None else Alibi(slopes),
            sink=None if sink is None else Sink(sink),
        )  # fmt: skip
        out, lse = define(pad(again, problem), again, problem)
        results = [(out, seeds[0])] if seeds[1] is None else [(out, seeds[0]), (lse, seeds[1])]
        inputs = [x for x in wide if x is not None]
        first = torch.autograd.grad(
            [r for r, _ in results], inputs, [s for _, s in results], create_graph=True, materialize_grads=True
        )  # fmt: skip
        present = [c for c, x in zip(cotangents, wide, strict=True) if x is not None]
        pairs = [(g, c) for g, c in zip(first, present, strict=True) if c is not None]
        targets = [x for x in (*seeds, *wide) if x is not None]
        second = torch.autograd.grad(
            [g for g, _ in pairs], targets, [c.double() for _, c in pairs], materialize_grads=True
        )  # fmt: skip
    found = iter(second)
    originals = (grad_out, grad_lse, *leaves)
    return [None if x is None else next(found).to(x.dtype) for x in originals]
