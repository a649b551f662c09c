"""One batch as tensors, with its plans: built once a step, handed through the model to every layer.

Tokens are packed end to end, sequences that generate (one token each) before pieces of prompts. Each kind is one
call of `attention`; layers of the same shape share its plan. Pages that generating sequences share are a call of their
own, whose queries are those of all of them (`cascade.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from strobe import Full, Packed, Paged, Plan, Scaled, State, append, explain, merge, run
from strobe.cache.storage import Storage
from strobe.engine.cascade import shared
from strobe.engine.scheduler import Work
from strobe.models.attend import CAUSAL, Terms

ALIGNED = 16  # pages: kernels for a GPU are compiled for strides that are multiples of it, and for others


@dataclass(frozen=True)
class Places:
    """Where the tokens of some sequences lie, in any layer."""

    table: Tensor  # int32 [B, pages of the longest]
    lengths: Tensor  # int32 [B]
    longest: int

    def of(self, keys: Tensor | Scaled, values: Tensor | Scaled) -> Paged:
        """These tokens in one layer."""
        return Paged(keys, values, self.table, self.lengths, self.longest)


@dataclass(frozen=True)
class Prefix:
    """What the sequences `rows` (int64 [n]) of a part have in common."""

    rows: Tensor
    places: Places


@dataclass(frozen=True)
class Cascade:
    """The pages that sequences share, and what is left of each sequence."""

    prefixes: tuple[Prefix, ...]
    rest: Places


@dataclass
class Part:
    """Sequences of one kind: where their tokens lie, their pages, and the plans made for them."""

    rows: slice
    places: Places
    cascade: Cascade | None
    offsets: Tensor | None  # int32 [B + 1]; None: one token each
    most: int  # tokens of the sequence that has most
    plans: dict[tuple[object, ...], Plan] = field(default_factory=dict)

    def laid(self, x: Tensor) -> Tensor:
        """Tokens `[1, heads, n, width]` as they are taken: `[B, 1, heads, width]`, or `[n, heads, width]` to be packed."""
        return x.permute(2, 0, 1, 3) if self.offsets is None else x[0].transpose(0, 1)

    def packed(self, x: Tensor) -> Tensor | Packed:
        """Laid tokens with their offsets, if they have any."""
        return x if self.offsets is None else Packed(x, self.offsets, self.most)

    def attend(self, keys: Tensor | Scaled, values: Tensor | Scaled, q: Tensor, k: Tensor, v: Tensor, terms: Terms) -> Tensor:
        """Writes the new keys and values of these sequences, then attends to all of theirs: `[1, n, H, V]`."""
        pages = self.places.of(keys, values)
        append(pages, self.packed(self.laid(k)), self.laid(v))
        queries = self.packed(self.laid(q))
        if self.cascade is not None and terms.mask == CAUSAL:
            return self._merged(self.cascade, keys, values, self.laid(q), terms).transpose(0, 1)
        out = self._run(queries, pages, terms).out
        return out.transpose(0, 1) if self.offsets is None else out[None]

    def _run(self, queries: Tensor | Packed, pages: Paged, terms: Terms) -> State:
        mask, scale, cap, sink = terms
        q = queries.tokens if isinstance(queries, Packed) else queries
        kind = (mask, scale, cap, sink is None, q.shape, _shape(pages.keys), _shape(pages.values), pages.table.shape)
        plan = self.plans.get(kind)
        if plan is None:
            plan = self.plans[kind] = explain(queries, pages, mask=mask, scale=scale, cap=cap, sink=sink)
        return run(plan, queries, pages, sink=sink)

    def _merged(self, cascade: Cascade, keys: Tensor | Scaled, values: Tensor | Scaled, q: Tensor, terms: Terms) -> Tensor:
        """`[B, 1, H, V]`: each sequence's own pages, a sink among them, and the shared ones."""
        out, lse = self._run(q, cascade.rest.of(keys, values), terms)
        for prefix in cascade.prefixes:
            every = terms._replace(mask=Full(), sink=None)  # the last token stands behind all that is shared
            common = self._run(q[prefix.rows].transpose(0, 1), prefix.places.of(keys, values), every)
            own = State(out[prefix.rows], lse[prefix.rows])
            out[prefix.rows] = merge(own, State(common.out.transpose(0, 1), common.lse.transpose(0, 1))).out
        return out


def _shape(side: Tensor | Scaled) -> tuple[int, ...]:
    return side.data.shape if isinstance(side, Scaled) else side.shape


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
    device = storage.device
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
    tables = [work.sequence.table.pages for work in works]
    places, offsets, cascade = _places(tables, lengths, storage.size, device), None, None
    if max(counts) > 1:
        offsets = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)
    elif len(works) > 1:
        cascade = _cascade(tables, lengths, storage, device)
    return Part(slice(start, start + sum(counts)), places, cascade, offsets, max(counts))


def _places(tables: Sequence[array[int]], lengths: Sequence[int], size: int, device: torch.device) -> Places:
    # a bound that only moves with the pages: the plans of one step serve the next ones
    wide = max(map(len, tables))
    columns = -(-wide // ALIGNED) * ALIGNED
    rows = b"".join(pages.tobytes().ljust(4 * columns, b"\0") for pages in tables)
    table = torch.frombuffer(bytearray(rows), dtype=torch.int32).view(len(tables), columns).to(device)
    return Places(table, torch.tensor(lengths, dtype=torch.int32, device=device), wide * size)


def _cascade(tables: Sequence[array[int]], lengths: Sequence[int], storage: Storage, device: torch.device) -> Cascade | None:
    found = shared(tables, lengths, storage.size, storage.token_bytes)
    if not found:
        return None
    before = [0] * len(tables)
    prefixes = []
    for group in found:
        tokens = group.pages * storage.size
        places = _places([tables[group.rows[0]][: group.pages]], [tokens], storage.size, device)
        prefixes.append(Prefix(torch.tensor(group.rows, device=device), places))
        for row in group.rows:
            before[row] = group.pages
    left = [pages[skipped:] for pages, skipped in zip(tables, before, strict=True)]
    tokens_left = [length - skipped * storage.size for length, skipped in zip(lengths, before, strict=True)]
    return Cascade(tuple(prefixes), _places(left, tokens_left, storage.size, device))
