"""The definition itself: against torch in float64, the recurrence in plain loops, the splits, the laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strobe import Causal, Dropout, State, attention_state, merge
from strobe.backends.reference import decode, forward, online
from strobe.backends.reference.merge import joined
from strobe.backends.reference.philox import philox
from strobe.problem import map_arrays
from strobe.plan import plan

from .cases import CASES, Case, build
from .rooms import machine, problem_of
from .tolerance import error


def _wide(case: Case):  # noqa: ANN202
    return map_arrays(build(case, "float32"), lambda x: x.double() if x.dtype == torch.float32 else x)


def test_equals_torch_in_float64() -> None:
    call = _wide(Case("torch", 2, 20, 31, 6, 2, 16, mask=Causal()))
    chosen = plan(problem_of(call), machine("reference"), "reference")
    seen = torch.ones(20, 31, dtype=torch.bool).tril(11)
    q, k, v = (x.transpose(1, 2) for x in (call.q, call.keys.k, call.keys.v))
    truth = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)
    assert error(forward.launch(chosen, call).out, truth) < 1e-14


LOOPED = [
    case for case in CASES
    if case.B * case.T * case.H * case.S < 60_000 and not set(case.terms) - {"cap"} and case.dropout is None and not case.scaled
]  # fmt: skip


@pytest.mark.parametrize("case", LOOPED, ids=lambda case: case.name)
@pytest.mark.parametrize("tile", [1, 7, 64])
def test_the_recurrence_is_the_definition(case: Case, tile: int) -> None:
    call = _wide(case)
    chosen = plan(problem_of(call), machine("reference"), "reference")
    truth = forward.launch(chosen, call)
    found = online.launch(replace(chosen, offer=replace(chosen.offer, tile=(1, tile))), call)
    assert error(found.out, truth.out) < 1e-12 and error(found.lse, truth.lse) < 1e-12


@pytest.mark.parametrize("splits", [1, 2, 5, 100])
@pytest.mark.parametrize("case", [case for case in CASES if case.B * case.H * case.T * case.S < 400_000 and not case.scaled], ids=lambda case: case.name)  # fmt: skip
def test_splits_merge_to_the_whole(case: Case, splits: int) -> None:
    call = _wide(case)
    chosen = plan(problem_of(call), machine("reference"), "reference")
    truth, found = forward.launch(chosen, call), decode.launch(replace(chosen, offer=replace(chosen.offer, splits=splits)), call)
    assert error(found.out, truth.out) < 1e-12 and error(found.lse, truth.lse) < 1e-12


def _states(seed: int) -> list[State]:
    g = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(3):
        lse = torch.randn(20, generator=g, dtype=torch.float64) * 30
        empty = torch.rand(20, generator=g) < 0.33
        out = torch.randn(20, 4, generator=g, dtype=torch.float64).masked_fill(empty[:, None], 0.0)
        states.append(State(out, lse.masked_fill(empty, -torch.inf)))
    return states


@pytest.mark.parametrize("seed", range(20))
def test_states_are_a_commutative_monoid(seed: int) -> None:
    a, b, c = _states(seed)
    nothing = State(torch.zeros_like(a.out), torch.full_like(a.lse, -torch.inf))
    for left, right in ((joined(joined(a, b), c), joined(a, joined(b, c))), (joined(a, b), joined(b, a))):
        assert error(left.out, right.out) < 1e-13 and error(left.lse, right.lse) < 1e-13
    assert torch.equal(joined(a, nothing).out, a.out) and torch.equal(joined(nothing, a).lse, a.lse)


def test_merge_has_a_gradient() -> None:
    a, b, _ = _states(3)
    leaves = [x.detach().requires_grad_() for x in (a.out, b.out)]
    some = (a.lse != -torch.inf) & (b.lse != -torch.inf)
    lses = [x.masked_fill(~some, 0.0).detach().requires_grad_() for x in (a.lse, b.lse)]
    assert torch.autograd.gradcheck(lambda o, p, x, y: tuple(merge(State(o, x), State(p, y))), (*leaves, *lses))


def test_philox_gives_the_published_words() -> None:
    """The known answers of the Random123 distribution (kat_vectors, philox4x32 10)."""

    def words(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
        return [int(word) for word in philox(tuple(torch.tensor(c) for c in counter), key)]  # type: ignore[arg-type]

    assert words((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert words((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert words((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == [
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1,
    ]  # fmt: skip


def test_dropout_keeps_the_share_it_says() -> None:
    q, k = torch.zeros(2, 64, 4, 8, dtype=torch.float64), torch.randn(2, 64, 4, 8, dtype=torch.float64)
    ones = torch.ones_like(k)
    state = attention_state(q, k, ones, dropout=Dropout(0.25, 1))
    assert abs(float(state.out.mean()) - 1.0) < 0.01  # 16,384 weights: three standard deviations are 0.008 of each row's mean
    again = attention_state(q, k, ones, dropout=Dropout(0.25, 1))
    other = attention_state(q, k, ones, dropout=Dropout(0.25, 2))
    assert torch.equal(state.out, again.out) and not torch.equal(state.out, other.out)
