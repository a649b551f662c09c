"""The benchmark's cases: named once, behind each a contract case that exists."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from strobe.lab.cases import Case, suite
from tests.contract.cases import CASES

ROOT = Path(__file__).resolve().parents[2]


def _names():  # noqa: ANN202
    spec = importlib.util.spec_from_file_location("benchmark_cases", ROOT / "benchmarks" / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_case_has_its_own_name() -> None:
    names = [case.name for case in suite(quick=False)]
    assert len(names) == len(set(names))


def test_quick_cases_are_cases_of_the_whole_suite() -> None:
    assert {case.name for case in suite(quick=True)} <= {case.name for case in suite(quick=False)}


def test_every_benchmark_stands_on_contract_cases() -> None:
    known = {case.name: case for case in CASES}
    behind = _names().behind
    for case in suite(quick=False):
        for name in behind(case):
            assert name in known
        if case.page is not None:
            assert all(known[name].keys.startswith("paged") for name in behind(case))


@pytest.mark.parametrize(("causal", "T", "S", "pairs"), [(False, 3, 5, 15), (True, 5, 5, 15), (True, 2, 5, 9)])
def test_flops_count_the_pairs_that_are_seen(causal: bool, T: int, S: int, pairs: int) -> None:
    case = Case("chunk", 2, T, S, 4, 2, 64, "float32", causal)
    assert case.flops == 4 * 2 * 4 * 64 * pairs
    assert Case("training", 2, T, S, 4, 2, 64, "float32", causal).flops == 14 * 2 * 4 * 64 * pairs
    assert case.mask.picture(T, S).count("■") == pairs
