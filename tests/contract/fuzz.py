"""New random problems for so many seconds: `python -m tests.contract.fuzz 60`. Prints the smallest that fails, or how many held."""

from __future__ import annotations

import random
import sys
import time

import torch
from hypothesis import HealthCheck, given, seed, settings

from .drawn import drawn, hold, Drawn

if __name__ == "__main__":
    torch.set_num_threads(1)  # the definition is small; what is drawn is how many the room takes
    end, held = time.monotonic() + float(sys.argv[1]), 0

    def once(it: Drawn) -> None:
        global held
        hold(it)
        held += 1

    while time.monotonic() < end:
        start = random.SystemRandom().randrange(2**32)
        print(f"seed {start}", flush=True)
        many = settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
        seed(start)(many(given(drawn())(once)))()
    print(f"{held} problems, none of them wrong")
