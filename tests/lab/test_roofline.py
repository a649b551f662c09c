"""Rows of results as points beneath roofs."""

from __future__ import annotations

from pathlib import Path

import pytest

from strobe.lab.cases import Case, suite
from strobe.lab.roofline import case_of, moved_bytes, plot, roofs


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_is_found_again_by_its_name(quick: bool) -> None:
    assert [case_of(f"{case.name} 2T") for case in suite(quick)] == suite(quick)


def test_a_decode_step_of_a_group_of_four_has_about_four_operations_a_byte() -> None:
    case = Case("decode", 1, 1, 65_536, 32, 8, 128, "bfloat16")
    assert case.flops / moved_bytes(case) == pytest.approx(4, rel=1e-3)


ROWS = [
    {"case": name, "strobe": 20.0, "peers": {"torch sdpa": 30.0}, "floor": floor}
    for name, floor in (
        ("decode B1 H8 G8 S1024 D128 f32 1T", 1024.0),
        ("decode B1 H8 G8 S1024 D128 f32 paged 16 1T", 512.0),
        ("prefill B1 H8 G8 S512 D64 f32 full 1T", 2.0**20),
        ("prefill B1 H8 G8 S512 D64 bf16 full 1T", 2.0**19),
    )
]


def test_roofs_are_the_best_that_was_measured() -> None:
    read, products = roofs(ROWS)
    assert read == 2 * 1024 * 8 * 128 * 4 / 512
    assert products == {"float32": 512.0, "bfloat16": 1024.0}


def test_it_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot({"machine": {"name": "a machine", "arch": "avx2"}, "rows": ROWS}, tmp_path / "made" / "roofline.svg")
    assert "1 thread" in (tmp_path / "made" / "roofline.svg").read_text()
