"""Timing several ways of doing the same thing fairly: interleaved rounds, shuffled order, rotating buffers, medians."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from strobe.errors import Invalid


@dataclass(frozen=True)
class Effort:
    """How long to measure one case: at least `least` rounds, at most `most`, and no new one after `seconds`."""

    least: int = 5
    most: int = 40
    seconds: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise Invalid(f"rounds are 1 or more, the most no fewer than the least; got {self.least} and {self.most}")


@dataclass(frozen=True)
class Contender:
    """One way: `run(i)` does it on buffer set `i` and returns its result."""

    name: str
    run: Callable[[int], Any]


@dataclass
class Samples:
    """Seconds a call, a contender; `rounds` of them, each round all contenders in a new order."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return min((len(values) for values in self.seconds.values()), default=0)

    def median_us(self, name: str) -> float:
        """The middle round's time of one call."""
        return 1e6 * median(self.seconds[name])


def interleave(contenders: list[Contender], sets: int, effort: Effort, seed: int = 0) -> Samples:
    """Times the contenders in turn, in a new order each round.

    Calls shorter than two milliseconds are repeated within a round, each on the next buffer set, so that what one
    contender left in the caches helps none of them more than another.

    Args:
        sets: how many buffer sets there are; calls walk through them.
    """
    order = random.Random(seed)
    place = 0
    repeats: dict[str, int] = {}
    for contender in contenders:  # a warm call, then one that tells how often to repeat
        contender.run(0)
        start = time.perf_counter()
        contender.run(1 % sets)
        repeats[contender.name] = max(1, min(50, int(2e-3 / max(time.perf_counter() - start, 1e-7))))
    samples = Samples({contender.name: [] for contender in contenders})
    end = time.perf_counter() + effort.seconds
    while samples.rounds < effort.most and (samples.rounds < effort.least or time.perf_counter() < end):
        for contender in order.sample(contenders, len(contenders)):
            times = repeats[contender.name]
            start = time.perf_counter()
            for _ in range(times):
                contender.run(place)
                place = (place + 1) % sets
            samples.seconds[contender.name].append((time.perf_counter() - start) / times)
    return samples


def last_level_cache_bytes() -> int:
    """The processor's largest cache as Linux tells it; 32 MiB where nothing tells."""
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text[-1:] in "KM" and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << (10 if text[-1] == "K" else 20))
    return max(sizes)


def available_bytes() -> int:
    """Memory that may be taken without swapping; 8 GiB where nothing tells."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 8 << 30


def rotating_sets(bytes_each: int, most: int = 64) -> int:
    """How many buffer sets to walk through so that none is still cached when its turn comes.

    More bytes than the last-level cache, where that takes at most `most` sets; four or more where one set is smaller.
    """
    cache = last_level_cache_bytes()
    if bytes_each > 2 * cache:
        return 1  # it does not fit by itself
    return max(4, min(most, -(-5 * cache // (4 * max(bytes_each, 1)))))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within, torch (and so Strobe) uses `count` threads."""
    if count < 1:
        raise Invalid(f"threads are 1 or more; got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, memory that torch hands out uninitialised is NaN, so that what a kernel forgets to write shows."""
    memory: Any = torch.utils.deterministic
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = filled
