"""The gradient of the gradient, a tile of queries and keys at a time: nothing of size T × S is held.

The backward pass made dQ, dK, … of dO and dlse. Let a_Q, a_K, … be what those receive; Φ = ⟨a_Q, dQ⟩ + ⟨a_K, dK⟩ + … is
to be differentiated. It is the derivative of ⟨dO, O⟩ + ⟨dlse, lse⟩ in the direction a: with ' for that derivative of the
forward pass, Φ = ⟨dO, O'⟩ + ⟨dlse, lse'⟩.

    x' = scale · (a_Q Kᵀ + Q a_Kᵀ)                        s' = cap'(x) ∘ x' + a_bias − a_slope · distance
    lse' = rowsum(P ∘ s') + exp(sink − lse) · a_sink      O' = (P ∘ (s' − lse') ∘ keep) V + (P ∘ keep) a_V

Φ's gradients by dO and dlse are therefore O' and lse'. The others, with δ = rowsum(dO ∘ O) and ρ = rowsum(dO ∘ O'):

    e  = (dO Vᵀ) ∘ keep − δ + dlse                        Φs = P ∘ ((s' − lse') ∘ e + (dO a_Vᵀ) ∘ keep − ρ)
    Y  = P ∘ e ∘ cap'(x)                                  Φx = Φs ∘ cap'(x) + P ∘ e ∘ cap''(x) ∘ x'
    ΦQ = scale · (Φx K + Y a_K)                           ΦK = scale · (Φxᵀ Q + Yᵀ a_Q)
    ΦV = (P ∘ (s' − lse') ∘ keep)ᵀ dO                     Φsink = Σ exp(sink − lse) · ((a_sink − lse') (dlse − δ) − ρ)
    Φbias = Φs summed to its shape                        Φslope = −Σ Φs · distance

A first pass over the keys keeps sums a row (lse, lse', O, O'), relative to the largest score so far; a second adds up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strobe.backends.reference.backward import slope_gradient, to_keys
from strobe.backends.reference.forward import distance, keep_weights, per_query_head, slope_weights, weigh
from strobe.backends.reference.padded import Padded, pad
from strobe.layouts import Packed, Paged
from strobe.plan import Plan
from strobe.problem import Call, Problem, key_sides
from strobe.terms import Scaled


@dataclass(frozen=True)
class _Given:
    """The call, and what its gradients receive, in float64; queries are `[B, H, T, ·]`, keys `[B, S, G, ·]`."""

    call: Call
    problem: Problem
    padded: Padded
    wild: bool  # whether there is NaN or infinity, which may be where nobody looks
    q: Tensor  # times the scale; as is the next
    a_q: Tensor
    a_k: Tensor
    a_v: Tensor
    bias: Tensor | None  # four axes, each of length 1 or that of the scores; as is the next
    a_bias: Tensor | None
    slopes: Tensor | None
    a_slopes: Tensor | None
    a_sink: Tensor  # [1, H, 1], zeros without a sink
    sink: Tensor  # the same, −∞ without a sink


class _Rows(NamedTuple):
    """What the second pass needs to know of every query."""

    lse: Tensor  # [B, H, T], 0 where there is no key
    lse_slope: Tensor  # lse'
    out: Tensor  # [B, H, T, V]
    out_slope: Tensor  # O'
    some: Tensor  # [B, H, T] whether there is a key, or a sink


class _Tile(NamedTuple):
    """Rows × columns of everything that is as large as the scores, and the keys of the columns, one a query head."""

    seen: Tensor  # [B, H, rows, columns]
    wild: bool
    s: Tensor  # −∞ where not seen, so that its weight is 0
    s_slope: Tensor  # s'
    x_slope: Tensor  # x'
    rise: Tensor | None  # cap'(x); None for 1
    bend: Tensor | None  # cap''(x); None for 0
    keep: Tensor | None  # dropout's factor; None for 1
    k: Tensor  # [B, H, columns, D]
    v: Tensor
    a_k: Tensor
    a_v: Tensor

    def kept(self, weights: Tensor) -> Tensor:
        return weights if self.keep is None else weights * self.keep

    def shown(self, x: Tensor) -> Tensor:
        """A multiple of the weights, 0 where not seen whatever it was multiplied with."""
        return torch.where(self.seen, x, 0.0) if self.wild else x

    def weigh(self, weights: Tensor, rows: Tensor) -> Tensor:
        """`weights @ rows`."""
        return weigh(weights, rows, self.seen) if self.wild else weights @ rows

    def weigh_queries(self, weights: Tensor, rows: Tensor) -> Tensor:
        """`weightsᵀ @ rows`."""
        return weigh(weights.mT, rows, self.seen.mT) if self.wild else weights.mT @ rows


def _part(x: Tensor, rows: slice, columns: slice) -> Tensor:
    """The tile of an array whose last two axes may have length 1 for all."""
    x = x if x.shape[-2] == 1 else x[..., rows, :]
    return x if x.shape[-1] == 1 else x[..., columns]


def _tile(given: _Given, rows: slice, columns: slice) -> _Tile | None:
    """None where no query sees a key."""
    call, padded, group = given.call, given.padded, given.problem.group
    seen = padded.seen(call, rows, columns)
    distinct = seen[tuple(slice(None) if step else slice(1) for step in seen.stride())]
    if not bool(distinct.any()):
        return None
    k, v, a_k, a_v = (per_query_head(x[:, columns], group) for x in (padded.k, padded.v, given.a_k, given.a_v))
    q, a_q = given.q[:, :, rows], given.a_q[:, :, rows]
    s, x_slope = q @ k.mT, a_q @ k.mT + q @ a_k.mT
    s_slope, rise, bend = x_slope, None, None
    if call.cap is not None:
        bent = torch.tanh(s / call.cap.limit)
        s, rise = call.cap.limit * bent, 1.0 - bent * bent
        bend = -2.0 / call.cap.limit * bent * rise
        s_slope = rise * x_slope
    if given.bias is not None:
        s = s + _part(given.bias, rows, columns)
    if given.a_bias is not None:
        s_slope = s_slope + _part(given.a_bias, rows, columns)
    if given.slopes is not None:
        far = distance(padded.grid(rows, columns))
        s = s - given.slopes * far
        if given.a_slopes is not None:
            s_slope = s_slope - given.a_slopes * far
    if not bool(distinct.all()):
        s = s.masked_fill(~seen, -torch.inf)
    return _Tile(seen, given.wild, s, s_slope, x_slope, rise, bend, keep_weights(padded, call, rows, columns), k, v, a_k, a_v)


def _sums(given: _Given, rows: slice, tile_columns: int) -> _Rows:
    """The first pass: one tile of queries over all keys. Every sum is a multiple of exp(−m), m the largest score so far."""
    q = given.q[:, :, rows]
    m = q.new_full(q.shape[:-1], -torch.inf)
    total, slope = torch.zeros_like(m), torch.zeros_like(m)
    out = q.new_zeros((*m.shape, given.problem.V))
    out_slope = torch.zeros_like(out)
    for columns in _cuts(given.problem.S, tile_columns):
        tile = _tile(given, rows, columns)
        if tile is None:
            continue
        m, shrink = _raised(m, torch.maximum(m, tile.s.amax(-1)))
        p = torch.exp(tile.s - m[..., None])
        rising = tile.shown(p * tile.s_slope)
        total, slope = total * shrink + p.sum(-1), slope * shrink + rising.sum(-1)
        out = out * shrink[..., None] + tile.weigh(tile.kept(p), tile.v)
        new = tile.weigh(tile.kept(rising), tile.v) + tile.weigh(tile.kept(p), tile.a_v)
        out_slope = out_slope * shrink[..., None] + new
    m, shrink = _raised(m, torch.maximum(m, given.sink))
    weight = torch.exp(given.sink - m)
    total, slope = total * shrink + weight, slope * shrink + weight * given.a_sink
    some = total != 0
    divisor = torch.where(some, total, 1.0)
    slope, share = slope / divisor, (shrink / divisor)[..., None]
    out = out * share
    lse = torch.where(some, m + torch.log(divisor), 0.0)
    return _Rows(lse, slope, out, out_slope * share - slope[..., None] * out, some)


def _raised(m: Tensor, higher: Tensor) -> tuple[Tensor, Tensor]:
    """(the new maximum, 0 while there is none; what sums relative to the old one are multiplied with)."""
    finite = torch.where(higher == -torch.inf, 0.0, higher)
    return finite, torch.where(m == -torch.inf, 0.0, torch.exp(m - finite))


def _cuts(n: int, size: int) -> list[slice]:
    return [slice(low, min(low + size, n)) for low in range(0, n, size)]


class _Found(NamedTuple):
    """Sums of the second pass, float64."""

    q: Tensor  # [B, H, T, D]
    k: Tensor  # [B, S, G, D]
    v: Tensor  # [B, S, G, V]
    bias: Tensor | None
    slopes: Tensor  # [B, H]


def _second_pass(given: _Given, known: _Rows, d_out: Tensor, d_lse: Tensor, tile: tuple[int, int]) -> _Found:
    """Columns keep their ΦK and ΦV while all rows pass by."""
    group, padded = given.problem.group, given.padded
    d_lse_minus_delta = d_lse - (d_out * known.out).sum(-1)
    rho = (d_out * known.out_slope).sum(-1)
    found = _Found(
        torch.zeros_like(given.q), torch.zeros_like(padded.k), torch.zeros_like(padded.v),
        None if given.bias is None else torch.zeros_like(given.bias), given.q.new_zeros(given.q.shape[:2]),
    )  # fmt: skip
    for columns in _cuts(given.problem.S, tile[1]):
        of_k = of_v = None
        for rows in _cuts(given.problem.T, tile[0]):
            at = _tile(given, rows, columns)
            if at is None:
                continue
            q, a_q, g = given.q[:, :, rows], given.a_q[:, :, rows], d_out[:, :, rows]
            p = torch.exp(at.s - known.lse[:, :, rows, None])
            e = at.kept(g @ at.v.mT) + d_lse_minus_delta[:, :, rows, None]
            away = at.s_slope - known.lse_slope[:, :, rows, None]
            of_s = at.shown(p * (away * e + at.kept(g @ at.a_v.mT) - rho[:, :, rows, None]))
            y = p * e
            of_x = of_s
            if at.rise is not None and at.bend is not None:
                of_x, y = at.shown(of_s * at.rise + y * at.bend * at.x_slope), y * at.rise
            y = at.shown(y)
            found.q[:, :, rows] += at.weigh(of_x, at.k) + at.weigh(y, at.a_k)
            new_k = at.weigh_queries(of_x, q) + at.weigh_queries(y, a_q)
            new_v = at.weigh_queries(at.kept(at.shown(p * away)), g)
            of_k, of_v = (new_k, new_v) if of_k is None or of_v is None else (of_k + new_k, of_v + new_v)
            if found.bias is not None:
                of_bias = _part(found.bias, rows, columns)
                of_bias += of_s.sum_to_size(of_bias.shape)
            if given.slopes is not None:
                found.slopes.sub_((of_s * distance(padded.grid(rows, columns))).sum((-1, -2)))
        if of_k is not None and of_v is not None:
            found.k[:, columns], found.v[:, columns] = to_keys(of_k, group), to_keys(of_v, group)
    found.q.mul_(given.problem.scale)
    return found


def _sink_gradient(given: _Given, known: _Rows, d_out: Tensor, d_lse: Tensor) -> Tensor:
    """`[H]`."""
    delta, rho = ((d_out * x).sum(-1) for x in (known.out, known.out_slope))
    return (torch.exp(given.sink - known.lse) * ((given.a_sink - known.lse_slope) * (d_lse - delta) - rho)).sum((0, 2))


def _given(call: Call, problem: Problem, incoming: tuple[Tensor, Tensor | None], cotangents: list[Tensor | None]) -> _Given:
    padded = pad(call, problem)
    cached = [isinstance(side, Scaled) or isinstance(call.keys, Paged) for side in key_sides(call.keys)]
    absent = (False, *cached, *(x is None for x in (call.bias, call.alibi, call.sink)))
    a_q, a_k, a_v, a_bias, a_slopes, a_sink = (None if no else a for a, no in zip(cotangents, absent, strict=True))
    none = padded.q.new_zeros((1, problem.H, 1))

    def wide(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(torch.float64).view((1,) * (4 - x.dim()) + x.shape)

    a_q = torch.zeros_like(padded.q) if a_q is None else padded.pad(a_q)
    a_k, a_v = (
        torch.zeros_like(x) if a is None else padded.pad_keys(a) for a, x in ((a_k, padded.k), (a_v, padded.v))
    )
    return _Given(
        call, problem, padded,
        not all(bool(torch.isfinite(x).all()) for x in (padded.q, padded.k, padded.v, *incoming, *cotangents) if x is not None),
        problem.scale * padded.q.transpose(1, 2), problem.scale * a_q.transpose(1, 2), a_k, a_v,
        wide(call.bias), wide(a_bias),
        None if call.alibi is None else slope_weights(call.alibi.slopes),
        None if a_slopes is None else slope_weights(a_slopes),
        none if a_sink is None else a_sink.to(torch.float64).view(1, -1, 1),
        none - torch.inf if call.sink is None else call.sink.logits.to(torch.float64).view(1, -1, 1),
    )  # fmt: skip


def launch(
    plan: Plan, call: Call, grad_out: Tensor, grad_lse: Tensor | None, cotangents: list[Tensor | None]
) -> list[Tensor | None]:
    """Gradients with respect to (grad_out, grad_lse, q, k, v, bias, slopes, sink), each in its array's dtype.

    `cotangents` are what the gradients of q, k, v, bias, slopes and sink receive. Pages and scaled keys have none.
    """
    problem, tile = plan.problem, plan.offer.tile
    assert isinstance(problem, Problem)
    given = _given(call, problem, (grad_out, grad_lse), cotangents)
    padded = given.padded
    parts = [_sums(given, rows, tile[1]) for rows in _cuts(problem.T, tile[0])]
    known = _Rows(*(torch.cat(x, 2) for x in zip(*parts, strict=True))) if parts else _sums(given, slice(0), tile[1])
    d_out = padded.pad(grad_out).transpose(1, 2)
    d_lse = torch.zeros_like(known.lse) if grad_lse is None else padded.pad(grad_lse).transpose(1, 2)
    d_lse = torch.where(known.some, d_lse, 0.0)
    found = _second_pass(given, known, d_out, d_lse, tile)

    def as_queries(x: Tensor, like: Tensor) -> Tensor:
        return padded.unpad(x.transpose(1, 2)).to(like.dtype)

    def as_keys(x: Tensor, side: object) -> Tensor | None:
        if isinstance(side, Scaled) or isinstance(call.keys, Paged):
            return None
        assert isinstance(side, Tensor)
        return padded.unpad_keys(x, side).to(side.dtype)

    k, v = key_sides(call.keys)
    return [
        as_queries(known.out_slope, grad_out),
        None if grad_lse is None else as_queries(known.lse_slope, grad_lse),
        as_queries(found.q, call.q.tokens if isinstance(call.q, Packed) else call.q),
        as_keys(found.k, k),
        as_keys(found.v, v),
        None if call.bias is None or found.bias is None else found.bias.view(call.bias.shape).to(call.bias.dtype),
        None if call.alibi is None else slope_gradient(found.slopes, call.alibi.slopes),
        None if call.sink is None else _sink_gradient(given, known, d_out, d_lse).to(call.sink.logits.dtype),
    ]
