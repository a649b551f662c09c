"""Documents do not lie: every block of Python on a page, every example in a docstring and every lesson is run.

A page is one namespace, read from top to bottom. A block ```text behind a block that printed holds what was printed, or is
a transcript: `$ strobe explain …` and what it prints, which is compared. A
block that cannot run is tagged `python no-run`, and the line above it says why: `<!-- no-run: needs a GPU -->`.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .blocks import Block, blocks

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "strobe"
PAGES = sorted([*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), ROOT / "CONTRIBUTING.md"])
LESSONS = sorted((ROOT / "examples" / "lessons").glob("*.py"))
DOCTESTS = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())
QUICK = ("strobe explain", "strobe --version", "strobe doctor")  # commands on pages that are run as they stand


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pairs(page: Path) -> list[tuple[Block, Block | None]]:
    """Each block of Python, with the block ```text that stands next if there is one: what it prints."""
    found = blocks(page)
    nexts: list[Block | None] = [*found[1:], None]
    return [(a, b if b is not None and b.language == "text" and not b.text.startswith("$ ") else None) for a, b in zip(found, nexts, strict=False) if a.language == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if pairs(page)], ids=name)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block, printed in pairs(page):
        if not block.runs:
            continue
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)  # noqa: S102 — what this test is for
        if printed is not None:
            assert _same(heard.getvalue(), printed.text), f"{name(page)}:{printed.line} says\n{printed.text}\nand it prints\n{heard.getvalue()}"


def _same(heard: str, told: str) -> bool:
    """Whether a block prints what the page says; `…` on the page stands for anything."""
    lines = [re.escape(line.rstrip()).replace("…", ".*") for line in told.strip().splitlines()]
    return re.fullmatch("\n".join(lines), "\n".join(line.rstrip() for line in heard.strip().splitlines()), re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python" and not block.runs:
            assert re.fullmatch(r"<!-- no-run: .+ -->", block.above), f"{name(page)}:{block.line} does not say why it is not run"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert not [link for link in targets if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_to_a_heading_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link, heading in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", text):
        if "://" not in link and (not link or link.endswith(".md")):
            there = (page.parent / link) if link else page
            assert heading in headings(there), f"{name(page)} links to {name(there)}#{heading}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", DOCTESTS, ids=name)
def test_the_examples_of_a_module_run(path: Path) -> None:
    import strobe

    module = import_module("strobe" + "".join(f".{part}" for part in path.relative_to(SOURCE).with_suffix("").parts if part != "__init__"))
    names = {**{export: getattr(strobe, export) for export in strobe.__all__}, **vars(module)}
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=names) if test.examples]
    assert tests
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test, out=said.write)
    assert runner.failures == 0, said.getvalue()


@pytest.mark.parametrize("lesson", LESSONS, ids=name)
@pytest.mark.timeout(60)
def test_a_lesson_runs(lesson: Path, tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-W", "error", str(lesson)], capture_output=True, text=True, check=False, cwd=tmp_path, env=_path())
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip(), "a lesson shows something"


def test_there_is_a_row_for_every_lesson() -> None:
    page = (ROOT / "examples" / "lessons" / "README.md").read_text()
    assert not [lesson.name for lesson in LESSONS if f"]({lesson.name})" not in page]


def commands() -> list[str]:
    """The quick commands in the shell blocks of all pages, once each."""
    lines = [line.removeprefix("$ ").strip() for page in PAGES for block in blocks(page) if block.language in ("sh", "console")
             for line in block.text.splitlines()]  # fmt: skip
    return sorted({line.split("  #")[0].strip() for line in lines if line.removeprefix("$ ").startswith(QUICK)})


@pytest.mark.parametrize("command", commands())
def test_a_quick_command_on_a_page_runs(command: str, tmp_path: Path) -> None:
    words = command.split()[1:]
    found = subprocess.run([sys.executable, "-m", "strobe.cli", *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=_path())
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


TRANSCRIPTS = [block for page in PAGES for block in blocks(page) if block.text.startswith("$ strobe explain")]


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=lambda block: f"{name(block.page)}:{block.line}")
def test_a_transcript_is_what_the_command_prints(block: Block, tmp_path: Path) -> None:
    line, _, told = block.text.partition("\n")
    words = line.removeprefix("$ strobe ").split()
    found = subprocess.run([sys.executable, "-m", "strobe.cli", *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=_path())
    assert found.returncode == 0, found.stderr
    assert _same(found.stdout, told), f"{name(block.page)}:{block.line} says\n{told}\nand it prints\n{found.stdout}"


def _path() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
