"""The suite `decode`: tokens over caches on this GPU, beside torch's kernels, FlashAttention 3 where it is at hand, and the floor.

A cache is read once a call, from buffers in turn, so that none of it is in the GPU's own cache. What a feature costs is measured beside
the same call without it. Before anything is timed, its result is compared with the reference room's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import strobe
from strobe import Causal, Full, Mask, Paged, Scaled, Tree, Window, attention, attention_state, explain, merge
from strobe.errors import Broken
from strobe.lab import fa3
from strobe.lab.graphs import Run, Work, buffers
from strobe.plan import Plan

CUDNN, FLASH, FA3 = "cuDNN", "torch flash", "FlashAttention 3"
CAUSAL: Mask = Causal()
APART = 0.02  # of a result from the reference room's, relative to its norm: both are rounded to bfloat16
NARROW = {"int8": torch.int8, "int4": torch.uint8, "float8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Case:
    """Queries over caches, in bfloat16 or narrower; pages of `page` tokens, 0 for dense arrays."""

    B: int
    H: int
    G: int
    S: int
    T: int = 1
    D: int = 128
    page: int = 0
    narrow: str = ""
    ragged: bool = False

    @property
    def lengths(self) -> list[int]:
        """Keys of each sequence; ragged ones go from an 64th of S to S, each longer than the last by the same factor."""
        if not self.ragged:
            return [self.S] * self.B
        return [round(self.S / 64 * 64 ** (i / max(1, self.B - 1))) for i in range(self.B)]

    @property
    def bytes(self) -> int:
        """Of the keys and values that a call reads."""
        each = {"": 2.0, "int4": 0.5}.get(self.narrow, 1.0) * self.D + (4 if self.narrow else 0)
        return int(2 * sum(self.lengths) * self.G * each)

    def __str__(self) -> str:
        S = f"{self.lengths[0]}…{self.S}" if self.ragged else f"{self.S}"
        words = [f"B{self.B}", f"T{self.T}" * (self.T > 1), f"S{S}", f"H{self.H}", f"G{self.G}", f"D{self.D}", self.narrow or "bf16"]
        return " ".join([word for word in words if word] + [f"pages of {self.page}"] * bool(self.page))


ROWS = [(1, 32, 8, n << 10) for n in (1, 2, 4, 8, 64, 128)] + [(1, 64, 8, 32 << 10), (4, 32, 8, 4 << 10), (8, 32, 8, 2 << 10),
    (32, 32, 8, 1 << 10), (16, 32, 8, 8 << 10), (64, 32, 8, 4 << 10), (1, 32, 32, 64 << 10), (8, 128, 1, 32 << 10)]  # fmt: skip
FLASH_DECODING = [(256 << 8) // n for n in (1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16)]  # sequences, of its own table


@dataclass(frozen=True)
class Bench:
    """Where the arrays are made, and what may be asked beside torch."""

    device: str = "cuda"
    fa3: bool = False

    def caches(self, case: Case, count: int) -> list[Any]:
        """Buffers: `(k, v)` of dense arrays, or pages that share a table and lengths, as the layers of a model do."""
        first = self.cache(case)
        others = [self.cache(case) for _ in range(count - 1)]
        return [first, *(replace(keys, table=first.table, lengths=first.lengths) if case.page else keys for keys in others)]

    def cache(self, case: Case) -> Any:
        """One buffer."""
        if not case.page:
            return self._side((case.B, case.S, case.G, case.D), case.narrow), self._side((case.B, case.S, case.G, case.D), case.narrow)
        pages = -(-case.S // case.page)
        shape = (sum(-(-n // case.page) for n in case.lengths), case.page, case.G, case.D)
        taken, table = torch.randperm(shape[0], dtype=torch.int32), torch.zeros(case.B, pages, dtype=torch.int32)
        for row, n in zip(table, case.lengths, strict=True):
            count = -(-n // case.page)
            row[:count], taken = taken[:count], taken[count:]
        lengths = torch.tensor(case.lengths, dtype=torch.int32, device=self.device)
        return Paged(self._side(shape, case.narrow), self._side(shape, case.narrow), table.to(self.device), lengths, case.S)

    def _side(self, shape: tuple[int, ...], narrow: str) -> Any:
        if not narrow:
            return torch.randn(shape, device=self.device, dtype=torch.bfloat16)
        scale = torch.rand(shape[:-1], device=self.device) * 0.02 + 0.001
        if narrow == "float8":
            return Scaled(torch.randn(shape, device=self.device).mul_(40).to(torch.float8_e4m3fn), scale)
        low, high, width = (-127, 128, shape[-1]) if narrow == "int8" else (0, 256, shape[-1] // 2)
        return Scaled(torch.randint(low, high, (*shape[:-1], width), device=self.device).to(NARROW[narrow]), scale)

    def queries(self, case: Case) -> Tensor:
        """`[B, T, H, D]`."""
        return torch.randn(case.B, case.T, case.H, case.D, device=self.device, dtype=torch.bfloat16)


def suite(bench: Bench, quick: bool) -> list[Callable[[], Work]]:
    """All rows: plain ones, Flash-Decoding's table, pages, ragged, few queries, narrow, prefixes, windows, latent, invariant."""
    small = 64 if quick else 1  # lengths are divided by it
    rows = [Case(B, H, G, max(64, S // small)) for B, H, G, S in ROWS]
    rows += [Case(B, 16, 2, max(64, (256 << 8) // B // small)) for B in FLASH_DECODING] + [Case(1, 16, 2, (128 << 10) // small)]
    batch, long = Case(16, 32, 8, (8 << 10) // small), Case(1, 32, 8, (64 << 10) // small)
    middle = Case(1, 32, 8, (32 << 10) // small)
    works: list[Callable[[], Work]] = [lambda case=case: beside_torch(bench, case) for case in rows]
    works += [lambda page=page: beside(bench, replace(batch, page=page), {"dense": batch}) for page in (1, 16, 64, 256)]
    works += [lambda: beside(bench, Case(16, 32, 8, (64 << 10) // small, page=64, ragged=True), {})]
    works += [lambda T=T: few_queries(bench, replace(middle, T=T)) for T in (4, 16, 64)]
    works += [lambda: tree(bench, replace(middle, T=64))]
    works += [lambda case=case, narrow=narrow: beside(bench, replace(case, narrow=narrow), {"bf16": case})
              for case in (long, batch) for narrow in NARROW]  # fmt: skip
    works += [lambda: window(bench, (128 << 10) // small, (4 << 10) // small)]
    works += [lambda: cascade(bench, (8 << 10) // small, (1 << 10) // small)]
    works += [lambda B=B, S=S: latent(bench, B, S // small) for B, S in ((1, 64 << 10), (16, 8 << 10))]
    return works + [lambda case=case: invariant(bench, case) for case in rows]


def calls(bench: Bench, case: Case, mask: Mask = CAUSAL, share: float = 1.0) -> tuple[list[Run], list[Any], Tensor]:
    """A call for each buffer, of which a share is read, the buffers, and the queries; the first call's result is checked."""
    q = bench.queries(case)
    held = bench.caches(case, buffers(int(case.bytes * share)))
    runs = [lambda k=k: attention(q, *_given(k), mask=mask) for k in held]
    near(str(case), runs[0](), _reference(q, held[0], mask))
    return runs, held, q


def _given(keys: Any) -> tuple[Any, ...]:
    return (keys,) if isinstance(keys, Paged) else keys


def _reference(q: Tensor, keys: Any, mask: Mask) -> Tensor:
    with strobe.using("reference"):
        return attention(q, *_given(keys), mask=mask)


def near(case: str, found: Tensor, known: Tensor) -> None:
    """Compares with what is meant.

    Raises:
        Broken: they are apart.
    """
    apart = float((found.double() - known.double()).norm() / known.double().norm())
    if not apart <= APART:
        raise Broken(f"{case}: {apart:.1e} from the reference room. It was not measured")


def work(bench: Bench, name: str, case: Case, mask: Mask = CAUSAL, share: float = 1.0) -> tuple[Work, list[Any], Tensor]:
    """A row with no peers yet; its buffers and queries."""
    runs, held, q = calls(bench, case, mask, share)
    read = [_arrays(keys) for keys in held]
    return Work(name, runs, {}, read, *_told(explain(q, *_given(held[0]), mask=mask), int(case.bytes * share))), held, q


def _told(plan: Plan, size: int) -> tuple[str, dict[str, Any]]:
    """(what the desk chose, the bytes that are read and the microseconds that it predicts, if it does)."""
    predicted = re.search(r"([\d.]+) µs predicted", plan.offer.why)
    more = {"bytes": size} | ({"predicted": float(predicted[1])} if predicted else {})
    return f"{plan.room}: {plan.offer.kernel}, {plan.offer.splits} split(s)", more


def _arrays(keys: Any) -> list[Tensor]:
    sides = (keys.keys, keys.values) if isinstance(keys, Paged) else keys
    return [x for side in sides for x in ((side.data, side.scale) if isinstance(side, Scaled) else (side,))]


def beside_torch(bench: Bench, case: Case) -> Work:
    """One query over dense arrays, beside torch's kernels."""
    row, held, q = work(bench, f"decode {case}", case)

    def ask(backend: SDPBackend, k: Tensor, v: Tensor) -> Any:
        with sdpa_kernel(backend) if bench.device == "cuda" else nullcontext():
            q_, k_, v_ = (x.transpose(1, 2) for x in (q, k, v))
            return scaled_dot_product_attention(q_, k_, v_, enable_gqa=case.H != case.G)

    for name, backend in ((CUDNN, SDPBackend.CUDNN_ATTENTION), (FLASH, SDPBackend.FLASH_ATTENTION)):
        row.peers[name] = [lambda k=k, v=v, backend=backend: ask(backend, k, v) for k, v in held]
    return with_fa3(bench, row, held, q, case)


def with_fa3(bench: Bench, row: Work, held: Sequence[Any], q: Tensor, case: Case) -> Work:
    """The row with FlashAttention 3 in it, if that is at hand."""
    if bench.fa3:
        row.peers[FA3] = [fa3.over(q, k, v) for k, v in held]
        near(f"{FA3}, {case}", row.peers[FA3][0](), row.runs[0]())
    return row


def beside(bench: Bench, case: Case, others: dict[str, Case]) -> Work:
    """A case beside our own calls of others."""
    row, _, _ = work(bench, f"decode {case}", case)
    for name, other in others.items():
        row.peers[name] = calls(bench, other)[0]
    return row


def few_queries(bench: Bench, case: Case) -> Work:
    """Some queries of a sequence, the last at its last key, beside one query."""
    row, held, q = work(bench, f"decode {case}", case)
    row.peers["one query"] = calls(bench, replace(case, T=1))[0]
    return with_fa3(bench, row, held, q, case)


def tree(bench: Bench, case: Case) -> Work:
    """A tree of drafted tokens beside as many in a row."""
    parents = [(t - 1) // 2 for t in range(case.T)]  # of a tree of two branches a node
    visible = torch.eye(case.T, dtype=torch.bool)
    for t in range(1, case.T):
        visible[t] |= visible[parents[t]]
    row, _, _ = work(bench, f"decode a tree, {case}", case, Tree(visible[None].to(bench.device)))
    row.peers["as many in a row"] = calls(bench, case)[0]
    return row


def window(bench: Bench, S: int, reach: int) -> Work:
    """A window over a long cache beside a cache as long as the window."""
    case = Case(1, 32, 8, S)
    row, _, _ = work(bench, f"decode a window of {reach}, {case}", case, Causal() & Window(before=reach - 1), reach / S)
    row.peers[f"a cache of {reach}"] = calls(bench, replace(case, S=reach))[0]
    return replace(row, read=[])


def latent(bench: Bench, B: int, S: int) -> Work:
    """Latent attention: 128 heads over one array, whose first 512 numbers of 576 are the values; beside values of their own, and beside
    two products with the softmax between them."""
    case = Case(B, 128, 1, S, D=576)
    q, size = bench.queries(case), 2 * B * S * 576
    held = [torch.randn(B, S, 1, 576, device=bench.device, dtype=torch.bfloat16) for _ in range(buffers(size))]

    def plainly(k: Tensor) -> Tensor:
        scores = q[:, 0] @ k[:, :, 0].mT * 576**-0.5
        return (scores.float().softmax(-1).to(q.dtype) @ k[:, :, 0, :512])[:, None]

    runs = [lambda k=k: attention(q, k, k[..., :512], mask=CAUSAL) for k in held]
    # not by the reference room, which has keys of its own for each query head: 100 GB of them
    wide = held[0][:, :, 0].double()
    near(str(case), runs[0](), ((q[:, 0].double() @ wide.mT * 576**-0.5).softmax(-1) @ wide[..., :512])[:, None])
    near(f"plain, {case}", plainly(held[0]), runs[0]())
    del wide
    row = Work(f"decode, latent, {case}", runs, {}, [[k] for k in held], *_told(explain(q, held[0], held[0][..., :512], mask=CAUSAL), size))
    apart = [(k, k[..., :512].clone()) for k in held]
    row.peers["values apart"] = [lambda k=k, v=v: attention(q, k, v, mask=CAUSAL) for k, v in apart]
    row.peers["plain attention"] = [lambda k=k: plainly(k) for k in held]
    return row


def cascade(bench: Bench, common: int, own: int) -> Work:
    """Sequences that share a prefix, read once, beside each reading it."""
    B, page = 64, 64
    case = Case(B, 32, 8, common + own, page=page)
    q, prefix = bench.queries(case), Case(1, 32, 8, common, page=page)
    mine = replace(case, S=own)
    count = buffers(mine.bytes)
    held = list(zip(bench.caches(prefix, count), bench.caches(mine, count), strict=True))

    def shared(first: Paged, rest: Paged) -> Tensor:
        out, lse = attention_state(q.transpose(0, 1), first, mask=Full())
        return merge(strobe.State(out.transpose(0, 1), lse.transpose(0, 1)), attention_state(q, rest, mask=Causal())).out

    def alone(first: Paged, rest: Paged) -> Paged:
        """The same tokens, each sequence's table through the shared pages: one pool of both."""
        keys, values = torch.cat((first.keys, rest.keys)), torch.cat((first.values, rest.values))
        table = torch.cat((first.table.expand(B, -1), rest.table + first.keys.shape[0]), 1).contiguous()
        return Paged(keys, values, table, first.lengths + rest.lengths, case.S)

    every = [alone(*pair) for pair in held]
    near(f"cascade {case}", shared(*held[0]), _reference(q, every[0], Causal()))
    runs = [lambda pair=pair: shared(*pair) for pair in held]
    plans = [explain(q.transpose(0, 1), held[0][0], mask=Full()), explain(q, held[0][1], mask=Causal())]
    told = [_told(plan, each.bytes)[1] for plan, each in zip(plans, (prefix, mine), strict=True)]
    more = {name: round(sum(found[name] for found in told), 1) for name in ("bytes", "predicted") if all(name in found for found in told)}
    row = Work(f"decode {B} sequences that share {common} of {case.S}, {case}", runs, {}, [], "two states, merged", more)
    row.peers["each reads all"] = [lambda keys=keys: attention(q, keys, mask=Causal()) for keys in every]
    return row


def invariant(bench: Bench, case: Case) -> Work:
    """Bits that do not depend on the batch, beside the usual way."""
    row, held, q = work(bench, f"decode, invariant, {case}", case)

    def asked(run: Run) -> Run:
        def invariantly() -> Any:
            with strobe.using(invariant=True):
                return run()

        return invariantly

    usual = row.runs
    with strobe.using(invariant=True):
        plan, more = _told(explain(q, *_given(held[0]), mask=CAUSAL), case.bytes)
    return replace(row, runs=[asked(run) for run in usual], peers={"not invariant": usual}, read=[], plan=plan, more=more)

