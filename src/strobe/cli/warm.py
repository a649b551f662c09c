"""`strobe warm`: compiles the kernels that a model needs on this GPU, and keeps them on the disk."""

from __future__ import annotations

import argparse
import sys
import time

from strobe.cli.opening import cache_of, device_of, open_model, weights_of
from strobe.cli.screen import progress


def run(arguments: argparse.Namespace) -> int:
    """Runs an engine in every way it will run; nothing to do where no kernel is compiled."""
    device = device_of(arguments.device)
    if device == "cpu":
        print("nothing to compile: a CPU's kernels were compiled when Strobe was installed")
        return 0
    opened = open_model(arguments.model, arguments.dtype, device)
    from strobe.engine.engine import Engine
    from strobe.lab.warm import STEPS, warm
    from strobe.rooms import kernel

    engine = Engine(opened.model, opened.tokenizer, weights=weights_of(arguments.weights), cache=cache_of(arguments.cache))
    start = time.monotonic()
    with kernel("triton", "starting").counted() as compiled, progress(STEPS) as done:
        warm(engine, done)
    names = ", ".join(f"{compiled.count(name)} × {name}" for name in sorted(set(compiled))) or "all were on the disk"
    print(f"{len(compiled)} kernels compiled in {time.monotonic() - start:.1f} s: {names}", file=sys.stderr)
    return 0
