"""Keys and values in int8, int4 and float8 in the CPU room, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from strobe import Causal, Full, Paged, Scaled
from strobe.backends.cpu.offer import offer
from strobe.faces import torch as face
from strobe.machine import Machine, compiled_library
from strobe.plan import plan
from strobe.problem import Call, check
from strobe.state import State

from ..contract.cases import pairs
from ..contract.tolerance import plain
from .test_cpu import DTYPES, ISAS, call_of, draw, error, run

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")

KINDS = ("int8", "int4", "float8_e4m3fn", "float8_e5m2")
TIMES = 2.0


def narrow(x: Tensor, kind: str) -> Scaled:
    whole = {"int8": 127.0, "int4": 7.0}.get(kind)
    stored = torch.int8 if whole else getattr(torch, kind)
    scale = x.abs().amax(-1) / (whole or torch.finfo(stored).max)
    steps = x / scale[..., None]
    data = (steps.round() if whole else steps).to(stored)
    return Scaled(pairs(data) if kind == "int4" else data, scale)


def truth(call: Call) -> State:
    wide = call._replace(q=call.q.double())
    return face.launch(plan(check(face._described(wide)), Machine.cpu(1), "reference"), wide)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "S", "H", "G", "D"), [(1, 515, 8, 2, 128), (1, 130, 8, 1, 192), (3, 141, 8, 4, 64), (1, 65, 5, 1, 72), (40, 200, 4, 2, 40)])
def test_every_instruction_set_keeps_the_promise(isa: str, kind: str, dtype: torch.dtype, T: int, S: int, H: int, G: int, D: int) -> None:
    call = call_of(draw(2, T, H, D, dtype=dtype), narrow(draw(2, S, G, D, seed=1), kind), narrow(draw(2, S, G, D, seed=2), kind), Causal())
    found, right = run(call, isa), truth(call)
    usual = plain(call, check(face._described(call)))
    for have, want, by in zip(found, right, usual, strict=True):
        assert error(have, want) <= max(TIMES * error(by, want), torch.finfo(dtype).eps)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ("float8_e4m3fn", "float8_e5m2"))
@pytest.mark.parametrize("T", (1, 40))
def test_every_float8_number_is_read(isa: str, kind: str, T: int) -> None:
    """Over one key the output is the value itself, NaN and infinities too."""
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).view(getattr(torch, kind))
    scale = torch.ones(1, 1, 1)
    out = run(call_of(draw(1, T, 1, 256), Scaled(torch.zeros_like(every), scale), Scaled(every, scale)), isa).out
    assert torch.equal(out, every.float().expand_as(out)) or torch.allclose(out, every.float().expand_as(out), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ("int8", "int4"))
def test_every_whole_number_is_read(isa: str, kind: str) -> None:
    numbers = torch.arange(-128, 128) if kind == "int8" else torch.arange(256) % 16 - 8
    data = numbers.to(torch.int8).view(1, 1, 1, 256)
    stored, scale = pairs(data) if kind == "int4" else data, torch.full((1, 1, 1), 0.5)
    for dtype in DTYPES:
        out = run(call_of(draw(1, 1, 1, 256, dtype=dtype), Scaled(stored, scale), Scaled(stored, scale)), isa).out
        assert torch.allclose(out.flatten().float(), numbers * 0.5, rtol=2e-5, atol=2e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", (1, 40))
def test_scales_of_any_sign_and_size_count(isa: str, dtype: torch.dtype, T: int) -> None:
    q, k, v = draw(1, T, 4, 64, dtype=dtype), narrow(draw(1, 150, 2, 64, seed=1), "int8"), narrow(draw(1, 150, 2, 64, seed=2), "int8")
    sizes = torch.tensor([-1.0, 0.0, 1.0, 30.0, 1e-3]).repeat(30).view(1, 150, 1)
    call = call_of(q, Scaled(k.data, k.scale * sizes), Scaled(v.data, v.scale * sizes.flip(1)))
    usual, _ = plain(call, check(face._described(call)))
    want = truth(call).out
    assert error(run(call, isa).out, want) <= max(TIMES * error(usual, want), torch.finfo(dtype).eps)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", (1, 3, 40))
def test_a_scale_that_no_query_may_see_is_never_felt(isa: str, kind: str, T: int) -> None:
    q = draw(1, T, 4, 64, dtype=torch.bfloat16)
    k, v = narrow(draw(1, 150, 2, 64, seed=1), kind), narrow(draw(1, 150, 2, 64, seed=2), kind)
    clean = run(call_of(q, k, v, Causal(), first=70), isa)
    for bad in (float("nan"), float("inf"), -float("inf")):
        k.scale[:, 70 + T :], v.scale[:, 70 + T :] = bad, bad
        found = run(call_of(q, k, v, Causal(), first=70), isa)
        assert torch.equal(found.out, clean.out) and torch.equal(found.lse, clean.lse)
    k.scale[:, 3] = float("nan")
    assert bool(run(call_of(q, k, v, Causal(), first=70), isa).out.isnan().all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("Z", (1, 5, 16))
def test_pages_are_the_dense_keys(isa: str, kind: str, Z: int) -> None:
    q = draw(1, 1, 4, 64, dtype=torch.bfloat16)
    k, v = narrow(draw(1, 77, 2, 64, seed=1), kind), narrow(draw(1, 77, 2, 64, seed=2), kind)
    columns = -(-77 // Z)
    order = torch.randperm(columns + 2, generator=torch.Generator().manual_seed(Z))

    def laid(x: Tensor) -> Tensor:
        pages = torch.zeros(columns + 2, Z, *x.shape[2:], dtype=x.dtype)
        for s in range(77):
            pages[order[s // Z], s % Z] = x[0, s]
        return pages

    sides = [Scaled(laid(x.data), laid(x.scale)) for x in (k, v)]
    pages = Paged(*sides, order[:columns].view(1, columns).int(), torch.tensor([77], dtype=torch.int32), 77)
    found, dense = run(call_of(q, pages, mask=Causal()), isa), run(call_of(q, k, v, Causal()), isa)
    assert torch.equal(found.out, dense.out) and torch.equal(found.lse, dense.lse)


def test_what_is_refused_is_named() -> None:
    q, k = draw(1, 1, 2, 64), draw(1, 9, 2, 64)
    mixed = check(face._described(call_of(q, narrow(k, "int8"), narrow(k, "float8_e5m2"))))
    assert "keys of int8, values of float8_e5m2" in str(offer(mixed, Machine.cpu(1)))
    gradient = replace(check(face._described(call_of(q, narrow(k, "int8"), narrow(k, "int8"), Full()))), verb="backward")
    assert "over keys with scales" in str(offer(gradient, Machine.cpu(1)))
