"""float8 queries, keys and values in the Hopper room, without a GPU: its desk, its kernels in plain Python, and what others say of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from strobe import Causal, Documents, Invalid, Mask, Prefix, Ranged, Scaled, Sink, SoftCap, State, Window, attention, attention_state, explain, using
from strobe import run as run_plan
from strobe.answers import Offer, Refusal
from strobe.backends.hopper import turning
from strobe.backends.hopper.forms import SHARED_BYTES, form
from strobe.backends.hopper.offer import forward as offer
from strobe.backends.hopper.tiles import FLOAT8
from strobe.backends.reference.forward import define
from strobe.backends.reference.padded import dequantised, pad
from strobe.faces import torch as face
from strobe.layouts import Dense
from strobe.machine import Machine, installed_triton
from strobe.problem import Call, Problem, key_sides

from ..contract.rooms import problem_of
from ..contract.tolerance import PROMISED, error
from .gluon_by_hand import ByHand
from .test_hopper import pretend

H200 = Machine.named("h200")
NARROW = torch.float8_e4m3fn
needs_triton = pytest.mark.skipif(installed_triton() is None, reason="Triton is not installed")


def rounded(x: Tensor, each: bool = False) -> Scaled:
    """x in float8, its scales one a token and head, or one a sequence and head."""
    greatest = x.abs().amax(-1) if each else x.abs().amax((1, 3))[:, None]
    scale = greatest / 448
    return Scaled((x / scale[..., None]).to(NARROW), scale)


def called(
    T: int, S: int, H: int, G: int, D: int, V: int = 0, B: int = 1, mask: Mask | None = None, each: bool = False, seed: int = 0, **terms: Any
) -> Call:  # fmt: skip
    """A call of numbers whose values have a mean of their own."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, n, heads, width, generator=g) for n, heads, width in ((T, H, D), (S, G, D), (S, G, V or D)))
    keys = Dense(rounded(k + 0.1), rounded(v + 0.3))
    return Call(rounded(q, each), keys, **({} if mask is None else {"mask": mask}), **terms)


def truth(call: Call) -> State:
    """The definition of the same numbers."""
    problem = problem_of(call)
    return State(*define(pad(call, problem), call, problem))


def plainly(call: Call) -> Tensor:
    """Weights rounded to float8, as large as they may be, and nothing else: what the format itself costs."""
    problem = problem_of(call)
    padded = pad(call, problem)
    k, v = (x.transpose(1, 2).repeat_interleave(problem.group, 1) for x in (padded.k, padded.v))
    s = torch.einsum("bthd,bhsd->bhts", padded.q, k) * problem.scale
    if call.cap is not None:
        s = call.cap.limit * torch.tanh(s / call.cap.limit)
    seen = padded.seen(call)
    top = s.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True)
    p = torch.where(seen, (s - torch.where(top.isinf(), 0.0, top)).exp(), 0.0)
    total = p.sum(-1, keepdim=True)
    if call.sink is not None:
        total = total + (call.sink.logits.double().view(1, -1, 1, 1) - top).exp()
    weights = (256 * p).float().to(NARROW).double() / 256
    return (weights @ v / torch.where(total == 0, 1.0, total)).transpose(1, 2)


CASES = {
    "full": called(130, 300, 2, 2, 128, each=True),
    "causal, a group": called(100, 260, 8, 2, 128, B=2, mask=Causal()),
    "a window, width 64": called(150, 400, 4, 4, 64, mask=Causal() & Window(before=70), each=True),
    "both sides, D 112, V 80": called(90, 200, 2, 1, 112, 80, mask=Window(before=60, after=40)),
    "a prefix, cap and sinks": called(140, 140, 4, 1, 96, B=2, mask=Prefix(60), cap=SoftCap(3.0), sink=Sink(torch.linspace(-1, 2, 4)), each=True),
    "many blocks": called(128, 1500, 1, 1, 128, mask=Causal()),
    "many blocks, full, width 64": called(64, 1500, 2, 2, 64),
    "rows with no keys": called(200, 130, 2, 2, 128, mask=Causal()),
    "firsts": called(80, 200, 2, 2, 128, B=2, mask=Causal(), first=torch.tensor([-40, 150], dtype=torch.int32)),
    "an odd scale": called(64, 100, 2, 2, 64, scale=0.3),
}  # fmt: skip


