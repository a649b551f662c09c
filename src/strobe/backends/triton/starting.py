"""Starts a kernel; again, without asking what its arguments are.

Triton looks at every argument of every start, to find the machine code that was compiled for arguments like them. That takes longer
than a short kernel. Arguments made by the same plan from arrays that lie alike are alike, so their code is kept by that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from triton import knobs
from triton.runtime import driver

from strobe.backends import triton_hash
from strobe.layouts import Dense, Paged
from strobe.plan import Plan
from strobe.problem import Call
from strobe.terms import Scaled

MOST = 4096


@contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the kernels that are compiled within; those found on the disk are not."""
    found: list[str] = []
    before = knobs.compilation.listener

    def listener(*, src: Any, metadata: Any, metadata_group: Any, times: Any, cache_hit: bool) -> None:
        if not cache_hit:
            found.append(metadata["name"])
        if before is not None:
            before(src=src, metadata=metadata, metadata_group=metadata_group, times=times, cache_hit=cache_hit)

    knobs.compilation.listener = listener
    try:
        yield found
    finally:
        knobs.compilation.listener = before


_known: dict[Any, tuple[Any, tuple[Any, ...]]] = {}


def alike(plan: Plan, call: Call, *others: Tensor) -> Any:
    """What decides, beside the plan, how the arguments made of the call and of other arrays are compiled; None for calls with
    arrays in their mask or terms, and for arrays that do not begin at a multiple of 16 bytes."""
    keys, q = call.keys, call.q
    if call.first is not None or not isinstance(q, Tensor) or not call.mask.plain:
        return None
    if not (call.bias is call.alibi is call.sink is call.dropout is None):
        return None
    if type(keys) is Dense:
        arrays = (q, keys.k, keys.v, *others)
    elif type(keys) is Paged:
        arrays = (q, keys.keys, keys.values, keys.table, keys.lengths, *others)
    else:
        return None
    found: list[Any] = [plan, q.get_device()]
    for x in arrays:
        if isinstance(x, Scaled):
            return None
        if x.data_ptr() % 16:
            return None
        found.append(x.stride())
    found.append(arrays[1].data_ptr() == arrays[2].data_ptr())  # values that are a part of the keys
    return tuple(found)


def compiled(kernel: Any, dims: int, key: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """The kernel's machine code and constants for arguments that `alike` says are alike, once it was started with such."""
    return None if key is None else _known.get((kernel, dims, *key))


def again(made: Any, grid: tuple[int, int, int], device: int, args: tuple[Any, ...]) -> None:
    """Starts machine code on the current device; pointers may be numbers, which the launcher then does not look up.

    That is `made[grid](*args)` without what Triton prepares for those who listen to starts, its profiler say, where nobody does.
    """
    runtime = knobs.runtime
    for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        if hook is not None and getattr(hook, "calls", True):  # Triton's own are chains, empty as a rule; others are called
            made[grid](*args)
            return
    made.run(*grid, driver.active.get_current_stream(device), made.function, made.packed_metadata, None, None, None, *args)


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], named: dict[str, Any], key: Any) -> None:
    """`kernel[grid](*args, **named)`; `key` is what `alike` said of the arrays."""
    key = None if key is None else (kernel, len(grid), *key)
    known = None if key is None else _known.get(key)
    if known is not None:
        made, constants = known
        x, y, z = (*grid, 1, 1)[:3]
        again(made, (x, y, z), driver.active.get_current_device(), (*args, *constants))
        return
    if not knobs.runtime.interpret:
        triton_hash.know()
    made = kernel[grid](*args, **named)
    if key is not None and made is not None:  # the interpreter makes nothing
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = made, tuple(named[name] for name in kernel.arg_names[len(args) :])
