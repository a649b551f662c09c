"""The doctor: what it tells, and that it finds a room that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from strobe import Broken
from strobe.lab import doctor
from strobe.lab.doctor import DTYPES, TRIALS, examine, facts
from strobe.machine import compiled_library
from strobe.rooms import kernel
from strobe.state import State

FEW = TRIALS[:1] + TRIALS[4:7]


def test_the_reference_room_is_right_everywhere() -> None:
    checks = list(examine(("reference",)))
    assert len(checks) == (len(TRIALS) - 1) * len(DTYPES) + 1  # the gradient in one dtype
    assert all(check.passed and check.ran for check in checks)


@pytest.mark.native
@pytest.mark.skipif(compiled_library() is None, reason="the compiled library is not built")
def test_the_compiled_room_is_right() -> None:
    assert all(check.passed and check.ran for check in examine(("cpu",), FEW))


def test_torchs_room_is_right_and_says_what_it_does_not_take() -> None:
    checks = list(examine(("sdpa",), FEW + TRIALS[-1:]))
    assert all(check.passed for check in checks)
    assert [check.trial for check in checks if not check.ran] == ["gradient"] and "forward" in checks[-1].why


def test_a_wrong_room_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = kernel("reference", "forward")
    honest = forward.launch

    def off(*arguments: Any) -> State:
        out, lse = honest(*arguments)
        return State(out * 1.1, lse)

    monkeypatch.setattr(forward, "launch", off)
    checks = list(examine(("reference",), FEW))
    assert not any(check.passed for check in checks)
    assert all("is promised" in check.why and check.share > 1 for check in checks)


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel("reference", "forward"), "launch", lambda plan, call: State(torch.full((1, 65, 4, 64), torch.nan), torch.zeros(1, 65, 4)))
    assert not any(check.passed for check in examine(("reference",), TRIALS[:1]))


def test_a_room_that_breaks_is_wrong_and_the_reason_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> State:
        raise Broken("built from other sources\nrebuild it")

    monkeypatch.setattr(kernel("reference", "forward"), "launch", broken)
    (check, *_) = examine(("reference",), TRIALS[:1])
    assert check.ran and not check.passed and check.why == "Broken: built from other sources"


def test_facts_name_what_is_missing_and_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "compiled_library", lambda: None)
    monkeypatch.setattr(doctor, "EXTRAS", {"lab": ("no_such_module",)})
    found = dict(facts())
    assert "twice as slow" in found["compiled library"]
    assert found["extra [lab]"] == "not installed (no_such_module): pip install 'strobe-attention[lab]'"
    assert found["torch"] == torch.__version__
