"""Any layout as padded arrays in float64: the first step of every definition here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strobe.errors import Invalid
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import Grid
from strobe.problem import Call, Problem, key_sides
from strobe.terms import Scaled


@dataclass(frozen=True)
class Padded:
    """A call as `[B, T, H, D]` queries and `[B, S, G, ·]` keys and values in float64, with what is real in them."""

    q: Tensor  # [B, T, H, D]
    k: Tensor  # [B, S, G, D]
    v: Tensor  # [B, S, G, V]
    queries: Tensor  # [B]        real queries
    keys: Tensor  # [B]           real keys
    first: Tensor  # [B]          position of the first query
    q_rows: Tensor | None  # [B, T] row of packed queries, where real
    k_rows: Tensor | None  # [B, S] row (in the flattened tokens) of keys that do not lie densely

    def grid(self, rows: slice = slice(None), columns: slice = slice(None)) -> Grid:
        """Every (b, h, t, s) at once, or those of a tile, as arrays that broadcast to `[B, H, T, S]`."""
        b, t, s = self.q.shape[0], self.q.shape[1], self.k.shape[1]

        def axis(n: int, place: int, part: slice = slice(None)) -> Tensor:
            shape = [1, 1, 1, 1]
            shape[place] = -1
            return torch.arange(n, device=self.q.device)[part].view(shape)

        first, t_axis = self.first.view(b, 1, 1, 1), axis(t, 2, rows)
        return Grid(first + t_axis, axis(s, 3, columns), axis(b, 0), axis(self.q.shape[2], 1), t_axis, first)

    def seen(self, call: Call, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Which key each query sees, bool `[B, H, T, S]`, or a tile of it."""
        grid = self.grid(rows, columns)
        real = (grid.key < self.keys.view(-1, 1, 1, 1)) & (grid.t < self.queries.view(-1, 1, 1, 1))
        shape = (self.q.shape[0], self.q.shape[2], grid.t.shape[2], grid.key.shape[3])
        if 0 in shape:
            return torch.zeros(shape, dtype=torch.bool, device=self.q.device)
        return (real & call.mask.allows(grid)).expand(shape)

    def pad(self, x: Tensor) -> Tensor:
        """What lies as the queries do, as float64 `[B, T, …]`."""
        x = x.to(torch.float64)
        if self.q_rows is None:
            return x
        full = x.new_zeros((*self.q_rows.shape, *x.shape[1:]))
        full[torch.arange(full.shape[1], device=x.device) < self.queries.view(-1, 1)] = x
        return full

    def pad_keys(self, x: Tensor) -> Tensor:
        """What lies as the keys or values do, as float64 `[B, S, G, ·]`."""
        x = x.to(torch.float64)
        return x if self.k_rows is None else _gathered(x, self.k_rows, self.keys)

    def unpad(self, padded: Tensor) -> Tensor:
        """`[B, T, …]` back as the queries lie: `[B, T, …]` or `[N, …]`."""
        if self.q_rows is None:
            return padded
        return padded[torch.arange(padded.shape[1], device=padded.device) < self.queries.view(-1, 1)]

    def unpad_keys(self, padded: Tensor, like: Tensor) -> Tensor:
        """The gradient of keys or values, `[B, S, G, ·]`, back where the tokens of `like` lie."""
        if self.k_rows is None:
            return padded
        flat = torch.zeros((like.shape[:-2].numel(), *like.shape[-2:]), dtype=padded.dtype, device=padded.device)
        real = torch.arange(padded.shape[1], device=padded.device) < self.keys.view(-1, 1)
        flat.index_put_((self.k_rows[real],), padded[real], accumulate=True)
        return flat.view(like.shape)


