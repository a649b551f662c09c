"""The tree of errors is the one drawn at the top of its file, and is what people catch."""

from __future__ import annotations

import inspect

import pytest

from strobe import errors
from strobe.errors import Broken, CacheFull, Invalid, StrobeError, Unsupported

TREE = {Invalid: ValueError, Unsupported: NotImplementedError, Broken: RuntimeError, CacheFull: RuntimeError}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_is_ours_and_pythons(kind: type[Exception]) -> None:
    assert issubclass(kind, StrobeError)
    assert issubclass(kind, TREE[kind])
    told = next(line for line in (inspect.getdoc(errors) or "").splitlines() if f"── {kind.__name__} " in line)
    assert f"({TREE[kind].__name__})" in told


def test_the_drawing_is_complete() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    assert kinds == {StrobeError, *TREE}
