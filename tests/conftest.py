"""What every test shares: marks by what a test needs, skips that are accounted for, and one warm-up of torch.

    nothing   Python alone                  torch    torch
    native    the compiled CPU library      models   transformers

A folder's tests have the folder's need unless they say otherwise. What is missing is skipped, and the run says so; what
`--met torch,native` names is there, so that a skip of its tests is a failure. A skip whose reason begins with «this
machine» is allowed always: no machine has every instruction set.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent
NEEDS = ("nothing", "torch", "native", "models")
FOLDERS = {"house": "nothing", "unit": "nothing", "types": "nothing", "models": "models", "engine": "models", "apps": "models"}
HAS_TORCH = find_spec("torch") is not None

if not HAS_TORCH:  # the hall alone, without the door that imports torch
    hall = ModuleType("strobe")
    hall.__path__ = [str(HERE.parent / "src" / "strobe")]
    sys.modules["strobe"] = hall


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--met", default="", metavar="NEED[,NEED]", help="needs that this machine meets: their tests may not be skipped")


def pytest_configure(config: pytest.Config) -> None:
    unknown = _met(config) - set(NEEDS)
    if unknown:
        raise pytest.UsageError(f"--met names needs ({', '.join(NEEDS)}); got {', '.join(sorted(unknown))}")
    if "torch" in _met(config) and not HAS_TORCH:
        raise pytest.UsageError("--met torch, but torch cannot be imported")


def pytest_report_header() -> str | None:
    return None if HAS_TORCH else "torch is missing: only tests that need nothing are collected"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without torch, folders that import it are left out whole."""
    if HAS_TORCH or collection_path == HERE:
        return None
    folder = collection_path.relative_to(HERE).parts[0]
    return None if FOLDERS.get(folder, "") == "nothing" or collection_path.suffix == ".ini" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(need) for need in NEEDS):
            item.add_marker(FOLDERS.get(item.path.relative_to(HERE).parts[0], "torch"))
        params = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("room") == "cpu" or item.path == HERE / "rooms" / "test_cpu.py":
            item.add_marker("native")
        if params.get("room") == "triton" or item.path.name in ("test_triton.py", "test_triton_latent.py", "test_triton_parts.py"):
            item.add_marker("triton")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The first logsumexp after a matrix product in a process is off by 1e-4 once in a while (seen with torch 2.13)."""
    if item.get_closest_marker("nothing") or item.config.stash.get(WARM, False):
        return
    torch = pytest.importorskip("torch")
    x = torch.randn(64, 64)
    (x @ x).logsumexp(-1)
    (x.double() @ x.double()).logsumexp(-1)
    item.config.stash[WARM] = True


WARM = pytest.StashKey[bool]()


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Iterator[None]:
    """Triton's interpreter looks for what it replaces in its language once, and not at every call of a function: half of its time."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        yield
        return
    from triton.language import core, math
    from triton import language
    from triton.runtime import interpreter

    places = (language, core, math, core.tensor, core.tensor_descriptor_base)
    names = {place: [name for name, member in inspect.getmembers(place) if core.is_builtin(member)] for place in places}

    def getmembers(place: Any) -> list[tuple[str, Any]]:
        return [(name, getattr(place, name)) for name in names[place]]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(interpreter, "inspect", SimpleNamespace(**vars(inspect) | {"getmembers": getmembers}))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    _unexcused(report, {mark.name for mark in item.iter_markers()} & set(NEEDS), _met(item.config))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    if isinstance(collector, pytest.File):
        folder = collector.path.relative_to(HERE).parts[0]
        _unexcused(report, {FOLDERS.get(folder, "torch")}, _met(collector.config))
    return report


def _met(config: pytest.Config) -> set[str]:
    return {"nothing", *filter(None, config.getoption("--met").split(","))} if config.getoption("--met") else set()


def _unexcused(report: Any, needs: set[str], met: set[str]) -> None:
    """Turns the skip of a test whose needs are all met into a failure."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail") or not needs <= met:
        return
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith("this machine"):
        report.outcome = "failed"
        report.longrepr = f"skipped, though this machine meets {', '.join(sorted(needs))}: {reason}"