def unpaired(pairs: Tensor) -> Tensor:
    """Pairs of int4 as int8, twice as wide: number 2i is the low half of byte i, number 2i + 1 the high one."""
    halves = torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2).to(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


def dequantised(side: Any) -> Tensor:
    """Queries, keys or values in float64, their scales applied."""
    if isinstance(side, Scaled):
        data = unpaired(side.data) if side.data.dtype == torch.uint8 else side.data
        return data.to(torch.float64) * side.scale.to(torch.float64).unsqueeze(-1)
    return side.to(torch.float64)


def pad(call: Call, problem: Problem) -> Padded:
    """The call with every sequence padded to the longest."""
    k, v = (dequantised(side) for side in key_sides(call.keys))
    k_rows, keys = _key_rows(call, problem, k)
    if k_rows is not None:
        k, v = (_gathered(x, k_rows, keys) for x in (k, v))
    if isinstance(call.q, Packed):
        offsets = call.q.offsets.long()
        queries = offsets.diff()
        if queries.numel() and (int(queries.min()) < 0 or int(queries.max()) > problem.T):
            raise Invalid(f"q.offsets rise by 0 to longest={problem.T}; got {offsets.tolist()}")
        if queries.numel() and (int(offsets[0]) != 0 or int(offsets[-1]) != call.q.tokens.shape[0]):
            raise Invalid(f"q.offsets begin at 0 and end at N={call.q.tokens.shape[0]}; got {offsets.tolist()}")
        q_rows = offsets[:-1, None] + torch.arange(problem.T, device=offsets.device)
        q = _gathered(call.q.tokens.to(torch.float64), q_rows, queries)
    else:
        q_rows, q = None, dequantised(call.q)
        queries = torch.full((problem.B,), problem.T, device=q.device)
    return Padded(q, k, v, queries, keys, _first(call, keys - queries), q_rows, k_rows)


def _first(call: Call, default: Tensor) -> Tensor:
    if call.first is None:
        return default
    if isinstance(call.first, int):
        return torch.full_like(default, call.first)
    return call.first.long()


def _gathered(tokens: Tensor, rows: Tensor, count: Tensor) -> Tensor:
    """Rows of `[…, heads, width]` tokens, flattened, as `[B, n, heads, width]`; zeros past each count."""
    flat = tokens.reshape(-1, *tokens.shape[-2:])
    real = (torch.arange(rows.shape[1], device=rows.device) < count.view(-1, 1))[..., None, None]
    if flat.shape[0] == 0:
        return flat.new_zeros((*rows.shape, *tokens.shape[-2:]))
    return torch.where(real, flat[rows.clamp(0, flat.shape[0] - 1)], 0.0)


def _key_rows(call: Call, problem: Problem, k: Tensor) -> tuple[Tensor | None, Tensor]:
    """(`[B, S]` rows of the flattened tokens, or None when dense; `[B]` real keys)."""
    layout, device = call.keys, k.device
    s = torch.arange(problem.S, device=device)
    if isinstance(layout, Dense):
        return None, torch.full((problem.B,), problem.S, device=device)
    if isinstance(layout, Ranged):
        starts, lengths = layout.starts.long(), layout.lengths.long()
        if problem.B and bool(((starts < 0) | (lengths < 0) | (starts + lengths > problem.S)).any()):
            raise Invalid(f"each range lies in 0 … S={problem.S}; got starts {starts.tolist()}, lengths {lengths.tolist()}")
        return torch.arange(problem.B, device=device)[:, None] * problem.S + starts[:, None] + s, lengths
    if isinstance(layout, PackedKeys):
        offsets = layout.offsets.long()
        lengths = offsets.diff()
        if problem.B and (int(lengths.min()) < 0 or int(lengths.max()) > problem.S or int(offsets[-1]) > k.shape[0]):
            raise Invalid(f"k.offsets rise by 0 to longest={problem.S} and end within N={k.shape[0]}; got {offsets.tolist()}")
        return offsets[:-1, None] + s, lengths
    return _paged_rows(layout, problem, k.shape[0], k.shape[1])


def _paged_rows(layout: Paged, problem: Problem, pages: int, per_page: int) -> tuple[Tensor, Tensor]:
    lengths, table = layout.lengths.long(), layout.table.long()
    if problem.B and (int(lengths.min()) < 0 or int(lengths.max()) > problem.S):
        raise Invalid(f"lengths are 0 to longest={problem.S}; got {lengths.tolist()}")
    s = torch.arange(problem.S, device=table.device)
    page = table[:, s // per_page] if problem.S else table.new_zeros((problem.B, 0))
    real = s < lengths[:, None]
    wrong = real & ((page < 0) | (page >= pages))
    if bool(wrong.any()):
        b, at = wrong.nonzero()[0].tolist()
        raise Invalid(f"table[{b}, {at // per_page}] = {int(page[b, at])} is not a page: pages are 0 … {pages - 1}")
    return page * per_page + s % per_page, lengths
