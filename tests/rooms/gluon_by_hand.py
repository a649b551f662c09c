"""Runs the Python source of Gluon and Triton kernels on a CPU, program after program, over torch tensors.

Triton 3.6 interprets its own kernels, not Gluon's. Here the functions of a kernel are run with another `gl` and `tl`: layouts mean
nothing, shared memory is an array, and a copy arrives when its group is waited for, its target being poison until then. Loads and copies
outside an array fail, as do divisions of what is below 0, which devices and Python round differently.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.runtime.jit import KernelInterface

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int1": torch.bool, "int8": torch.int8, "uint8": torch.uint8,
         "int16": torch.int16, "int32": torch.int32, "int64": torch.int64}  # fmt: skip
GLUON = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16, torch.float32: gl.float32, torch.bool: gl.int1, torch.int8: gl.int8,
         torch.uint8: gl.uint8, torch.int16: gl.int16, torch.int32: gl.int32, torch.int64: gl.int64,
         torch.float8_e4m3fn: gl.float8e4nv, torch.float8_e5m2: gl.float8e5}  # fmt: skip


def torch_of(dtype: Any) -> torch.dtype:
    return TORCH[str(dtype)]


class Value:
    """A tensor or a scalar of a device."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape)

    @property
    def dtype(self) -> Any:
        return GLUON[self.x.dtype]

    @property
    def type(self) -> Any:
        return types.SimpleNamespace(layout=None)

    def __bool__(self) -> bool:
        return bool(self.x)

    def __index__(self) -> int:
        return int(self.x)

    def __getitem__(self, at: Any) -> Value:
        return Value(self.x[at])

    def to(self, dtype: Any, bitcast: bool = False) -> Value:
        return Value(self.x.view(torch_of(dtype)) if bitcast else self.x.to(torch_of(dtype)))

    def permute(self, order: tuple[int, ...]) -> Value:
        return Value(self.x.permute(order))

    def reshape(self, shape: list[int]) -> Value:
        return Value(self.x.reshape(shape))


