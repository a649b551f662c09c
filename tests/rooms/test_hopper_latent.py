"""Latent attention of the Hopper room without a GPU: its desk, its kernels in plain Python, and compiled for sm90."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from strobe import Alibi, Causal, Dense, Dropout, Full, Packed, Paged, Prefix, Scaled, SoftCap, Tree, Window
from strobe.answers import Refusal
from strobe.backends.hopper import latent_desk
from strobe.backends.hopper.forms import SHARED_BYTES
from strobe.backends.hopper.offer import offer
from strobe.layouts import Dense as Keys
from strobe.layouts import PackedKeys
from strobe.machine import Machine
from strobe.plan import plan
from strobe.problem import Call, Problem

from ..contract.cases import Case, build
from ..contract.rooms import problem_of
from ..contract.tolerance import error
from .hopper_latent_run import CASES, H200, UNITS, errors, in_one, pretend, truth
from .hopper_latent_targets import called

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """In plain Python, a kernel is many small operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def problem(**asked: Any) -> Problem:
    return problem_of(called(**asked))


def packed() -> Problem:
    tokens, offsets = empty(9, 1, 576), empty(3, dtype=torch.int32)
    return problem_of(Call(Packed(tokens, offsets, 5), PackedKeys(tokens, tokens[..., :512], offsets, 5), Causal()))


def narrow() -> Problem:
    k, v = (Scaled(empty(1, 9, 1, width, dtype=torch.int8), empty(1, 9, 1, dtype=torch.float32)) for width in (576, 512))
    return problem_of(Call(empty(1, 1, 8, 576), Keys(k, v)))


WIDTHS = "multiples of 8, 256 < V ≤ D ≤ 576 and V ≤ 512"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (problem(D=584), f"{WIDTHS}; got D=584, V=512"),
        (problem(D=576, V=576), "got D=576, V=576"),
        (problem(D=572), "got D=572, V=512"),
        (problem(D=576, V=256), "got D=576, V=256"),
        (problem(dtype=torch.float32), "dtypes are bfloat16, float16; got float32"),
        (problem(T=1025), "at most 1024 queries a sequence; got 1025"),
        (problem(S=2**26), "fewer than 2²⁶ keys"),
        (problem(lie="paged 48"), "powers of two from 8 to 1,024 tokens; got 48"),
        (problem(lie="paged 4"), "got 4"),
        (packed(), "these are packed; latent reads dense keys, ranges and pages; these are packed"),
        (narrow(), "no keys with scales"),
        (problem(mask=Prefix(4)), "masks are Full, Causal and Window; got Prefix"),
        (problem(T=3, S=9, mask=Causal() & Dense(empty(1, 1, 3, 9, dtype=torch.bool))), "got Dense"),
        (problem(T=3, mask=Tree(empty(1, 3, 3, dtype=torch.bool))), "got Tree"),
        (problem(bias=empty(1, 1, 1, 1), dropout=Dropout(0.1, 1)), "latent has no bias; latent has no dropout"),
        (problem(cap=SoftCap(3.0), alibi=Alibi(empty(128, dtype=torch.float32))), "latent has no cap; latent has no alibi"),
        (problem(scale=0.0), "the scale is above 0; got 0.0"),
        (replace(problem(), invariant=True), "latent is not invariant"),
        (replace(problem(), verb="backward"), "forward attention only; this is backward"),
    ],
)  # fmt: skip
def test_the_desk_says_why_not(asked: Problem, says: str) -> None:
    answer = latent_desk.latent(asked, H200)
    assert isinstance(answer, Refusal) and says in "; ".join(answer.reasons)
    room = offer(asked, H200)
    assert isinstance(room, Refusal)
    if asked.verb == "attention":  # the room's other kernels say why not, too
        assert set(answer.reasons) < set(room.reasons) and any("up to 256" in why for why in room.reasons)


