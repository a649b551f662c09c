"""Second gradients: the formula over tiles against the definition differentiated twice, its memory, and the promise."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from strobe import Alibi, Causal, Sink, SoftCap, Unsupported, attention
from strobe.backends.reference.double_backward import launch
from strobe.backends.reference.forward import define
from strobe.backends.reference.padded import pad
from strobe.faces.recording import attend
from strobe.layouts import Dense
from strobe.machine import compiled_library
from strobe.plan import Plan, plan
from strobe.problem import Call, Problem, map_arrays

from .cases import CASES, LIFE, Case, build, with_gradients
from .poison import poison_unseen
from .rooms import machine, problem_of
from .tolerance import allowed_gradient, error, plain

GRADED = [case for case in CASES if case.B * case.H * case.T * case.S < 400_000 and max(case.D, case.width) <= 256]
State = tuple[Tensor, Tensor]


def wide(case: Case) -> Call:
    call = map_arrays(build(case, "float32"), lambda x: x.double() if x.dtype == torch.float32 and not case.scaled else x)
    return call._replace(q=map_arrays(call.q, lambda x: x.double() if x.dtype == torch.float32 else x)) if case.scaled else call


def defined(problem: Problem) -> Callable[[Call], State]:
    """The definition, which torch can differentiate as often as one likes."""

    def run(call: Call) -> State:
        padded = pad(call, problem)
        out, lse = define(padded, call, problem)
        return padded.unpad(out), padded.unpad(lse)

    return run


def twice(run: Callable[[Call], Any], call: Call, seed: int = 1) -> tuple[list[Tensor], Tensor]:
    """(gradients of a product with the first gradients, by the incoming ones and by every array; lse)."""
    asked, leaves = with_gradients(call)
    out, lse = run(asked)
    g = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=g).to(like.dtype)

    d_out, d_lse = draw(out).requires_grad_(), torch.where(lse.detach() == -torch.inf, 0.0, draw(lse)).requires_grad_()
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    first = torch.autograd.grad((out, finite), leaves, (d_out, d_lse), create_graph=True, allow_unused=True, materialize_grads=True)
    received = [draw(x) for x in first]
    pairs = [(x, a) for x, a in zip(first, received, strict=True) if x.requires_grad]
    return list(
        torch.autograd.grad(
            [x for x, _ in pairs], [d_out, d_lse, *leaves], [a for _, a in pairs], allow_unused=True, materialize_grads=True
        )
    ), lse.detach()


def tiled(problem: Problem, tile: tuple[int, int]) -> Plan:
    chosen = plan(replace(problem, verb="double backward"), machine("reference"), "reference")
    return replace(chosen, offer=replace(chosen.offer, tile=tile))


@pytest.mark.parametrize("case", GRADED, ids=lambda case: case.name)
def test_the_formula_is_the_definition_differentiated_twice(case: Case) -> None:
    call = wide(case)
    problem = problem_of(call)
    truth, _ = twice(defined(problem), call)
    poison_unseen(call, problem)
    found, _ = twice(attend, call)
    # where one weight is nearly all, terms as large as the scores' square cancel
    bound = 1e-13 * max(1.0, case.times) ** 2
    for i, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert error(torch.nan_to_num(a, nan=7.0), b) < bound, f"array {i}"


@pytest.mark.parametrize("name", ["all terms", "rows with no keys", "gemma-2 soft cap", "T > S causal", "bert with padding"])
@pytest.mark.parametrize("tile", [(7, 13), (16, 5), (1, 64), (64, 1)])
def test_where_tiles_end_does_not_matter(name: str, tile: tuple[int, int]) -> None:
    call = wide(replace(next(case for case in CASES if case.name == name), B=1))
    if not isinstance(call.keys, Dense):
        call = call._replace(keys=map_arrays(call.keys, lambda x: x[:1]))
    problem = problem_of(call)
    g = torch.Generator().manual_seed(2)
    d_out, d_lse = torch.randn(*call.q.shape[:-1], problem.V, generator=g), torch.randn(call.q.shape[:-1], generator=g)
    arrays = [call.q, call.keys.k, call.keys.v, call.bias, call.alibi and call.alibi.slopes, call.sink and call.sink.logits]
    received = [None if x is None else torch.randn(x.shape, generator=g) for x in arrays]
    found = launch(tiled(problem, tile), call, d_out.double(), d_lse.double(), received)
    again = launch(tiled(problem, tile), call, d_out.double(), d_lse.double(), received)
    whole = launch(tiled(problem, (10_000, 10_000)), call, d_out.double(), d_lse.double(), received)
    for a, b, c in zip(found, whole, again, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None and c is not None:
            assert error(a, b) < 1e-13 and torch.equal(a, c)


def test_infinity_reaches_only_what_sees_it() -> None:
    g = torch.Generator().manual_seed(5)
    q, k, v, d_out, a_q, a_k, a_v = (torch.randn(1, 40, 2, 8, generator=g, dtype=torch.float64) for _ in range(7))
    d_lse = torch.randn(1, 40, 2, generator=g, dtype=torch.float64)
    call = Call(q, Dense(k, v), Causal())
    problem = problem_of(call)
    clean = launch(tiled(problem, (16, 16)), call, d_out, d_lse, [a_q, a_k, a_v, None, None, None])
    spoilt = d_lse.clone()
    spoilt[:, 10] = torch.inf  # query 10 sees the keys 0 … 10
    found = launch(tiled(problem, (16, 16)), call, d_out, spoilt, [a_q, a_k, a_v, None, None, None])
    of_q, of_k = found[2], found[3]
    assert of_q is not None and of_k is not None and clean[2] is not None and clean[3] is not None
    assert not of_q[:, 10].isfinite().any() and not of_k[:, :11].isfinite().all()
    others = torch.arange(40) != 10
    assert error(of_q[:, others], clean[2][:, others]) < 1e-13 and error(of_k[:, 11:], clean[3][:, 11:]) < 1e-13


def test_the_desks_say_who_does_it() -> None:
    problem = replace(problem_of(build(next(case for case in LIFE if case.dropout is None), "float32")), verb="double backward")
    chosen = plan(problem, machine("cpu"))
    assert (chosen.room, chosen.offer.kernel) == ("reference", "double_backward")
    assert dict(chosen.refusals)["cpu"] and dict(chosen.refusals)["sdpa"]
    rows, columns = chosen.offer.tile
    assert problem.B * problem.H * rows * columns <= 2**17


PROMISED = [case for case in GRADED if case in LIFE and not case.scaled and not case.keys.startswith("paged") and case.T > 1]


@pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", PROMISED, ids=lambda case: case.name)
def test_second_gradients_of_what_the_cpu_room_ran_keep_its_promise(case: Case, dtype: str) -> None:
    call = build(case, dtype)
    problem = problem_of(call)
    exact = map_arrays(call, lambda x: x.double() if x.dtype.is_floating_point else x)
    truth, _ = twice(defined(problem), exact)
    plainly, _ = twice(lambda asked: plain(asked, problem), call)
    found, lse = twice(attend, call)
    for i, (a, b, c) in enumerate(zip(found, plainly, truth, strict=True)):
        assert error(a, c) <= allowed_gradient(error(torch.nan_to_num(b), c), dtype, "cpu", lse), f"array {i}"


class Watch(TorchDispatchMode):
    """Counts the bytes of what torch makes and has not yet let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.live = self.most = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, Tensor):
                self.saw(x)
        return found

    def saw(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        self.largest = max(self.largest, size)
        if at not in self.held:
            self.live += size
            self.most = max(self.most, self.live)
        self.held[at] = self.held.get(at, 0) + 1
        weakref.finalize(x, self.left, at, size)

    def left(self, at: int, size: int) -> None:
        self.held[at] -= 1
        if not self.held[at]:
            del self.held[at]
            self.live -= size


def watched(n: int, run: Callable[[Problem, Call, Tensor], object]) -> Watch:
    g = torch.Generator().manual_seed(0)
    q, k, v, d_out = (torch.randn(1, n, heads, 16, generator=g) for heads in (2, 1, 1, 2))
    call = Call(q, Dense(k, v), Causal(), cap=SoftCap(5.0), alibi=Alibi(torch.ones(2)), sink=Sink(torch.zeros(2)))
    with Watch() as watch:
        run(problem_of(call), call, d_out)
    return watch


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    def second(problem: Problem, call: Call, d_out: Tensor) -> object:
        chosen = plan(replace(problem, verb="double backward"), machine("reference"))
        arrays = (call.q, call.keys.k, call.keys.v, None, torch.ones(2), torch.ones(2))
        return launch(chosen, call, d_out, None, list(arrays))

    short, long = watched(2048, second), watched(4096, second)
    assert long.most < 1.6 * short.most
    assert long.largest <= 8 * 2 * 4096 * 32  # of float64: a tile, or the keys and queries twice
    assert long.most < 8 * 2 * 4096**2 / 6  # of what one matrix of scores would take

    dense = watched(2048, lambda problem, call, d_out: define(pad(call, problem), call, problem))
    assert dense.largest >= 8 * 2 * 2048**2, "what looks has to see what the definition holds"


def test_a_third_gradient_is_refused() -> None:
    x = torch.randn(1, 5, 2, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(attention(x, x, x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x, create_graph=True)
    with pytest.raises(Unsupported, match="a third gradient was asked for"):
        torch.autograd.grad(second.square().sum(), x)


def test_a_penalty_on_a_slope_trains() -> None:
    """WGAN-GP's term, through a compiled first backward, against float64."""

    def of_weights(dtype: torch.dtype) -> Tensor:
        g = torch.Generator().manual_seed(3)
        x = torch.randn(2, 150, 4, 64, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        w = torch.randn(64, 64, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        out = attention(x @ w / 8, x, x[..., :32], mask=Causal())
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad((slope.flatten(1).norm(dim=1) - 1).square().mean(), w)[0]

    assert error(of_weights(torch.float32), of_weights(torch.float64)) < 1e-5