@needs_triton
@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_the_error_is_at_most_twice_that_of_rounded_weights(call: Call) -> None:
    known, found = truth(call), pretend(call, 1)
    assert found.out.dtype == torch.bfloat16 and found.lse.dtype == torch.float32
    assert error(found.out, known.out) <= PROMISED["triton"] * error(plainly(call), known.out)
    assert error(found.lse, known.lse) <= 1e-5


@needs_triton
def test_order_of_warps_and_number_of_multiprocessors_change_no_bit() -> None:
    call = CASES["causal, a group"]
    first = pretend(call, 0, 1)
    for seed, units in ((1, 2), (2, 5), (3, 132)):
        other = pretend(call, seed, units)
        assert torch.equal(first.out, other.out) and torch.equal(first.lse, other.lse)


@needs_triton
@pytest.mark.parametrize("place", ["keys", "values"])
def test_a_wild_key_reaches_only_the_queries_that_see_it(place: str) -> None:
    call = called(130, 200, 4, 2, 64, mask=Causal() & Window(before=60))
    clean = pretend(call)
    key_sides(call.keys)[place == "values"].data.view(torch.uint8)[:, 150] = 0x7F  # NaN
    state = pretend(call)
    seen = torch.tensor([0 <= 70 + t - 150 <= 60 for t in range(130)])
    torch.testing.assert_close(state.out[:, ~seen], clean.out[:, ~seen], atol=4e-2, rtol=4e-2)
    torch.testing.assert_close(state.lse[:, ~seen], clean.lse[:, ~seen])
    assert not bool(torch.isfinite(state.out[:, seen]).all(-1).any())


@needs_triton
def test_a_scale_of_zero_is_a_score_of_zero_and_one_below_zero_is_not_a_number() -> None:
    call = called(64, 100, 2, 2, 64)
    call.q.scale[0, 0, 0] = 0.0
    found, known = pretend(call), truth(call)
    torch.testing.assert_close(found.out[:, :, 0].double(), known.out[:, :, 0], atol=2e-2, rtol=5e-2)
    call.q.scale[0, 0, 0] = -1.0
    assert bool(pretend(call).out[:, :, 0].isnan().all()) and bool(pretend(call).out[:, :, 1].isfinite().all())


@needs_triton
def test_turned_values_lie_as_the_weights_of_a_product_do() -> None:
    S, G, V, keys = 200, 2, 48, 64
    v = torch.randint(0, 256, (2, S, G, V), dtype=torch.uint8)
    out = torch.zeros(2, G, 4 * 64, keys, dtype=torch.uint8)
    ByHand(turning.turn)[(2 * G * 4,)](v, out, S, G, 4, *v.stride()[:3], V=V, BV=64, BN=keys, num_warps=4)
    order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    whole = torch.zeros(2, 256, G, 64, dtype=torch.uint8)
    whole[:, :S, :, :V] = v
    want = whole.view(2, 4, keys // 16, 16, G, 64)[:, :, :, order].permute(0, 4, 1, 5, 2, 3).reshape(2, G, 256, keys)
    assert torch.equal(out, want)


@pytest.mark.parametrize("kind", FLOAT8)
@pytest.mark.parametrize("width", [64, 128])
def test_tiles_fit_the_shared_memory(kind: str, width: int) -> None:
    made = form(problem_of(called(256, 256, 2, 2, width, mask=Causal() if kind == "masked" else None)))
    assert made.narrow and made.tile == FLOAT8[kind][width] and made.shared_bytes + 2048 <= SHARED_BYTES


def test_the_plan_counts_the_turned_values() -> None:
    answer = offer(problem_of(called(130, 300, 4, 2, 128, B=2)), H200)
    assert isinstance(answer, Offer) and answer.workspace_bytes == 2 * 2 * 3 * 128 * 128


def asked(**changed: Any) -> Problem:
    call = called(100, 100, 4, 2, 128)
    return problem_of(call._replace(**changed))


def each_token() -> Dense:
    keys = called(100, 100, 4, 2, 128).keys
    return Dense(replace(keys.k, scale=keys.k.scale.expand(1, 100, 2)), keys.v)


IDS = torch.zeros(1, 100, dtype=torch.int32)


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (problem_of(called(100, 100, 4, 2, 256)), "float8 widths are multiples of 16 up to 128; got 256"),
        (problem_of(called(100, 100, 4, 2, 72)), "got 72"),
        (problem_of(called(100, 100, 4, 2, 128, 64)), "padded to one width; got D=128, V=64"),
        (problem_of(called(20, 100, 2, 2, 128)), "a warpgroup's product has 64 rows; 20 queries make 20"),
        (asked(keys=each_token()), "a scale of float8 keys is one a sequence and head, [B, 1, G]; got [1, 100, 2]"),
        (asked(keys=Ranged(*key_sides(called(100, 100, 4, 2, 128).keys), IDS[0, :1], IDS[0, :1])), "float8 queries over keys of plain arrays; got Ranged"),
        (asked(mask=Documents(IDS, IDS)), "no Documents of float8 queries"),
        (asked(bias=torch.zeros(100, 100)), "no bias here"),
    ],
)  # fmt: skip
def test_the_desk_says_why_not(problem: Problem, says: str) -> None:
    answer = offer(problem, H200)
    assert isinstance(answer, Refusal)
    assert says in "; ".join(answer.reasons)