def test_the_room_takes_it_and_explains() -> None:
    chosen = plan(problem(), H200)
    assert (chosen.room, chosen.file) == ("hopper", "backends/hopper/latent.py")
    found = chosen.offer
    assert found.why == "128 row(s) a key head; 64 equal part(s) a sequence; 128 program(s), 0.97 wave(s); 75.5 MB of keys, 44.3 µs predicted"
    assert (found.tile, found.splits, found.workspace_bytes) == ((64, 64), 64, 2 * 64 * 64 * (512 + 2) * 4)
    assert "16 even share(s)" in plan(problem(B=8, H=512, lie="paged 64"), H200).offer.why
    assert plan(problem(cap=SoftCap(3.0)), H200).room == "triton"
    assert plan(problem(), Machine.named("a100")).room == "triton"


@pytest.mark.parametrize(
    ("asked", "stream", "parts"),
    [
        (problem(), False, 64),  # 66 would leave the last ones less, and none sooner
        (problem(S=64), False, 1),
        (problem(B=16, lie="paged 64"), True, 66),
        (problem(B=16, S=512, lie="paged 64"), False, 4),  # short ones
        (problem(B=40), True, 66),  # 80 programs would leave 52 units idle
        (problem(B=132), False, 1),
        (problem(B=16), False, 4),
        (problem(B=16, lie="ranged", mask=Causal() & Window(before=100)), False, 3),  # the window's blocks
        (problem(B=5000, S=1024, lie="ranged"), False, 1),
        (problem(T=1024, lie="ranged", B=2), False, 1),  # more lanes than units
    ],
)
def test_how_keys_are_cut(asked: Problem, stream: bool, parts: int) -> None:
    how = latent_desk.chosen(asked, H200)
    assert (how.stream, how.parts) == (stream, parts)
    assert how.programs(asked.B) <= max(H200.units, how.lanes * asked.B)


@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_plain_python_the_error_is_at_most_twice_the_plain_computations(case: Case, apart: bool) -> None:
    dtype = ("bfloat16", "float16")[(CASES.index(case) + apart) % 2]
    out, most, lse, most_lse = errors(case, dtype, apart, seed=CASES.index(case))
    assert out <= most and lse <= most_lse


RAGGED = Case("ragged", 4, 5, 600, 16, 1, 576, 512, keys="paged 8", mask=Causal(), lengths=(600, 0, 130, 67))


@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
def test_order_of_warps_changes_no_bit(apart: bool) -> None:
    call = build(RAGGED, "bfloat16")
    call = call if apart else in_one(call)
    first = pretend(call, 0)
    for seed in (1, 2):
        other = pretend(call, seed)
        assert torch.equal(first.out, other.out) and torch.equal(first.lse, other.lse)


@pytest.mark.parametrize("apart", [False, True], ids=["in one", "apart"])
@pytest.mark.parametrize(("H", "wild"), [(16, torch.nan), (16, torch.inf), (16, -torch.inf), (64, torch.nan)])
def test_a_wild_key_reaches_only_the_queries_that_see_it(H: int, wild: float, apart: bool) -> None:
    call = build(Case("wild", 1, 5, 150, H, 1, 576, 512, mask=Causal()), "bfloat16")
    call, keys = (call if apart else in_one(call)), call.keys
    clean, blind = pretend(call), 3
    keys.k[:, 148] = wild
    keys.v[:, 148] = wild
    for seed in range(2):
        state = pretend(call, seed)
        assert torch.equal(state.out[:, :blind], clean.out[:, :blind]) and torch.equal(state.lse[:, :blind], clean.lse[:, :blind])
        assert not bool(torch.isfinite(state.out[:, blind:]).all(-1).any())