def both(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Two operands of one dtype and rank, as Triton promotes them; numbers of Python take the other's."""
    if not isinstance(a, Value):
        b, a = both(b, a)
        return a, b
    x = a.x
    if not isinstance(b, Value):
        return (x.float(), torch.tensor(b, dtype=torch.float32)) if isinstance(b, float) and not x.is_floating_point() else (x, torch.tensor(b, dtype=x.dtype))
    assert not x.dim() or not b.x.dim() or x.dim() == b.x.dim(), f"ranks differ: {list(x.shape)}, {list(b.x.shape)}"
    dtype = torch.promote_types(x.dtype, b.x.dtype)
    return x.to(dtype), b.x.to(dtype)


def _operator(compute: Callable[[Tensor, Tensor], Tensor]) -> tuple[Any, Any]:
    def forth(a: Any, b: Any) -> Any:
        return NotImplemented if isinstance(b, Pointer) else Value(compute(*both(a, b)))

    return forth, lambda a, b: Value(compute(*both(b, a)))


def _whole(divide: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def divided(a: Tensor, b: Tensor) -> Tensor:
        assert bool((a >= 0).all()) and bool((b > 0).all()), "a division of what is below 0"
        return divide(a, b)

    return divided


for _name, _compute in {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "truediv": torch.div, "and": torch.bitwise_and, "or": torch.bitwise_or,
    "rshift": torch.bitwise_right_shift, "lshift": torch.bitwise_left_shift, "floordiv": _whole(lambda a, b: torch.div(a, b, rounding_mode="floor")), "mod": _whole(torch.remainder),
}.items():  # fmt: skip
    _forth, _back = _operator(_compute)
    setattr(Value, f"__{_name}__", _forth)
    setattr(Value, f"__r{_name}__", _back)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Value, f"__{_name}__", _operator(getattr(torch, _name))[0])
Value.__neg__ = lambda self: Value(-self.x)  # type: ignore[attr-defined]


class Pointer:
    """Addresses: a flat array and places in it."""

    def __init__(self, flat: Tensor, at: Value) -> None:
        self.flat, self.at = flat, at

    @property
    def dtype(self) -> Any:
        return types.SimpleNamespace(element_ty=GLUON[self.flat.dtype])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.at.shape

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.flat, self.at + offset)

    def to(self, kind: Any, bitcast: bool) -> Pointer:
        dtype = torch_of(kind.element_ty)
        assert bitcast and int(self.at) * self.flat.itemsize % dtype.itemsize == 0
        whole = self.flat[: self.flat.numel() // dtype.itemsize * dtype.itemsize]
        return Pointer(whole.view(dtype), Value(self.at.x * self.flat.itemsize // dtype.itemsize))

    def places(self, mask: Value | None) -> tuple[Tensor, Tensor]:
        """(places, which are asked for); none of these is outside the array."""
        at = self.at.x.to(torch.int64)
        asked = torch.ones_like(at, dtype=torch.bool) if mask is None else mask.x.expand(torch.broadcast_shapes(mask.x.shape, at.shape))
        at = at.expand(asked.shape)
        assert not bool((asked & ((at < 0) | (at >= self.flat.numel()))).any()), "an address outside the array"
        return torch.where(asked, at, 0), asked

    def load(self, mask: Value | None, other: Any) -> Tensor:
        at, asked = self.places(mask)
        found = self.flat[at]
        if self.flat.dtype.itemsize == 1 and found.is_floating_point():
            found = found.float()
        return found if mask is None else torch.where(asked, found, torch.tensor(other, dtype=found.dtype))


class Shared:
    """A part of shared memory."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    shape = Value.shape

    def index(self, i: Any) -> Shared:
        assert 0 <= int(i) < self.x.shape[0]
        return Shared(self.x[int(i)])

    def slice(self, start: int, length: int) -> Shared:
        return Shared(self.x[start : start + length])

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.x.permute(order))

    def load(self, layout: Any) -> Value:
        return Value(self.x.clone())

    def store(self, value: Value) -> None:
        self.x.copy_(value.x)


def poison(x: Tensor) -> None:
    x.fill_(torch.nan if x.is_floating_point() else 0x7F7F)


class Copies:
    """Groups of copies that are under way."""

    def __init__(self) -> None:
        self.open: list[tuple[Tensor, Tensor]] = []
        self.groups: list[list[tuple[Tensor, Tensor]]] = []

    def send_rows(self, target: Shared, pointer: Pointer, mask: Value | None = None) -> None:
        assert target.shape == pointer.shape
        self.open.append((target.x, pointer.load(mask, 0)))
        poison(target.x)

    def commit_group(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait_group(self, n: int) -> None:
        while len(self.groups) > n:
            for target, data in self.groups.pop(0):
                target.copy_(data)


def least(x: Tensor) -> Tensor:
    """NaN is not seen by a maximum, as on a device."""
    return torch.where(x.isnan(), -torch.inf, x) if x.is_floating_point() else x


def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.fmax(a, b) if a.is_floating_point() else torch.maximum(a, b)


def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.fmin(a, b) if a.is_floating_point() else torch.minimum(a, b)


def _where(c: Any, a: Any, b: Any) -> Any:
    if isinstance(c, bool):  # numbers of Python until a loop makes them a device's
        return a if c else b
    if not isinstance(a, Value) and not isinstance(b, Value):
        a = Value(torch.tensor(a, dtype=torch.float32 if isinstance(a, float) else torch.int32))
    return Value(torch.where(c.x, *both(a, b)))


def _join(a: Value, b: Value) -> Value:
    return Value(torch.stack([a.x, b.x], -1))


class Language:
    """What kernels call `gl` or `tl`, for one program."""

    constexpr, pointer_type = gl.constexpr, gl.pointer_type
    int1, int8, int16, int32, int64, float16, bfloat16, float32 = gl.int1, gl.int8, gl.int16, gl.int32, gl.int64, gl.float16, gl.bfloat16, gl.float32

    def __init__(self, program: int, programs: int, warps: int) -> None:
        self.program, self.programs, self.warps = program, programs, warps
        self.SliceLayout = self.BlockedLayout = self.DotOperandLayout = self.SwizzledSharedLayout = lambda *a: None
        self.static_range, self.join, self.where = range, _join, _where
        self.maximum, self.minimum = _operator(_maximum)[0], _operator(_minimum)[0]

    def program_id(self, axis: int) -> Value:
        return Value(torch.tensor(self.program, dtype=torch.int32))

    def num_programs(self, axis: int) -> Value:
        return Value(torch.tensor(self.programs, dtype=torch.int32))

    def num_warps(self) -> int:
        return self.warps

    def arange(self, start: int, stop: int, layout: Any = None) -> Value:
        return Value(torch.arange(start, stop, dtype=torch.int32))

    def full(self, shape: list[int], value: Any, dtype: Any, layout: Any = None) -> Value:
        return Value(torch.full(shape, value.x.item() if isinstance(value, Value) else value, dtype=torch_of(dtype)))

    def zeros(self, shape: list[int], dtype: Any, layout: Any = None) -> Value:
        return self.full(shape, 0, dtype)

    def zeros_like(self, value: Value) -> Value:
        return Value(torch.zeros_like(value.x))

    def to_tensor(self, number: float) -> Value:
        return Value(torch.tensor(number, dtype=torch.float32))

    def load(self, pointer: Pointer, mask: Value | None = None, other: Any = 0) -> Value:
        return Value(pointer.load(mask, other))

    def store(self, pointer: Pointer, value: Value, mask: Value | None = None) -> None:
        at, asked = pointer.places(mask)
        assert at[asked].unique().numel() == int(asked.sum()), "two numbers are stored in one place"
        pointer.flat[at[asked]] = value.x.expand(asked.shape)[asked].to(pointer.flat.dtype)

    def max(self, value: Value, axis: int) -> Value:
        return Value(least(value.x).amax(axis))

    def sum(self, value: Value, axis: int) -> Value:
        x = value.x
        return Value(x.double().sum(axis).to(x.dtype) if x.is_floating_point() else x.sum(axis, dtype=x.dtype))  # the same bits in any shape

    def associative_scan(self, value: Value, axis: int, add: Any) -> Value:
        return Value(value.x.cumsum(axis, dtype=value.x.dtype))

    def exp2(self, value: Value) -> Value:
        return Value(torch.exp2(value.x))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Rounded once."""
        return Value((a.x.double() * b.x.double() + c.x.double()).float())

    def log2(self, value: Value) -> Value:
        return Value(torch.log2(value.x))

    def abs(self, value: Value) -> Value:
        return Value(value.x.abs())

    def trans(self, value: Value) -> Value:
        return Value(value.x.T)

    def reshape(self, value: Value, shape: list[int]) -> Value:
        return value.reshape(shape)

    def convert_layout(self, value: Value, layout: Any, assert_trivial: bool = False) -> Value:
        return value

    def allocate_shared_memory(self, dtype: Any, shape: list[int], layout: Any) -> Shared:
        x = torch.empty(shape, dtype=torch_of(dtype))
        poison(x)
        return Shared(x)

    def inline_asm_elementwise(self, text: str, constraints: str, args: list[Value], dtype: Any, is_pure: bool, pack: int) -> Any:
        outs = constraints.count("=")
        x = args[0].x
        if x.dtype == torch.float32:
            return Value(ptx(text, [x.contiguous().view(torch.int32).long()], outs)[0].int().view(torch.float32).reshape(x.shape))
        halves = x.contiguous().view(torch.int16).long().flatten() & 0xFFFF
        found = ptx(text, [halves[::2] | halves[1::2] << 16], outs)
        made = [torch.stack([y & 0xFFFF, y >> 16], -1).flatten().to(torch.int16).reshape(x.shape) for y in found]
        return tuple(map(Value, made))


def _signed(x: Tensor, bits: int) -> Tensor:
    return (x + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def _float(x: Tensor, dtype: torch.dtype) -> Tensor:
    bits = dtype.itemsize * 8
    return _signed(x, bits).to({16: torch.int16, 32: torch.int32, 8: torch.int8}[bits]).view(dtype)


def _bits(x: Tensor) -> Tensor:
    bits = x.dtype.itemsize * 8
    return x.view({16: torch.int16, 32: torch.int32}[bits]).long() & ((1 << bits) - 1)


def ptx(text: str, args: list[Tensor], outs: int) -> list[Tensor]:
    """The output registers of a few instructions, over arrays of 32-bit numbers."""
    registers: dict[str, Tensor] = {f"${outs + i}": x for i, x in enumerate(args)}

    def read(word: str) -> Tensor:
        word = re.sub("^0f", "0x", word)
        return torch.tensor(int(word, 0)) if word[0].isdigit() else registers[word]

    def halves(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return _float(x & 0xFFFF, dtype), _float(x >> 16, dtype)

    for line in (part.strip() for part in re.sub(r"(^|;|\s)[{}](?=\s|$)", r"\1", text).split(";")):
        if not line or line.startswith(".reg"):
            continue
        name, rest = line.split(" ", 1)
        pair = re.match(r"\{(\w+), (\w+)\}, (\S+)", rest)
        if name == "mov.b32" and pair:
            registers[pair[1]], registers[pair[2]] = read(pair[3]) & 0xFFFF, read(pair[3]) >> 16
            continue
        to, *words = rest.split(", ")
        x = [read(word) for word in words]
        if name == "mov.b32":
            made = x[0]
        elif name == "and.b32":
            made = x[0] & x[1]
        elif name == "xor.b32":
            made = x[0] ^ x[1]
        elif name == "shr.u32":
            made = x[0] >> x[1]
        elif name == "shl.b32":
            made = x[0] << x[1] & 0xFFFFFFFF
        elif name == "lop3.b32":
            assert int(words[3], 0) == 0x6A, "lop3 as (a & b) ^ c"
            made = (x[0] & x[1]) ^ x[2]
        elif name == "prmt.b32":
            source = x[0] | x[1] << 32  # of 64 bits, as long as bit 63 is 0
            assert bool((x[1] < 1 << 31).all())
            made = sum(((source >> (8 * (int(x[2]) >> 4 * i & 7))) & 0xFF) << 8 * i for i in range(4))
        elif name in ("sub.rn.f16x2", "sub.rn.bf16x2"):
            dtype = torch.float16 if "bf16" not in name else torch.bfloat16
            low, high = (a - b for a, b in zip(halves(x[0], dtype), halves(x[1], dtype), strict=True))
            made = _bits(low) | _bits(high) << 16
        elif name == "cvt.rn.bf16x2.f32":
            high, low = (_bits(_float(a, torch.float32).bfloat16()) for a in x)
            made = low | high << 16
        elif name == "cvt.f32.f16":
            made = _bits(_float(x[0], torch.float16).float())
        elif name in ("cvt.rn.f16x2.e4m3x2", "cvt.rn.f16x2.e5m2x2"):
            dtype = torch.float8_e4m3fn if "e4m3" in name else torch.float8_e5m2
            low, high = (_bits(_float(a, dtype).half()) for a in (x[0] & 0xFF, x[0] >> 8))
            made = low | high << 16
        elif name == "tanh.approx.f32":
            made = _bits(torch.tanh(_float(x[0], torch.float32)))
        else:
            raise NotImplementedError(name)
        registers[to] = made
    return [registers[f"${j}"] for j in range(outs)]


def mma_v2(a: Value, b: Value, c: Value) -> Value:
    """In float64, so that the bits do not follow which of the two is first."""
    return Value((a.x.double() @ b.x.double()).float() + c.x)


def warpgroup_mma(a: Value | Shared, b: Shared, c: Value, use_acc: bool = True) -> Value:
    return Value(a.x.float() @ b.x.float() + (c.x if use_acc else 0.0))


def by_hand(function: Any, language: Any, copies: Any = None) -> Callable[..., Any]:
    """A kernel's function as one of Python, and all that it calls."""
    own = {"gl": language, "tl": language, "async_copy": copies, "mma_v2": mma_v2, "warpgroup_mma": warpgroup_mma}
    own["send_rows"] = getattr(copies, "send_rows", None)
    own |= dict.fromkeys(("fence_async_shared", "gdc_launch_dependents", "gdc_wait"), lambda: None)

    @lru_cache(maxsize=None)
    def turned(fn: types.FunctionType) -> Callable[..., Any]:
        space: dict[str, Any] = {"__builtins__": __builtins__}
        for name in fn.__code__.co_names:
            value = own.get(name, fn.__globals__.get(name))
            if name not in own and isinstance(value, KernelInterface):
                value = turned(value.fn)
            if name in own or name in fn.__globals__:
                space[name] = value.value if isinstance(value, gl.constexpr) else value
        return types.FunctionType(fn.__code__, space, fn.__name__, fn.__defaults__)

    return turned(function.fn)


def argument(value: Any) -> Any:
    """An argument of a launch on the device."""
    if isinstance(value, Tensor):
        flat = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())  # type: ignore[call-overload]
        return Pointer(flat, Value(torch.tensor(value.storage_offset(), dtype=torch.int64)))
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return Value(torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else torch.int32))


class ByHand:
    """A kernel that is started as any, and run here."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.arg_names = kernel, kernel.arg_names
        annotations = kernel.fn.__annotations__
        self.constants = {name for name in self.arg_names if "constexpr" in str(annotations.get(name))}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: Any, **named: Any) -> None:
            warps = named.pop("num_warps")
            for option in ("launch_pdl", "maxnreg", "enable_fp_fusion"):
                named.pop(option, None)
            given = dict(zip(self.arg_names, args)) | named  # noqa: B905 — the others are named
            made = {name: value if name in self.constants else argument(value) for name, value in given.items()}
            for program in range(grid[0]):
                by_hand(self.kernel, Language(program, grid[0], warps), Copies())(**made)

        return run
