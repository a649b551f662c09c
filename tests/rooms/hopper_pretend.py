"""The Hopper room's kernels run on a CPU, as plain Python over torch: what Gluon's words mean, without a GPU and without Triton.

The sources of `channel.py`, `paging.py`, `jobs.py`, `schedule.py`, `block.py`, `seeing.py`, `finishing.py`, `consuming.py` and `forward.py`, or of `latent.py` and what that calls, are
executed with a `gl` of this file. Warps are threads of which one runs
at a time, and who is next is drawn at every barrier; copies and products end when they must or earlier, as drawn. Tiles that are
being copied hold NaN until the copy has ended, so that what is read too early, or overwritten too early, shows; and where nobody can go
on, `Stuck` is raised. What this does not show is the compiler's and the hardware's part: layouts, fences, registers.
"""

from __future__ import annotations

import __future__

import ast
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import strobe
from strobe.backends.hopper import arguments, latent_desk

ROOM = Path(strobe.__file__).parent / "backends" / "hopper"
FILES = ("channel.py", "paging.py", "jobs.py", "parts.py", "schedule.py", "scoring.py", "block.py", "seeing.py", "finishing.py", "consuming.py",
         "forward.py")
LATENT = ("channel.py", "paging.py", "jobs.py", "parts.py", "schedule.py", "scoring.py", "block.py", "latent_rows.py", "latent.py")


class Stuck(Exception):
    """All warps wait for each other."""


class Chip:
    """Warps, of which one runs at a time, and copies under way."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.warps: list[Warp] = []
        self.copies: list[Callable[[], None]] = []
        self.wrong: BaseException | None = None

    def run(self, programs: int, program: Callable[[], None]) -> None:
        """Runs the programs of a grid side by side to their end."""
        found = [Warp(self, f"{i}", i, programs, program) for i in range(programs)]
        self.warps += found
        for warp in found:
            warp.thread.start()
        self.hand_on(None)
        for warp in self.warps:  # grows while programs split into warps
            warp.thread.join()
        if self.wrong is not None:
            raise self.wrong
        assert not self.copies, "a program ended before its copies"

    def hand_on(self, me: Warp | None) -> None:
        """Lets someone run who can; returns when it is this warp's turn again, at once for one that has ended."""
        while True:
            ready = [warp for warp in self.warps if not warp.ended and warp.ready()]
            if self.wrong is not None:
                ready = [warp for warp in self.warps if not warp.ended]
            if self.copies and (not ready or self.draw.random() < 0.4):
                self.copies.pop(self.draw.randrange(len(self.copies)))()
                continue
            break
        if not ready:
            if me is None and all(warp.ended for warp in self.warps):
                return
            self.wrong = Stuck(", ".join(f"{warp.name} waits for {warp.what}" for warp in self.warps if not warp.ended))
            ready = [warp for warp in self.warps if not warp.ended]
            if not ready:
                return
        chosen = self.draw.choice(ready)
        if chosen is not me:
            chosen.turn.release()
            if me is None or me.ended:
                return
            me.turn.acquire()
        if self.wrong is not None:
            raise self.wrong

    def end_one(self, copy: Callable[[], None]) -> None:
        """Ends a copy that someone waits for."""
        if copy in self.copies:
            self.copies.remove(copy)
            copy()


class Warp:
    """A thread that runs when it is its turn."""

    def __init__(self, chip: Chip, name: str, program: int, programs: int, body: Callable[[], None]) -> None:
        self.chip, self.name, self.program, self.programs = chip, name, program, programs
        self.turn = threading.Semaphore(0)
        self.ended = False
        self.ready: Callable[[], bool] = lambda: True
        self.what = "nothing"
        self.products: list[Product] = []
        self.stores: list[Callable[[], None]] = []
        self.unwritten: list[Callable[[], None]] = []
        self.rows: list[Callable[[], None]] = []
        self.thread = threading.Thread(target=self._run, args=(body,), daemon=True)

    def _run(self, body: Callable[[], None]) -> None:
        self.turn.acquire()
        HERE.warp = self
        try:
            if self.chip.wrong is None:
                body()
                assert not self.products and not self.stores and not self.rows, "products, stores or rows nobody waited for"
        except BaseException as wrong:  # noqa: BLE001 — it is raised again in the thread that started the chip
            self.chip.wrong = self.chip.wrong or wrong
        self.ended = True
        self.chip.hand_on(None)

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        """Lets others run until something is so."""
        self.ready, self.what = ready, what
        self.chip.hand_on(self)
        self.ready = lambda: True


