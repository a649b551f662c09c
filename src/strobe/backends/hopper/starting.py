"""Starts a kernel; again, without asking what its arguments are.

Triton looks at every argument of every start, to find the machine code that was compiled for arguments like them. Here all that it
would find follows from the plan, but for addresses and steps of the caller's arrays; so the code is kept by plan and those.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import Tensor
from triton import knobs
from triton.runtime import driver

from strobe.backends import triton_hash


class Kept:
    """Machine code, once there is some."""

    made: Any = None
    constants: tuple[Any, ...] = ()


@lru_cache(maxsize=4096)
def kept(*alike: Any) -> Kept:
    """What is kept for arguments that are alike in these."""
    return Kept()


def aligned_to(*arrays: Any) -> Iterator[int]:
    """How far each array begins from a multiple of 16 bytes, which decides how it is read."""
    return (x.data_ptr() % 16 for x in arrays if isinstance(x, Tensor))


def start_again(made: Any, grid: tuple[int, int, int], stream: int, args: tuple[Any, ...]) -> None:
    """Starts machine code on a stream of the current device: `made[grid](*args)` without what Triton prepares for those who listen to
    starts, its profiler say, where nobody does."""
    runtime = knobs.runtime
    for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        if hook is not None and getattr(hook, "calls", True):  # Triton's own are chains, empty as a rule; others are called
            made[grid](*args)
            return
    made.run(*grid, stream, made.function, made.packed_metadata, None, None, None, *args)


def start(kernel: Any, grid: int, args: tuple[Any, ...], named: dict[str, Any], key: tuple[Any, ...]) -> None:
    """`kernel[(grid,)](*args, **named)`; where the key is the same, the arguments are alike."""
    known = kept(kernel, *key)
    if known.made is not None:
        stream = driver.active.get_current_stream(driver.active.get_current_device())
        start_again(known.made, (grid, 1, 1), stream, (*args, *known.constants))
        return
    if not knobs.runtime.interpret:
        triton_hash.know()
    known.made = kernel[(grid,)](*args, **named)
    known.constants = tuple(named[name] for name in kernel.arg_names[len(args) :])
