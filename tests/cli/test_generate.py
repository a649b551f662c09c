"""`strobe generate`: what it prints, every mistake in one line, Control-C, a closed pipe."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.cli import main, opening
from strobe.cli.generate import Answered
from strobe.lab import conventional

from .conftest import CONTEXT, PROCESS, ROOT

pytestmark = pytest.mark.models
Start = Callable[..., "subprocess.Popen[bytes]"]


def test_text_goes_to_stdout_and_the_closing_line_to_stderr(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--model", str(tiny), "--max-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    assert len(out.strip()) == 12 and out.strip().isalpha()
    assert err.startswith("— 12 tokens (length) · first after ") and "tokens/s" in err and "cache 0.02 MiB for 21 tokens" in err


def test_same_seed_same_text(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "hello", "--model", str(tiny), "--max-tokens", "30", "--temperature", "1"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*words, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "hello", "--model", str(tiny), "--max-tokens", "20"]
    main(words)
    whole = capsys.readouterr().out.strip()
    assert main([*words, "--stop", whole[5:8]]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == whole[: whole.index(whole[5:8])] and "(stop)" in err


def test_every_prompt_of_a_file_is_answered_as_json(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo — zwei\n", encoding="utf-8")
    assert main(["generate", "zero", "--file", str(file), "--model", str(tiny), "--max-tokens", "3", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["prompt"] for one in found] == ["zero", "one", "two — zwei"]
    assert all(len(one["tokens"]) == 3 and one["finished"] == "length" and one["cache_bytes"] > 0 for one in found)


def test_raw_leaves_the_chat_template_out(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for more in ([], ["--raw"]):
        assert main(["generate", "hello", "--model", str(tiny), "--max-tokens", "1", "--json", *more]) == 0
        counts.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert counts == [9, 5]


def test_transformers_says_the_same(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--model", str(tiny), "--max-tokens", "24", "--compare"]) == 0
    out = capsys.readouterr().out
    mine, _, theirs, *_ = [line for line in out.splitlines() if line]
    assert mine == theirs and "24 tokens, all the same" in out


def test_a_difference_in_float32_is_shown_and_ends_with_one(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = conventional.generate

    def other(*arguments: Any, **named: Any) -> conventional.Told:
        told = honest(*arguments, **named)
        told.tokens[4] = 5
        return told

    monkeypatch.setattr(conventional, "generate", other)
    words = ["generate", "hello", "--model", str(tiny), "--max-tokens", "8", "--compare"]
    assert main(words) == 1
    assert "the first difference is at token 5 of 8: strobe" in capsys.readouterr().out
    assert main([*words, "--dtype", "bfloat16"]) == 0
    assert "--dtype float32 decides" in capsys.readouterr().out


def test_the_closing_line_says_what_is_known() -> None:
    assert Answered("", [1, 2]).closing() == "— 0 tokens (interrupted) · cache 0.00 MiB for 2 tokens"


def _broken(tiny: Path, tmp_path: Path, how: str) -> str:
    folder = tmp_path / "broken"
    if how == "missing":
        return str(folder)
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "no tokenizer":
        for path in [*folder.glob("tokenizer*"), *folder.glob("chat_template*")]:
            path.unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "unknown":
        (folder / "config.json").write_text('{"model_type": "perpetuum-mobile"}')
    elif how == "a file":
        return str(weights)
    return str(folder)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "there is no folder"), ("truncated", "is truncated"), ("no weights", "has no weights"),
        ("no tokenizer", "has no tokenizer"), ("no config", "has no config.json"), ("unknown", "'perpetuum-mobile' is not known"),
        ("a file", "is a file; give the checkpoint's folder"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_checkpoint(how: str, says: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--model", _broken(tiny, tmp_path, how)]) == 2
    _one_line(capsys, says)


def _one_line(capsys: pytest.CaptureFixture[str], says: str) -> None:
    out, err = capsys.readouterr()
    assert says in err and err.startswith("strobe: ") and err.count("\n") == 1 and not out.strip()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([""], "the prompt is empty"), ([" \n"], "the prompt is empty"), ([], "there is no prompt"), (["x\udcff"], "the prompt is not UTF-8: byte 0xff"),
        (["x", "--max-tokens", "0"], "max_tokens is an integer, 1 or more"), (["x", "--temperature", "-1"], "temperature is a finite number"),
        (["x", "--compare", "--temperature", "1"], "leave --temperature out"), (["x" * CONTEXT], f"the model's context {CONTEXT}"),
        (["--file", "/nowhere/prompts.txt"], "cannot be read: No such file"), (["x", "--threads", "0"], "--threads is 1 or more"),
        (["x", "--stop", ""], "none of them empty"), (["x", "--threads", "999999"], "--threads is 1 or more, up to 4096; got 999999"),
        (["x", "--seed", "-1"], "seed is an integer, 0"), (["x", "--top-p", "1.5"], "top_p is above 0 and at most 1"),
        (["x", "--top-k", "0"], "top_k is an integer, 1 or more"), (["x", "--temperature", "nan"], "temperature is a finite number"),
        (["x", "--stop", "y\udcff"], "a stop text holds half of a character"), (["--file", "."], "cannot be read: Is a directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words: list[str], says: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *words, "--model", str(tiny)]) == 2
    _one_line(capsys, says)


@pytest.mark.parametrize(("content", "says"), [(b"fine\nbroken \xff\n", "is not UTF-8: byte 0xff at place 12"), (b"\n \n", "holds no prompt")])
def test_a_file_that_is_no_text(content: bytes, says: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    assert main(["generate", "--file", str(file), "--model", str(tiny)]) == 2
    _one_line(capsys, says)


def test_the_mark_that_editors_begin_a_file_with_is_no_part_of_a_prompt(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n", encoding="utf-8-sig")
    assert main(["generate", "--file", str(file), "--model", str(tiny), "--max-tokens", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
@pytest.mark.parametrize("words", [["generate", "hello", "--max-tokens", "3"], ["generate", "hello", "--max-tokens", "3", "--json"], ["chat"]])
def test_an_output_that_takes_nothing_is_one_line(words: list[str], tiny: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", PROCESS, *words, "--model", str(tiny)]
        found = subprocess.run(command, input=b"hello\n", stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
    assert found.returncode == 2
    assert b"strobe: the output cannot be written: No space left on device" in found.stderr and b"Traceback" not in found.stderr and b"Exception" not in found.stderr


@pytest.mark.parametrize(("words", "closed", "code"), [(["generate", "hello", "--max-tokens", "3"], ">&-", 0), (["chat"], "<&-", 2)])
@pytest.mark.skipif(sys.platform == "win32", reason="this machine's shell closes no streams")
def test_a_stream_that_the_shell_closed(words: list[str], closed: str, code: int, tiny: Path) -> None:
    command = [sys.executable, "-c", PROCESS, *words, "--model", str(tiny)]
    found = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT, timeout=120)
    assert found.returncode == code and b"Traceback" not in found.stderr
    assert code == 0 or b"strobe: chat reads what is said from the standard input, which is closed" in found.stderr


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["generate", "hello"]) == 2
    _one_line(capsys, "models need transformers: pip install 'strobe-attention[models]'")


def test_without_a_demonstration_model_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(opening, "demo_folder", lambda: tmp_path)
    assert main(["generate", "hello"]) == 2
    _one_line(capsys, "name a checkpoint's folder with --model")


@pytest.mark.alone
def test_control_c_keeps_what_was_generated(tiny: Path, start: Start) -> None:
    with start("generate", "hello", "--model", str(tiny), "--max-tokens", "490") as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)  # it generates
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first + out.strip() and b"Traceback" not in err
    assert "tokens (interrupted)" in err.decode() and "tokens/s" in err.decode() or b"1 tokens (interrupted)" in err


def test_a_reader_that_leaves_ends_it_quietly(tiny: Path, start: Start) -> None:
    with start("generate", "hello", "--model", str(tiny), "--max-tokens", "490") as process:
        assert process.stdout is not None and process.stderr is not None
        os.read(process.stdout.fileno(), 1)
        process.stdout.close()  # what `| head -c 1` does
        err = process.stderr.read()
    assert process.returncode == 141
    assert b"Traceback" not in err and b"Exception" not in err and b"BrokenPipe" not in err


def test_tables_do_not_need_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from strobe.cli import screen

    monkeypatch.setattr(screen, "has_rich", lambda: False)
    screen.show_table(["a", "b"], [["1", "2"]], "title")
    with screen.progress(3) as advance:
        advance("one")
    assert capsys.readouterr() == ("title\na  b\n-  -\n1  2\n", "")


def test_what_is_shown_needs_no_open_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    from strobe.cli import screen

    monkeypatch.setattr(screen, "has_rich", lambda: True)
    monkeypatch.setattr(screen, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    screen.show_table(["a"], [["1"]])
    with screen.progress(1) as advance, screen.waiting("reading") as sign:
        advance("one")
        sign.show(1, 2)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_wait_of_more_than_a_second_shows_a_bar_and_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from strobe.cli import screen

    stderr = _Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(screen, "PATIENCE_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    def interrupted() -> None:
        with screen.waiting("reading") as sign:
            sign.show(3, 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = stderr.getvalue()
    assert "reading" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_bar_never_comes_up_in_the_middle_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from strobe.cli import screen

    stderr = _Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(screen, "PATIENCE_S", 0.05)
    with screen.waiting("reading") as sign:
        sign.stop()  # the first text came
        time.sleep(0.2)
    assert stderr.getvalue() == ""


def test_a_short_wait_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from strobe.cli import screen

    stderr = _Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with screen.waiting("reading") as sign:
        sign.show(3, 10)
    assert stderr.getvalue() == ""
