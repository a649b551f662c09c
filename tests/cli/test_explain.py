"""`strobe explain`: plans for machines that are not here, pictures, and mistakes in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from strobe.cli import main
from strobe.machine import KNOWN

from .conftest import ROOT

DECODE = "explain --B 1 --T 1 --S 8192 --H 32 --G 8 --D 128 --dtype bfloat16 --causal".split()


def test_a_plan_for_a_machine_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DECODE, "--machine", "amx-2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("attention B=1 T=1 S=8192 H=32 G=8 D=128 bfloat16 Causal()\n")
    assert "runs in   cpu: decode" in out and "on        amx-2, amx, 2 unit(s)" in out and "because" in out


@pytest.mark.parametrize("machine", [*KNOWN, "here"])
def test_every_known_machine_has_a_plan_or_says_why_not(machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*DECODE, "--machine", machine])
    out, err = capsys.readouterr()
    assert code == 0 and "not in" in out or code == 0 and "because" in out or code == 2 and err.startswith("strobe: ")


def test_the_mask_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("explain --machine amx-2 --T 3 --S 5 --causal --window 1 --draw".split()) == 0
    assert capsys.readouterr().out.endswith("\n· ■ ■ · ·\n· · ■ ■ ·\n· · · ■ ■\n")


def test_a_window_without_causal_has_two_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("explain --machine amx-2 --T 3 --S 3 --window 1 --draw".split()) == 0
    assert capsys.readouterr().out.endswith("\n■ ■ ·\n■ ■ ■\n· ■ ■\n")


def test_pages_are_part_of_the_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DECODE, "--machine", "amx-2", "--paged", "16"]) == 0
    assert "bfloat16 Paged Causal()" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--machine cray-1", "no machine is called 'cray-1'; known are"),
        ("--H 7 --G 2", "G must divide H"),
        ("--T -1", "--T is a count, 0 or more; got -1"),
        ("--D 0", "widths are 1 or more"),
        ("--paged 0", "--paged is the tokens of a page"),
        ("--window -3", "0 or more; got -3"),
        ("--T 65 --S 65 --draw", "--draw takes up to 64"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words.split()]) == 2
    err = capsys.readouterr().err
    assert says in err and err.startswith("strobe: ") and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["explain", "--dtype", "int4"], ["explain", "--T", "many"], ["fly"]])
def test_words_that_are_no_command_end_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "usage: strobe" in capsys.readouterr().err


def test_a_plan_loads_neither_models_nor_pictures() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from strobe.cli import main; main({[*DECODE, '--machine', 'h200']!r}); "
        "print(sorted({'transformers', 'rich', 'matplotlib', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
