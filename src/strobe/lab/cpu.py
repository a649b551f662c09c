"""The suite `cpu`: attention on this processor beside torch's own ways, case by case.

A case's contenders run interleaved on the same buffers and read the same numbers in the same order of axes: torch's,
`[B, G, S, D]` in memory, which Strobe takes as strides. (Pages lie as an engine keeps them, `[P, Z, G, D]`.) Before
anything is timed Strobe has to agree with float64 on every case, or nothing is measured. A peer that computes something
else loses its number; one that is merely less exact than our promise keeps it, and the row says by how much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import strobe
from strobe.errors import Broken
from strobe.lab import onnx
from strobe.lab.cases import Case
from strobe.lab.measure import Contender, Effort, Samples, available_bytes, interleave, poisoned, rotating_sets, threads
from strobe.lab.results import Row
from strobe.lab.truth import GRADIENTS, allowed, distance, plainly
from strobe.plan import plan as make_plan
from strobe.problem import Problem

READ = "read"  # the floor of decode: every byte of keys and values once
MATMUL = "matmul"  # the ceiling of prefill: torch's product of two square matrices
EDGE, MOMENT = 2048, 0.02  # rows of those; the seconds that a product of half as many may take
CHECKED_ROWS = 8  # queries compared with float64, the first and the last among them
ANOTHER = 10  # times our own limit: a peer beyond it computes something else
FRESH = 4_194_301  # random numbers of an array before they are repeated
SHARE = 0.4  # of the available memory that one case may take


@dataclass(frozen=True)
class Skipped:
    """A case that was not measured, and why."""

    case: str
    why: str


@dataclass(frozen=True)
class Arrays:
    """One buffer set: flat storage, head after head, seen by each contender in the axes of its interface."""

    case: Case
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None = None
    d_out: Tensor | None = None  # what the output receives; lies as q

    def ours(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, T, H, D]`, `[B, S, G, D]`, `[B, S, G, D]`: views of what torch reads."""
        q, k, v = self.torchs()
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def torchs(self) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, H, T, D]`, `[B, G, S, D]`, `[B, G, S, D]`."""
        c = self.case
        return self.q.view(c.B, c.H, c.T, c.D), self.k.view(c.B, c.G, c.S, c.D), self.v.view(c.B, c.G, c.S, c.D)

    def received(self) -> Tensor:
        """What the output receives, `[B, H, T, D]`."""
        c = self.case
        assert self.d_out is not None
        return self.d_out.view(c.B, c.H, c.T, c.D)

    def leaves(self) -> Arrays:
        """The same arrays, asking for gradients."""
        q, k, v = (x.detach().requires_grad_() for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v)

    def pages(self) -> strobe.Paged:
        """The keys as pages, a sequence's pages scattered over the storage."""
        c, Z = self.case, self.case.page
        assert Z is not None and self.table is not None
        lengths = torch.full((c.B,), c.S, dtype=torch.int32)
        return strobe.Paged(self.k.view(-1, Z, c.G, c.D), self.v.view(-1, Z, c.G, c.D), self.table, lengths, c.S)

    def unpaged(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `pages` means, gathered."""
        c, pages = self.case, self.pages()
        q, _, _ = self.ours()
        return (q, *(x[pages.table.long()].reshape(c.B, c.S, c.G, c.D) for x in (pages.keys, pages.values)))


@dataclass(frozen=True)
class Way:
    """A contender that computes attention: `run` on a buffer set, `inputs` as `[B, T, H, D]` …, `output` the same; for
    training `run` gives the gradients of a set's q, k and v."""

    name: str
    run: Callable[[Arrays], Any]
    inputs: Callable[[Arrays], tuple[Tensor, Tensor, Tensor]]
    output: Callable[[Tensor], Tensor]


def gate_all(cases: list[Case], counts: tuple[int, ...], seed: int, advance: Callable[[str], None]) -> None:
    """Compares Strobe with float64 on every case, with each number of threads, before anything is timed.

    Raises:
        Broken: some cases are wrong; the message names them all.
    """
    red = []
    for case in cases:
        if case.key_bytes <= SHARE * available_bytes():
            arrays = draw(case, seed, 1)[0]
            for count in counts:
                with threads(count), torch.inference_mode():
                    wrong = gate(case, ways(case, flex=False)[0], arrays)
                if wrong is not None:
                    red.append(f"{case.name} {count}T: {wrong}")
        advance(case.name)
    if red:
        raise Broken("\n".join(["the gate is red, nothing was measured or written", *red]))


def measure(cases: list[Case], counts: tuple[int, ...], effort: Effort, flex: bool, seed: int) -> Iterator[Row | Skipped]:
    """Rows, case by case, with each of the given numbers of threads; `gate_all` comes first."""
    ceilings: dict[tuple[str, int], float] = {}
    for case in cases:
        if case.key_bytes > SHARE * available_bytes():
            yield Skipped(case.name, f"its keys and values take {case.key_bytes / 2**30:.1f} GiB of the memory that is free")
            continue
        sets = draw(case, seed, rotating_sets(case.key_bytes) if case.kind == "decode" else 3)
        for count in counts:
            with threads(count), torch.inference_mode():
                yield _measured(case, sets, count, effort, ways(case, flex), ceilings)


def draw(case: Case, seed: int, sets: int) -> list[Arrays]:
    """Buffer sets of fresh random numbers; in long arrays they come again after 4 million, a prime number that no head's
    length divides, because drawing all of them would take longer than the measurement."""
    g = torch.Generator().manual_seed(seed + sum(map(ord, case.name)))
    kind = getattr(torch, case.dtype)

    def numbers(count: int) -> Tensor:
        drawn = torch.empty(min(count, FRESH), dtype=kind).normal_(generator=g)
        return drawn.repeat(-(-count // FRESH))[:count]

    def table() -> Tensor | None:
        if case.page is None:
            return None
        columns = case.S // case.page
        return torch.randperm(case.B * columns, generator=g).view(case.B, columns).int()

    tokens = case.B * case.S * case.G * case.D
    queries = case.B * case.T * case.H * case.D
    trains = case.kind == "training"
    return [
        Arrays(case, numbers(queries), numbers(tokens), numbers(tokens), table(), numbers(queries) if trains else None)
        for _ in range(sets)
    ]


def ways(case: Case, flex: bool) -> list[Way]:
    """Strobe, and the ways torch has of doing the same."""
    mask = case.mask
    dense = Way("strobe", lambda a: strobe.attention(*a.ours(), mask=mask), Arrays.ours, lambda out: out)
    if case.kind == "training":
        return [_trained(dense, lambda d_out: d_out.transpose(1, 2)), _trained(_torch_sdpa(case), lambda d_out: d_out)]
    found = [dense]
    if case.page is not None:
        paged = Way("strobe", lambda a: strobe.attention(a.ours()[0], a.pages(), mask=mask), Arrays.unpaged, lambda out: out)
        found = [paged, Way("strobe dense", dense.run, dense.inputs, dense.output)]
    found.append(_torch_sdpa(case))
    if case.kind == "decode" and case.H != case.G:
        found.append(_torch_packed(case))
    if flex and case.page is None:
        found.append(_torch_flex(case))
    if case.kind == "decode" and case.page is None and case.dtype in onnx.DTYPES and onnx.available():
        found.append(_onnxruntime())
    return found


def _trained(way: Way, as_output: Callable[[Tensor], Tensor]) -> Way:
    """A way's forward and backward pass: the gradients of q, k and v."""

    def run(arrays: Arrays) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = arrays.leaves()
            return torch.autograd.grad(way.run(leaves), (leaves.q, leaves.k, leaves.v), as_output(arrays.received()))

    return replace(way, run=run)


def _torch_sdpa(case: Case) -> Way:
    attend: Any = torch.nn.functional.scaled_dot_product_attention
    square, grouped = case.T == case.S, case.H != case.G
    # torch's own causal flag aligns the first query with the first key: for T ≠ S the mask has to be spelled out
    visible = None if square or not case.causal else torch.ones(case.T, case.S, dtype=torch.bool).tril(case.S - case.T)
    causal = case.causal and square

    def run(arrays: Arrays) -> Tensor:
        return attend(*arrays.torchs(), attn_mask=visible, is_causal=causal, enable_gqa=grouped)

    return Way("torch sdpa", run, Arrays.ours, lambda out: out.transpose(1, 2))


def _torch_packed(case: Case) -> Way:
    """The queries of a group as the rows of one head, so that torch reads each key once."""
    attend: Any = torch.nn.functional.scaled_dot_product_attention

    def run(arrays: Arrays) -> Tensor:
        q, k, v = arrays.torchs()
        return attend(q.view(case.B, case.G, case.H // case.G, case.D), k, v)

    return Way("torch packed", run, Arrays.ours, lambda out: out.reshape(case.B, 1, case.H, case.D))


def _onnxruntime() -> Way:
    made: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = []

    def run(arrays: Arrays) -> Tensor:
        if not made:
            made.append(onnx.decoder(*arrays.torchs()[:2]))
        return made[0](*arrays.torchs())

    return Way("onnxruntime", run, Arrays.ours, lambda out: out)


def _torch_flex(case: Case) -> Way:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend: Any = torch.compile(flex_attention)
    behind = case.S - case.T
    block_mask = None
    if case.causal:
        block_mask = create_block_mask(lambda b, h, t, s: s <= t + behind, None, None, case.T, case.S, device="cpu")

    def run(arrays: Arrays) -> Tensor:
        return attend(*arrays.torchs(), block_mask=block_mask, enable_gqa=case.H != case.G)

    return Way("torch flex", run, Arrays.ours, lambda out: out.transpose(1, 2))


def gate(case: Case, way: Way, arrays: Arrays) -> str | None:
    """Why the way's result is not good enough, None if it is: at most twice the plain computation's error, no NaN anywhere."""
    found = judge(case, way, arrays)
    if isinstance(found, str):
        return found
    error, limit = found
    return None if error <= limit else f"error {error:.1e} against float64, {limit:.1e} is allowed"


def judge(case: Case, way: Way, arrays: Arrays) -> tuple[float, float] | str:
    """(the error against float64, what we would allow ourselves), or why there is none."""
    if case.kind == "training":
        return _judge_gradients(case, way, arrays)
    kind = getattr(torch, case.dtype)
    with poisoned():
        out = way.output(way.run(arrays))
    if not bool(torch.isfinite(out).all()):
        return f"{int((~torch.isfinite(out)).sum())} of {out.numel()} numbers are not finite"
    q, k, v = way.inputs(arrays)
    ends = sorted({0, case.B - 1})
    q, k, v, out = q[ends], k[ends], v[ends], out[ends]
    rows = torch.linspace(0, case.T - 1, min(CHECKED_ROWS, case.T)).long()
    truth = plainly(q, k, v, case.mask, torch.float64, rows)
    error = distance(out[:, rows], truth)
    return error, allowed(distance(plainly(q, k, v, case.mask, kind, rows), truth), kind)


@torch.inference_mode(False)
def _judge_gradients(case: Case, way: Way, arrays: Arrays) -> tuple[float, float] | str:
    """The same of the gradient that stands worst. Only some queries receive anything, so that float64 takes seconds."""
    assert arrays.d_out is not None
    rows = torch.linspace(0, case.T - 1, min(CHECKED_ROWS, case.T)).long()
    few = torch.zeros_like(arrays.received())
    few[:, :, rows] = arrays.received()[:, :, rows]
    arrays = replace(arrays, d_out=few)
    with poisoned():
        found = way.run(arrays)
    wild = sum(int((~torch.isfinite(x)).sum()) for x in found)
    if wild:
        return f"{wild} of {sum(x.numel() for x in found)} numbers are not finite"

    def plain(kind: torch.dtype) -> tuple[Tensor, ...]:
        same = replace(arrays, q=arrays.q.to(kind), k=arrays.k.to(kind), v=arrays.v.to(kind))
        with torch.enable_grad():
            leaves = same.leaves()
            out = plainly(*leaves.ours(), case.mask, kind, rows)
            return torch.autograd.grad(out, (leaves.q, leaves.k, leaves.v), few[:, :, rows].transpose(1, 2).to(kind))

    kind = getattr(torch, case.dtype)
    truth = plain(torch.float64)
    errors = [(distance(a, c), allowed(distance(b, c), kind, GRADIENTS)) for a, b, c in zip(found, plain(kind), truth, strict=True)]
    return max(errors, key=lambda pair: pair[0] / pair[1])


def _measured(case: Case, sets: list[Arrays], count: int, effort: Effort, found: list[Way], ceilings: dict[Any, float]) -> Row:
    """The gate, then the timing, of one case with one number of threads."""
    name = f"{case.name} {count}T"
    peers: dict[str, float | str] = {}
    runners: list[Contender] = []
    inexact: dict[str, str] = {}
    for way in found:
        if way.name not in ("strobe", "strobe dense"):
            try:
                found_error = judge(case, way, sets[-1])
            except RuntimeError as error:  # how torch says that it cannot
                peers[way.name] = str(error).splitlines()[0][:120]
                continue
            if isinstance(found_error, str):
                peers[way.name] = f"wrong: {found_error}"
                continue
            if found_error[0] > ANOTHER * found_error[1]:
                peers[way.name] = f"wrong: error {found_error[0]:.1e} against float64"
                continue
            if found_error[0] > found_error[1]:
                inexact[way.name] = f"error {found_error[0]:.1e}, Strobe allows itself {found_error[1]:.1e}"
        runners.append(Contender(way.name, lambda i, run=way.run: run(sets[i])))
    runners.append(_floor(case, sets))
    samples = interleave(runners, len(sets), effort)
    peers |= {runner.name: round(samples.median_us(runner.name), 2) for runner in runners if runner.name not in ("strobe", READ, MATMUL)}
    ordered = {way.name: peers[way.name] for way in found if way.name != "strobe"}
    floor, source = _floor_us(case, count, samples, ceilings)
    more: dict[str, Any] = {"rounds": samples.rounds, "floor_is": source, "sets": len(sets)} | ({"less_exact": inexact} if inexact else {})
    return Row(name, round(samples.median_us("strobe"), 2), ordered, round(floor, 2), _plan(case, sets[0]), more=more)


def _plan(case: Case, arrays: Arrays) -> str:
    q, k, v = arrays.ours()
    plan = strobe.explain(q, k, v, mask=case.mask) if case.page is None else strobe.explain(q, arrays.pages(), mask=case.mask)
    if case.kind == "training":
        assert isinstance(plan.problem, Problem)
        plan = make_plan(replace(plan.problem, verb="backward"), plan.machine)
    tile = "" if plan.offer.tile == (1, 1) else f", tile {plan.offer.tile[0]}×{plan.offer.tile[1]}"
    return f"{plan.room}: {plan.offer.kernel}{tile}, {plan.offer.splits} split(s)"


def _floor(case: Case, sets: list[Arrays]) -> Contender:
    """What the machine's ceiling is measured with, in the same rounds."""
    if case.kind == "decode":
        # the bytes as 64-bit integers: adding those is never slower than reading them
        words = [(a.k.view(torch.int64), a.v.view(torch.int64)) for a in sets]
        return Contender(READ, lambda i: (words[i][0].sum(), words[i][1].sum()))
    edge = _edge(case.dtype)
    matrix = torch.empty(edge, edge, dtype=getattr(torch, case.dtype)).normal_()
    return Contender(MATMUL, lambda i: matrix @ matrix)


@lru_cache(maxsize=None)
def _edge(dtype: str) -> int:
    """Rows of the largest square matrix up to EDGE whose product takes no more than a moment: bfloat16 may have no fast one here."""
    edge = 256
    while edge < EDGE:
        matrix = torch.empty(edge, edge, dtype=getattr(torch, dtype)).normal_()
        seconds = []
        for _ in range(2):  # the first one may load a library
            start = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - start)
        if min(seconds) > MOMENT:
            break
        edge *= 2
    return edge


def _floor_us(case: Case, count: int, samples: Samples, ceilings: dict[Any, float]) -> tuple[float, str]:
    """(microseconds below which this case cannot go, where that comes from)."""
    if case.kind == "decode":
        return samples.median_us(READ), "torch.sum over the same keys and values as int64, in the same rounds"
    edge = _edge(case.dtype)
    rate = 2 * edge**3 / samples.median_us(MATMUL)
    best = ceilings[case.dtype, count] = max(rate, ceilings.get((case.dtype, count), 0.0))
    return case.flops / best, f"torch.matmul {edge}³ in {case.dtype}, the best median up to this case"
