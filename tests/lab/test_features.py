"""The features suite on short contexts: each feature is compared with float64 before it is timed, and has its yardstick."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strobe import Broken
from strobe.cli import main
from strobe.lab import features, results
from strobe.lab.measure import Effort

EFFORT = Effort(1, 1, 0.0)


def test_every_feature_is_right_and_has_a_yardstick() -> None:
    rows = list(features.measure(features.suite(quick=True), EFFORT))
    names = [row.case for row in rows]
    assert len(set(names)) == len(names) == 13
    for kept in ("int8", "int4", "float8"):
        assert any(kept in name for name in names)
    for row in rows:
        assert row.strobe > 0 and all(isinstance(value, float) and value > 0 for value in row.peers.values()) and row.peers
        assert set(row.more.get("bars", ())) <= set(row.peers)


def test_a_wrong_feature_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = features.strobe.attention

    def slightly_wrong(*arrays: object, **terms: object) -> torch.Tensor:
        return honest(*arrays, **terms) * 1.05  # type: ignore[arg-type]

    monkeypatch.setattr(features.strobe, "attention", slightly_wrong)
    with pytest.raises(Broken, match="int8 keys: error .* against float64, .* is allowed. It was not measured"):
        list(features.measure(features.suite(quick=True), EFFORT))


def test_the_command_writes_a_valid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(features, "suite", lambda quick: [lambda: features._narrow("int8", 128), features._kept_call])
    assert main(["bench", "features", "--quick", "--seconds", "0.001", "--threads", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/features.json")
    result = results.read(path)
    assert [row["bars"] for row in result["rows"] if "bars" in row] == [{"bf16 keys": 1.4}]
    assert result["command"] == "strobe bench features --seconds 0.001 --threads 1 --quick"
    out = capsys.readouterr().out
    assert "int8 keys 1T" in out and "1.40 ×" in out and f"written: {path}" in out


@pytest.mark.parametrize("seconds", ["nan", "0", "-1"])
def test_seconds_are_checked(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "features", f"--seconds={seconds}"]) == 2
    assert "--seconds is a finite number above 0" in capsys.readouterr().err
