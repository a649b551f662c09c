"""The CPU room's linear layer for few rows, against float64 and beside torch's own in the same precision."""

from __future__ import annotations

import math
import platform
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from strobe.errors import Broken
from strobe.machine import Machine, compiled_library
from strobe.rooms import kernel

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")

FAMILY = ("scalar", "neon") if platform.machine() in ("arm64", "aarch64") else ("scalar", "avx2", "avx512", "amx")
BEST = Machine.cpu(1).arch
ISAS = [pytest.param(isa, marks=pytest.mark.skipif(FAMILY.index(isa) > FAMILY.index(BEST), reason=f"this machine has no {isa}")) for isa in FAMILY]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TIMES = 2.0  # the error is at most so many times that of torch's linear in the same dtype
SIZES = ((64, 128), (45, 77), (1, 1), (7, 31), (130, 33), (16, 1000))  # (N, K)


def run(x: Tensor, w: Tensor, bias: Tensor | None = None, scales: Tensor | None = None, isa: str = BEST, threads: int = 1) -> Tensor:
    return kernel("cpu", "linear").launch(replace(Machine.cpu(threads), arch=isa), x, w, bias, scales)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def int8(N: int, K: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randint(-127, 128, (N, K), generator=g, dtype=torch.int8), torch.rand(N, generator=g) / 100


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", (False, True))
@pytest.mark.parametrize(("N", "K"), SIZES)
def test_every_instruction_set_is_as_exact_as_torch(isa: str, dtype: torch.dtype, biased: bool, N: int, K: int) -> None:
    w, bias = draw(N, K, dtype=dtype), draw(N, dtype=dtype, seed=1) if biased else None
    q, scales = int8(N, K)
    for M in range(1, 17):
        x = draw(M, K, dtype=dtype, seed=M)
        for weights, scale in ((w, None), (q, scales)):
            exact = weights.double() if scale is None else weights.double() * scale.double()[:, None]
            truth = torch_linear(x.double(), exact, None if bias is None else bias.double())
            plain = torch_linear(x, exact.to(dtype), bias)
            found = run(x, weights, bias, scale, isa)
            assert found.dtype == dtype and found.shape == (M, N)
            assert error(found, truth) <= max(TIMES * error(plain, truth), torch.finfo(dtype).eps), (M, scale is None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows_keep_the_promise(dtype: torch.dtype) -> None:
    x, w = draw(5, 20_001, dtype=dtype), draw(9, 20_001, dtype=dtype, seed=1)
    truth = torch_linear(x.double(), w.double())
    assert error(run(x, w), truth) <= max(TIMES * error(torch_linear(x, w), truth), torch.finfo(dtype).eps)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads(isa: str, dtype: torch.dtype) -> None:
    x, w, (q, scales) = draw(16, 300, dtype=dtype), draw(1003, 300, dtype=dtype, seed=1), int8(1003, 300)
    for weights, scale in ((w, None), (q, scales)):
        whole = run(x, weights, None, scale, isa)
        for threads in (2, 3):
            assert torch.equal(run(x, weights, None, scale, isa, threads), whole)
        for M in range(1, 17):
            assert torch.equal(run(x[:M], weights, None, scale, isa, 2), whole[:M])
        assert all(torch.equal(run(x[m : m + 1], weights, None, scale, isa)[0], whole[m]) for m in range(16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_lie_anywhere(dtype: torch.dtype) -> None:
    wide, w = draw(8, 200, dtype=dtype), draw(20, 64, dtype=dtype, seed=1)
    for x in (wide[:, 16:80], wide[::2, :64], draw(64, 6, dtype=dtype).T, wide[:1, :64].expand(3, 64)):
        assert torch.equal(run(x, w), run(x.contiguous(), w))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_so_and_where_it_is(isa: str, dtype: torch.dtype) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        x, w = draw(5, 77, dtype=dtype), draw(9, 77, dtype=dtype, seed=1)
        for k in (0, 3, 76):
            dirty = x.clone()
            dirty[2, k] = bad
            found, plain = run(dirty, w, isa=isa), torch_linear(dirty, w)
            assert torch.equal(found.isnan(), plain.isnan()) and torch.equal(found.isinf(), plain.isinf())
            dirty = w.clone()
            dirty[4, k] = bad
            found = run(x, dirty, isa=isa)
            assert not found[:, 4].isfinite().any() and found[:, [0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def test_nothing_to_add_up() -> None:
    bias = draw(6)
    assert torch.equal(run(draw(2, 0), draw(6, 0), bias), bias.expand(2, 6))
    assert run(draw(2, 8), draw(0, 8)).shape == (2, 0)


@pytest.mark.parametrize(
    ("x", "w", "scales"),
    [
        (draw(17, 8), draw(4, 8), None),
        (draw(0, 8), draw(4, 8), None),
        (draw(1, 8), draw(4, 8, dtype=torch.bfloat16), None),
        (draw(1, 8), torch.ones(4, 8, dtype=torch.int8), None),
        (draw(1, 8), draw(4, 8), torch.ones(4)),
        (draw(1, 8), draw(4, 9), None),
        (draw(1, 8), draw(4, 16)[:, :8], None),
        (draw(1, 8), torch.ones(4, 8, dtype=torch.int8), torch.ones(3)),
    ],
)
def test_what_does_not_go_together_is_refused(x: Tensor, w: Tensor, scales: Tensor | None) -> None:
    with pytest.raises(Broken):
        run(x, w, None, scales)


def test_an_instruction_set_that_is_not_here_is_named() -> None:
    missing = "neon" if FAMILY[-1] == "amx" else "avx2"
    with pytest.raises(Broken, match=missing):
        run(draw(1, 8), draw(4, 8), isa=missing)
