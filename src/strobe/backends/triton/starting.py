"""Starts a kernel; again, without asking what its arguments are.

Triton looks at every argument of every start, to find the machine code that was compiled for arguments like them. That takes longer
than a short kernel. Arguments made by the same plan from arrays that lie alike are alike, so their code is kept by that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.backends.nvidia.driver import make_tensordesc_arg
from triton.runtime import driver

from strobe.backends.triton import version
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
    return tuple(found)


def compiled(kernel: Any, dims: int, key: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """The kernel's machine code and constants for arguments that `alike` says are alike, once it was started with such."""
    return None if key is None else _known.get((kernel, dims, *key))


class Again:
    """Starts machine code on one device over and over. Pointers may be numbers, which the launcher then does not look up."""

    def __init__(self, made: Any, grid: tuple[int, int], device: int) -> None:
        self.made, self.grid, self.device, self.metas = made, grid, device, getattr(made.metadata, "tensordesc_meta", None)
        self.beneath = _beneath(made.run) if self.metas else None

    def __call__(self, before: tuple[Any, ...], boxes: tuple[Any, ...], behind: tuple[Any, ...]) -> None:
        """Starts it with these arguments."""
        made, run, (x, y) = self.made, self.made.run, self.grid
        if knobs.runtime.launch_enter_hook is not None or self.device != driver.active.get_current_device():
            with torch.cuda.device(self.device):
                made[x, y, 1](*before, *boxes, *behind)
            return
        stream = driver.active.get_current_stream(self.device)
        told = made.packed_metadata, None, None, knobs.runtime.launch_exit_hook
        if self.beneath is None:
            run(x, y, 1, stream, made.function, *told, *before, *boxes, *behind)
            return
        sent = [part for box, meta in zip(boxes, self.metas, strict=True) for part in make_tensordesc_arg(box, meta)]
        alone = run.launch_cooperative_grid, run.launch_pdl, None, None
        self.beneath(x, y, 1, stream, made.function, *alone, *told, *before, *sent, *behind)


def _beneath(run: Any) -> Any:
    """Triton's launcher of boxes copies all arguments one after another. Beneath it is one that takes boxes as they are sent: this,
    or None where it is not as in Triton 3.6."""
    names = getattr(getattr(run.launch, "__code__", None), "co_freevars", ())
    if "launcher" not in names or make_tensordesc_arg.__code__.co_argcount != 2 or run.global_scratch_size or run.profile_scratch_size:
        return None
    return run.launch.__closure__[names.index("launcher")].cell_contents


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], named: dict[str, Any], key: Any) -> None:
    """`kernel[grid](*args, **named)`; `key` is what `alike` said of the arrays."""
    key = None if key is None else (kernel, len(grid), *key)
    known = None if key is None else _known.get(key)
    if known is not None:
        made, constants = known
        made[(*grid, 1, 1)[:3]](*args, *constants)
        return
    if not knobs.runtime.interpret:
        version.know()
    made = kernel[grid](*args, **named)
    if key is not None and made is not None:  # the interpreter makes nothing
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = made, tuple(named[name] for name in kernel.arg_names[len(args) :])
