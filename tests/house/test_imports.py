"""Imports go down the stairs, the hall loads nobody else's code, and importing Strobe costs next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .stairs import HALL, SOURCE, faults

FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def test_every_file_imports_only_what_its_kind_may() -> None:
    assert not [fault for path in FILES for fault in faults(path, (SOURCE / path).read_text())]


def test_the_hall_is_all_that_lies_at_the_top() -> None:
    assert {path.removesuffix(".py") for path in FILES if "/" not in path} == {*HALL, "api", "__init__"}


@pytest.mark.parametrize(
    ("path", "line", "caught"),
    [
        ("backends/cpu/forward.py", "from strobe.backends.reference.forward import scores", "backends.reference"),
        ("backends/cpu/forward.py", "from strobe.api import attention", "strobe.api"),
        ("backends/cpu/forward.py", "from strobe import attention", "imports strobe;"),
        ("backends/cpu/forward.py", "from strobe.faces import torch", "faces.torch"),
        ("backends/sdpa/forward.py", "def late():\n    import strobe.engine.engine", "engine.engine"),
        ("backends/sdpa/offer.py", "import torch", "imports torch"),
        ("backends/sdpa/offer.py", "from strobe.backends.sdpa.forward import launch", "sdpa.forward"),
        ("masks.py", "import numpy", "imports numpy"),
        ("problem.py", "from strobe.faces.seam import flatten", "faces.seam"),
        ("plan.py", "from strobe.backends.cpu import offer", "backends.cpu.offer"),
        ("cache/pages.py", "import torch", "imports torch"),
        ("cache/tables.py", "from strobe.cache.storage import Storage", "cache.storage"),
        ("models/attend.py", "from strobe.cache import pages", "cache.pages"),
        ("models/load.py", "from strobe.engine import engine", "engine.engine"),
        ("engine/engine.py", "from strobe.backends.cpu.library import library", "backends.cpu"),
        ("engine/engine.py", "from strobe.cli.screen import progress", "cli.screen"),
        ("api.py", "from . import masks", "imports ."),
        ("plan.py", "from importlib import import_module\nimport_module('strobe.api')", "by a name in a string"),
    ],
)
def test_a_planted_violation_is_caught(path: str, line: str, caught: str) -> None:
    found = faults(path, line)
    assert len(found) == 1
    assert caught in found[0]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("backends/cpu/forward.py", "from strobe.backends.cpu import library\nfrom strobe.masks import Causal\nimport torch"),
        ("problem.py", "from strobe import masks as m\nimport math"),
        ("engine/engine.py", "from strobe import attention\nfrom strobe.cache.pages import Pages"),
    ],
)
def test_what_is_allowed_is_not_caught(path: str, line: str) -> None:
    assert faults(path, line) == []


HALL_ALONE = f"""
import sys, types
before = set(sys.modules)
strobe = types.ModuleType("strobe")
strobe.__path__ = [{str(SOURCE)!r}]
sys.modules["strobe"] = strobe
from strobe.layouts import Dense
from strobe.machine import Machine
from strobe.masks import Causal
from strobe.plan import plan
from strobe.problem import Call, Described, check
import {", ".join(f"strobe.{name}" for name in HALL)}
q, k = Described((1, 5, 8, 64), "float32", "cpu"), Described((1, 9, 2, 64), "float32", "cpu")
problem = check(Call(q, Dense(k, k), Causal()))
for name in ("amx-2", "no-compiler-2", "h200"):
    print(plan(problem, Machine.named(name)).room)
print(sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names) - {{"strobe"}}))
"""


def _python(code: str) -> list[str]:
    """The lines that a fresh interpreter prints, without site-packages' start-up hooks counting."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=SOURCE.parent)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_importing_and_planning_loads_no_third_party_module() -> None:
    assert _python(HALL_ALONE) == ["cpu", "sdpa", "triton", "[]"]


@pytest.mark.torch
def test_importing_strobe_loads_no_optional_dependency() -> None:
    heavy = ("transformers", "tokenizers", "triton", "jax", "matplotlib", "rich", "starlette")
    code = f"import torch, sys\nbefore = set(sys.modules)\nimport strobe\nprint([name for name in {heavy} if name in set(sys.modules) - before])"
    assert _python(code) == ["[]"]


@pytest.mark.torch
@pytest.mark.alone
def test_importing_strobe_adds_less_than_a_fifth_of_a_second_to_torch() -> None:
    code = "import torch, time\nstart = time.perf_counter()\nimport strobe\nprint(time.perf_counter() - start)"
    assert min(float(_python(code)[0]) for _ in range(3)) < 0.2
