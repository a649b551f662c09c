"""Sequences that share pages: found from the tables, read once, and the same answers."""

from __future__ import annotations

from array import array
from random import Random

import pytest
import torch

from strobe import Causal, Sink, attention
from strobe.cache.storage import Storage, Widths
from strobe.engine import cascade
from strobe.engine.cascade import Shared, shared
from strobe.engine.scheduler import Sequence, Work
from strobe.engine.step import build
from strobe.models.attend import Terms

from .tiny import eager, engine, greedy, model, prompts


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_groups_are_those_that_share_enough() -> None:
    tables = [array("i", t) for t in ([1, 2, 3, 4], [1, 2, 3, 9, 8], [5, 6], [1, 2, 7], [5, 6, 0], [10])]
    lengths = [64, 70, 32, 48, 40, 3]
    assert shared(tables, lengths, 16, 1 << 20) == [Shared((0, 1, 3), 2), Shared((2, 4), 1)]  # 32 tokens: one page is free of the last
    assert shared(tables, lengths, 16, 1) == []
    draw = Random(0)
    for _ in range(200):
        trunk = [draw.randrange(100) for _ in range(20)]
        one = [*trunk[: draw.randint(1, 20)], *range(200, 200 + draw.randint(1, 5))]
        two = [*trunk[: draw.randint(1, 20)], *range(300, 300 + draw.randint(1, 5))]
        found = shared([array("i", one), array("i", two)], [4 * len(one), 4 * len(two)], 4, 1 << 22)
        assert found == [Shared((0, 1), common(one, two))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_over_shared_pages_is_attention(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "WORTH", 1)
    torch.manual_seed(0)
    size, H, widths = 4, 6, Widths(2, 32, 32)
    storage = Storage([widths], 40, size, dtype=dtype)
    storage.keys[0].normal_(), storage.values[0].normal_()
    works = []
    for number, (pages, tokens) in enumerate([([3, 4, 5, 6, 7], 18), ([8, 9], 7), ([3, 4, 5, 10], 14), ([3, 4, 5, 11, 12], 17), ([8, 13], 8)]):
        table = type("Table", (), {"pages": array("i", pages)})()
        sequence = Sequence(number, [1] * tokens, tokens - 1, tokens + 1, table, computed=tokens - 1)  # type: ignore[arg-type]
        works.append(Work(sequence, tokens - 1, 1, True))
    step = build(works, storage)
    assert step.parts[0].cascade is not None and len(step.parts[0].cascade.prefixes) == 2
    q, k, v = (torch.randn(1, heads, len(works), 32).to(dtype) for heads in (H, 2, 2))
    sink = Sink(torch.randn(H))
    found = step.attend(0, q, k, v, Terms(Causal(), None, None, sink))
    for b, work in enumerate(works):
        rows = work.sequence.table.pages
        keys, values = (side[0][torch.tensor(rows)].flatten(0, 1)[: work.first + 1][None].double() for side in (storage.keys, storage.values))
        expected = attention(q[:, :, b].double()[:, None], keys, values, mask=Causal(), sink=Sink(sink.logits.double()))
        assert torch.allclose(found[:, b].double(), expected[:, 0], atol=1e-5 if dtype == torch.float32 else 2e-2), b


def test_answers_are_the_same_with_shared_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "WORTH", 1)
    (system, *ends) = prompts([40, 3, 6, 9])
    asked = [[*system, *end] for end in ends]
    e = engine()
    e.generate([system], greedy(1))  # its pages are there before the others come
    answers = e.generate(asked, greedy(20))
    assert e.stats.prompt_tokens_reused >= 3 * 36
    assert [list(answer.tokens) for answer in answers] == eager(model(), asked, 20)
