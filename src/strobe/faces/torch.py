"""torch's face: describes tensors, has calls planned on their device's machine, and starts kernels."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strobe.answers import Question
from strobe.errors import Invalid, Unsupported
from strobe.layouts import Dense, Paged
from strobe.machine import Machine, installed_triton
from strobe.masks import Mask
from strobe.merging import check_merge
from strobe.plan import Plan, plan
from strobe.problem import Call, Described, check, key_sides, map_arrays
from strobe.rooms import ROOMS, kernel
from strobe.state import State
from strobe.terms import SoftCap

_room: ContextVar[str | None] = ContextVar("strobe_room", default=None)
_invariant: ContextVar[bool] = ContextVar("strobe_invariant", default=False)
_DTYPES = {getattr(torch, name): name for name in (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
    "float8_e4m3fn", "float8_e5m2",
)}  # fmt: skip


@contextmanager
def using(room: str | None, invariant: bool) -> Generator[None, None, None]:
    """Calls within run in `room`, and invariantly, or raise; what is not given stays as it is around."""
    if room is None and not invariant:
        raise Invalid("using takes a room, invariant=True, or both; got neither")
    if room is not None and room not in ROOMS:
        raise Invalid(f"no room is called {room!r}; the rooms are {', '.join(ROOMS)}")
    before = _room.set(_room.get() if room is None else room), _invariant.set(invariant or _invariant.get())
    try:
        yield
    finally:
        _room.reset(before[0])
        _invariant.reset(before[1])


@lru_cache(maxsize=None)
def _device_name(device: torch.device) -> str:
    return str(device)


def describe(value: Any) -> Any:
    """A tensor's description; for anything else its type in words, for `check` to name."""
    if not isinstance(value, Tensor):
        return value if isinstance(value, type) else f"a {type(value).__name__}"
    strides = value.stride()
    dtype = _DTYPES.get(value.dtype) or str(value.dtype).removeprefix("torch.")
    return Described(tuple(value.shape), dtype, _device_name(value.device), strides[-1] if strides else 1)


def all_described(value: Any) -> Any:
    """A value with its arrays described; an array, which most are, without a walk over fields."""
    return describe(value) if isinstance(value, Tensor) else map_arrays(value, describe)


def pages_described(keys: Any) -> Any:
    """Keys with their arrays described; `Paged`, which a cache has, without a walk over fields."""
    if type(keys) is not Paged:
        return map_arrays(keys, describe)
    return Paged(
        all_described(keys.keys), all_described(keys.values), describe(keys.table), describe(keys.lengths), keys.longest
    )


def _described(call: Call) -> Call:
    q, keys, mask, scale, cap, bias, alibi, sink, dropout, first = call
    if not (bias is alibi is sink is first is None and isinstance(mask, Mask) and mask.plain):
        return map_arrays(call, describe)
    lain = Dense(all_described(keys.k), all_described(keys.v)) if type(keys) is Dense else pages_described(keys)
    return Call(all_described(q), lain, mask, scale, cap, dropout=dropout)


def machine(device: str) -> Machine:
    """The machine that a tensor's device is."""
    if device == "cpu":
        return Machine.cpu(torch.get_num_threads())
    if device.startswith("cuda"):
        return _cuda(device)
    raise Unsupported(f"no room runs on the device {device!r}; known are cpu and cuda")


@lru_cache(maxsize=None)
def _cuda(device: str) -> Machine:
    found = torch.cuda.get_device_properties(device)
    arch = found.gcnArchName.split(":")[0] if torch.version.hip else f"sm{found.major}{found.minor}"
    return Machine(found.name, "cuda", arch, found.multi_processor_count, triton=installed_triton())


def plan_of(call: Call) -> Plan:
    """Checked and planned, not run."""
    problem = check(_described(call))
    if _invariant.get():
        problem = replace(problem, invariant=True)
    return planned(problem)


def planned(question: Question) -> Plan:
    """The plan for the room that is asked for around the call."""
    return plan(question, machine(question.device), _room.get())


def launch(chosen: Plan, call: Call) -> State:
    """Runs the plan's kernel."""
    return kernel(chosen.room, chosen.offer.kernel).launch(chosen, call)


def wants_gradient(call: Call) -> bool:
    """Whether autograd is to record the call."""
    if not torch.is_grad_enabled():
        return False
    q, keys, _, _, _, bias, alibi, sink, _, _ = call
    k, v = (keys.k, keys.v) if type(keys) is Dense else key_sides(keys)
    if type(q) is type(k) is type(v) is Tensor and bias is alibi is sink is None:  # as most calls are
        return q.requires_grad or k.requires_grad or v.requires_grad
    return any(asks(x) for x in (q, k, v, bias, alibi, sink))


def asks(value: Any) -> bool:
    """Whether any tensor in a value asks for a gradient."""
    if isinstance(value, Tensor):
        return value.requires_grad
    parts = getattr(type(value), "__match_args__", None)
    return bool(parts) and any(asks(getattr(value, name)) for name in parts)


