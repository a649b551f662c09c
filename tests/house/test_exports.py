"""The export list is what the contract's page lists, and everything on it says what it is."""

from __future__ import annotations

import inspect
import re

import pytest

from .reading import ROOT

strobe = pytest.importorskip("strobe.api") and pytest.importorskip("strobe")
pytestmark = pytest.mark.torch


def listed() -> list[str]:
    """The names in the first column of the tables under «Everything that is exported»."""
    page = (ROOT / "docs" / "contract.md").read_text()
    section = page.split("## Everything that is exported")[1]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_export_list_is_what_the_contract_lists() -> None:
    assert sorted(listed()) == sorted(strobe.__all__)


def test_the_export_list_is_sorted_and_says_nothing_twice() -> None:
    assert list(strobe.__all__) == sorted(set(strobe.__all__))


def test_the_export_list_is_all_that_is_public() -> None:
    public = {name for name, value in vars(strobe).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(strobe.__all__)


@pytest.mark.parametrize("name", strobe.__all__)
def test_an_export_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(strobe, name)
    words = value.__doc__ or ""
    assert words.strip(), f"{name} has no docstring"
    assert not words.startswith(f"{name}("), f"{name} has the docstring that a dataclass makes"


def test_the_version_is_the_packages() -> None:
    assert f'version = "{strobe.__version__}"' in (ROOT / "pyproject.toml").read_text()
