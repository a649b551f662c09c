"""Every room against float64, on every case it takes."""

from __future__ import annotations


import pytest
import torch

from strobe import Causal, Ranged, Scaled
from strobe.layouts import Dense as Keys
from strobe.problem import Call, map_arrays

from .cases import CASES, Case, build
from .poison import poison_unseen, poisoned_memory
from .rooms import interpreted, offered, present, problem_of, promised, run, taken
from .tolerance import allowed, error, plain

GRID = [
    pytest.param(room, case, dtype, id=f"{room}-{case.name}-{dtype}") for room in present() for case, dtype in offered(room)
]


@pytest.mark.parametrize(("room", "case", "dtype"), GRID)
def test_error_is_at_most_twice_the_plain_computations(room: str, case: Case, dtype: str) -> None:
    call = build(case, dtype)
    problem = problem_of(call)
    truth, _ = run("reference", _wide(case, dtype))
    plain_out, plain_lse = plain(call, problem)
    poison_unseen(call, problem)
    with poisoned_memory():
        state, plan = run(room, call)
    assert state.out.dtype == getattr(torch, dtype) and state.lse.dtype == torch.float32
    assert error(state.out, truth.out) <= allowed(error(plain_out, truth.out), dtype, room), plan
    assert error(state.lse, truth.lse) <= allowed(error(plain_lse, truth.lse), dtype, room), plan


def _wide(case: Case, dtype: str) -> Call:
    """The same inputs, already rounded to the dtype, as float64."""
    def widen(x: torch.Tensor) -> torch.Tensor:
        return x.double() if x.dtype.is_floating_point and x.dtype.itemsize > 1 and x.dtype != torch.float64 else x

    call = build(case, dtype)
    if case.scaled:  # scales stay float32, data stays narrow
        return call._replace(q=map_arrays(call.q, widen))
    return map_arrays(call, widen)


@pytest.mark.parametrize("room", present())
def test_a_room_takes_what_it_promised(room: str) -> None:
    refused = [f"{case.name} {dtype}" for case in CASES for dtype in case.dtypes if promised(room, case) and not taken(room, case, dtype)]
    assert not refused


@pytest.mark.parametrize("room", present())
def test_same_plan_same_bits(room: str) -> None:
    for case, dtype in offered(room)[:: 21 if room == "triton" else 7]:
        call = build(case, dtype)
        first, second = run(room, call)[0], run(room, call)[0]
        assert torch.equal(first.out, second.out) and torch.equal(first.lse, second.lse), case.name


@pytest.mark.parametrize(
    ("room", "dtype", "T", "S", "H", "G"),
    [
        (room, dtype, *shape)
        for room in present()
        for dtype in (("float32",) if room == "triton" and interpreted() else ("float32", "bfloat16", "float16"))
        for shape in ((70, 70, 4, 2), (5, 90, 8, 2), (130, 200, 2, 2))
    ],
)
@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
def test_a_wild_key_reaches_only_the_queries_that_see_it(room: str, dtype: str, wild: float, T: int, S: int, H: int, G: int) -> None:
    """A key that later queries see and earlier ones do not: the earlier rows are as if it were not there."""
    call = build(Case("wild", 1, T, S, H, G, 64, mask=Causal()), dtype)
    clean, _ = run(room, call)
    at = S - 2
    call.keys.k[:, at] = wild
    call.keys.v[:, at] = wild
    state, _ = run(room, call)
    blind = T - 2  # queries 0 … T − 3 stand before the wild key
    scale = float(clean.out[:, :blind].abs().max())
    assert torch.allclose(state.out[:, :blind], clean.out[:, :blind], atol=scale * 1e-2, rtol=1e-2)
    assert torch.allclose(state.lse[:, :blind], clean.lse[:, :blind], atol=1e-2)
    assert not bool(torch.isfinite(state.out[:, blind:]).all())


@pytest.mark.parametrize("T", [1, 40])
@pytest.mark.parametrize("room", [room for room in present() if room != "sdpa"])  # which takes no scales
def test_a_scale_of_a_sequence_is_one_of_each_of_its_tokens(room: str, T: int) -> None:
    B, S, G = 2, 70, 2
    g = torch.Generator().manual_seed(0)
    data = torch.randint(-127, 128, (B, S, G, 64), generator=g, dtype=torch.int8)
    scale = torch.rand(B, 1, G, generator=g) / 100
    each = scale.expand(B, S, G).contiguous()
    q = torch.randn(B, T, 4, 64, generator=g)
    starts, lengths = torch.tensor([0, 7], dtype=torch.int32), torch.tensor([70, 40], dtype=torch.int32)
    for lie in (Keys, lambda k, v: Ranged(k, v, starts, lengths)):
        found, known = (run(room, Call(q, lie(Scaled(data, x), Scaled(data, x)), Causal()))[0] for x in (scale, each))
        assert torch.equal(found.out, known.out) and torch.equal(found.lse, known.lse)
