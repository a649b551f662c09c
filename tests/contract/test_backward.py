"""Gradients: the paper's formula against torch's autograd of the definition, and the operators' laws."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import Alibi, Causal, Dropout, Packed, Paged, Sink, SoftCap, Window, attention, attention_state, using
from strobe.answers import Offer
from strobe.backends.reference.forward import define
from strobe.backends.reference.padded import pad
from strobe.faces.seam import flatten
from strobe.faces.recording import attend
from strobe.problem import map_arrays
from strobe.rooms import desk

from .cases import CASES, LIFE, Case, build, with_gradients
from .poison import poison_unseen
from .rooms import back, inside, machine, moved, on_a_gpu, posed, present, problem_of, small
from .tolerance import allowed_gradient, error, plain

GRADED = [case for case in CASES if case.B * case.H * case.T * case.S < 2_000_000]


@pytest.mark.parametrize("case", GRADED, ids=lambda case: case.name)
def test_gradients_are_those_of_the_definition(case: Case) -> None:
    wide = map_arrays(build(case, "float32"), lambda x: x.double() if x.dtype == torch.float32 and not case.scaled else x)
    if case.scaled:
        wide = wide._replace(q=map_arrays(wide.q, lambda x: x.double() if x.dtype == torch.float32 else x))
    expected, expected_leaves = with_gradients(wide)
    problem = problem_of(map_arrays(wide, lambda x: x.detach()))
    padded = pad(expected, problem)
    out, lse = define(padded, expected, problem)
    out, lse = padded.unpad(out), padded.unpad(lse)
    g = torch.Generator().manual_seed(1)
    d_out, d_lse = torch.randn(out.shape, generator=g).double(), torch.randn(lse.shape, generator=g).double()
    d_lse = torch.where(lse.detach() == -torch.inf, 0.0, d_lse)
    total = (out * d_out).sum() + torch.where(lse == -torch.inf, 0.0, lse * d_lse).sum()
    truth = torch.autograd.grad(total, expected_leaves, allow_unused=True, materialize_grads=True)

    poison_unseen(wide, problem)
    asked, leaves = with_gradients(wide)
    state = attend(asked)
    found = torch.autograd.grad((state.out, state.lse), leaves, (d_out, d_lse), allow_unused=True, materialize_grads=True)
    for name, a, b in zip(range(len(leaves)), found, truth, strict=True):
        assert a.dtype == leaves[name].dtype
        assert error(torch.nan_to_num(a, nan=7.0), b) < (1e-5 if a.dtype == torch.float32 else 1e-11), f"array {name}"


@lru_cache(maxsize=None)
def graded(room: str) -> list[tuple[Case, str]]:
    """The cases whose gradient the room's desk takes: those from life in every dtype, the others in float32."""
    found = []
    for case in GRADED:
        if room == "triton" and not on_a_gpu(room) and not small(case, 12):
            continue
        problem = replace(posed(case, "float32"), verb="backward")
        if isinstance(desk(room).offer(problem, machine(room)), Offer):
            every = case.dtypes if room != "triton" or on_a_gpu(room) else ("float32", *case.dtypes[1:2][: len(found) % 3 == 0])  # its interpreter is slow
            found += [(case, dtype) for dtype in (every if case in LIFE else ("float32",))]
    return found


ROOMS = tuple(room for room in present() if room != "reference" and graded(room))


def _unrolled(room: str) -> list[Any]:
    return [pytest.param(room, case, dtype, id=f"{room} {case.name} {dtype}") for case, dtype in graded(room)]


