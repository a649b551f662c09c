"""`strobe doctor`: its words and its exit code."""

from __future__ import annotations

import pytest

from strobe.cli import doctor, main
from strobe.lab.doctor import Check

GOOD = Check("reference", "prefill", "float32", True, "", 1e-7, 2e-7, 4e-7)
WORSE = Check("reference", "prefill", "bfloat16", True, "", 3e-3, 2e-3, 4e-3)
BAD = Check("cpu", "prefill", "float32", False, "error 1.0e-01, at most 4.0e-07 is promised", 0.1, 2e-7, 4e-7)
REFUSED = Check("sdpa", "prefill", "float32", True, "the compiled CPU library is here and does better")
BROKE = Check("cpu", "gradient", "float32", False, "Broken: built from other sources")


def _run(checks: list[Check], words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(doctor, "examine", lambda: iter(checks))
    return main(["doctor", *words])


def test_right_rooms_end_with_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([GOOD, WORSE, REFUSED], [], monkeypatch) == 0
    out = capsys.readouterr().out
    assert "reference  right on 2 of 2" in out
    assert "sdpa       does not run here: the compiled CPU library is here and does better" in out
    assert "3.0e-03  2.0e-03" in out and "1.0e-07" not in out, "the worst of a room and problem is shown"
    assert "Every room that runs here is right." in out


def test_all_shows_every_comparison(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([GOOD, WORSE], ["--all"], monkeypatch) == 0
    assert "1.0e-07  2.0e-07" in capsys.readouterr().out


def test_a_wrong_room_ends_with_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([GOOD, BAD, BROKE], [], monkeypatch) == 1
    out = capsys.readouterr().out
    assert "cpu        WRONG on 0 of 2" in out and "FAIL" in out
    assert "wrong: cpu, prefill, float32: error 1.0e-01" in out and "wrong: cpu, gradient, float32: Broken" in out
    assert "2 comparison(s) failed." in out
