"""The invariant mode: a sequence's bits depend on its queries and its keys alone."""

from __future__ import annotations

import random

import pytest
import torch

import strobe
from strobe import Alibi, Causal, Mask, Packed, Paged, Sink, SoftCap, Window, using
from strobe.errors import Invalid, Unsupported
from strobe.state import State

G, H, D = 2, 8, 64


class Sequence:
    """One sequence: the queries of its last tokens, its keys and its values."""

    def __init__(self, g: torch.Generator, keys: int, queries: int, dtype: torch.dtype) -> None:
        self.q = torch.randn(queries, H, D, generator=g).to(dtype)
        self.k, self.v = (torch.randn(keys, G, D, generator=g).to(dtype) for _ in range(2))


def paged(sequences: list[Sequence], page: int, g: torch.Generator) -> Paged:
    counts = [-(-len(s.k) // page) for s in sequences]
    order = torch.randperm(sum(counts), generator=g).int().tolist()
    keys, values = (torch.full((len(order), page, G, D), float("nan"), dtype=sequences[0].k.dtype) for _ in range(2))
    table = torch.zeros(len(sequences), max(counts), dtype=torch.int32)
    for b, (s, count) in enumerate(zip(sequences, counts, strict=True)):
        for i in range(count):
            table[b, i] = number = order.pop()
            rows = s.k[i * page : (i + 1) * page]
            keys[number, : len(rows)], values[number, : len(rows)] = rows, s.v[i * page : (i + 1) * page]
    lengths = torch.tensor([len(s.k) for s in sequences], dtype=torch.int32)
    return Paged(keys, values, table, lengths, int(lengths.max()))


def together(sequences: list[Sequence], page: int, g: torch.Generator, **terms: object) -> list[State]:
    """The states of sequences computed in one call."""
    counts = [len(s.q) for s in sequences]
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    q = Packed(torch.cat([s.q for s in sequences]), offsets, max(counts))
    out, lse = strobe.attention_state(q, paged(sequences, page, g), **terms)  # type: ignore[arg-type]
    return [State(*x) for x in zip(out.split(counts), lse.split(counts), strict=True)]


def equal(a: State, b: State) -> bool:
    return torch.equal(a.out, b.out) and torch.equal(a.lse, b.lse)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=700)], ids=["causal", "window"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_neighbours_pages_and_threads_do_not_show(dtype: torch.dtype, mask: Mask) -> None:
    draw, g = random.Random(1), torch.Generator().manual_seed(1)
    sequences = [Sequence(g, n, t, dtype) for n, t in ((1, 1), (70, 3), (2047, 1), (2049, 40), (4500, 1), (700, 90), (64, 64), (5000, 7))]
    with using(invariant=True):
        alone = [together([s], 16, g, mask=mask)[0] for s in sequences]
        for threads in (1, 2, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                for page in (1, 16, 100):
                    chosen = draw.sample(range(len(sequences)), draw.randint(2, len(sequences)))
                    found = together([sequences[i] for i in chosen], page, g, mask=mask)
                    assert all(equal(alone[i], state) for i, state in zip(chosen, found, strict=True)), (threads, page, chosen)
            finally:
                torch.set_num_threads(before)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=700)], ids=["causal", "window"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_chunks_of_a_prompt_do_not_show(dtype: torch.dtype, mask: Mask) -> None:
    g = torch.Generator().manual_seed(2)
    s = Sequence(g, 2300, 300, dtype)
    q, k, v = s.q[None], s.k[None], s.v[None]
    with using(invariant=True):
        whole = strobe.attention_state(q, k, v, mask=mask)
        for sizes in ([1, 2, 3, 294], [130, 1, 169], [64, 64, 64, 64, 44]):
            done = 0
            for size in sizes:
                seen = 2000 + done + size
                part = strobe.attention_state(q[:, done : done + size], k[:, :seen], v[:, :seen], mask=mask)
                of_whole = State(whole.out[:, done : done + size], whole.lse[:, done : done + size])
                assert equal(part, of_whole), (sizes, done)
                done += size


@pytest.mark.parametrize(
    "terms",
    [{"cap": SoftCap(20.0)}, {"alibi": Alibi(torch.rand(H))}, {"sink": Sink(torch.randn(H))}],
    ids=["cap", "alibi", "sink"],
)
def test_terms_are_as_exact_as_ever(terms: dict[str, object]) -> None:
    g = torch.Generator().manual_seed(3)
    s = Sequence(g, 4300, 5, torch.float32)
    args = s.q[None], s.k[None], s.v[None]
    plain = strobe.attention(*args, mask=Causal(), **terms)  # type: ignore[arg-type]
    with using(invariant=True):
        found = strobe.attention(*args, mask=Causal(), **terms)  # type: ignore[arg-type]
        alone = strobe.attention(s.q[None, -1:], *args[1:], mask=Causal(), **terms)  # type: ignore[arg-type]
    assert torch.allclose(found, plain, atol=2e-6) and torch.equal(found[:, -1:], alone)


def test_the_plan_says_so_and_other_rooms_refuse() -> None:
    q = torch.randn(1, 1, H, D)
    with using(invariant=True):
        plan = strobe.explain(q, q, q)
        assert plan.room == "cpu" and "invariant" in plan.offer.why
        with using("reference"), pytest.raises(Unsupported, match="not invariant"):
            strobe.explain(q, q, q)
        with using("sdpa"), pytest.raises(Unsupported, match="not invariant"):
            strobe.explain(q, q, q)
    assert "invariant" not in strobe.explain(q, q, q).offer.why
    with pytest.raises(Invalid, match="neither"), using():
        pass
