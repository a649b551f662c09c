"""No weather, no polite lies, no graveyard: what the twelve rules forbid is looked for in every file."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import hygiene
from .reading import ROOT, SOURCE, name, python_files, tree

FILES = python_files("src")
NATIVE = sorted(path for end in ("*.cpp", "*.hpp", "*.h") for path in SOURCE.rglob(end))
DOOR = ("src/strobe/api.py", "src/strobe/problem.py", "src/strobe/merging.py", "src/strobe/appending.py", "src/strobe/masks.py",
        "src/strobe/layouts.py", "src/strobe/terms.py")  # fmt: skip

# A file that may do what the rules forbid, and why.
ENVIRONMENT = {"src/strobe/machine.py": "the one file that reads the environment"}
KEYWORDS = {
    "src/strobe/models/attend.py": "transformers hands attention functions whatever its layers know; it is read, and what is not known is refused",
    "src/strobe/lab/training.py": "transformers hands attention functions whatever its layers know; the demonstration model's say nothing more",
    "src/strobe/lab/results.py": "whatever is said of a machine is written to the results file, word for word",
}
MEMOS = {
    ("src/strobe/backends/triton/starting.py", "_known"): "compiled kernels by plan: a memo whose key is not the arguments, which no cache of functions has",
}
TEXTS = [path for folder in ("src", "tests", "docs", "examples", "benchmarks", "tools", ".ci") for path in (ROOT / folder).rglob("*")
         if path.suffix in (".py", ".md", ".cpp", ".hpp", ".h", ".json", "") and path.is_file() and "data" not in path.parts]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_rules_hold(path: Path) -> None:
    module, text, found = tree(path), path.read_text(), []
    if name(path) not in ENVIRONMENT:
        found += hygiene.environment(module)
    if name(path) in DOOR:
        found += hygiene.asserts(module)
    if name(path) not in KEYWORDS:
        found += hygiene.swallowed(module)
    found += [*hygiene.broad_excepts(module), *hygiene.unnumbered_todos(text), *hygiene.dead_code(text), *hygiene.banners(text)]
    for fault in hygiene.weather(module):
        called, _, what = fault.partition(": ")
        if (name(path), called) in MEMOS:
            continue
        if "mutable value" not in what or hygiene.changed(module, called) or not called.isupper() and not called.lstrip("_").isupper():
            found.append(fault)
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_table_at_the_top_of_a_module_is_not_written_to_from_elsewhere(path: Path) -> None:
    """Tables (dicts and lists in capitals) are constants: nobody writes into one, in its own module or another."""
    tables = {target.id for file in FILES for node in tree(file).body if isinstance(node, ast.Assign) and isinstance(node.value, hygiene.MUTABLE)
              for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
    imported = {alias.asname or alias.name for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not [table for table in tables & imported if hygiene.changed(tree(path), table)]


@pytest.mark.parametrize("path", NATIVE, ids=name)
def test_the_rules_hold_in_native_files(path: Path) -> None:
    text = path.read_text()
    assert not [*hygiene.unnumbered_todos(text), *hygiene.dead_code(text, "//"), *hygiene.banners(text)]
    assert "getenv" not in text


def test_no_file_names_a_place_that_is_not_everywhere() -> None:
    found = {name(path): list(hygiene.places(path.read_text())) for path in TEXTS if path.name not in ("hygiene.py", "test_hygiene.py")}
    assert not {path: faults for path, faults in found.items() if faults}


def test_the_exceptions_are_still_needed() -> None:
    for path in ENVIRONMENT:
        assert list(hygiene.environment(tree(ROOT / path))), f"{path} needs no exception any more"
    for path, called in MEMOS:
        assert any(fault.startswith(f"{called}: ") for fault in hygiene.weather(tree(ROOT / path))), f"{called} needs no exception any more"
    for path in KEYWORDS:
        assert list(hygiene.swallowed(tree(ROOT / path))), f"{path} needs no exception any more"


def test_large_files_are_the_demonstration_model_only() -> None:
    found = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT)
    if found.returncode != 0:
        pytest.skip("this machine has no git, or this is no checkout")
    large = [line for line in found.stdout.splitlines() if (ROOT / line).exists() and (ROOT / line).stat().st_size > 1_000_000]
    assert not [line for line in large if not line.startswith("src/strobe/data/demo/")]


def _parsed(check: Callable[[ast.Module], Iterator[str]]) -> Callable[[str], Iterator[str]]:
    return lambda text: check(ast.parse(text))


@pytest.mark.parametrize(
    ("check", "planted"),
    [
        (_parsed(hygiene.environment), "import os\nx = os.environ['A']"),
        (_parsed(hygiene.environment), "import os\nx = os.getenv('A')"),
        (_parsed(hygiene.environment), "from os import environ"),
        (_parsed(hygiene.broad_excepts), "try:\n    f()\nexcept Exception:\n    pass"),
        (_parsed(hygiene.broad_excepts), "try:\n    f()\nexcept:\n    pass"),
        (_parsed(hygiene.broad_excepts), "try:\n    f()\nexcept (ValueError, BaseException):\n    pass"),
        (_parsed(hygiene.broad_excepts), "with suppress(Exception):\n    f()"),
        (_parsed(hygiene.asserts), "def f(x):\n    assert x > 0"),
        (_parsed(hygiene.weather), "globals()['f'] = g"),
        (_parsed(hygiene.weather), "def f():\n    global x\n    x = 1"),
        (_parsed(hygiene.weather), "cache = {}"),
        (_parsed(hygiene.weather), "seen: set[int] = set()"),
        (_parsed(hygiene.swallowed), "def f(x, **kwargs):\n    return x"),
        (hygiene.unnumbered_todos, "x = 1  # TODO make it faster"),
        (hygiene.dead_code, "# x = f(y)"),
        (hygiene.dead_code, "    # for key in keys:"),
        (hygiene.dead_code, "# import torch"),
        (lambda text: hygiene.dead_code(text, "//"), "  // x = y + 1;"),
        (hygiene.banners, "# ------------------------"),
        (hygiene.places, "path = '/{}/someone/data'".format("home")),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(check: Callable[[str], Iterator[str]], planted: str) -> None:
    assert len(list(check(planted))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "# a numbered TODO(#12) is fine\nTABLE = (1, 2)",
        "# for every key: the sum of its weights (see above)",
        "# the score is scale times q k",
        "def f(x):\n    cache = {}\n    return cache",
    ],
)
def test_what_is_allowed_is_not_caught(text: str) -> None:
    assert not [*hygiene.unnumbered_todos(text), *hygiene.dead_code(text), *_parsed(hygiene.weather)(text)]


def test_a_table_that_is_written_to_is_caught() -> None:
    assert hygiene.changed(ast.parse("T = {}\ndef f():\n    T['a'] = 1"), "T")
    assert hygiene.changed(ast.parse("T = []\ndef f():\n    T.append(1)"), "T")
    assert not hygiene.changed(ast.parse("T = {'a': 1}\ndef f():\n    return T['a']"), "T")