HERE = threading.local()


def here() -> Warp:
    return HERE.warp


# ── memory ──


@dataclass
class Pointer:
    """An address in an array, or a tile of addresses."""

    array: Tensor
    at: Any = 0

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.array, self.at + more)

    def places(self) -> Tensor:
        return torch.as_tensor(self.at, dtype=torch.int64)


@dataclass
class Shared:
    """A view of shared memory."""

    data: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    def index(self, i: int) -> Shared:
        assert 0 <= i < len(self.data)
        return Shared(self.data[i])

    def slice(self, start: int, length: int, dim: int = 0) -> Shared:
        assert 0 <= start <= start + length <= self.data.shape[dim]
        return Shared(self.data.narrow(dim, start, length))

    def reshape(self, shape: list[int]) -> Shared:
        return Shared(self.data.view(shape))

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.data.permute(order))

    def pieces(self, array: Array, count: int) -> Pieces:
        """A block as boxes of some tokens of some columns, those of the first columns first: how a block lies, as
        `hopper_targets.places` reads in what was compiled."""
        one, tokens, heads, columns = array.block_type.shape
        if [one, tokens, heads] == list(self.data.shape[:3]):  # all rows
            assert count * columns == self.data.shape[3]
            return Pieces([Shared(side) for side in self.data.split(columns, 3)])
        assert one == heads == 1 and self.data.shape[0] == self.data.shape[2] == 1 and count * tokens * columns == self.data.numel()
        block = self.data[0, :, 0]
        return Pieces([Shared(box[None, :, None]) for side in block.split(columns, 1) for box in side.split(tokens, 0)])

    def load(self, layout: Any) -> Tensor:
        return self.data.clone()

    def store(self, value: Tensor) -> None:
        self.data.copy_(value)


@dataclass
class Pieces:
    """Views of a tile."""

    all: list[Shared]

    def index(self, i: int) -> Shared:
        return self.all[i]


@dataclass
class Barrier:
    """Turns when it has been arrived at `count` times and all bytes that were announced have come."""

    count: int = 0
    missing: int = 0
    bytes: int = 0
    phase: int = 0

    def turn(self) -> None:
        assert self.missing >= 0, "more arrivals than the barrier was made for"
        if self.missing == 0 and self.bytes == 0:
            self.missing, self.phase = self.count, self.phase ^ 1


@dataclass
class Barriers:
    all: list[Barrier]

    def index(self, i: int) -> Barrier:
        return self.all[i]


class Mbarrier:
    """`gluon.language.nvidia.hopper.mbarrier`."""

    MBarrierLayout = staticmethod(lambda: "barriers")

    @staticmethod
    def init(barrier: Barrier, count: int) -> None:
        barrier.count = barrier.missing = count

    @staticmethod
    def expect(barrier: Barrier, size: int) -> None:
        barrier.bytes += size
        Mbarrier.arrive(barrier)

    @staticmethod
    def arrive(barrier: Barrier, count: int = 1) -> None:
        barrier.missing -= count
        barrier.turn()
        here().wait(lambda: True, "its turn")

    @staticmethod
    def wait(barrier: Barrier, phase: int) -> None:
        """Until the phase of this parity has ended."""
        assert phase in (0, 1)
        here().wait(lambda: barrier.phase != phase, f"phase {phase} of a barrier of {barrier.count}")


# ── the copy engine ──


