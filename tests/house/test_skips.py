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


SIDE_BY_SIDE = pytest.mark.parametrize("side_by_side", [(), ("-p", "xdist.plugin", "-n", "2")], ids=["in one process", "in two"])


@pytest.mark.torch
@SIDE_BY_SIDE
@pytest.mark.parametrize(
    ("met", "unexcused"),
    [("", set()), ("torch", {"a_whim", "a_whim_of_the_hall"}), ("torch,native", {"a_whim", "a_whim_of_the_hall", "no_library"})],
)
def test_a_skip_is_accounted_for(tmp_path: Path, met: str, unexcused: set[str], side_by_side: tuple[str, ...]) -> None:
    found = run(tmp_path, TESTS.format("".join(TEST.format(*SKIPS[name], name) for name in SKIPS)), "--met", met, *side_by_side)
    assert set(re.findall(r"^ERROR .*::test_(\w+) ", found.stdout, re.MULTILINE)) == unexcused, found.stdout + found.stderr
    assert found.returncode == (1 if unexcused else 0)


@pytest.mark.torch
@SIDE_BY_SIDE
def test_a_file_that_skips_itself_is_accounted_for(tmp_path: Path, side_by_side: tuple[str, ...]) -> None:
    found = run(tmp_path, 'import pytest\n\npytest.skip("not today", allow_module_level=True)\n', "--met", "torch", *side_by_side)
    assert found.returncode in (1, 2) and "ERROR tests/contract/test_one.py - skipped, though this machine meets torch" in found.stdout, found.stdout


def run(folder: Path, tests: str, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest with our conftest.py on one file of the contract."""
    (folder / "tests" / "contract").mkdir(parents=True)
    (folder / "tests" / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "tests" / "contract" / "test_one.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    nothing\n    torch\n    native\n    models\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "tests"]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=bare)
