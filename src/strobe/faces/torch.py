"""torch's face: describes tensors, and makes the verbs operators that autograd and torch.compile know.

Without gradients and outside torch.compile a call goes straight to its kernel. Otherwise it goes through
`torch.ops.strobe.attention`, whose schema carries tensors, strings and integers: `faces/seam.py` flattens a call
at the operator and rebuilds it inside.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from strobe.answers import Question
from strobe.errors import Invalid, Unsupported
from strobe.faces.seam import flatten, unflatten
from strobe.layouts import Dense, Paged
from strobe.machine import Machine, installed_triton
from strobe.masks import Mask
from strobe.merging import check_merge
from strobe.plan import Plan, plan
from strobe.problem import Call, Described, check, key_sides, map_arrays
from strobe.rooms import NAMED, ROOMS, kernel
from strobe.state import State
from strobe.terms import Scaled

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
    if room is not None and room not in (*ROOMS, *NAMED):
        raise Invalid(f"no room is called {room!r}; the rooms are {', '.join((*ROOMS, *NAMED))}")
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


def attend(call: Call) -> State:
    """The state of a call, recorded for autograd where a gradient is asked for."""
    if torch.compiler.is_compiling() or _wants_gradient(call):
        if _simple(call):
            return State(*_Simple.apply(call.q, call.keys.k, call.keys.v, call._replace(q=None, keys=None)))
        _refuse_cache_gradients(call)
        q, k, v, bias, slopes, sink, rest, words, sizes = flatten(call)
        return State(*torch.ops.strobe.attention.default(q, k, v, bias, slopes, sink, rest, words, sizes))
    return launch(plan_of(call), call)  # no array asks for a gradient, so there is nothing to switch off


_ARRAYS = (Tensor, torch.nn.Parameter)


def _simple(call: Call) -> bool:
    """Whether queries, keys and values are all the arrays there are, and torch does nothing but record: what a step of training
    is, in a quarter of the operators' time."""
    keys = call.keys
    return (
        type(keys) is Dense
        and type(call.q) in _ARRAYS
        and type(keys.k) in _ARRAYS
        and type(keys.v) in _ARRAYS
        and call.bias is call.alibi is call.sink is call.first is None
        and call.mask.plain
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _get_current_dispatch_mode() is None
    )


