"""The features suite on short contexts: each feature is compared with float64 before it is timed, and has its yardstick."""

from __future__ import annotations

import pytest
import torch

from strobe import Broken
from strobe.lab import features
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
        assert set(row.more.get("bar", ())) <= set(row.peers)


def test_a_wrong_feature_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = features.strobe.attention

    def slightly_wrong(*arrays: object, **terms: object) -> torch.Tensor:
        return honest(*arrays, **terms) * 1.05  # type: ignore[arg-type]

    monkeypatch.setattr(features.strobe, "attention", slightly_wrong)
    with pytest.raises(Broken, match="int8 keys: error .* against float64, .* is allowed. It was not measured"):
        list(features.measure(features.suite(quick=True), EFFORT))
