#!/usr/bin/env python
"""Measures tiles of the Triton room on the GPU that is here, and writes `src/strobe/backends/triton/tuned/<machine>.json`.

    python tools/tune.py h200            every kernel and width
    python tools/tune.py h200 --try      the table, nothing written

A tile's figure is the geometric mean of TFLOP/s over lengths, the median of shuffled rounds. Tiles that spill at widths up to
128 are out. What is written is reviewed and committed; the room reads it and measures nothing itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from strobe import Causal, Full  # noqa: E402
from strobe.backends.triton import backward, forward, sizes  # noqa: E402
from strobe.faces.torch import _described, machine  # noqa: E402
from strobe.layouts import Dense  # noqa: E402
from strobe.plan import Plan, plan  # noqa: E402
from strobe.problem import Call, check  # noqa: E402

LENGTHS = (1024, 4096, 16384)
TOKENS, WIDTH = 16384, 2048  # batch × length, heads × width
ROUNDS, MILLISECONDS, IDLE = 3, 10.0, 0.05
TILES: dict[str, dict[int, tuple[tuple[int, ...], ...]]] = {
    "attend": {
        64: ((64, 64, 4, 3), (64, 64, 4, 2), (64, 64, 4, 2, 96), (64, 64, 4, 2, 104), (64, 64, 4, 2, 112), (128, 64, 4, 3),
             (128, 64, 8, 3)),
        128: ((64, 64, 4, 3), (128, 64, 4, 2), (128, 64, 8, 3), (64, 32, 4, 3), (128, 128, 8, 3)),
        256: ((128, 64, 8, 2), (128, 32, 8, 3), (128, 32, 8, 4), (64, 64, 4, 2)),
    },
    "d_queries": {
        64: ((64, 64, 4, 3), (64, 64, 4, 2), (128, 64, 8, 3), (64, 128, 4, 2), (64, 32, 4, 4)),
        128: ((128, 64, 8, 3), (64, 64, 4, 2), (64, 32, 4, 3), (64, 64, 4, 3)),
    },
    "d_keys": {
        64: ((64, 64, 4, 3), (32, 64, 4, 3), (32, 128, 4, 3), (64, 64, 4, 4), (64, 128, 8, 3)),
        128: ((32, 64, 4, 3), (32, 64, 4, 4), (32, 128, 8, 3), (32, 128, 8, 2), (64, 64, 4, 2)),
    },
}


class Case(NamedTuple):
    """A kernel, a width, and whether a mask hides some keys."""

    kernel: str
    width: int
    masked: bool

    def __str__(self) -> str:
        return f"{self.width} {'masked' if self.masked else 'full'}"


def call(case: Case, length: int) -> Call:
    """The attention that a case is measured on."""
    heads = WIDTH // case.width
    q, k, v = (torch.randn(TOKENS // length, length, heads, case.width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return Call(q, Dense(k, v), Causal() if case.masked else Full())


def planned(asked: Call, verb: str) -> Plan:
    """The room's plan."""
    return plan(replace(check(_described(asked)), verb=verb), machine("cuda:0"), "triton")


def runner(case: Case, length: int) -> Callable[[], Any]:
    """What is timed: the forward pass, or the whole backward pass."""
    asked = call(case, length)
    if case.kernel == "attend":
        return lambda: forward.launch(planned(asked, "attention"), asked)
    state = forward.launch(planned(asked, "attention"), asked)
    gradient = torch.randn_like(state.out)
    return lambda: backward.launch(planned(asked, "backward"), asked, state, gradient, None)


def using(case: Case, tile: tuple[int, ...], run: Callable[[], Any]) -> Any:
    """Runs with the tile."""
    known = sizes.measured

    def measured(kernel: str, *rest: Any) -> sizes.Tile | None:
        return sizes.Tile(*tile) if kernel == case.kernel else known(kernel, *rest)

    for cached in (sizes.forward, sizes.backward):
        cached.cache_clear()
    with patch.object(sizes, "measured", measured):
        return run()


def spills(job: tuple[Case, tuple[int, ...]]) -> int | str:
    """Registers that a tile's kernel spills, or why it does not compile. In a process of its own: some crash the compiler."""
    case, tile = job
    try:
        using(case, tile, runner(case, 1024))
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 — of whatever kind, the tile is out
        return str(error).strip().splitlines()[-1][:100]
    kernel = getattr(forward if case.kernel == "attend" else backward, case.kernel)
    return int(next(reversed(kernel.device_caches[0][0].values())).n_spills)


def once(run: Callable[[], Any]) -> float:
    """Seconds a call: events around as many as take some milliseconds, after a rest."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(times: int) -> float:
        begin.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    run()
    times = max(2, int(MILLISECONDS / timed(2)))
    time.sleep(IDLE)
    return timed(times) / 1e3


def rates(case: Case, tiles: list[tuple[int, ...]]) -> dict[str, float]:
    """TFLOP/s by tile, the geometric mean over lengths."""
    found: dict[tuple[int, ...], list[float]] = {tile: [] for tile in tiles}
    for length in LENGTHS:
        run = runner(case, length)
        work = 4 * TOKENS * length * WIDTH * (0.5 if case.masked else 1.0) * (1.0 if case.kernel == "attend" else 2.5)
        seconds: dict[tuple[int, ...], list[float]] = {tile: [] for tile in tiles}
        for _ in range(ROUNDS):
            for tile in random.sample(tiles, len(tiles)):
                seconds[tile].append(using(case, tile, lambda: once(run)))  # noqa: B023 — called at once
        for tile in tiles:
            found[tile].append(work / median(seconds[tile]) / 1e12)
    return {json.dumps(tile): round(prod(found[tile]) ** (1 / len(LENGTHS)), 1) for tile in tiles}


def main(words: list[str] | None = None) -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("machine", help="the name of the file: h200, a100, …")
    parser.add_argument("--try", action="store_true", dest="only_try", help="write nothing")
    arguments = parser.parse_args(words)
    cases = [Case(kernel, width, masked) for kernel, widths in TILES.items() for width in widths for masked in (False, True)]
    jobs = [(case, tile) for case in cases for tile in TILES[case.kernel][case.width]]
    with ProcessPoolExecutor(min(15, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        said = dict(zip(jobs, tqdm(pool.map(spills, jobs), total=len(jobs), desc="compiling"), strict=True))
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for case in tqdm(cases, desc="measuring"):
        asked = TILES[case.kernel][case.width]
        wide = case.width > 128
        tiles = [tile for tile in asked if said[case, tile] == 0 or (wide and isinstance(said[case, tile], int))]
        measured.setdefault(case.kernel, {})[str(case)] = rates(case, tiles)
        print(case.kernel, case, measured[case.kernel][str(case)], flush=True)
        for tile in set(asked) - set(tiles):
            print(f"    out: {tile}: {said[case, tile]}", flush=True)
    best = {
        kernel: {case: json.loads(max(found, key=lambda tile: found[tile])) for case, found in by_case.items()}
        for kernel, by_case in measured.items()
    }
    here = machine("cuda:0")
    document = {
        "machine": here.name, "arch": here.arch, "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "command": f"python tools/tune.py {arguments.machine}", "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "lengths": LENGTHS, "tiles": best, "measured": measured,
    }  # fmt: skip
    if not arguments.only_try:
        path = ROOT / "src/strobe/backends/triton/tuned" / f"{arguments.machine}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
