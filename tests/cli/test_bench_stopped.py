"""A suite that is stopped keeps its rows, in a file that says so and that nothing takes for a whole one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strobe import Broken, Invalid
from strobe.cli import main, sheet
from strobe.lab import cases, conventional, cpu, engine, features, model, results, training
from strobe.lab.cases import Case
from strobe.lab.results import Row

pytestmark = pytest.mark.alone  # signals come to the process that runs them

FIRST = Row("the first", 1.0, {"torch sdpa": 2.0}, None, "cpu: forward")
SUITES = {
    "cpu": "bench cpu --quick --threads 1",
    "engine": "bench engine --contexts 8 --threads 1",
    "model": "bench model --contexts 8 --threads 1",
    "training": "bench training --threads 1",
    "features": "bench features --quick --threads 1",
}


def control_c() -> None:
    raise KeyboardInterrupt


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def mistake() -> None:
    raise Broken("the second row\nis wrong")


ENDS = {"Control-C": (control_c, 130), "SIGTERM": (sigterm, 143), "Broken: the second row": (mistake, 1)}


def measured(monkeypatch: pytest.MonkeyPatch, suite: str, end: Callable[[], None], rows: list[Row]) -> None:
    """Makes a suite measure these rows and then end so."""

    def measure(*_: Any) -> Iterator[Any]:
        for row in rows:
            yield [row] if suite in ("engine", "model") else row
        end()

    monkeypatch.setattr(cases, "suite", lambda quick: [Case("decode", 1, 1, 64, 32, 8, 128, "bfloat16")])
    monkeypatch.setattr(cpu, "gate_all", lambda *_: None)
    monkeypatch.setattr({"cpu": cpu, "engine": engine, "model": model, "training": training, "features": features}[suite], "measure", measure)


def run(words: str, folder: Path) -> int | str | None:
    try:
        return main([*words.split(), "--out", str(folder)])
    except SystemExit as end:
        return end.code


@pytest.mark.models
@pytest.mark.parametrize("why", ENDS)
@pytest.mark.parametrize("suite", SUITES)
def test_what_was_measured_is_kept_and_marked(
    suite: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    end, code = ENDS[why]
    measured(monkeypatch, suite, end, [FIRST])
    assert run(SUITES[suite], tmp_path) == code
    (path,) = tmp_path.rglob("*.json")
    assert path.name == f"{suite}.partial.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["stopped"] == why and [row["case"] for row in kept["rows"]] == [FIRST.case] and kept["command"].startswith(f"strobe bench {suite}")
    assert f"1 row(s) that were measured are in {path}, which is not whole" in capsys.readouterr().err
    with pytest.raises(Invalid, match=f"is not whole: {why} ended it after 1 row"):
        results.read(path)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("why", ENDS)
def test_without_a_row_there_is_no_file(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, code = ENDS[why]
    measured(monkeypatch, "training", end, [])
    assert run(SUITES["training"], tmp_path) == code
    assert not list(tmp_path.rglob("*"))


def test_an_older_whole_file_stays_and_a_whole_run_clears_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, "training", lambda: None, [FIRST, FIRST])
    assert run(SUITES["training"], tmp_path) == 0
    (whole,) = tmp_path.rglob("*.json")
    measured(monkeypatch, "training", control_c, [FIRST])
    assert run(SUITES["training"], tmp_path) == 130
    assert len(results.read(whole)["rows"]) == 2 and whole.with_suffix(".partial.json").exists()
    measured(monkeypatch, "training", lambda: None, [FIRST])
    assert run(SUITES["training"], tmp_path) == 0
    assert len(results.read(whole)["rows"]) == 1 and list(tmp_path.rglob("*.json")) == [whole]


def test_a_file_that_is_not_whole_is_no_source_for_the_readme(tmp_path: Path) -> None:
    with sheet.Sheet(tmp_path / "benchmarks" / "results", "cpu", "strobe bench cpu", 1) as written:
        written.rows.append(FIRST)
    written.path.write_text(json.dumps(written.result | {"stopped": "SIGTERM"}))
    tool = Path(__file__).parents[2] / "tools" / "readme.py"
    script = f"import sys; sys.path.insert(0, {str(tool.parent)!r}); import readme, pathlib; readme.ROOT = pathlib.Path({str(tmp_path)!r}); sys.exit(readme.main([]))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "is not whole: SIGTERM ended it after 1 row" in ran.stderr


@pytest.mark.models
def test_a_context_whose_tokens_differ_ends_the_suite_after_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = conventional.generate

    def wrong(given: Any, ids: list[int], *more: Any) -> conventional.Told:
        told = honest(given, ids, *more)
        told.tokens[-1] += len(ids) == 16
        return told

    monkeypatch.setattr(conventional, "generate", wrong)
    assert run("bench engine --contexts 8,16,24 --tokens 1 --rounds 1 --threads 1", tmp_path) == 1
    (path,) = tmp_path.rglob("*.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["stopped"].startswith("Broken: at context 16 ") and {row["case"] for row in kept["rows"]} == {"engine demo float32 context 8 1T"}
