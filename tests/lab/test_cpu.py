"""The cpu suite on tiny shapes: peers agree with float64, a wrong Strobe stops everything, a wrong peer loses its number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import strobe
from strobe import Broken
from strobe.lab import cpu, onnx, report
from strobe.lab.cases import Case
from strobe.lab.cpu import Skipped, draw, gate_all, judge, measure, ways
from strobe.lab.measure import Effort
from strobe.lab.results import Row

TINY = [
    Case("prefill", 1, 48, 48, 2, 2, 64, "float32", causal=True),
    Case("chunk", 1, 8, 40, 4, 2, 64, "bfloat16", causal=True),
    Case("training", 1, 40, 40, 4, 2, 64, "bfloat16", causal=True),
    Case("decode", 2, 1, 96, 4, 2, 64, "bfloat16"),
    Case("decode", 2, 1, 96, 4, 2, 64, "bfloat16", page=16),
]
EFFORT = Effort(1, 1, 0.0)


def _rows(cases: list[Case]) -> list[Row]:
    gate_all(cases, (1,), 3, lambda name: None)
    found = list(measure(cases, (1,), EFFORT, flex=False, seed=3))
    assert all(isinstance(row, Row) for row in found)
    return found  # type: ignore[return-value]


def test_every_contender_agrees_with_float64_and_gets_a_number() -> None:
    rows = _rows(TINY)
    assert [row.case for row in rows] == [f"{case.name} 1T" for case in TINY]
    assert [list(row.peers) for row in rows] == [
        ["torch sdpa"], ["torch sdpa"], ["torch sdpa"], ["torch sdpa", "torch packed"], ["strobe dense", "torch sdpa", "torch packed"],
    ]  # fmt: skip
    for row in rows:
        assert row.strobe > 0 and row.floor is not None and row.floor > 0
        assert all(isinstance(value, float) and value > 0 for value in row.peers.values())
        assert row.plan.split(":")[0] in ("cpu", "sdpa", "reference")


def test_a_wrong_strobe_is_a_red_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = strobe.attention

    def slightly_wrong(*arrays: Any, **terms: Any) -> torch.Tensor:
        return honest(*arrays, **terms) * 1.05

    monkeypatch.setattr(strobe, "attention", slightly_wrong)
    done: list[str] = []
    with pytest.raises(Broken, match="(?s)nothing was measured or written.*prefill.*chunk.*training.*decode.*against float64"):
        gate_all(TINY, (1,), 3, done.append)
    assert done == [case.name for case in TINY], "all cases are looked at, and all that are wrong are named"


def test_a_row_that_was_not_written_is_a_red_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = strobe.attention

    def forgetful(*arrays: Any, **terms: Any) -> torch.Tensor:
        out = honest(*arrays, **terms)
        unwritten = torch.empty_like(out)
        unwritten[:, 1:] = out[:, 1:]
        return unwritten

    monkeypatch.setattr(strobe, "attention", forgetful)
    with pytest.raises(Broken, match="not finite"):
        gate_all(TINY[:1], (1,), 3, lambda name: None)


def test_a_wrong_peer_and_one_that_fails_lose_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.nn.functional.scaled_dot_product_attention

    def peer(q: torch.Tensor, *rest: Any, **terms: Any) -> torch.Tensor:
        if q.shape[1] == 2:  # the queries of a group packed
            raise RuntimeError("no kernel\nfor this")
        return honest(q, *rest, **terms) + 1

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", peer)
    (row,) = _rows(TINY[3:4])
    assert str(row.peers["torch sdpa"]).startswith("wrong: error") and row.peers["torch packed"] == "no kernel"


def test_a_case_that_does_not_fit_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available_bytes", lambda: 1 << 10)
    (found,) = measure(TINY[3:4], (1,), EFFORT, flex=False, seed=0)
    assert isinstance(found, Skipped) and "GiB of the memory" in found.why


def test_the_table_shows_ratios_and_reasons() -> None:
    row = Row("decode S8 2T", 10.0, {"torch sdpa": 25.0, "torch flex": "no compiler"}, 8.0, "cpu: decode").as_dict()
    headings, (line,) = report.table([row])
    assert headings == ["case", "strobe", "torch sdpa takes", "torch flex takes", "floor", "of the floor's rate"]
    assert line == ["decode S8 2T", "10.0 µs", "2.50 ×", "no compiler", "8.00 µs", "80 %"]
    assert report.markdown(headings, [line]).splitlines()[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"


def test_onnxruntime_decodes_the_same() -> None:
    """Where it is installed (`pip install strobe-attention[peers]`)."""
    pytest.importorskip("onnxruntime", reason="this machine has no onnxruntime")
    pytest.importorskip("onnx", reason="this machine has no onnx")
    for dtype in onnx.DTYPES:
        case = Case("decode", 2, 1, 40, 4, 2, 16, dtype)
        (found,) = [way for way in ways(case, flex=False) if way.name == "onnxruntime"]
        for arrays in draw(case, 0, 2):
            judged = judge(case, found, arrays)
            assert not isinstance(judged, str) and judged[0] <= 4 * judged[1]
