"""`strobe warm` and `--device`: what a machine without a GPU says to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strobe.cli import main

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_a_cpu_has_nothing_to_warm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warm"]) == 0
    assert "nothing to compile" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["warm"], ["generate", "hello"], ["chat"]])
@pytest.mark.parametrize(("device", "says"), [("cuda:97", "is not here"), ("gpu", "device is \"cpu\"")])
def test_a_device_that_is_not_here_is_named(
    words: list[str], device: str, says: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main([*words, "--model", str(tiny), "--device", device]) == 2
    err = capsys.readouterr().err
    assert says in err and repr(device) in err and "Traceback" not in err


def test_a_cpu_may_be_asked_for(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--model", str(tiny), "--device", "cpu", "--max-tokens", "2"]) == 0
    assert "2 tokens" in capsys.readouterr().err
