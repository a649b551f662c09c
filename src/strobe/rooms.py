"""The rooms, in order of preference, and how one is opened.

A room is a folder of `backends/`. Its desk (`offer.py`) is plain Python and may always be asked; its
workshop (the kernel files) is imported when an offer is accepted.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType

ROOMS = (
    "cpu",  # compiled C++: AMX, AVX-512, AVX2, NEON
    "sdpa",  # torch's own kernel, where the compiled library is missing or refuses
    "hopper",  # NVIDIA Hopper: forward, and decode
    "triton",  # GPUs: NVIDIA from Turing on, AMD
    "reference",  # float64, the definition
)


def desk(room: str) -> ModuleType:
    """The room's front desk, a module with `offer(problem, machine) -> Offer | Refusal`."""
    return import_module(f"strobe.backends.{room}.offer")


@lru_cache(maxsize=None)
def kernel(room: str, name: str) -> ModuleType:
    """The file that runs: a module with `launch(plan, call)`."""
    return import_module(f"strobe.backends.{room}.{name}")
