"""Small: a file has 400 lines (a kernel's 500), a function 60 (a kernel 150), and eight parameters are enough."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .reading import ROOT, SOURCE, functions, name, python_files, tree

PARAMETERS = 8
KERNELS = {"forward", "backward", "decode", "append", "merge", "double_backward"}  # stems of files that hold a kernel
NATIVE = sorted(path for end in ("*.cpp", "*.hpp", "*.h") for path in SOURCE.rglob(end))
PYTHON = python_files("src", "benchmarks", "tools")

# Functions with more parameters, each with its reason.
WIDE = {
    "src/strobe/api.py": "the verbs' optional keywords are named at the call: docs/decisions/0001-verbs-have-keywords.md",
    "src/strobe/faces/seam.py": "what torch.library flattens is flat: docs/decisions/0003-operators-carry-words.md",
    "src/strobe/faces/recording.py": "the same: an operator's fake has the operator's parameters",
    "src/strobe/faces/append.py": "the same",
}


def is_kernel(path: Path) -> bool:
    return path.suffix != ".py" or ("backends" in path.parts and path.stem in KERNELS)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=name)
def test_a_file_is_small(path: Path) -> None:
    assert lines(path) <= (500 if is_kernel(path) else 400)


@pytest.mark.parametrize("path", python_files("examples/lessons"), ids=name)
def test_a_lesson_is_smaller(path: Path) -> None:
    assert lines(path) <= 150


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_function_is_small(path: Path) -> None:
    limit = 150 if is_kernel(path) else 60
    found = {f.name: _code_lines(f) for f in functions(tree(path))}
    assert not {called: n for called, n in found.items() if n > limit}


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: a public docstring is long on purpose."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if told else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


@pytest.mark.parametrize("path", NATIVE, ids=name)
def test_a_native_function_is_small(path: Path) -> None:
    assert not {start: n for start, n in native_functions(path.read_text()) if n > 150}


def native_functions(text: str) -> list[tuple[int, int]]:
    """(first line, lines) of each body that opens at the end of an unindented line and closes in column 0."""
    found, start = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"^[A-Za-z].*\)\s*(const\s*|noexcept\s*)*\{$", line):
            start = number
        elif line.startswith("}") and start:
            found.append((start, number - start + 1))
            start = 0
    return found


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_eight_parameters_are_enough(path: Path) -> None:
    """But for what is compiled for a device, which holds no state: it is handed all it knows."""
    if name(path) in WIDE:
        return
    wide = {f.name: n for f in functions(tree(path)) if (n := _parameters(f)) > PARAMETERS and not _on_a_device(f)}
    assert not wide


def test_the_verbs_extra_parameters_are_keywords() -> None:
    for verb in functions(tree(SOURCE / "api.py")):
        if not verb.name.startswith("_"):
            positional = len(verb.args.posonlyargs) + len(verb.args.args)
            assert positional <= 4, f"{verb.name} takes {positional} by position"
            assert all(default is not None for default in verb.args.kw_defaults), f"a keyword of {verb.name} is not optional"


def test_the_exceptions_are_still_needed() -> None:
    for path in WIDE:
        assert any(_parameters(f) > PARAMETERS for f in functions(tree(ROOT / path))), f"{path} needs no exception any more"


def _on_a_device(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith(("triton.jit", "gluon.jit", "gluon.constexpr_function")) for decorator in function.decorator_list)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    return len([a for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")])
