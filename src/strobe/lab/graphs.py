"""The time of a call that is shorter than its start: many calls in one CUDA graph, each over a buffer that the cache has forgotten."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from strobe.lab.results import Row

ROTATED = 320 << 20  # bytes of the buffers together: several times the largest cache of a GPU
MOST_BUFFERS = 96
ROUNDS, IDLE = 9, 0.02
FLOOR = "reading the bytes alone"

Run = Callable[[], Any]
Clock = Callable[[Sequence[Run]], Callable[[], float]]


@dataclass
class Work:
    """A row to come: each contender's calls, one a buffer, and the arrays of the first buffers that a call has to read."""

    case: str
    runs: Sequence[Run]
    peers: dict[str, Sequence[Run]]
    read: Sequence[Sequence[Tensor]]
    plan: str
    more: dict[str, Any] = field(default_factory=dict)


def buffers(size: int) -> int:
    """How many buffers of so many bytes outlast the cache."""
    return max(2, min(MOST_BUFFERS, -(-ROTATED // max(1, size))))


def captured(runs: Sequence[Run]) -> Callable[[], float]:
    """Records the calls as one graph; what it gives replays the graph and tells seconds a call."""
    for run in runs[:2]:  # compiled, and every lazy thing done
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = max(1, 40 // len(runs))

    def timed() -> float:
        graph.replay()
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times / len(runs) / 1e3

    return timed


def measure(works: Sequence[Callable[[], Work]], floor: Callable[[Sequence[Tensor]], Run], clock: Clock = captured) -> Iterator[Row]:
    """Rows, one after another: contenders in turns in shuffled order, medians of rounds; `floor` makes a call that only reads."""
    for make in works:
        work = make()
        runs = {"strobe": work.runs, **work.peers}
        if work.read:
            runs[FLOOR] = [floor(arrays) for arrays in work.read]
        clocks = {name: clock(calls) for name, calls in runs.items()}
        samples: dict[str, list[float]] = {name: [] for name in clocks}
        for _ in range(ROUNDS):
            for name in random.sample(list(clocks), len(clocks)):
                time.sleep(IDLE)
                samples[name].append(clocks[name]())
        us = {name: round(1e6 * median(values), 2) for name, values in samples.items()}
        ours, least = us.pop("strobe"), us.pop(FLOOR, None)
        spread = round(1e6 * (max(samples["strobe"]) - min(samples["strobe"])), 2)
        more = {"rounds": ROUNDS, "buffers": len(work.runs), "spread": spread} | work.more
        yield Row(work.case, ours, us, least, work.plan, more=more)
        del work, runs, clocks
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
