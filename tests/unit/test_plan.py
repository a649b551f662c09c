"""Plans for machines that are not here: which room, why, why none before it, and how that prints."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strobe import plan as module
from strobe.answers import Offer, Refusal
from strobe.appending import Append, check_append
from strobe.errors import Invalid, Unsupported
from strobe.layouts import Dense, Paged
from strobe.machine import KNOWN, Machine
from strobe.masks import Causal, Mask, Prefix, Window
from strobe.merging import check_merge
from strobe.plan import plan
from strobe.problem import Call, Problem, check
from strobe.rooms import ROOMS, desk
from strobe.terms import SoftCap

from .values import array, ints

SOURCE = Path(module.__file__).parent


def problem(T: int = 5, S: int = 9, dtype: str = "float32", mask: Mask = Causal(), D: int = 64, **what: Any) -> Problem:
    q, k = array(1, T, 8, D, dtype=dtype), array(1, S, 2, D, dtype=dtype)
    return check(Call(q, Dense(k, k), mask, **what))


PAGES = Paged(array(9, 4, 2, 64), array(9, 4, 2, 64), ints(1, 3), ints(1), longest=12)
APPEND: Append = check_append(PAGES, array(1, 2, 2, 64), array(1, 2, 2, 64))
MERGE = check_merge(array(2, 3, 8, 64), array(2, 3, 8), array(2, 3, 8, 64), array(2, 3, 8))


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_machine_runs_it_somewhere(name: str) -> None:
    found = plan(problem(), Machine.named(name))
    want = {"cpu": "cpu", "cuda": "triton", "tpu": "reference"}[Machine.named(name).device]
    assert found.room == ("sdpa" if name == "no-compiler-2" else want)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("asked", [problem(), problem(T=300, S=300), problem(dtype="float64"), problem(mask=Prefix(3)), problem(D=12), APPEND, MERGE], ids=str)
def test_the_printed_file_is_there(name: str, asked: Any) -> None:
    found = plan(asked, Machine.named(name))
    assert (SOURCE / found.file).exists()
    assert found.file == f"backends/{found.room}/{found.offer.kernel}.py"
    assert f"file      {found.file}" in str(found)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("asked", [problem(), problem(dtype="float64"), problem(mask=Prefix(3)), problem(cap=SoftCap(2.0)), replace(problem(), verb="backward"), APPEND, MERGE], ids=str)
def test_desks_answer_and_a_refusal_has_reasons(name: str, asked: Any) -> None:
    for room in ROOMS:
        answer = desk(room).offer(asked, Machine.named(name))
        assert isinstance(answer, (Offer, Refusal))
        if isinstance(answer, Refusal):
            assert answer.reasons
            assert all(isinstance(reason, str) and reason.strip() for reason in answer.reasons)
        else:
            assert answer.why
            assert answer.splits >= 1


def test_a_plan_lists_the_refusals_before_it_with_their_reasons() -> None:
    found = plan(problem(dtype="float64", mask=Prefix(3)), Machine.named("no-compiler-2"))
    refused = dict(found.refusals)
    assert found.room == "reference"
    assert list(refused) == ["cpu", "sdpa", "hopper", "triton"]
    assert refused["triton"][0] == "runs on a GPU; this is cpu"
    assert "the compiled library is not installed" in refused["cpu"]
    assert any("got float64" in reason for reason in refused["cpu"])
    assert refused["sdpa"] == ("float64 is the reference room's", "masks are Full, Causal and Window")


def test_a_plan_prints_what_runs_where_why_and_why_nothing_before_it() -> None:
    lines = str(plan(problem(), Machine.named("no-compiler-2"))).splitlines()
    assert lines[0] == "attention B=1 T=5 S=9 H=8 G=2 D=64 float32 Causal()"
    assert lines[1] == "  runs in   sdpa: forward, 1 split(s)"
    assert lines[2] == "  file      backends/sdpa/forward.py"
    assert lines[3] == "  on        no-compiler-2, avx2, 2 unit(s)"
    assert lines[4].startswith("  because   torch's kernel")
    assert lines[5] == "  not in    cpu: the compiled library is not installed"


def test_notes_of_the_machine_are_printed() -> None:
    machine = replace(Machine.named("avx2-4"), notes=("instruction set lowered",))
    assert str(plan(problem(), machine)).splitlines()[-1] == "  note      instruction set lowered"


def test_a_room_that_is_asked_for_runs_or_says_why_not() -> None:
    assert plan(problem(), Machine.named("amx-2"), "reference").room == "reference"
    with pytest.raises(Unsupported) as caught:
        plan(problem(dtype="float64"), Machine.named("amx-2"), "sdpa")
    assert "the room that was asked for cannot run it: attention B=1" in str(caught.value)
    assert "\n  sdpa: float64 is the reference room's" in str(caught.value)


@pytest.mark.parametrize("room", ["hooper", "", "CPU"])
def test_an_unknown_room_is_named_and_the_known_are_listed(room: str) -> None:
    with pytest.raises(Invalid, match=f"no room is called '{room}'; the rooms are cpu, sdpa, hopper, triton, reference"):
        plan(problem(), Machine.named("amx-2"), room)


def test_planning_is_a_pure_function() -> None:
    first, again = plan(problem(), Machine.named("avx512-8")), plan(problem(), Machine.named("avx512-8"))
    assert first is again
    plan.cache_clear()
    anew = plan(problem(), Machine.named("avx512-8"))
    assert first == anew
    assert hash(first) == hash(anew)
    assert str(first) == str(anew)


ELSEWHERE = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
found, problem, machine = pickle.load(sys.stdin.buffer)
from strobe.plan import plan
here = plan(problem, machine)
assert hash("strobe") != int(sys.argv[2]), "texts hash as they do in the other process"
assert found == here and hash(found) == hash(here) and {here: 1}[found] == 1
sys.stdout.buffer.write(pickle.dumps(found))
"""


@pytest.mark.parametrize("asked", [problem(), problem(mask=Causal() & Window(before=2)), APPEND, MERGE], ids=str)
def test_a_plan_crosses_processes(asked: Any) -> None:
    """Where texts hash otherwise, and back, with the hash computed before."""
    machine = Machine.named("avx512-8")
    found = plan(asked, machine)
    hash(found)
    command = [sys.executable, "-c", ELSEWHERE, str(SOURCE.parent), str(hash("strobe"))]
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    sent = pickle.dumps((found, asked, machine))
    done = subprocess.run(command, input=sent, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    back = pickle.loads(done.stdout)
    assert back == found and hash(back) == hash(found) and {found: 1}[back] == 1


def test_another_machine_is_another_plan() -> None:
    assert plan(problem(), Machine.named("avx512-8")) != plan(problem(), Machine.named("avx2-4"))


def test_more_units_split_the_keys_further() -> None:
    few, many = (plan(problem(T=1, S=8192), replace(Machine.named("avx512-8"), units=n)).offer.splits for n in (2, 64))
    assert few < many


@pytest.mark.parametrize("asked", [APPEND, MERGE], ids=str)
def test_the_other_verbs_are_planned_too(asked: Any) -> None:
    assert plan(asked, Machine.named("amx-2")).room == "cpu"
    assert plan(asked, Machine.named("no-compiler-2")).room == "reference"
    assert plan(asked, Machine.named("h200")).room == "triton"


def test_a_window_is_a_mask_of_every_room() -> None:
    assert plan(problem(mask=Causal() & Window(before=2)), Machine.named("neon-8")).room == "cpu"