def test_other_rooms_say_that_they_do_not_take_it() -> None:
    call = CASES["full"]
    with patch.object(face, "machine", lambda _: Machine.named("a100")):
        said = str(explain(call.q, *key_sides(call.keys)))
    assert "runs in   reference" in said
    assert "not in    triton: dtypes are float32, bfloat16, float16; got float8_e4m3fn" in said
    assert "H=2 G=2 D=128 float8_e4m3fn k, v scaled by sequence Full()" in said


def test_the_reference_defines_what_it_means() -> None:
    call = CASES["causal, a group"]
    k, v = map(dequantised, key_sides(call.keys))
    with using("reference"):
        found = attention_state(call.q, *key_sides(call.keys), mask=call.mask)
        known = attention_state(dequantised(call.q), k, v, mask=call.mask)
    assert found.out.dtype == torch.bfloat16 and torch.equal(found.out, known.out.bfloat16())
    torch.testing.assert_close(found.lse.double(), known.lse, rtol=1e-6, atol=0)


def test_it_is_compiled_into_a_graph_as_it_is_called() -> None:
    call = CASES["causal, a group"]
    k, v = key_sides(call.keys)
    whole = torch.compile(lambda *x: attention(Scaled(*x[:2]), Scaled(*x[2:4]), Scaled(*x[4:]), mask=Causal()), fullgraph=True, backend="aot_eager")
    found = whole(call.q.data, call.q.scale, k.data, k.scale, v.data, v.scale)
    assert found.dtype == torch.bfloat16 and torch.equal(found, attention(call.q, k, v, mask=Causal()))


Q, (K, V) = CASES["full"].q, key_sides(CASES["full"].keys)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: attention(Q.data, K, V), "got float8_e4m3fn. Wrap them as Scaled"),
        (lambda: attention(Scaled(Q.data.to(torch.float8_e5m2), Q.scale), K, V), "Scaled queries are float8_e4m3fn; got float8_e5m2"),
        (lambda: attention(Q, dequantised(K).float(), V), "beside Scaled queries keys and values are Scaled float8_e4m3fn as they are; got keys of float32"),
        (lambda: attention(Q, K, Scaled(V.data.view(torch.int8), V.scale)), "got values of Scaled int8"),
        (lambda: attention(Scaled(Q.data, Q.scale[:, :7]), K, V), "q.scale is float32 [1, 130, 2], one a token and head, or [1, 1, 2], one a sequence and head"),
        (lambda: attention(Scaled(Q.data, Q.scale.requires_grad_()), K, V), "what is Scaled are a cache and take no gradient"),
        (lambda: attention(Q, K, V, sink=Sink(torch.zeros(2, requires_grad=True))), "beside Scaled queries nothing takes a gradient"),
        (lambda: run_plan(explain(rounded(torch.ones(1, 130, 2, 128)), K, V), Q, K, V), "D=128 float8_e4m3fn q, k, v scaled by sequence Full(); got"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(wrong: Any, says: str) -> None:
    try:
        with pytest.raises(Invalid) as found:
            wrong()
        assert says in str(found.value)
    finally:
        Q.scale.requires_grad_(False)
