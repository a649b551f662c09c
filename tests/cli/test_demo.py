"""`strobe demo` and `strobe bench engine`: all parts, on short texts; a difference in float32 is a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from strobe.cli import demo, main, opening
from strobe.lab import conventional, results

pytestmark = pytest.mark.models
ENGINE = "bench engine --contexts 40,70 --tokens 3 --rounds 1 --threads 1".split()


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LONG": 700, "AT_ONCE": 3, "TOKENS": 3, "ROUNDS": 1}.items():
        monkeypatch.setattr(demo, name, value)


@pytest.mark.usefixtures("_short")
def test_a_story_a_question_and_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("demo --contexts 32,64 --threads 1".split()) == 0
    out, err = capsys.readouterr()
    assert "1. Tell me a story about a fox and a lantern." in out and "fox" in out.split("2. ")[0].split("lantern.", 1)[1]
    assert f"{demo.QUESTION}\n" in out and "(right; the cache holds" in out
    table = out.split("3. A token's time")[1]
    assert table.count("same") == 2 and "differ" not in table
    assert "3 stories told at once" in err


def test_shipped_stories_are_read_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "demo_folder", lambda: tmp_path)
    assert demo.shipped() == []
    (tmp_path / "long.txt").write_text("One.\n\nTwo.\n---\nThree.\n", encoding="utf-8")
    assert [said for said, _ in demo.shipped()] == ["Please read this story.\n\nOne.\n\nTwo.", "Please read this story.\n\nThree."]


@pytest.mark.usefixtures("_short")
def test_other_tokens_in_float32_end_with_one(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _other(monkeypatch)
    assert main([*ENGINE, "--model", str(tiny), "--out", str(tmp_path)]) == 1
    assert "than Strobe, in float32" in capsys.readouterr().err and not list(tmp_path.iterdir())


def _other(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = conventional.generate

    def other(*arguments: Any, **named: Any) -> conventional.Told:
        told = honest(*arguments, **named)
        told.tokens[1] = 5
        return told

    monkeypatch.setattr(conventional, "generate", other)


def test_the_engine_suite_writes_times_and_caches(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ENGINE, "--model", str(tiny), "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/engine.json")
    rows = results.read(path)["rows"]
    assert [row["unit"] for row in rows] == ["ms", "MiB", "s"] * 2
    assert rows[0]["case"] == "engine model float32 context 40 1T" and rows[0]["floor"] > 0
    assert set(rows[0]["peers"]) == {"transformers sdpa", "transformers eager"}
    assert rows[0]["tokens_the_same"] == {"transformers sdpa": 4, "transformers eager": 4} and rows[0]["tokens"] == 4
    assert "sdpa computes its prompt" in rows[2]["peers"]["transformers eager"] and rows[2]["peers"]["transformers sdpa"] > 0
    assert "4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(("contexts", "says"), [("40,zero", "--contexts is a number"), ("1", "contexts are 2 to"), ("9999", "with this model; got 9999")])
def test_contexts_that_make_no_sense(contexts: str, says: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--contexts", contexts, "--model", str(tiny)]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_rounds_longer_than_the_model_leave_no_context(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--tokens", "9999", "--model", str(tiny), "--out", str(tmp_path)]) == 2
    assert "9999 tokens a round leave no room for a context: this model reaches 512" in capsys.readouterr().err


@pytest.mark.parametrize(("contexts", "says"), [("40,zero", "--contexts is a number"), ("99999999", "with this model; got 99999999")])
def test_a_demo_names_its_contexts_before_it_begins(contexts: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--contexts", contexts]) == 2
    out, err = capsys.readouterr()
    assert says in err and "1. " not in out


def test_a_demo_without_its_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(opening, "demo_folder", lambda: tmp_path)
    assert main(["demo"]) == 2
    assert "the demonstration model is not part of this installation" in capsys.readouterr().err
