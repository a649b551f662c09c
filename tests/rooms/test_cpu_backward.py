"""The CPU room's own gradients: its instruction sets, its cuts, its strides, and NaN on either side."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import Alibi, Causal, Documents, Dropout, Full, Mask, Packed, Sink, SoftCap, Unsupported, Window, attention, using
from strobe.faces import torch as face
from strobe.machine import Machine, compiled_library
from strobe.plan import plan
from strobe.problem import Call, check
from strobe.rooms import kernel
from strobe.state import Gradients

from .test_cpu import BEST, DTYPES, ISAS, call_of, draw, error

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")


def gradients(call: Call, room: str = "cpu", isa: str = BEST, threads: int = 2) -> Gradients:
    """What a room computes, from the state of the same room, for an incoming gradient that is drawn."""
    machine = replace(Machine.cpu(threads), arch=isa)
    problem = check(face._described(call))
    state = face.launch(plan(problem, machine, room), call)
    d_out, d_lse = draw(*state.out.shape, dtype=state.out.dtype, seed=8), draw(*state.lse.shape, seed=9)
    chosen = plan(replace(problem, verb="backward"), machine, room)
    return kernel(room, chosen.offer.kernel).launch(chosen, call, state, d_out, d_lse)


def agree(call: Call, bound: float, isa: str = BEST, threads: int = 2) -> None:
    for name, a, b in zip(Gradients._fields, gradients(call, "cpu", isa, threads), gradients(call, "reference"), strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype and error(a, b) < bound, name


TERMS: tuple[dict[str, Any], ...] = (
    {"cap": SoftCap(3.0)}, {"sink": Sink(draw(6, seed=3))}, {"dropout": Dropout(0.3, 5)},
    {"alibi": Alibi(draw(2, 6, seed=4).abs()), "cap": SoftCap(1.0), "sink": Sink(draw(6, seed=3)), "scale": -0.2},
)  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("T", "S", "H", "G", "D", "V", "mask"),
    [
        (70, 300, 4, 2, 64, 64, Causal()),
        (33, 250, 2, 2, 128, 40, Full()),
        (61, 61, 3, 1, 24, 72, Causal() & Window(before=9)),
        (1, 130, 7, 1, 8, 8, Full()),
    ],
)
def test_every_instruction_set_agrees_with_the_reference(
    isa: str, dtype: torch.dtype, T: int, S: int, H: int, G: int, D: int, V: int, mask: Mask
) -> None:
    q, k, v = draw(2, T, H, D, dtype=dtype), draw(2, S, G, D, dtype=dtype, seed=1), draw(2, S, G, V, dtype=dtype, seed=2)
    agree(call_of(q, k, v, mask), 5e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("more", TERMS, ids=lambda more: " ".join(more))
def test_terms_on_every_instruction_set(isa: str, dtype: torch.dtype, more: dict[str, Any]) -> None:
    q, k, v = draw(2, 50, 6, 64, dtype=dtype), draw(2, 230, 2, 64, dtype=dtype, seed=1), draw(2, 230, 2, 64, dtype=dtype, seed=2)
    bound = 5e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    ids = torch.arange(230, dtype=torch.int32).div(60, rounding_mode="floor").expand(2, -1).contiguous()
    for mask in (Causal(), Documents(ids[:, 180:].contiguous(), ids)):
        agree(call_of(q, k, v, mask, **more), bound, isa)


BIASES = [(2, 6, 50, 230), (1, 6, 50, 230), (2, 1, 50, 230), (50, 230), (6, 1, 1), (2, 1, 1, 230), (1, 6, 50, 1), (1, 1, 1, 1)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", BIASES, ids=str)
def test_a_bias_receives_its_sum_whatever_shares_it(isa: str, shape: tuple[int, ...]) -> None:
    q, k, v = draw(2, 50, 6, 64), draw(2, 230, 2, 64, seed=1), draw(2, 230, 2, 64, seed=2)
    agree(call_of(q, k, v, Causal(), bias=draw(*shape, seed=6), cap=SoftCap(2.0)), 5e-6, isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_bias_with_all_else(dtype: torch.dtype) -> None:
    q, k, v = draw(2, 50, 6, 64, dtype=dtype), draw(2, 230, 2, 64, dtype=dtype, seed=1), draw(2, 230, 2, 64, dtype=dtype, seed=2)
    ids = torch.arange(230, dtype=torch.int32).div(60, rounding_mode="floor").expand(2, -1).contiguous()
    more = {"bias": draw(6, 50, 230, dtype=dtype, seed=6), "dropout": Dropout(0.3, 5), "sink": Sink(draw(6, seed=3)), "alibi": Alibi(draw(6, seed=4).abs())}
    agree(call_of(q, k, v, Documents(ids[:, 180:].contiguous(), ids), **more), 5e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps)


def test_a_bias_over_packed_sequences() -> None:
    offsets = torch.tensor([0, 130, 130, 137], dtype=torch.int32)
    q, k, v = draw(137, 4, 64), draw(137, 2, 64, seed=1), draw(137, 2, 64, seed=2)
    agree(call_of(Packed(q, offsets, 130), Packed(k, offsets, 130), v, Causal(), bias=draw(4, 130, 130, seed=4)), 5e-6)


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_a_shared_bias_has_the_same_bits_whatever_thread_comes_first(threads: int) -> None:
    q, k = draw(3, 300, 4, 64), draw(3, 300, 2, 64, seed=1)
    call = call_of(q, k, k, Causal(), bias=draw(4, 300, 300, seed=4))
    one = gradients(call, threads=threads).bias
    assert all(torch.equal(one, gradients(call, threads=threads).bias) for _ in range(3))


def test_packed_sequences_with_slopes_of_their_own() -> None:
    offsets = torch.tensor([0, 130, 130, 137], dtype=torch.int32)
    q, k, v = draw(137, 4, 64), draw(137, 2, 64, seed=1), draw(137, 2, 64, seed=2)
    slopes = draw(3, 4, seed=4).abs()
    agree(call_of(Packed(q, offsets, 130), Packed(k, offsets, 130), v, Causal(), alibi=Alibi(slopes)), 5e-6)


def test_keys_of_no_sequence_receive_nothing() -> None:
    q, k = draw(20, 2, 64), draw(40, 2, 64, seed=1)
    found = gradients(call_of(Packed(q, torch.tensor([0, 20], dtype=torch.int32), 20), Packed(k, torch.tensor([5, 30], dtype=torch.int32), 25), k))
    untouched = torch.ones(40, dtype=torch.bool)
    untouched[5:30] = False
    for x in (found.k, found.v):
        assert not x[untouched].any() and x[5:30].any(-1).all()


@pytest.mark.parametrize("threads", (1, 2, 3, 8))
@pytest.mark.parametrize(("B", "T", "S", "mask"), [(1, 300, 1500, Causal()), (1, 40, 2000, Full()), (3, 90, 400, Window(before=50))])
def test_the_same_bits_whatever_the_team(threads: int, B: int, T: int, S: int, mask: Mask) -> None:
    call = call_of(draw(B, T, 4, 64), draw(B, S, 1, 64, seed=1), draw(B, S, 1, 64, seed=2), mask)
    runs = [gradients(call, threads=threads) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(runs[0][:3], run[:3], strict=True))
    agree(call, 5e-6, threads=threads)


def test_views_of_odd_strides_and_offsets() -> None:
    def view(*shape: int, seed: int) -> Tensor:
        b, t, h, d = shape
        return draw(b, h, t, 2 * d + 3, seed=seed)[..., 3 : 3 + d].transpose(1, 2)

    agree(call_of(view(2, 65, 4, 40, seed=0), view(2, 100, 2, 40, seed=1), view(2, 100, 2, 40, seed=2), Causal()), 5e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_nan_reaches_only_what_sees_it(isa: str, dtype: torch.dtype, bad: float) -> None:
    T, S, first, hidden = 100, 320, 150, 200  # query t sees keys up to 150 + t
    q, k, v = draw(1, T, 4, 64, dtype=dtype), draw(1, S, 2, 64, dtype=dtype, seed=1), draw(1, S, 2, 64, dtype=dtype, seed=2)
    near = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    clean = gradients(call_of(q, k, v, Causal(), first=first), isa=isa)
    spoilt_k, spoilt_v = k.clone(), v.clone()
    spoilt_k[:, hidden:], spoilt_v[:, hidden:] = bad, bad
    found = gradients(call_of(q, spoilt_k, spoilt_v, Causal(), first=first), isa=isa)
    blind = hidden - first
    assert error(found.q[:, :blind], clean.q[:, :blind]) < near and not torch.isfinite(found.q[:, blind:]).any()
    unseen = first + T
    assert not found.k[:, unseen:].any() and not found.v[:, unseen:].any(), "a key that no query sees receives 0"

    spoilt_q = q.clone()
    spoilt_q[:, :20] = bad  # these see keys up to 169
    found = gradients(call_of(spoilt_q, k, v, Causal(), first=first), isa=isa)
    for name in ("k", "v"):
        a, b = getattr(found, name), getattr(clean, name)
        assert error(a[:, first + 20 :], b[:, first + 20 :]) < near and not torch.isfinite(a[:, :first]).any(), name
    assert error(found.q[:, 20:], clean.q[:, 20:]) < near


def test_the_mode_of_subnormals_is_restored() -> None:
    q, k = draw(1, 64, 2, 64) * 12, draw(1, 500, 2, 64, seed=1)
    gradients(call_of(q, k, k))
    assert float(torch.tensor([1e-40]) * 1) > 0


def test_what_the_room_refuses_it_says() -> None:
    q, k = draw(1, 8, 2, 64).requires_grad_(), draw(1, 8, 2, 64, seed=1)
    with using("cpu"):
        (slope,) = torch.autograd.grad(attention(q, k, k).sum(), q, create_graph=True)
        with pytest.raises(Unsupported, match="cpu: no second gradient here"):
            slope.sum().backward()
