"""One batch as tensors, with its plans: built once a step, handed through the model to every layer.

Tokens are packed end to end, sequences that generate (one token each) before pieces of prompts. Each kind is one
call of `attention`; layers of the same shape share its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from strobe import Packed, Paged, Plan, append, explain, run
from strobe.cache.storage import Storage
from strobe.engine.scheduler import Work
from strobe.models.attend import Terms


@dataclass
class Part:
    """Sequences of one kind: where their tokens lie, their pages, and the plans made for them."""

    rows: slice
    table: Tensor  # int32 [B, pages of the longest]
    lengths: Tensor  # int32 [B]
    longest: int
    offsets: Tensor | None  # int32 [B + 1]; None: one token each
    most: int  # tokens of the sequence that has most
    plans: dict[tuple[object, ...], Plan] = field(default_factory=dict)

    def laid(self, x: Tensor) -> Tensor:
        """Tokens `[1, heads, n, width]` as they are taken: `[B, 1, heads, width]`, or `[n, heads, width]` to be packed."""
        return x.permute(2, 0, 1, 3) if self.offsets is None else x[0].transpose(0, 1)

    def packed(self, x: Tensor) -> Tensor | Packed:
        """Laid tokens with their offsets, if they have any."""
        return x if self.offsets is None else Packed(x, self.offsets, self.most)

    def attend(self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor, terms: Terms) -> Tensor:
        """Writes the new keys and values of these sequences, then attends to all of theirs: `[1, n, H, V]`."""
        pages = Paged(keys, values, self.table, self.lengths, self.longest)
        append(pages, self.packed(self.laid(k)), self.laid(v))
        mask, scale, cap, sink = terms
        queries = self.packed(self.laid(q))
        kind = (mask, scale, cap, sink is None, q.shape, keys.shape, values.shape)
        plan = self.plans.get(kind)
        if plan is None:
            plan = self.plans[kind] = explain(queries, pages, mask=mask, scale=scale, cap=cap, sink=sink)
        out = run(plan, queries, pages, sink=sink).out
        return out.transpose(0, 1) if self.offsets is None else out[None]


@dataclass
class Step:
    """The tensors of one forward pass: `ids`, `positions` int64 `[1, N]`, `wanted` int64 `[n]`."""

    ids: Tensor
    positions: Tensor
    wanted: Tensor
    parts: tuple[Part, ...]
    storage: Storage

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, terms: Terms) -> Tensor:
        """A layer's attention over all sequences of the step: what `models.attend` calls."""
        keys, values = self.storage.keys[layer], self.storage.values[layer]
        if len(self.parts) == 1:
            return self.parts[0].attend(keys, values, q, k, v, terms)
        found = []
        for part in self.parts:
            own_q, own_k, own_v = (x[:, :, part.rows] for x in (q, k, v))
            found.append(part.attend(keys, values, own_q, own_k, own_v, terms))
        return torch.cat(found, 1)


def build(works: Sequence[Work], storage: Storage) -> Step:
    """The step that computes these works, those of one token first."""
    device = storage.keys[0].device
    ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    for work in works:
        ids += work.sequence.tokens[work.first : work.first + work.count]
        positions += range(work.first, work.first + work.count)
        if work.last:
            wanted.append(len(ids) - 1)
    single = next((i for i, work in enumerate(works) if work.count > 1), len(works))
    groups = [group for group in (works[:single], works[single:]) if group]
    parts, start = [], 0
    for group in groups:
        parts.append(_part(group, start, storage, device))
        start = parts[-1].rows.stop
    together = torch.tensor([ids, positions], device=device)
    return Step(together[:1], together[1:], torch.tensor(wanted, dtype=torch.long, device=device), tuple(parts), storage)


def _part(works: Sequence[Work], start: int, storage: Storage, device: torch.device) -> Part:
    counts = [work.count for work in works]
    lengths = [work.first + work.count for work in works]
    # a bound that only moves with the pages: the plans of one step serve the next ones
    wide = max(len(work.sequence.table.pages) for work in works)
    rows = b"".join(work.sequence.table.pages.tobytes().ljust(4 * wide, b"\0") for work in works)
    table = torch.frombuffer(bytearray(rows), dtype=torch.int32).view(len(works), wide).to(device)
    offsets = None
    if max(counts) > 1:
        offsets = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
    return Part(
        slice(start, start + sum(counts)), table, torch.tensor(lengths, dtype=torch.int32, device=device),
        wide * storage.size, offsets, max(counts),
    )  # fmt: skip