@pytest.mark.parametrize("wrong", [2**31 - 1, -(2**31), -1])
def test_entries_behind_a_sequence_are_not_read(wrong: int) -> None:
    right = pretend(in_one(build(RAGGED, "bfloat16")), 1)
    call = in_one(build(RAGGED, "bfloat16"))
    keys: Any = call.keys
    columns = torch.arange(keys.table.shape[1])
    keys.table[columns * keys.keys.shape[1] >= keys.lengths[:, None]] = wrong
    found = pretend(call, 2)
    assert torch.equal(found.out, right.out) and torch.equal(found.lse, right.lse)
    assert not bool(found.out[1].count_nonzero()) and bool(found.lse[1].isneginf().all())


def test_lengths_and_starts_that_lie_are_not_followed() -> None:
    """What the copy engine finds outside an array are zeros; loads outside one fail here."""
    for case in (RAGGED, replace(RAGGED, keys="ranged")):
        call = in_one(build(case, "bfloat16"))
        keys: Any = call.keys
        keys.lengths[0], keys.lengths[-1] = 2**31 - 1, -3
        if isinstance(keys, Paged):
            keys.table[0] = -7
        else:
            keys.starts[0], keys.starts[2] = -(2**30), 2**30
        state = pretend(call)
        assert not bool(state.out[-1].count_nonzero()) and bool(state.lse[-1].isneginf().all())


@pytest.mark.parametrize("spoil", ["start", "stride", "heads first"])
def test_arrays_that_lie_otherwise(spoil: str) -> None:
    call = in_one(build(Case("lies", 2, 3, 150, 16, 1, 576, 512, mask=Causal()), "bfloat16"))

    def spoiled(x: torch.Tensor) -> torch.Tensor:
        if spoil == "heads first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        wide = torch.zeros(*x.shape[:-1], 584 if spoil == "start" else 580, dtype=x.dtype)
        at = 3 if spoil == "start" else 0
        wide[..., at : at + 576] = x
        return wide[..., at : at + 576]

    keys: Any = call.keys
    k = spoiled(keys.k)
    other = pretend(call._replace(q=spoiled(call.q), keys=Keys(k, k[..., :512])))
    assert torch.equal(pretend(call).out, other.out)


def test_more_units_than_blocks_and_one_alone() -> None:
    call = in_one(build(Case("units", 1, 1, 400, 128, 1, 576, 512, mask=Full()), "bfloat16"))
    true = truth(call)
    for units in (1, 2, UNITS, 132):
        state = pretend(call, units, units)
        assert error(state.out, true.out) < 5e-3 and error(state.lse, true.lse) < 2e-6


def test_no_keys_at_all() -> None:
    call = build(Case("none", 1, 2, 0, 16, 1, 576, 512, terms=("sink",)), "bfloat16")
    state = pretend(call)
    assert call.sink is not None
    assert not bool(state.out.count_nonzero()) and torch.equal(state.lse, call.sink.logits.expand_as(state.lse))


# ── compiled ──


def test_kernels_compile_for_sm90_without_a_gpu() -> None:
    """A few; `python -m tests.rooms.hopper_latent_targets` compiles all forms."""
    home = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.rooms.hopper_latent_targets", "few"], cwd=ROOT, env=home | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(lines) == 3
    for line in lines.values():
        print(f"{line['what']:20} {line['registers']:4} registers, {line['spills']:4} stack accesses, {line['shared']:7} B, loops {line['loops']}")
        assert not line["serialized"] and line["shared"] <= SHARED_BYTES
        # of blocks that all rows see whole, then of others: 4 products for values, and with them 36 for scores
        assert line["loops"] == [[4, 0], [4, 0], [40, 0], [40, 0]]
        assert line["spills"] <= 12 and (line["spills"] == 0 or line["what"] != "dense")  # of the warp that loads
    # a half is four pieces of 64 columns, each of 64 rows of 128 bytes
    plain = [found for found in lines["dense"]["places"] if len(found) > 1]
    assert plain == [[[64 * j + first, 8192 * j] for j in range(4)] for first in (0, 256)]
