"""The whole-model suite without a GPU: every way of attending says the same, and the rows become a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strobe import Broken
from strobe.cli import main
from strobe.lab import gpu_model, report
from strobe.lab.hopper import Flash

FORM = replace(gpu_model.small(), device="cpu")


def clock(run: Callable[[], torch.Tensor]) -> Callable[[], float]:
    run()
    return lambda: 2e-6


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_model, "IDLE", 0.0)


def test_the_ways_say_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = [row.as_dict() for row in gpu_model.measure(FORM, (64, 300), Flash(), gpu_model.Between(), clock)]
    assert [row["context"] for row in rows] == [64, 300]
    assert all(row["strobe"] == 2.0 and set(row["peers"]) == {gpu_model.CUDNN, gpu_model.PLAIN} for row in rows)
    pytest.importorskip("matplotlib")
    report.plot_model({"rows": rows, "machine": {"name": "a GPU"}}, tmp_path / "model.svg")
    assert "tokens before" in (tmp_path / "model.svg").read_text()


def test_a_new_token_is_written_where_all_read_it() -> None:
    torch.manual_seed(0)
    form = replace(FORM, dtype=torch.float32)
    weights, caches, x = form.weights(), form.caches(20), torch.randn(1, form.hidden)
    first = gpu_model.token(form, gpu_model.Between(), weights, caches, x, gpu_model.plain)
    for k, v in caches:
        k[:, -1], v[:, -1] = float("nan"), float("nan")
    assert torch.allclose(gpu_model.token(form, gpu_model.Between(), weights, caches, x, gpu_model.strobes), first, atol=1e-4)


def test_a_way_that_says_something_else_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = gpu_model.plain
    monkeypatch.setattr(gpu_model, "plain", lambda q, k, v: honest(q, k, v) * 1.5)
    with pytest.raises(Broken, match="from those of plain attention. It was not measured"):
        list(gpu_model.measure(FORM, (64,), Flash(), gpu_model.Between(), clock))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu-model"]) == 2
    assert "torch sees none here" in capsys.readouterr().err
