"""The suites of long calls on a GPU without one: which rows there are, how they are timed, and which file they go to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strobe import Machine
from strobe.cli import main
from strobe.lab import gpu, gpu_features, report, results
from strobe.lab.results import Row

PASSES = [Row(f"{verb} B1", 100.0, {"torch flash": 200.0}, None, "triton", more={"tflops": 300.0}) for verb in ("forward", "backward")]
COST = Row("a sink", 1.0, {"without it": 0.9}, None, "triton")
OTHERS = [Row(name, 1.0, {"torch flash": 2.0}, None, "triton") for name in ("memory", "host", "first")]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose suites have been measured already."""

    def measure(works: list[Any], room: str = "triton") -> Iterator[Row]:
        yield from {"passes": PASSES, "features": [COST]}[works[0]]

    monkeypatch.setattr(gpu, "check_gpu", lambda: Machine.named("h200"))
    monkeypatch.setattr(gpu, "suite", lambda quick, with_flex: ["passes"])
    monkeypatch.setattr(gpu_features, "suite", lambda quick: ["features"])
    monkeypatch.setattr(gpu, "measure", measure)
    for row in OTHERS:
        monkeypatch.setattr(gpu_features, row.case, lambda row=row: row)


@pytest.mark.parametrize(
    ("words", "rows", "titles"),
    [("gpu --flex --quick", PASSES, ["forward, TFLOP/s", "backward, TFLOP/s"]),
     ("gpu-features --quick", [COST, *OTHERS], ["features, memory, host"])],
)  # fmt: skip
@pytest.mark.usefixtures("measured")
def test_each_suite_has_its_own_file(
    words: str, rows: list[Row], titles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words.split(), "--commit", "abc", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.rglob("*.json")
    result = results.read(path)
    assert path.stem == words.split()[0] and result["command"] == f"strobe bench {words}" and result["commit"] == "abc"
    assert [row["case"] for row in result["rows"]] == [row.case for row in rows]
    assert list(report.gpu_tables(result["rows"])) == titles
    out = capsys.readouterr().out
    assert f"written: {path}" in out and all(title in out for title in titles)


class Device:
    """A GPU that does one thing after another, started by a slow host, and tells what it was started with."""

    HOST, CYCLE = 0.4, 0.5e-6  # milliseconds: until a thing is started; a cycle

    def __init__(self, call: float) -> None:
        self.call, self.host, self.free, self.told = call, 0.0, 0.0, list[str]()

    def do(self, what: str, milliseconds: float, start: float = 0.0) -> float:
        """The time at which it is done."""
        self.told.append(what)
        self.host += start
        self.free = max(self.free, self.host) + milliseconds
        return self.free

    def run(self) -> None:
        self.do("run", self.call, self.HOST)

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    """An event on it."""

    def __init__(self, device: Device) -> None:
        self.device, self.at = device, 0.0

    def record(self) -> None:
        self.at = self.device.do("event", 0.0)

    def synchronize(self) -> None:
        self.device.host = max(self.device.host, self.at)

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


@pytest.mark.parametrize(("milliseconds", "calls"), [(0.3, 33), (3.0, 5), (12.0, 5)])
def test_the_host_is_in_no_call_s_time(milliseconds: float, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(milliseconds)
    monkeypatch.setattr(gpu, "IDLE", 0.0)
    monkeypatch.setattr("torch.cuda.Event", device.event)
    monkeypatch.setattr("torch.cuda._sleep", lambda cycles: device.do("wait", cycles * device.CYCLE))
    assert gpu.once(device.run) == pytest.approx(milliseconds / 1e3)
    assert device.told == ["run", "wait", "event", "run", "run", "event", "wait", "event", *["run"] * calls, "event"]


def test_a_row_is_the_median_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 1.0, 4.0, 2.0, 8.0, 3.0, 7.0])
    monkeypatch.setattr(gpu, "once", lambda run: next(times) * 1e-6)
    (row,) = gpu.measure([lambda: gpu.Work("alone", lambda: None, {}, flops=8e6)])
    assert (row.strobe, row.more) == (4.0, {"rounds": 7, "tflops": 2.0})


def test_passes_of_wide_heads_are_not_trained() -> None:
    found = gpu.shapes(False)
    assert len(gpu.suite(False, True)) == len(found) + sum(shape.D <= gpu.WIDEST_TRAINED for shape in found)
    assert len(gpu_features.suite(False)) == 4 + 2 * len(gpu_features.TERMS)


def test_a_suite_of_features_has_no_peer_to_compile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("bench gpu-features --flex".split())
    assert "--flex" in capsys.readouterr().err
