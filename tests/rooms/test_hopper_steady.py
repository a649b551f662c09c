"""The Hopper room where a row's later scores are far above its first ones: a base that stays, and tiles that are passed again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from strobe import Causal, Prefix, Window
from strobe.answers import Offer
from strobe.backends.hopper.forms import form, last_tiles, sharing
from strobe.backends.hopper.offer import forward as offer
from strobe.backends.hopper.tiles import STEADY, THREE
from strobe.machine import installed_triton
from strobe.problem import Call, key_sides, map_arrays
from strobe.state import State

from ..contract.cases import Case, build
from ..contract.poison import poison_unseen
from ..contract.rooms import problem_of, run
from ..contract.tolerance import PROMISED, error, plain
from .hopper_pretend import words
from .test_hopper import H200, MORE, nodes, pretend

needs_triton = pytest.mark.skipif(installed_triton() is None, reason="Triton is not installed")

GROWING = (
    Case("full", 2, 300, 900, 2, 2, 128),
    Case("full, many tiles", 1, 2100, 700, 1, 1, 64, terms=("sink",)),
    Case("full, a group, width 256", 1, 200, 700, 4, 1, 256),
    Case("causal", 1, 500, 900, 4, 2, 128, mask=Causal()),
    Case("causal, four warpgroups", 1, 500, 700, 2, 2, 64, mask=Causal(), terms=("sink",)),
    Case("a window", 1, 300, 900, 2, 1, 128, mask=Causal() & Window(before=399)),
    Case("a window on both sides", 1, 300, 700, 2, 2, 64, mask=Window(before=300, after=90)),
    Case("a prefix", 1, 300, 700, 2, 2, 128, mask=Prefix(500)),
    Case("packed", 3, 300, 900, 4, 2, 128, keys="packed", queries="packed", mask=Causal(), lengths=(900, 65, 300), q_lengths=(300, 3, 200)),
    Case("ranges, one empty", 3, 200, 500, 2, 2, 64, keys="ranged", mask=Causal(), lengths=(500, 0, 231)),
    Case("pages", 2, 200, 500, 8, 2, 128, keys="paged 64", mask=Causal(), lengths=(500, 231)),
    Case("D 192, V 128", 1, 300, 700, 2, 2, 192, 128, mask=Causal()),
    Case("more queries than keys", 2, 800, 600, 2, 2, 128, mask=Causal()),
)  # fmt: skip
SHARED = Case("shared tiles", 2, 500, 700, 2, 2, 128, terms=("sink",))
GROWN_SHARED = Case("shared tiles of all programs", 2, 2500, 1700, 10, 10, 128, terms=("sink",))


def grown(case: Case, seed: int = 0) -> Call:
    """Some keys are so large that scores are far above those before them, up and down; and half of the rows, by 64 or so, small."""
    call, g = build(case, "bfloat16", seed), torch.Generator().manual_seed(seed)
    k = key_sides(call.keys)[0]
    k *= 1.0 + 400.0 * (torch.rand(k.shape[:-1], generator=g)[..., None] < 1 / 120)
    q = getattr(call.q, "tokens", call.q)
    count = q.shape[-3]
    q *= torch.where(torch.rand(-(-count // 64), generator=g) < 0.5, 1.0, 0.01).repeat_interleave(64)[:count, None, None]
    return call


def wide(call: Call) -> Call:
    return map_arrays(call, lambda x: x.double() if x.dtype.is_floating_point else x)


def near(call: Call, state: State) -> None:
    """What is promised, of a call whose unseen keys are poisoned behind the truth's back."""
    truth, _ = run("reference", wide(call))
    for found, it, true in zip(state, plain(call, problem_of(call)), truth, strict=True):
        assert error(found, true) <= max(PROMISED["triton"] * error(it, true), torch.finfo(torch.bfloat16).eps)


def asked_for(call: Call, seed: int, units: int) -> tuple[State, int]:
    """(the state in plain Python, how often a warpgroup asked for its rows again)."""
    made, asked = words(), []
    wish = made["Board"].wish

    def heard(board: Any, turn: int, group: int, again: torch.Tensor) -> None:
        if bool((again != 0).any()):
            asked.append(group)
        wish(board, turn, group, again)

    made["Board"].wish = heard
    with patch("tests.rooms.hopper_pretend.words", lambda *_: made):
        return pretend(call, seed, units), len(asked)


