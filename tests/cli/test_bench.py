"""`strobe bench cpu`: a valid file, pictures, and no file on a red gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from strobe import Broken
from strobe.cli import main
from strobe.lab import cases, cpu, results
from strobe.lab.cases import Case

TINY = [
    Case("prefill", 1, 64, 64, 2, 2, 128, "bfloat16", causal=True),
    Case("decode", 1, 1, 64, 32, 8, 128, "bfloat16"),
]
WORDS = "bench cpu --quick --threads 1 --seconds 0.001".split()


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "suite", lambda quick: TINY)


def test_a_valid_file_and_its_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--plot", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/cpu.json")
    result = results.read(path)
    assert [row["case"] for row in result["rows"]] == [f"{case.name} 1T" for case in TINY]
    assert result["machine"]["slug"] == path.parent.name and result["machine"]["threads"] == 1
    assert result["command"] == "strobe bench cpu --quick --threads 1 --seconds 0.001"
    assert path.with_suffix(".svg").read_text().startswith("<?xml") and path.with_suffix(".png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert f"{TINY[0].name} 1T" in out and "torch sdpa takes" in out and f"written: {path}" in out


def test_a_red_gate_writes_nothing_and_ends_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cpu, "gate", lambda case, way, arrays: "error 1.0e-01 against float64, 4.0e-07 is allowed")
    assert main([*WORDS, "--out", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())
    assert "nothing was measured or written; prefill B1" in capsys.readouterr().err


@pytest.mark.parametrize("suite", ["cpu", "engine"])
def test_an_output_that_cannot_be_written_is_named_before_anything_is_measured(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a file").write_text("")
    assert main(["bench", suite, "--threads", "1", "--out", str(tmp_path / "a file" / "results")]) == 2
    assert "results cannot be written to" in (err := capsys.readouterr().err) and "give another folder with --out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("word", ["tokens", "rounds"])
@pytest.mark.parametrize("value", [0, -1])
def test_an_engine_measures_something(word: str, value: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", f"--{word}={value}"]) == 2
    assert f"--{word} is 1 or more; got {value}" in capsys.readouterr().err


def test_a_red_gate_is_our_fault() -> None:
    assert issubclass(Broken, RuntimeError)


@pytest.mark.parametrize(
    ("words", "says"),
    [("--threads none", "--threads is a number"), ("--threads 0", "--threads is a number"), ("--only zebra", "no case's name contains 'zebra'"),
     ("--threads 1,99999", "--threads is up to 4096; got 99999"), ("--threads ²", "--threads is a number"), ("--threads 1,", "--threads is a number"),
     *((f"--seconds {value}", f"--seconds is a finite number above 0; got {value}") for value in ("nan", "inf", "-inf", "-1", "0")),
     *((f"--seed {value}", f"--seed is an integer, 0 … 2**62; got {value}") for value in (-1, 2**70))],
)
def test_a_mistake_is_one_line(words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*"bench cpu --out".split(), str(tmp_path), *words.replace("--seconds ", "--seconds=").replace("--seed ", "--seed=").split()]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("strobe: ") and err.count("\n") == 1 and not out and not list(tmp_path.iterdir())