class _Simple(torch.autograd.Function):
    """Attention of three arrays; its gradient is the operators' where that is asked for a gradient too."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, others: Call) -> tuple[Tensor, Tensor]:
        call = others._replace(q=q, keys=Dense(k, v))
        out, lse = launch(plan_of(call), call)
        ctx.others = others
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        call = ctx.others._replace(q=q, keys=Dense(k, v))
        if d_out is None:
            d_out = torch.zeros_like(out)
        if torch.is_grad_enabled():
            return *torch.ops.strobe.attention_backward.default(d_out, d_lse, out, lse, *flatten(call))[:3], None
        return *_gradients(call, State(out, lse), d_out, d_lse)[:3], None


def _refuse_cache_gradients(call: Call) -> None:
    for side in key_sides(call.keys):
        held = (side.data, side.scale) if isinstance(side, Scaled) else (side,) if isinstance(call.keys, Paged) else ()
        if any(isinstance(x, Tensor) and x.requires_grad for x in held):
            raise Invalid("pages and scaled keys are a cache and take no gradient; pass plain arrays, or detach them")


def _wants_gradient(call: Call) -> bool:
    if not torch.is_grad_enabled():
        return False
    q, keys, _, _, _, bias, alibi, sink, _, _ = call
    k, v = (keys.k, keys.v) if type(keys) is Dense else key_sides(keys)
    for x in (q, k, v) if bias is alibi is sink is None else (q, k, v, bias, alibi, sink):
        if x.requires_grad if type(x) is Tensor else asks(x):
            return True
    return False


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
    if not _wants_gradient(call):
        return launch(chosen, call)
    with torch.no_grad():
        return launch(chosen, call)


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


# ── the operators ──

_library = torch.library.Library("strobe", "DEF")  # kept alive: torch forgets operators whose library is collected
_TAKES = "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? slopes, Tensor? sink, Tensor[] rest, str words, SymInt[] sizes"
_library.define(f"attention({_TAKES}) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    f"attention_backward(Tensor d_out, Tensor? d_lse, Tensor out, Tensor lse, {_TAKES}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"attention_backward_backward(Tensor d_out, Tensor? d_lse, Tensor?[] cotangents, {_TAKES}) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _attention(*flat: Any) -> tuple[Tensor, Tensor]:
    call = unflatten(*flat)
    out, lse = launch(plan_of(call), call)
    return out, lse


def _gradient_plan(verb: str, call: Call) -> Plan:
    problem = replace(check(_described(call)), verb=verb)
    return planned(problem)


def _attention_backward(d_out: Tensor, d_lse: Tensor | None, out: Tensor, lse: Tensor, *flat: Any) -> tuple[Tensor, ...]:
    found = _gradients(unflatten(*flat), State(out, lse), d_out, d_lse)
    return tuple(d_out.new_empty(0) if g is None else g.contiguous() for g in found)


def _gradients(call: Call, state: State, d_out: Tensor, d_lse: Tensor | None) -> Any:
    chosen = _gradient_plan("backward", call)
    return kernel(chosen.room, chosen.offer.kernel).launch(chosen, call, state, d_out.contiguous(), d_lse)


def _attention_backward_backward(
    d_out: Tensor, d_lse: Tensor | None, cotangents: list[Tensor | None], *flat: Any
) -> list[Tensor]:
    call = unflatten(*flat)
    chosen = _gradient_plan("double backward", call)
    found = kernel(chosen.room, chosen.offer.kernel).launch(chosen, call, d_out, d_lse, list(cotangents))
    return [d_out.new_empty(0) if g is None else g.contiguous() for g in found]


def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, bias: Any, slopes: Any, sink: Any, rest: Any, words: str, sizes: Any
) -> tuple[Tensor, Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    width = v.shape[-1] * (2 if v.dtype == torch.uint8 else 1)  # pairs of int4
    return q.new_empty((*q.shape[:-1], width)), q.new_empty(q.shape[:-1], dtype=lse_dtype)


def _like(x: Tensor | None, d_out: Tensor) -> Tensor:
    return d_out.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)


def _no_gradient(words: str, k: Tensor) -> bool:
    return "keys=Paged" in words or not k.dtype.is_floating_point or k.dtype.itemsize == 1


def _attention_backward_fake(
    d_out: Tensor, d_lse: Any, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Any, slopes: Any, sink: Any, rest: Any,
    words: str, sizes: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    keys = (None if _no_gradient(words, x) else x for x in (k, v))
    return tuple(_like(x, d_out) for x in (q, *keys, bias, slopes, sink))


def _attention_backward_backward_fake(
    d_out: Tensor, d_lse: Any, cotangents: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, slopes: Any, sink: Any, rest: Any,
    words: str, sizes: Any,
) -> list[Tensor]:  # fmt: skip
    keys = (None if _no_gradient(words, x) else x for x in (k, v))
    return [_like(x, d_out) for x in (d_out, d_lse, q, *keys, bias, slopes, sink)]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    q, k, v, bias, slopes, sink, rest, ctx.words, ctx.sizes = inputs
    ctx.save_for_backward(*output, q, k, v, bias, slopes, sink, *rest)
    ctx.set_materialize_grads(False)


def _recorded(ctx: Any) -> tuple[Any, ...]:
    out, lse, q, k, v, bias, slopes, sink, *rest = ctx.saved_tensors
    return out, lse, q, k, v, bias, slopes, sink, rest, ctx.words, ctx.sizes


def _no_gradients(sizes: list[int]) -> list[None] | None:
    """torch takes an empty list for a list of tensors and a list of integers for one value."""
    return None if sizes else []


def _where_there(found: Any, arrays: Any, words: str) -> list[Tensor | None]:
    """The gradients of q, k, v, bias, slopes, sink that there are."""
    absent = [x is None or not x.dtype.is_floating_point for x in arrays]
    absent[1:3] = (no or _no_gradient(words, x) for no, x in zip(absent[1:3], arrays[1:3], strict=True))
    return [None if no else g for g, no in zip(found, absent, strict=True)]


def _attention_gradient(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Any, ...]:
    out, lse, *flat = _recorded(ctx)
    if d_out is None:
        d_out = torch.zeros_like(out)
    found = torch.ops.strobe.attention_backward.default(d_out, d_lse, out, lse, *flat)
    return *_where_there(found, flat[:6], ctx.words), [None] * len(flat[6]), None, _no_gradients(ctx.sizes)


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    d_out, d_lse, _out, _lse, q, k, v, bias, slopes, sink, rest, ctx.words, ctx.sizes = inputs
    ctx.save_for_backward(d_out, d_lse, q, k, v, bias, slopes, sink, *rest)
    ctx.set_materialize_grads(False)


def _backward_gradient(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    d_out, d_lse, *flat, rest = (*ctx.saved_tensors[:8], list(ctx.saved_tensors[8:]))
    of_d_out, of_d_lse, *found = torch.ops.strobe.attention_backward_backward.default(
        d_out, d_lse, list(cotangents), *flat, rest, ctx.words, ctx.sizes
    )
    others = _where_there(found, flat, ctx.words)
    # out and lse are functions of the others, and were differentiated as such
    return of_d_out, None if d_lse is None else of_d_lse, None, None, *others, [None] * len(rest), None, _no_gradients(ctx.sizes)


def _remember_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _no_third_gradient(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
    raise Unsupported("attention can be differentiated twice; a third gradient was asked for")


for _name, _run, _fake in (
    ("attention", _attention, _attention_fake),
    ("attention_backward", _attention_backward, _attention_backward_fake),
    ("attention_backward_backward", _attention_backward_backward, _attention_backward_backward_fake),
):
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _run, _device)
    torch.library.register_fake(f"strobe::{_name}", _fake, lib=_library)
torch.library.register_autograd("strobe::attention", _attention_gradient, setup_context=_remember, lib=_library)
torch.library.register_autograd("strobe::attention_backward", _backward_gradient, setup_context=_remember_backward, lib=_library)
torch.library.register_autograd(
    "strobe::attention_backward_backward", _no_third_gradient, setup_context=_remember_nothing, lib=_library
)