@pytest.mark.parametrize(("room", "case", "dtype"), [param for room in ROOMS for param in _unrolled(room)])
def test_a_room_keeps_the_promise_for_gradients(room: str, case: Case, dtype: str) -> None:
    call = build(case, dtype)
    problem = problem_of(call)
    wide = map_arrays(call if not case.scaled else call._replace(keys=None), lambda x: x.double() if x.dtype.is_floating_point else x)
    wide = wide._replace(keys=call.keys) if case.scaled else wide  # scales stay float32, data stays narrow
    g = torch.Generator().manual_seed(1)

    def gradients(found: tuple[Tensor, Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        out, lse = found
        g.manual_seed(1)
        d_out = torch.randn(out.shape, generator=g).to(call_dtype).to(out.dtype)
        d_lse = torch.where(lse.detach() == -torch.inf, 0.0, torch.randn(lse.shape, generator=g).to(lse.dtype))
        finite_lse = torch.where(lse == -torch.inf, 0.0, lse)
        return torch.autograd.grad((out, finite_lse), leaves, (d_out, d_lse), allow_unused=True, materialize_grads=True)

    call_dtype = getattr(torch, dtype)
    asked, leaves = with_gradients(call)
    plainly = gradients(plain(asked, problem), leaves)
    with using("reference"):
        asked, leaves = with_gradients(wide)
        truth = gradients(attend(asked), leaves)
    poison_unseen(call, problem)
    asked, leaves = with_gradients(call)
    with inside(room):
        state = back(attend(moved(room, asked)))
        found = gradients(state, leaves)
    for i, (a, b, c) in enumerate(zip(found, plainly, truth, strict=True)):
        assert a.dtype == leaves[i].dtype
        assert error(a, c) <= allowed_gradient(error(torch.nan_to_num(b), c), dtype, room, state.lse.detach()), f"array {i}"


@pytest.mark.parametrize("terms", ["none", "all"])
def test_first_and_second_derivatives_by_differences(terms: str) -> None:
    g = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()

    q, k, v = leaf(2, 3, 4, 8), leaf(2, 5, 2, 8), leaf(2, 5, 2, 4)
    if terms == "none":
        inputs = (q, k, v)

        def f(q, k, v):  # noqa: ANN001, ANN202
            return attention_state(q, k, v, mask=Causal())
    else:
        inputs = (q, k, v, leaf(4, 3, 5), leaf(4), leaf(4))

        def f(q, k, v, bias, slopes, sink):  # noqa: ANN001, ANN202
            return attention_state(
                q, k, v, mask=Causal() & Window(before=2), cap=SoftCap(3.0), bias=bias, alibi=Alibi(slopes),
                sink=Sink(sink), dropout=Dropout(0.3, 7),
            )  # fmt: skip

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def _calls() -> dict[str, object]:
    chosen = ("llama-3-8b chunk over a cache", "all terms", "qwen3 packed prefill", "bert with padding", "packed training")
    return {case.name: build(replace(case, dropout=None), "float32") for case in CASES if case.name in chosen}


@pytest.mark.parametrize("name", sorted(_calls()))
def test_opcheck(name: str) -> None:
    asked, _ = with_gradients(_calls()[name])
    torch.library.opcheck(torch.ops.strobe.attention.default, flatten(asked))


@pytest.mark.parametrize("name", ["llama-3-8b paged decode", "int4, D 40, V 72, five queries"])
def test_opcheck_of_a_cache(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    torch.library.opcheck(torch.ops.strobe.attention.default, flatten(build(case, "float32")))


@pytest.mark.parametrize("name", ["llama-3-8b chunk over a cache", "all terms", "qwen3 packed prefill"])
def test_opcheck_of_the_gradient(name: str) -> None:
    asked, _ = with_gradients(_calls()[name])
    state = attend(asked)
    args = (torch.randn_like(state.out), torch.randn_like(state.lse), *(x.detach() for x in state), *flatten(asked))
    torch.library.opcheck(torch.ops.strobe.attention_backward.default, args)


MASKS = {"causal": Causal(), "window": Causal() & Window(before=9)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(mask: str, dynamic: bool) -> None:
    def f(q, k, v, sink):  # noqa: ANN001, ANN202
        state = attention_state(q * 2, k, v, mask=MASKS[mask], cap=SoftCap(4.0), sink=Sink(sink))
        return state.out.relu().sum() + state.lse.sum() + attention(q, k, v).sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (12, 20) if dynamic else (12,):
        leaves = [torch.randn(1, n, 4, 16).requires_grad_(), torch.randn(1, 20, 2, 16).requires_grad_(), torch.randn(1, 20, 2, 16).requires_grad_(), torch.randn(4).requires_grad_()]  # fmt: skip
        truth = torch.autograd.grad(f(*leaves), leaves)
        found = torch.autograd.grad(compiled(*leaves), leaves)
        for a, b in zip(found, truth, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_compiles_paged_and_packed() -> None:
    case = next(case for case in CASES if case.name == "mixed engine step")
    call = build(case, "float32")

    def f(q, offsets, k, v, table, lengths):  # noqa: ANN001, ANN202
        return attention(Packed(q + 0, offsets, 33), Paged(k, v, table, lengths, 190), mask=Causal())

    args = (call.q.tokens, call.q.offsets, call.keys.keys, call.keys.values, call.keys.table, call.keys.lengths)
    assert torch.allclose(torch.compile(f, fullgraph=True, backend="aot_eager")(*args), f(*args), atol=1e-5)


def test_memory_that_no_one_asked_for_has_no_gradient() -> None:
    q = torch.randn(1, 4, 2, 8, requires_grad=True)
    k = torch.randn(1, 4, 2, 8)
    out = attention(q, k, k)
    (grad,) = torch.autograd.grad(out.sum(), [q])
    assert grad.shape == q.shape and k.grad is None
