"""The decode suite without a GPU: its rows are made and checked on a CPU, with a clock that counts calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import invalidate_caches
from itertools import count
from pathlib import Path

import pytest
import torch

from strobe import Broken, Invalid
from strobe.cli import main
from strobe.lab import fa3, fa4, gpu_decode, graphs, report
from strobe.lab.gpu_decode import Bench, Case
from strobe.lab.graphs import Run
from strobe.lab.hopper import Flash


def clock(runs: Sequence[Run]) -> Callable[[], float]:
    """Every call once; its rounds take 1 µs, 2 µs, …"""
    for run in runs:
        run()
    rounds = count(1)
    return lambda: 1e-6 * next(rounds)


@pytest.fixture(autouse=True)
def few_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "ROTATED", 1)
    monkeypatch.setattr(graphs, "IDLE", 0.0)
    monkeypatch.setattr(gpu_decode, "ROWS", [(2, 8, 2, 1024)])
    monkeypatch.setattr(gpu_decode, "FLASH_DECODING", [4])


def test_every_row_is_right_and_has_company() -> None:
    read: list[int] = []

    def floor(arrays: Sequence[torch.Tensor]) -> Run:
        return lambda: read.append(sum(x.numel() * x.element_size() for x in arrays))

    works = gpu_decode.suite(Bench("cpu"), quick=True)
    rows = [row.as_dict() for row in graphs.measure(works, floor, clock)]
    assert len({row["case"] for row in rows}) == len(rows) == len(works)
    assert all(row["strobe"] == 5.0 for row in rows)  # the median of 1 … 9
    for word in ("pages of 1", "S16…1024", "T64", "tree", "int8", "int4", "float8", "window", "share", "invariant"):
        assert any(word in row["case"] for row in rows), word
    for row in rows:
        assert row["peers"] or "…" in row["case"]
    tables = report.decode_tables(rows)
    assert len(tables["one query"][1]) == 3 and len(tables["features"][1]) >= 18
    assert read and min(read) > 0


def test_the_bytes_of_a_case_are_those_of_its_arrays() -> None:
    for case in (Case(2, 8, 2, 64), Case(2, 8, 2, 64, narrow="int8"), Case(2, 8, 2, 64, narrow="int4"), Case(3, 8, 2, 640, page=16, ragged=True)):
        arrays = gpu_decode._arrays(Bench("cpu").cache(case))
        held = sum(x.numel() * x.element_size() for x in arrays)
        assert case.bytes <= held <= case.bytes * (1.1 if case.ragged else 1.0)


def test_a_wrong_result_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = gpu_decode.attention
    monkeypatch.setattr(gpu_decode, "_reference", lambda *given: honest(given[0], *gpu_decode._given(given[1]), mask=given[2]) * 1.05)
    with pytest.raises(Broken, match="from the reference room. It was not measured"):
        gpu_decode.beside_torch(Bench("cpu"), Case(1, 8, 2, 64))


def test_buffers_outlast_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "ROTATED", 320 << 20)
    assert (graphs.buffers(1 << 20), graphs.buffers(64 << 20), graphs.buffers(1 << 30)) == (96, 5, 2)


def test_a_package_in_a_folder_is_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="there is no folder"):
        fa4.load(str(tmp_path / "none"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "flash_attn").exists()])
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Invalid, match="FlashAttention 4 cannot be imported from"):
        fa4.load(str(tmp_path))
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "cute.py").write_text("def flash_attn_func(q, k, v, **how):\n    return (q, how), None\n")
    invalidate_caches()
    fa4.load(str(tmp_path))
    q = torch.zeros(1)
    (run,) = Flash(four=True).over(q, q, q, window=1023).values()
    assert run() == (q, {"causal": False, "window_size": (1023, 0), "num_splits": 1})
    (run,) = Flash(four=True).over(q, q, q).values()
    assert run() == (q, {"causal": True, "window_size": (None, None), "num_splits": 1})
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.delitem(sys.modules, name)


def test_a_library_that_is_not_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no library"):
        fa3.load(str(tmp_path / "none.so"))
    (tmp_path / "some.so").write_bytes(b"no library")
    with pytest.raises(Invalid, match="is not FlashAttention 3 for torch"):
        fa3.load(str(tmp_path / "some.so"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("suite", ["decode", "hopper", "gpu", "gpu-features"])
def test_the_command_says_that_there_is_no_gpu(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", suite]) == 2
    assert "torch sees none here" in capsys.readouterr().err
