"""Logits → token. Randomness comes from the generator that is handed in, one a request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from strobe.engine.request import Sampling


def choose(
    logits: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator | None], before: Sequence[Sequence[int]]
) -> list[int]:  # fmt: skip
    """One token a row of `[n, vocabulary]` logits; `before` are the tokens already there, for the penalty."""
    plain = [s.greedy and s.repetition_penalty == 1 for s in samplings]
    if all(plain):
        return logits.argmax(-1).tolist()
    best = logits.argmax(-1).tolist() if any(plain) else [0] * len(plain)
    return [best[i] if plain[i] else one(logits[i], samplings[i], generators[i], before[i]) for i in range(len(plain))]


def one(logits: Tensor, sampling: Sampling, generator: torch.Generator | None, before: Sequence[int]) -> int:
    """The token of one row `[vocabulary]`; a greedy request needs no generator."""
    row = logits.float()
    if sampling.repetition_penalty != 1 and before:
        there = torch.tensor(sorted(set(before)), device=row.device)
        found = row[there]
        row = row.index_copy(0, there, torch.where(found < 0, found * sampling.repetition_penalty, found / sampling.repetition_penalty))
    if sampling.greedy:
        return int(row.argmax())
    ranked, tokens = (row / sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ranked, tokens = ranked[: sampling.top_k], tokens[: sampling.top_k]
    chances = ranked.softmax(-1)
    if sampling.top_p < 1:
        # a token stays while those before it have not reached top_p; the likeliest always does
        keep = int((chances.cumsum(-1) - chances < sampling.top_p).sum())
        chances = chances[: max(1, keep)]
    if sampling.min_p > 0:
        chances = chances[: max(1, int((chances >= sampling.min_p * chances[0]).sum()))]
    # one uniform number decides, so the draws of a request do not depend on how many tokens were kept
    steps = chances.double().cumsum(-1)
    mark = torch.rand(1, generator=generator, dtype=torch.float64, device=steps.device) * steps[-1]
    at = int(torch.searchsorted(steps, mark, right=True))
    return int(tokens[min(at, chances.shape[0] - 1)])
