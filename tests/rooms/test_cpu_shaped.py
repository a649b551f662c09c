"""Masks that are no interval of keys, bias and dropout in the CPU room, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from strobe import Blocks, Causal, Dense, Documents, Dropout, Full, Mask, Prefix, Tree, Window
from strobe.machine import Machine, compiled_library
from strobe.plan import plan
from strobe.problem import check
from strobe.backends.cpu.offer import offer
from strobe.faces import torch as face

from .test_cpu import ISAS, call_of, run

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")

B, T, S, H, G, D = 2, 70, 210, 4, 2, 24
ARCH = Machine.cpu(1).arch


def ids(n: int) -> Tensor:
    return torch.randint(0, 4, (B, n), dtype=torch.int32)


def lot(*shape: int) -> Tensor:
    return torch.rand(*shape) > 0.5


SHAPES: dict[str, Callable[[], tuple[Mask, dict[str, object]]]] = {
    "prefix": lambda: (Prefix(190), {}),
    "prefix by sequence, in a window": lambda: (Prefix(torch.tensor([3, 200], dtype=torch.int32)) & Window(before=90), {}),
    "two prefixes": lambda: (Prefix(torch.tensor([160, 200], dtype=torch.int32)) & Prefix(180), {}),
    "documents": lambda: (Documents(ids(T), ids(S)) & Causal(), {}),
    "blocks by head": lambda: (Blocks(lot(B, H, 5, 7), 16, 32), {}),
    "blocks for all": lambda: (Blocks(lot(1, 1, 24, 30), 3, 7) & Causal(), {}),
    "no block": lambda: (Blocks(torch.zeros(1, 1, 2, 4, dtype=torch.bool)), {}),
    "tree": lambda: (Tree(lot(B, T, T)), {}),
    "dense by head and key": lambda: (Dense(lot(H, 1, S)), {}),
    "four marks": lambda: (Dense(lot(T, S)) & Blocks(lot(1, H, 5, 7), 16, 32) & Documents(ids(T), ids(S)) & Tree(lot(1, T, T)), {}),
    "bias": lambda: (Causal(), {"bias": torch.randn(B, H, T, S)}),
    "bias of float64 by key": lambda: (Full(), {"bias": torch.randn(1, 1, 1, S, dtype=torch.float64)}),
    "dropout": lambda: (Causal(), {"dropout": Dropout(0.4, 2**50 + 11)}),
    "all": lambda: (Dense(lot(T, S)), {"bias": torch.randn(T, S), "dropout": Dropout(0.1, 7)}),
}


def wanted(q: Tensor, k: Tensor, v: Tensor, mask: Mask, more: dict[str, object]) -> Tensor:
    call = call_of(q.double(), k.double(), v.double(), mask, **more)
    return face.launch(plan(check(face._described(call)), replace(Machine.cpu(1), compiled=False), "reference"), call).out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
def test_they_mean_what_the_reference_says(isa: str, shape: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    mask, more = SHAPES[shape]()
    q, k, v = torch.randn(B, T, H, D, dtype=dtype), torch.randn(B, S, G, D, dtype=dtype), torch.randn(B, S, G, 40, dtype=dtype)
    out = run(call_of(q, k, v, mask, **more), isa).out
    truth = wanted(q, k, v, mask, more)
    # the plain computation in the same precision errs by about this much; the contract's tests measure it case by case
    error = {torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype] * max(float(truth.abs().max()), 1e-3)
    assert float((out.double() - truth).abs().max()) <= error


@pytest.mark.parametrize("isa", ISAS)
def test_what_a_mark_hides_is_never_felt(isa: str) -> None:
    torch.manual_seed(4)
    q, k, v = torch.randn(B, T, H, D), torch.randn(B, S, G, D), torch.randn(B, S, G, 40)
    seen = lot(T, S)
    seen[:, 7] = seen[:, 150] = False
    clean = run(call_of(q, k, v, Dense(seen)), isa).out
    for poison in (float("nan"), float("inf"), float("-inf")):
        k[:, 7], v[:, 7], v[:, 150] = poison, poison, poison
        torch.testing.assert_close(run(call_of(q, k, v, Dense(seen)), isa).out, clean)


def test_one_query_of_a_shaped_call_takes_the_tiles_too() -> None:
    torch.manual_seed(5)
    q, k, v = torch.randn(B, 1, H, D), torch.randn(B, S, G, D), torch.randn(B, S, G, D)
    mask = Dense(lot(B, H, 1, S))
    out = run(call_of(q, k, v, mask)).out
    torch.testing.assert_close(out.double(), wanted(q, k, v, mask, {}), atol=1e-5, rtol=1e-5)


def test_more_marks_than_the_room_reads_are_refused_with_the_number() -> None:
    call = call_of(torch.randn(B, T, H, D), torch.randn(B, S, G, D), torch.randn(B, S, G, D), Full())
    mask: Mask = Full()
    for _ in range(5):
        mask = mask & Dense(lot(T, S))

    refusal = offer(check(face._described(call._replace(mask=mask))), Machine.cpu(1))
    assert "at most 4" in str(refusal) and "got 5" in str(refusal)
