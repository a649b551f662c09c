"""Logits → token: against transformers' own filters, and against itself."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from strobe.engine.request import Sampling
from strobe.engine.sampler import choose, one

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -3.0, 1.4])
DRAWS = 4000


def frequencies(sampling: Sampling, before: tuple[int, ...] = ()) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found = Counter(one(LOGITS, sampling, generator, before) for _ in range(DRAWS))
    return torch.tensor([found[i] / DRAWS for i in range(len(LOGITS))])


@pytest.mark.parametrize(
    ("sampling", "theirs"),
    [
        (Sampling(temperature=1.0), []),
        (Sampling(temperature=0.5), [TemperatureLogitsWarper(0.5)]),
        (Sampling(temperature=1.0, top_k=3), [TopKLogitsWarper(3)]),
        (Sampling(temperature=1.0, top_p=0.7), [TopPLogitsWarper(0.7)]),
        (Sampling(temperature=1.0, min_p=0.3), [MinPLogitsWarper(0.3)]),
        (Sampling(temperature=2.0, top_k=6, top_p=0.8, min_p=0.1),
         [TemperatureLogitsWarper(2.0), TopKLogitsWarper(6), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)]),
        (Sampling(temperature=1.0, repetition_penalty=1.8), [RepetitionPenaltyLogitsProcessor(1.8)]),
    ],
    ids=lambda x: str(x) if isinstance(x, Sampling) else "",
)  # fmt: skip
def test_chances_are_transformers(sampling: Sampling, theirs: list[object]) -> None:
    before = (0, 0, 6, 3)
    row = LOGITS[None].clone()
    for warper in theirs:
        row = warper(torch.tensor([before]), row)  # type: ignore[operator]
    expected = row.softmax(-1)[0]
    found = frequencies(sampling, before)
    assert torch.equal(found > 0, expected > 1e-3) or (expected[found == 0] < 3e-3).all()
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_no_filter_ever_leaves_nothing() -> None:
    for sampling in (Sampling(temperature=1.0, top_p=1e-9), Sampling(temperature=1.0, min_p=1.0), Sampling(temperature=1e-4)):
        assert one(LOGITS, sampling, torch.Generator().manual_seed(0), ()) == 0


def test_greedy_with_a_penalty() -> None:
    assert one(LOGITS, Sampling(repetition_penalty=2.0), None, (0,)) == 1
    assert one(-LOGITS.abs() - 1, Sampling(repetition_penalty=9.0), None, (4,)) == 3


def test_a_mixed_batch_is_each_row_alone() -> None:
    rows = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    samplings = [Sampling(), Sampling(temperature=1.0, seed=1), Sampling(repetition_penalty=3.0), Sampling(temperature=0.7, seed=2)]
    before = [[1], [2], [int(rows[2].argmax())], [3]]

    def generators() -> list[torch.Generator | None]:
        return [None, torch.Generator().manual_seed(1), None, torch.Generator().manual_seed(2)]

    fresh = generators()
    alone = [choose(rows[i : i + 1], [samplings[i]], [fresh[i]], [before[i]])[0] for i in range(4)]
    assert choose(rows, samplings, generators(), before) == alone
