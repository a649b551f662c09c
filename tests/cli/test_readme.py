"""The README: its Python runs, its figures are those of the results, its limits are true."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from strobe.machine import Machine
from strobe.plan import plan
from strobe.rooms import ROOMS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tool", ROOT / "tools" / "readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_python_to_run() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.models
@pytest.mark.parametrize("block", BLOCKS, ids=["attention", "generation"])
def test_python_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 — it is our own text
    assert capsys.readouterr().out.strip()


def test_figures_are_those_of_the_results(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_stale_figures_are_found_and_made_again(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for name in (*map(str, tool.PAGES), "benchmarks/results", *map(str, tool.PLOTS)):
        there = tmp_path / name
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, there)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    (path,) = [p for p in tmp_path.glob("benchmarks/results/*/cpu.json") if p.parent == tool.machine_folder(tmp_path)]
    path.write_text(re.sub(r'"strobe": (\d)', r'"strobe": 1\1', path.read_text()))
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    for plot in tool.PLOTS:
        assert "<svg" in (tmp_path / plot).read_text()


def test_a_gpu_s_tables_name_the_suite_that_makes_them(tool: ModuleType) -> None:
    for name, table in tool.gpu_tables(ROOT).items():
        kind = name.split("_")[0]
        suite = {"gpu_features": "gpu-features", "gpu_model": "gpu-model"}.get(name, kind)
        assert f"`strobe bench {suite}" in table.splitlines()[-1]
        assert ("without it" in table) == (name == "gpu_features") and ("FlexAttention" in table) == (suite == "gpu")


def test_what_is_said_to_be_missing_is_missing(tool: ModuleType) -> None:
    from dataclasses import replace

    from strobe.cli.explain import problem_of
    from strobe.cli.parser import parser

    missing = README.split("## What is not there yet")[1].split("\n\n[")[0]
    problem = problem_of(parser().parse_args(["explain", "--T", "64", "--S", "64", "--causal"]), "cpu")
    on_cuda = problem_of(parser().parse_args(["explain", "--T", "64", "--S", "64", "--causal"]), "cuda:0")
    assert ("Rooms for GPUs" in missing) == (plan(on_cuda, Machine.named("h200")).room == "reference")
    assert ("A gradient in the compiled room" in missing) == (plan(replace(problem, verb="backward"), Machine.named("amx-2")).room == "reference")
    assert ("A server" in missing) == (not (ROOT / "src/strobe/serve").exists())
    assert not {"triton", "hopper", "pallas"} & set(ROOMS) or "Triton" not in missing


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_commands_that_are_shown_are_commands() -> None:
    from strobe.cli.parser import parser

    shown = re.findall(r"^strobe (\w+)", README, flags=re.MULTILINE)
    assert {"generate", "chat", "explain", "bench", "doctor"} <= set(shown)
    usage = parser().format_help()
    assert all(word in usage for word in shown)
