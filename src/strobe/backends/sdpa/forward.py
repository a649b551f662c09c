"""torch's flash kernel for CPUs, a sequence at a time, with the queries of a group packed.

The H / G query heads that share a key head become rows of one head, so keys are read once and never repeated:
[T, H, D] → [G, T · H/G, D]. Few keys in float32 are read by each head apart. Where not every query sees every key,
the mask is spelled out for the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strobe.backends.sdpa.offer import APART_UP_TO
from strobe.errors import Invalid
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import Grid, Mask
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the operator behind SDPA that also returns lse


def launch(plan: Plan, call: Call) -> State:
    """The state, sequence by sequence."""
    problem = plan.problem
    assert isinstance(problem, Problem)
    tokens = call.q.tokens if isinstance(call.q, Packed) else call.q
    out = tokens.new_empty((*tokens.shape[:-1], problem.V))
    lse = tokens.new_empty(tokens.shape[:-1], dtype=torch.float32)
    offsets = call.q.offsets.tolist() if isinstance(call.q, Packed) else None
    if offsets is not None and (offsets[0] != 0 or offsets[-1] != tokens.shape[0] or offsets != sorted(offsets)):
        raise Invalid(f"q.offsets rise from 0 to N={tokens.shape[0]}; got {offsets}")
    for b in range(problem.B):
        rows = b if offsets is None else slice(offsets[b], offsets[b + 1])
        k, v = _keys(call, b)
        q = tokens[rows]
        first = _first(call, b, k.shape[0] - q.shape[0])
        out[rows], lse[rows] = _one(q, k, v, call.mask, first, problem)
    return State(out, lse)


def _first(call: Call, b: int, default: int) -> int:
    if call.first is None:
        return default
    return call.first if isinstance(call.first, int) else int(call.first[b])


def _keys(call: Call, b: int) -> tuple[Tensor, Tensor]:
    """`[S, G, D]` keys and values of one sequence; pages are gathered."""
    keys = call.keys
    if isinstance(keys, Dense):
        return keys.k[b], keys.v[b]
    if isinstance(keys, Ranged):
        low, n = int(keys.starts[b]), int(keys.lengths[b])
        if low < 0 or n < 0 or low + n > keys.k.shape[1]:
            raise Invalid(f"each range lies in 0 … S={keys.k.shape[1]}; sequence {b} has start {low}, length {n}")
        return keys.k[b, low : low + n], keys.v[b, low : low + n]
    if isinstance(keys, PackedKeys):
        low, high = int(keys.offsets[b]), int(keys.offsets[b + 1])
        if not 0 <= low <= high <= keys.k.shape[0]:
            raise Invalid(f"k.offsets rise from 0 to N={keys.k.shape[0]}; sequence {b} has {low} … {high}")
        return keys.k[low:high], keys.v[low:high]
    assert isinstance(keys, Paged)
    n, z, pages = int(keys.lengths[b]), keys.keys.shape[1], keys.keys.shape[0]
    if not 0 <= n <= keys.longest:
        raise Invalid(f"lengths are 0 to longest={keys.longest}; sequence {b} has {n}")
    table = keys.table[b, : -(-n // z)].long()
    for place, page in enumerate(table.tolist()):
        if not 0 <= page < pages:
            raise Invalid(f"table[{b}, {place}] = {page} is not a page: pages are 0 … {pages - 1}")
    return keys.keys[table].flatten(0, 1)[:n], keys.values[table].flatten(0, 1)[:n]


def _one(q: Tensor, k: Tensor, v: Tensor, mask: Mask, first: int, problem: Problem) -> tuple[Tensor, Tensor]:
    """(out `[T, H, V]`, lse `[T, H]`) of one sequence."""
    T, S, H = q.shape[0], k.shape[0], problem.H
    if T == 0 or S == 0:
        return q.new_zeros((T, H, problem.V)), q.new_full((T, H), -torch.inf, dtype=torch.float32)
    low, high = mask.bounds(first, first + T - 1, S)
    k, v, first, S = k[low:high], v[low:high], first - low, high - low
    if S == 0:
        return q.new_zeros((T, H, problem.V)), q.new_full((T, H), -torch.inf, dtype=torch.float32)
    t = torch.arange(T)[:, None]
    seen = mask.allows(Grid(query=first + t, key=torch.arange(S)[None], t=t, first=first)).expand(T, S)
    if bool(torch.isfinite(k).all()) and bool(torch.isfinite(v).all()):
        return _rows(q, k, v, seen, problem)
    # torch's kernel would multiply an unseen NaN by a weight of 0: hand it only what each query sees
    parts = [_rows(q[i : i + 1], k[seen[i]], v[seen[i]], seen[i, seen[i]][None], problem) for i in range(T)]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


def _rows(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """torch's kernel on the rows of one sequence; `seen` is bool `[T, S]`."""
    T, S, H, G, D = q.shape[0], k.shape[0], problem.H, problem.G, problem.D
    if S == 0:
        return q.new_zeros((T, H, problem.V)), q.new_full((T, H), -torch.inf, dtype=torch.float32)
    apart = H // G if q.dtype == torch.float32 and S <= APART_UP_TO else 1
    packed = H // G // apart
    rows = q.reshape(T, G, apart, packed, D).permute(1, 2, 0, 3, 4).reshape(G, apart, T * packed, D)
    k, v = (x.transpose(0, 1)[:, None].expand(G, apart, S, -1) for x in (k, v))
    bias = None
    if not bool(seen.all()):
        bias = torch.zeros((T, S), dtype=q.dtype).masked_fill(~seen, -torch.inf).repeat_interleave(packed, 0)[None, None]
    out, lse = _flash(rows, k, v, attn_mask=bias, scale=problem.scale)
    out = out.reshape(G, apart, T, packed, problem.V).permute(2, 0, 1, 3, 4).reshape(T, H, problem.V)
    lse = lse.reshape(G, apart, T, packed).permute(2, 0, 1, 3).reshape(T, H)
    blind = ~seen.any(-1)
    return out.masked_fill(blind[:, None, None], 0.0), lse.masked_fill(blind[:, None], -torch.inf)
