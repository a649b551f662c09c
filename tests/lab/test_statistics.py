"""Streamed statistics against the matrix they never make."""

from __future__ import annotations

import pytest
import torch

from strobe import Blocks, Causal, Full, Mask, Window
from strobe.errors import Invalid
from strobe.lab.statistics import statistics
from strobe.masks import Grid

SPARSE = Blocks(torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(3)) < 0.5, 64, 64)


@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(before=30), SPARSE], ids=["full", "causal", "window", "blocks"])
@pytest.mark.parametrize("T", [1, 300])
def test_they_are_those_of_the_matrix(mask: Mask, T: int) -> None:
    if mask is SPARSE and T == 1:
        mask = Blocks(SPARSE.kept[:, :, :1], 64, 64)
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, T, 4, 16, generator=g), torch.randn(2, 340, 2, 16, generator=g)
    t, s = torch.arange(T).view(1, 1, -1, 1), torch.arange(340).view(1, 1, 1, -1)
    seen = mask.allows(Grid(340 - T + t, s, torch.arange(2).view(-1, 1, 1, 1), torch.arange(4).view(1, -1, 1, 1), t, 340 - T))
    score = (q.double().transpose(1, 2) @ k.double().transpose(1, 2).repeat_interleave(2, 1).mT) / 4
    p = score.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
    found = statistics(q, k, mask=mask, first=5)
    truth = (-torch.xlogy(p, p).sum(-1), p[..., :5].sum(-1), p.sum(-2))
    for a, b in zip(found, truth, strict=True):
        assert torch.allclose(a.double(), b.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [-1, 2.0, True])
def test_a_count_is_a_count(first: object) -> None:
    with pytest.raises(Invalid, match="number of keys"):
        statistics(torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 1, 8), first=first)  # type: ignore[arg-type]