@needs_triton
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", GROWING, ids=lambda case: case.name)
def test_tiles_whose_scores_grow_too_far_are_passed_again(case: Case, seed: int) -> None:
    call = grown(case, seed)
    assert form(problem_of(call)).steady
    poisoned = grown(case, seed)
    poison_unseen(poisoned, problem_of(poisoned))
    state, asked = asked_for(poisoned, seed, 3)
    assert asked > 0
    near(call, state)


@needs_triton
@pytest.mark.parametrize("units", [5, 7, 11])
def test_so_are_parts_of_shared_tiles(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strobe.backends.hopper.forms.IDLE", 0)
    call = grown(SHARED, units)
    asked_of = problem_of(call)
    assert sharing(asked_of, form(asked_of), units).shared and last_tiles(asked_of, form(asked_of), units)
    state, asked = asked_for(call, units, units)
    assert asked > 0
    near(call, state)


@needs_triton
@pytest.mark.parametrize("case", [GROWING[0], GROWING[3]], ids=lambda case: case.name)
def test_so_are_those_of_three_warpgroups(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """These have fewer queries than are worth it."""
    monkeypatch.setitem(STEADY, 128, THREE)
    call = grown(case, 3)
    assert form(problem_of(call)).tile == THREE
    state, asked = asked_for(call, 3, 3)
    assert asked > 0
    near(call, state)


@needs_triton
def test_order_of_warps_and_number_of_multiprocessors_change_no_bit() -> None:
    call = grown(GROWING[3], 3)
    first = pretend(call, 0, 1)
    for seed, units in ((1, 2), (2, 5), (3, 132)):
        other = pretend(call, seed, units)
        assert torch.equal(first.out, other.out) and torch.equal(first.lse, other.lse)


@needs_triton
def test_warpgroups_that_did_not_ask_keep_what_they_have() -> None:
    """Rows of others in their tile leave no mark, so that a row's bits are its own."""
    call = grown(Case("two warpgroups", 1, 128, 900, 1, 1, 128), 5)
    call.q[:, :64] *= 0.0
    call.q[:, :64] += 0.001
    call.q[:, 64:] = 1.0
    small = call._replace(q=call.q * 0.001)
    state, asked = asked_for(call, 0, 1)
    calm, none = asked_for(small._replace(q=torch.cat([call.q[:, :64], small.q[:, 64:]], 1)), 0, 1)
    assert asked == 1 and none == 0
    assert torch.equal(state.out[:, :64], calm.out[:, :64]) and torch.equal(state.lse[:, :64], calm.lse[:, :64])


@needs_triton
def test_no_one_who_looked_away_would_be_right() -> None:
    """Where no warpgroup asks, sums are infinite."""
    made = words()
    made["wild"] = lambda *_: torch.zeros(128, dtype=torch.int32)
    with patch("tests.rooms.hopper_pretend.words", lambda *_: made):
        found = pretend(grown(GROWING[0]))
    assert not bool(torch.isfinite(found.out).all())


@needs_triton
def test_ordinary_scores_pass_once() -> None:
    """Scores with a standard deviation of 8, where those of random vectors have 1."""
    call = build(GROWING[3], "bfloat16")
    state, asked = asked_for(call._replace(q=call.q * 8), 1, 3)
    assert asked == 0
    near(call._replace(q=call.q * 8), state)


def test_who_keeps_a_base() -> None:
    """float16 ends at 2¹⁶; keys cut into parts and documents have the kernels that were measured."""
    def kept(case: Case, dtype: str = "bfloat16") -> bool:
        answer = offer(asked := problem_of(build(case, dtype)), replace(H200, units=20))
        assert isinstance(answer, Offer)
        return form(asked, answer.splits > 1).steady

    assert all(kept(case) for case in (*GROWING, SHARED))
    assert not kept(GROWING[0], "float16") and not kept(MORE[0])
    assert not kept(Case("parts", 2, 24, 1900, 8, 2, 128, mask=Causal()))
    assert not kept(Case("a tree", 2, 24, 1900, 8, 2, 128, mask=nodes))
