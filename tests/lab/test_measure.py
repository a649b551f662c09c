"""Interleaving, rotating buffers, poison, and the file of results."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from strobe import Invalid, Machine
from strobe.lab import measure, results
from strobe.lab.measure import Contender, Effort, interleave, poisoned, rotating_sets, threads
from strobe.lab.results import Row


def test_every_contender_runs_every_round_and_no_buffer_is_still_warm() -> None:
    seen: list[tuple[str, int]] = []

    def runs(name: str) -> Contender:
        return Contender(name, lambda i: seen.append((name, i)) or time.sleep(0.003))

    samples = interleave([runs("a"), runs("b"), runs("c")], 4, Effort(5, 5, 60.0))
    assert samples.rounds == 5 and all(len(values) == 5 for values in samples.seconds.values())
    timed = seen[6:]  # two warm calls each come before
    assert [place for _, place in timed] == [i % 4 for i in range(15)]
    rounds = [tuple(name for name, _ in timed[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds) and len(set(rounds)) > 1
    assert samples.median_us("a") >= 3000


def test_rounds_stop_when_the_time_is_over_but_not_before_the_least() -> None:
    assert interleave([Contender("a", lambda i: None)], 1, Effort(3, 50, 0.0)).rounds == 3


def test_small_buffers_rotate_and_huge_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "last_level_cache_bytes", lambda: 32 << 20)
    assert rotating_sets(1 << 20) == 40
    assert rotating_sets(1 << 10) == 64
    assert rotating_sets(30 << 20) == 4
    assert rotating_sets(65 << 20) == 1


def test_poison_shows_what_was_not_written_and_leaves_no_trace() -> None:
    with poisoned():
        assert bool(torch.empty(1000).isnan().all())
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(Invalid, match="threads are 1 or more"), threads(0):
        pass


ROW = Row("decode B1 H32 G8 S8192 D128 bf16 2T", 9.1, {"torch sdpa": 15.5, "torch flex": "no compiler"}, 7.5, "cpu: decode")


def test_a_result_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cpu.json"
    result = results.document([ROW], Machine.named("amx-2"), "strobe bench cpu")
    results.write(path, result)
    assert results.read(path) == result
    assert list(path.parent.iterdir()) == [path]
    assert result["versions"]["torch"] and result["rows"][0]["unit"] == "us"


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[]", "has no machine"), ('{"rows": []}', "has no machine, versions"), (None, "no results in")],
)
def test_what_is_no_result_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "cpu.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Invalid, match=says):
        results.read(path)


def test_a_row_without_a_number_is_not_written(tmp_path: Path) -> None:
    result = results.document([ROW], Machine.named("amx-2"), "strobe bench cpu")
    result["rows"][0]["strobe"] = "slow"
    with pytest.raises(Invalid, match="no number for strobe"):
        results.write(tmp_path / "cpu.json", result)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Intel(R) Xeon(R) Platinum 8488C @ 2.40GHz", "xeon-platinum-8488c-avx2-4t"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763-avx2-4t"),
        ("Apple M2", "apple-m2-avx2-4t"),
    ],
)
def test_a_machine_has_a_folder_name(name: str, folder: str) -> None:
    assert results.slug(Machine(name, "cpu", "avx2", 4)) == folder


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "__file__", str(tmp_path / "strobe" / "lab" / "results.py"))
    assert results.provenance() == ("unknown", None)


def test_results_are_json_that_people_can_read(tmp_path: Path) -> None:
    results.write(tmp_path / "cpu.json", results.document([ROW], Machine.named("amx-2"), "strobe bench cpu"))
    text = (tmp_path / "cpu.json").read_text()
    assert text.endswith("}\n") and json.loads(text)["machine"]["slug"] == "amx-2-amx-2t"
