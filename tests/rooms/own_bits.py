"""Whether a sequence's bits are its own: one sequence computed alone, beside others, in pages of any size, in chunks of its queries."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from strobe import Mask, Paged
from strobe.layouts import Dense
from strobe.problem import Call
from strobe.state import State

Decoded = Callable[[Call], State]


def paged(own: tuple[Tensor, Tensor], lengths: list[int], place: int, page: int, draw: random.Random) -> Paged:
    """Random sequences in shuffled pages, the own keys and values `[n, G, D]` at a place among them; NaN where nothing is."""
    k = own[0]
    counts = [-(-max(n, 1) // page) for n in lengths]
    order = list(range(sum(counts)))
    draw.shuffle(order)
    sides = [torch.full((len(order), page, *k.shape[1:]), torch.nan, dtype=k.dtype, device=k.device) for _ in range(2)]
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    for b, (n, count) in enumerate(zip(lengths, counts, strict=True)):
        mine, order = order[:count], order[count:]
        table[b, :count] = torch.tensor(mine, dtype=torch.int32)
        for side, x in zip(sides, own if b == place else [torch.randn(n, *k.shape[1:], device=k.device).to(k.dtype) for _ in own], strict=True):
            whole = torch.full((count * page, *k.shape[1:]), torch.nan, dtype=k.dtype, device=k.device)
            whole[:n] = x
            side[torch.tensor(mine)] = whole.view(count, page, *k.shape[1:])
    return Paged(*sides, table.to(k.device), torch.tensor(lengths, dtype=torch.int32, device=k.device), max(lengths))


def same(decoded: Decoded, q: Tensor, own: tuple[Tensor, Tensor], mask: Mask, batches: int, most: int, pages: tuple[int, ...]) -> None:
    """Fails where a batch, a page size or a chunk shows in the bits of `q` `[T, H, D]` over its keys and values `[n, G, D]`."""
    (T, n), draw = (len(q), len(own[0])), random.Random(0)
    whole = decoded(Call(q[None], Dense(own[0][None], own[1][None]), mask))

    def check(found: State, b: int, part: slice, what: object) -> None:
        for mine, its in ((whole.out[0, part], found.out[b]), (whole.lse[0, part], found.lse[b])):
            assert torch.equal(mine, its), what

    for _ in range(batches):
        lengths = [draw.randint(0, most) for _ in range(draw.randint(0, 5))]
        place, page, chunk = draw.randint(0, len(lengths)), draw.choice(pages), draw.randint(1, T)
        start = draw.randint(0, T - chunk)
        mine = tuple(x[: n - T + start + chunk] for x in own)  # the cache as it was when the chunk came
        lengths.insert(place, len(mine[0]))
        others = torch.randn(len(lengths), chunk, *q.shape[1:], device=q.device).to(q.dtype)
        others[place] = q[start : start + chunk]
        keys = paged((mine[0], mine[1]), lengths, place, page, draw)
        check(decoded(Call(others, keys, mask)), place, slice(start, start + chunk), (lengths, place, page, start, chunk))