def run(chosen: Plan, call: Call) -> State:
    """Runs a kept plan on arrays that are what it was made for."""
    if not _fits(_wanted(chosen), call):
        raise Invalid(f"the plan was made for {chosen.problem}; got {check(_described(call))}. Make a new plan with explain")
    if not wants_gradient(call):
        return launch(chosen, call)
    with torch.no_grad():
        return launch(chosen, call)


_ARRAYS = (Tensor, torch.nn.Parameter)


class Ready:
    """How calls that are alike run, once one was planned; None if there is no such way."""

    known = False
    run: Callable[[Any, Any, Any], State | None] | None = None


@lru_cache(maxsize=4096)
def _ready(*alike: Any) -> Ready:
    return Ready()


def plain_on_gpu(q: Any, k: Any, v: Any) -> bool:
    """Whether these are arrays and nothing around them, the first of them on a GPU."""
    return type(q) in _ARRAYS and type(k) in _ARRAYS and type(v) in _ARRAYS and q.is_cuda


def ready(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: Any, cap: Any) -> Ready | None:
    """What is known of calls like this one, plain on a GPU: of the same shapes, strides and dtypes, with the same numbers beside
    them, in the same room. None for calls with more than numbers."""
    if not (isinstance(mask, Mask) and mask.plain and (cap is None or type(cap) is SoftCap)):
        return None
    dtype, device = q.dtype, q.get_device()
    if not (k.dtype is dtype and v.dtype is dtype and k.get_device() == device and v.get_device() == device):
        return None  # `check` names it
    return _ready(
        mask, scale, cap, _room.get(), _invariant.get(), dtype, device, q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride()
    )


def _attend_ready(call: Call) -> State | None:
    """The state of a call that is planned, or was when one like it was; None where its kernel has no other way than `launch`."""
    keys = call.keys
    if type(keys) is not Dense or not plain_on_gpu(call.q, keys.k, keys.v):
        return None
    q, _, mask, scale, cap, bias, alibi, sink, dropout, first = call
    if not (bias is alibi is sink is dropout is first is None):
        return None
    found = ready(q, keys.k, keys.v, mask, scale, cap)
    if found is None:
        return None
    if not found.known:
        chosen = plan_of(call)
        shortcut: Any = getattr(kernel(chosen.room, chosen.offer.kernel), "kept_run", None)
        found.known, found.run = True, None if shortcut is None else shortcut(chosen)
    return None if found.run is None else found.run(q, keys.k, keys.v)


def attend(call: Call) -> State:
    """The state, unrecorded."""
    found = _attend_ready(call)
    return launch(plan_of(call), call) if found is None else found


@lru_cache(maxsize=4096)
def kept(chosen: Plan) -> Callable[[Any, Any, Any], State | None] | None:
    """`run` for plans of dense arrays and nothing else, in half the time; it returns None where the arrays do not fit. None
    for other plans, and in rooms whose kernels have no such way."""
    shortcut: Any = getattr(kernel(chosen.room, chosen.offer.kernel), "kept_run", None)
    start = None if shortcut is None else shortcut(chosen)
    if start is None:
        return None
    want = _wanted(chosen)
    for_q, (for_k, for_v) = want.q, key_sides(want.keys)

    def run(q: Any, k: Any, v: Any) -> State | None:
        return start(q, k, v) if _fits(for_q, q) and _fits(for_k, k) and _fits(for_v, v) else None

    return run


class _Wanted(NamedTuple):
    """A description in torch's own words, so that a tensor is compared and not described."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    last_stride: int


@lru_cache(maxsize=4096)
def _wanted(chosen: Plan) -> Call:
    """The call that a plan was made for, its descriptions in torch's words."""

    def wanted(value: Described) -> _Wanted:
        return _Wanted(torch.Size(value.shape), getattr(torch, value.dtype), torch.device(value.device), value.last_stride)

    return map_arrays(chosen.problem.call, wanted)  # type: ignore[union-attr]


def _fits(want: Any, have: Any) -> bool:
    """Whether a value is what is wanted: the same arrays in the same places, the same numbers."""
    kind = type(want)
    if kind is _Wanted:
        shape, dtype, device, last_stride = want
        return (
            isinstance(have, Tensor)
            and have.shape == shape
            and have.dtype is dtype
            and (not shape or have.stride()[-1] == last_stride)
            and have.device == device
        )
    if kind is not type(have):
        return False
    if kind is Dense:
        return _fits(want.k, have.k) and _fits(want.v, have.v)
    if kind is Call or kind is tuple:  # the parts of a mask are a tuple
        mine, its = want, have
    elif hasattr(kind, "__dataclass_fields__"):
        mine, its = vars(want).values(), vars(have).values()
    else:
        return bool(want == have)
    if len(mine) != len(its):
        return False
    for a, b in zip(mine, its, strict=True):
        if a is b:  # most of a kept plan's values are the caller's own
            continue
        if not _fits(a, b):
            return False
    return True


def merge(a: State, b: State) -> State:
    """Two states as one."""
    problem = check_merge(describe(a[0]), describe(a[1]), describe(b[0]), describe(b[1]))
    a, b = State(*a), State(*b)
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and any(x.requires_grad for x in (*a, *b))):
        return kernel("reference", "merge").joined(a, b)
    chosen = planned(problem)
    return kernel(chosen.room, chosen.offer.kernel).launch(chosen, a, b)
