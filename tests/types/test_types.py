"""The public types as a user's type checker sees them: what is meant passes, what is wrong does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
pyright = pytest.importorskip("pyright", reason="needs pyright")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, set[str]]]:
    """{file: {line: rules}} of what pyright reports with its standard settings, as for a user's file."""
    settings = {
        "include": [str((HERE / name).relative_to(ROOT)) for name in ("intended.py", "mistakes.py")],
        "typeCheckingMode": "standard",
        "extraPaths": ["src"],
        "reportPrivateImportUsage": False,  # torch exports what it does not list
    }
    # the file lies beside the settings of the house, since pyright takes its root from where it is
    path = ROOT / f".pyright-{tmp_path_factory.getbasetemp().name}.json"
    path.write_text(json.dumps(settings))
    try:
        command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    finally:
        path.unlink()
    assert ran.stdout.startswith("{"), ran.stdout + ran.stderr
    reported: dict[str, dict[int, set[str]]] = {"intended.py": {}, "mistakes.py": {}}
    for fault in json.loads(ran.stdout)["generalDiagnostics"]:
        if fault["severity"] == "error":
            lines = reported[Path(fault["file"]).name]
            lines.setdefault(fault["range"]["start"]["line"] + 1, set()).add(fault.get("rule", "syntax"))
    return reported


def test_intended_uses_are_accepted(found: dict[str, dict[int, set[str]]]) -> None:
    assert found["intended.py"] == {}


def test_mistakes_are_rejected_where_they_stand_and_for_their_reason(found: dict[str, dict[int, set[str]]]) -> None:
    lines = (HERE / "mistakes.py").read_text().splitlines()
    wanted = {number: {mark[1]} for number, line in enumerate(lines, 1) if (mark := re.search(r"# ✗ (\w+)", line))}
    assert len(wanted) > 20
    assert found["mistakes.py"] == wanted


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "strobe" / "py.typed").exists()
