"""torch's recording: attention as operators that autograd and torch.compile know.

Without gradients and outside torch.compile a call goes straight to its kernel. A step of training with three plain arrays goes
through torch's own Function. All else goes through `torch.ops.strobe.attention`, whose schema carries tensors, strings and
integers: `faces/seam.py` flattens a call at the operator and rebuilds it inside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from strobe.errors import Invalid, Unsupported
from strobe.faces.seam import flatten, unflatten
from strobe.faces.torch import _ARRAYS, _described, plain_on_gpu, planned, ready, wants_gradient
from strobe.faces.torch import attend as unrecorded
from strobe.layouts import Dense, Paged
from strobe.plan import Plan
from strobe.problem import Call, check, key_sides
from strobe.rooms import kernel
from strobe.state import State
from strobe.terms import Scaled


def again(q: Any, k: Any, v: Any, mask: Any, scale: Any, cap: Any) -> State | None:
    """The state of a call like one before, where nothing is recorded, before it is made one value; None for any other call."""
    if torch.compiler.is_compiling() or not plain_on_gpu(q, k, v):
        return None
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return None
    if not (scale is None or type(scale) is float):  # True and 1 would be 1.0, which is not always what they mean
        return None
    found = ready(q, k, v, mask, scale, cap)
    return None if found is None or found.run is None else found.run(q, k, v)


def attend(call: Call) -> State:
    """The state of a call, recorded for autograd where a gradient is asked for."""
    if torch.compiler.is_compiling() or wants_gradient(call):
        if _simple(call):
            return State(*_Simple.apply(call.q, *key_sides(call.keys), call._replace(q=None, keys=None)))
        _refuse_cache_gradients(call)
        q, k, v, bias, slopes, sink, rest, words, sizes = flatten(call)
        return State(*torch.ops.strobe.attention.default(q, k, v, bias, slopes, sink, rest, words, sizes))
    return unrecorded(call)  # no array asks for a gradient, so there is nothing to switch off


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
        out, lse = unrecorded(call)
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
    sides = key_sides(call.keys)
    held = [x for side in (call.q, *sides) if isinstance(side, Scaled) for x in (side.data, side.scale)]
    held += sides if isinstance(call.keys, Paged) else ()
    if any(isinstance(x, Tensor) and x.requires_grad for x in held):
        raise Invalid("pages and what is Scaled are a cache and take no gradient; pass plain arrays, or detach them")
    if isinstance(call.q, Scaled) and wants_gradient(call):
        raise Invalid("beside Scaled queries nothing takes a gradient; detach bias, slopes and sink logits, or pass plain arrays")


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
    out, lse = unrecorded(unflatten(*flat))
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
    dtype = torch.bfloat16 if q.dtype.itemsize == 1 else q.dtype
    return q.new_empty((*q.shape[:-1], width), dtype=dtype), q.new_empty(q.shape[:-1], dtype=lse_dtype)


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
