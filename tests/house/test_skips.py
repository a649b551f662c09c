"""A skip is accounted for: excused if its need is missing or the machine's nature, an error otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

{}
"""
TEST = """
@pytest.mark.{}
@pytest.mark.skip(reason="{}")
def test_{}():
    pass
"""
SKIPS = {
    "a_whim": ("torch", "not today"),
    "a_whim_of_the_hall": ("nothing", "not today"),
    "no_library": ("native", "needs the compiled CPU library"),
    "no_tiles": ("native", "this machine has no amx"),
}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("met", "unexcused"),
    [("", set()), ("torch", {"a_whim", "a_whim_of_the_hall"}), ("torch,native", {"a_whim", "a_whim_of_the_hall", "no_library"})],
)
def test_a_skip_is_accounted_for(tmp_path: Path, met: str, unexcused: set[str]) -> None:
    (tmp_path / "tests" / "contract").mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "tests" / "contract" / "test_one.py").write_text(TESTS.format("".join(TEST.format(*SKIPS[name], name) for name in SKIPS)))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    nothing\n    torch\n    native\n    models\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--met", met, "tests"]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=bare)
    assert set(re.findall(r"^ERROR .*::test_(\w+) ", found.stdout, re.MULTILINE)) == unexcused, found.stdout + found.stderr
    assert found.returncode == (1 if unexcused else 0)