class Array:
    """A descriptor, over the memory that it describes."""

    def __init__(self, box: Any) -> None:
        self.data = box.base.as_strided(box.shape, box.strides)
        self.block_type = SimpleNamespace(shape=list(box.block_shape), nbytes=math.prod(box.block_shape) * box.base.element_size())
        self.dtype, self.layout = box.base.dtype, box.layout

    def inside(self, at: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """(slices of the array, slices of the box) of what lies in both."""
        there, mine = [], []
        for first, n, size in zip(at, self.block_type.shape, self.data.shape, strict=True):
            low, high = max(first, 0), min(first + n, size)
            high = max(high, low)
            there.append(slice(low, high))
            mine.append(slice(low - first, high - first) if high > low else slice(0, 0))
        return tuple(there), tuple(mine)


def fetch(array: Array, at: list[int], barrier: Barrier, tile: Shared) -> None:
    assert list(tile.data.shape) == array.block_type.shape
    tile.data.fill_(torch.nan)

    def copy() -> None:
        there, mine = array.inside(at)
        tile.data.zero_()
        tile.data[mine] = array.data[there]
        barrier.bytes -= array.block_type.nbytes
        barrier.turn()

    here().chip.copies.append(copy)


def write_back(array: Array, at: list[int], tile: Shared) -> None:
    def read() -> None:
        there, mine = array.inside(at)
        found = tile.data[mine].clone()
        warp.stores.remove(read)

        def write() -> None:
            array.data[there] = found
            warp.unwritten.remove(write)

        warp.unwritten.append(write)
        warp.chip.copies.append(write)

    warp = here()
    warp.stores.append(read)
    warp.chip.copies.append(read)


def store_wait(pending: int) -> None:
    """Until the copy engine has read what it is to store."""
    warp = here()
    warp.wait(lambda: len(warp.stores) <= pending, "stores")


def written() -> None:
    """Until it is in memory."""
    warp = here()
    warp.wait(lambda: not warp.stores and not warp.unwritten, "what it stored")


def send_rows(tile: Shared, p: Pointer, mask: Any) -> None:
    """The rows of a warp that are under way, until it waits for them."""
    found = _load(p, mask)
    tile.data.fill_(torch.nan)
    here().rows.append(lambda: tile.data.copy_(found))


def _rows_wait(pending: int) -> None:
    assert pending == 0
    for copy in here().rows:
        copy()
    here().rows.clear()


# ── products ──


@dataclass
class Product:
    """A product under way: not a number before it has been waited for."""

    a: Any
    b: Shared
    to: Any
    result: Tensor | None = field(default=None)

    def end(self) -> None:
        if self.result is None:
            a = self.a.data if isinstance(self.a, Shared) else self.a
            start = 0.0 if self.to is None else self.to.result if isinstance(self.to, Product) else self.to
            self.result = start + a.float() @ self.b.data.float()


def warpgroup_mma(a: Any, b: Shared, acc: Any, *, use_acc: bool = True, is_async: bool = False) -> Product:
    assert is_async
    made = Product(a, b, acc if use_acc else None)
    warp = here()
    warp.products.append(made)
    while warp.chip.draw.random() < 0.3 and (due := next((p for p in warp.products if p.result is None), None)) is not None:
        due.end()
    return made


def warpgroup_mma_wait(pending: int, deps: list[Any]) -> Any:
    warp = here()
    while len(warp.products) > pending:
        warp.products.pop(0).end()
    found = tuple(p.result if isinstance(p, Product) and p not in warp.products else p for p in deps)
    return found[0] if len(found) == 1 else found


# ── the language ──


def _number(x: Any) -> Any:
    """A whole number of a tile of one as Python's."""
    return int(x) if isinstance(x, Tensor) and x.dim() == 0 and not x.dtype.is_floating_point else x


def _either(name: str, of_numbers: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):
            return of_numbers(a, b)
        a, b = (x if isinstance(x, Tensor) else torch.tensor(x) for x in (a, b))
        return _number(getattr(torch, name)(a, b))

    return apply


def _greatest(x: Tensor, axis: int) -> Any:
    """The greatest number; NaN only where there is nothing else."""
    if not x.dtype.is_floating_point:
        return _number(x.amax(axis))
    found = x.masked_fill(x.isnan(), -torch.inf).amax(axis)
    return torch.where(x.isnan().all(axis), torch.nan, found)


def _load(p: Pointer, mask: Any = None, other: Any = 0) -> Any:
    places = p.places()
    flat = _flat(p.array)
    flat = flat.float() if flat.is_floating_point() and flat.itemsize == 1 else flat  # of which torch computes nothing
    if mask is None:
        assert bool((places < len(flat)).all()) and bool((places >= 0).all())
        return _number(flat[places])
    mask = mask.expand(torch.broadcast_shapes(mask.shape, places.shape))
    assert bool((places[mask] < len(flat)).all()) and bool((places[mask] >= 0).all()), "a load outside of its array"
    return torch.where(mask, flat[places.expand(mask.shape).clamp(0, max(len(flat) - 1, 0))], torch.tensor(other, dtype=flat.dtype))


def _store(p: Pointer, value: Any, mask: Any = None) -> None:
    flat, places = _flat(p.array), p.places()
    value = torch.as_tensor(value).to(flat.dtype)
    if mask is None:
        flat[places] = value
        return
    mask = mask.expand(torch.broadcast_shapes(mask.shape, places.shape))
    flat[places.expand(mask.shape)[mask]] = value.expand(mask.shape)[mask]


def _flat(x: Tensor) -> Tensor:
    """All the storage behind an array, from its first element."""
    return x.as_strided((x.untyped_storage().nbytes() // x.element_size() - x.storage_offset(),), (1,))


def _atomic_add(p: Pointer, n: int) -> int:
    found = _load(p)
    _store(p, found + n)
    return found


ADDRESSES: dict[int, Pointer] = {}


def _cast(x: Any, dtype: Any, bitcast: bool = False) -> Any:
    if isinstance(x, Pointer):
        ADDRESSES[id(x)] = x
        return id(x)
    if dtype == "pointer":
        return ADDRESSES[x]
    return x.to(dtype) if isinstance(x, Tensor) else x


def _allocate(dtype: Any, shape: list[int], layout: Any) -> Any:
    if layout == "barriers":
        return Barriers([Barrier() for _ in range(shape[0])])
    return Shared(torch.full(shape, torch.nan if dtype.is_floating_point else -(2**31), dtype=dtype))


def _warp_specialize(parts: list[Any], warps: list[int], registers: Any) -> None:
    me = here()
    done: list[Warp] = []
    for number, (body, args) in enumerate(parts):
        if number:
            made = Warp(me.chip, f"{me.name}.{number}", me.program, me.programs, lambda body=body, args=args: body(*args))
            me.chip.warps.append(made)
            made.thread.start()
            done.append(made)
    parts[0][0](*parts[0][1])
    me.wait(lambda: all(warp.ended for warp in done), "its other warps")


def _assembly(text: str, _: str, args: list[Tensor], *, dtype: Any, is_pure: bool, pack: int) -> Tensor:
    """The instructions that the room writes itself, by the first word."""
    first = text.split()[0]
    if first == "tanh.approx.f32":
        return torch.tanh(args[0])
    if first == "cp.async.bulk.wait_group":
        return written()
    if "setp.le.s32" in text:
        x, key, last = args
        return torch.where(key <= last, x, -torch.inf)
    if first == "{":  # four numbers as bytes of one
        return torch.stack([x.to(torch.float8_e4m3fn).view(torch.uint8) for x in args], -1).view(torch.int32).squeeze(-1)
    assert first == "mov.b32"
    return args[0][:, ::pack].contiguous().view(dtype) if pack == 4 else args[0]  # such a one, of which there are four, apart again


def language() -> SimpleNamespace:
    """`gluon.language`, as far as the room speaks it."""
    layout = staticmethod(lambda *_, **__: "layout")
    return SimpleNamespace(
        constexpr=lambda x: x, shared_memory_descriptor=Shared, pointer_type=lambda _: "pointer",
        NVMMADistributedLayout=layout, DotOperandLayout=layout, SliceLayout=layout, BlockedLayout=layout, DistributedLinearLayout=layout,
        SwizzledSharedLayout=layout,
        NVMMASharedLayout=SimpleNamespace(get_default_for=layout),
        float8e4nv=torch.float8_e4m3fn, float32=torch.float32, int32=torch.int32, int64=torch.int64, uint8=torch.uint8,
        program_id=lambda _: here().program, num_programs=lambda _: here().programs,
        arange=lambda a, b, layout: torch.arange(a, b), full=lambda shape, x, dtype, layout: torch.full(shape, x, dtype=dtype),
        zeros_like=torch.zeros_like, full_like=torch.full_like, join=lambda a, b: torch.stack([a, b], -1), split=lambda x: x.unbind(-1), static_range=range, convert_layout=lambda x, layout, assert_trivial=False: x, cast=_cast,
        where=lambda c, a, b: _number(torch.where(*(x if isinstance(x, Tensor) else torch.tensor(x) for x in (c, a, b)))),
        minimum=_either("fmin", min), maximum=_either("fmax", max), max=_greatest, min=lambda x, axis: _number(x.amin(axis)), sum=lambda x, axis: _number(x.sum(axis)),
        exp2=torch.exp2, log2=torch.log2, abs=torch.abs, inline_asm_elementwise=_assembly,
        load=_load, store=_store, atomic_add=_atomic_add, associative_scan=lambda x, axis, _: x.cumsum(axis), allocate_shared_memory=_allocate, warp_specialize=_warp_specialize,
    )  # fmt: skip


def _jit(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _jit


def words(*files: str) -> dict[str, Any]:
    """The functions of some of the room's files, those of `forward.py` unless others are named, as Python runs them."""
    found: dict[str, Any] = {
        "gl": language(), "gluon": SimpleNamespace(jit=_jit, constexpr_function=_jit), "aggregate": _jit, "mbarrier": Mbarrier,
        "tma": SimpleNamespace(store_wait=store_wait), "fetch": fetch, "write_back": write_back, "pieces": Shared.pieces, "barrier": lambda: None,
        "async_copy": SimpleNamespace(commit_group=lambda: None, wait_group=_rows_wait), "send_rows": send_rows,
        "triton": SimpleNamespace(jit=_jit, constexpr_function=_jit), "tl": language(), "arguments": arguments, "latent_desk": latent_desk, "Form": latent_desk.Form,
        "fence_async_shared": lambda: None, "gdc_wait": lambda: None, "gdc_launch_dependents": lambda: None, "warpgroup_mma": warpgroup_mma, "warpgroup_mma_wait": warpgroup_mma_wait,
    }  # fmt: skip
    for code in _codes(files or FILES):
        exec(code, found)  # noqa: S102 — the room's own files
    return found


@lru_cache(maxsize=None)
def _codes(files: tuple[str, ...]) -> list[Any]:
    found = []
    for file in files:
        tree = ast.parse((ROOM / file).read_text())
        tree.body = [node for node in tree.body if not _foreign(node)]
        found.append(compile(tree, file, "exec", __future__.annotations.compiler_flag, dont_inherit=True))
    return found


def _foreign(node: ast.stmt) -> bool:
    """Whether a statement imports Triton or the room itself: those are here already, or of this file."""
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names] if isinstance(node, ast.Import) else []
    return any(name.startswith(("triton", "strobe.backends.hopper", "__future__")) for name in names)


def _given(x: Any) -> Any:
    """An argument as a kernel has it."""
    if isinstance(x, tuple):
        return tuple(map(_given, x))
    return Array(x) if hasattr(x, "block_shape") else Pointer(x) if isinstance(x, Tensor) else x


class Kernel:
    """A kernel that `starting.start` can start."""

    def __init__(self, name: str, seed: int = 0, files: tuple[str, ...] = ()) -> None:
        self.name, self.seed, self.files = name, seed, files

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **named: self.run(grid[0], args, named)

    def run(self, grid: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        kernel = words(*self.files)[self.name]
        named = {name: value for name, value in named.items() if name not in ("num_warps", "enable_fp_fusion", "launch_pdl")}
        given = [_given(x) for x in args]
        Chip(self.seed).run(grid, lambda: kernel(*given, **named))
