#!/usr/bin/env python
"""Fills the marked places of pages from `benchmarks/results/` and a printed plan, and draws the plots of results.

    python tools/readme.py            writes the pages and plots that are named below
    python tools/readme.py --check    exit code 1 if they are not what would be written

A place begins with `<!-- made: NAME -->` and ends with `<!-- end -->`. Tables are compared word by word; the plots, whose
bytes depend on matplotlib's version, by the digest of their numbers that they carry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from strobe.errors import StrobeError  # noqa: E402
from strobe.lab import report, results, roofline  # noqa: E402

PAGES = (Path("README.md"), *(Path(f"docs/rooms/{room}.md") for room in ("cpu", "triton", "hopper", "hopper-decode")))
PLOTS = {  # of a suite's result
    Path("docs/assets/cpu.svg"): ("cpu", report.plot),
    Path("docs/assets/roofline.svg"): ("cpu", roofline.plot),
    Path("docs/assets/gpu-model.svg"): ("gpu-model", report.plot_model),
}
PLAN = "--machine amx-2 --B 1 --T 1 --S 8192 --H 32 --G 8 --D 128 --dtype bfloat16 --causal"


def machine_folder(root: Path) -> Path:
    """The folder of results that the README shows: the newest, and of those the one of most threads."""
    found = {path.parent: results.read(path) for path in sorted((root / "benchmarks" / "results").glob("*/cpu.json"))}
    if not found:
        raise SystemExit("readme: there are no results; run `strobe bench cpu` first")
    return max(found, key=lambda folder: (found[folder]["date"], found[folder]["machine"]["threads"]))


def source(result: dict[str, Any]) -> str:
    """Where a table comes from, in one line."""
    about, versions = result["machine"], result["versions"]
    peers = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    commit = result["commit"][:12] + (" with changes" if result["dirty"] else "")
    units = "thread(s)" if about["device"] == "cpu" else "multiprocessors"
    where = f"{about['name']}, {about['arch']}, {about['threads']} {units}"
    return f"{where}; {peers}; {result['date']}, commit {commit}; `{result['command']}`."


def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows worth a reader's time: all threads there are, D 128, prefill causal, decode of 32 heads on 8."""
    most = max(int(row["case"].rsplit(" ", 1)[1].removesuffix("T")) for row in rows)

    def shown(case: str) -> bool:
        of = report.letters(case)
        if not case.endswith(f" {most}T") or of["D"] != "128" or of["dtype"] == "f16":
            return False
        if of["kind"] == "decode":
            return of["B"] == "1" and of["H"] == "32" and of["G"] == "8" and ("paged" not in case or "paged 16 " in case)
        return "causal" in case and of["S"] in ("512", "2048", "4096", "8192")

    return [row for row in rows if shown(row["case"])]


def cpu_table(result: dict[str, Any]) -> str:
    """The attention table: times, and how many times Strobe's time the others take."""
    headings, lines = report.table(chosen(result["rows"]))
    return f"{report.markdown(headings, lines)}\n\n{source(result)}"


def engine_table(result: dict[str, Any]) -> str:
    """The engine's table."""
    headings, lines = report.engine_table(result["rows"])
    return f"{report.markdown(headings, lines)}\n\n{source(result)}"


def features_table(result: dict[str, Any]) -> str:
    """The features' table, with as many threads as there are."""
    most = result["machine"]["threads"]
    headings, lines = report.beside_table([row for row in result["rows"] if row["case"].endswith(f" {most}T")])
    return f"{report.markdown(headings, lines)}\n\n{source(result)}"


def newest(root: Path, suite: str) -> dict[str, Any]:
    """The newest result of a suite for GPUs."""
    found = [results.read(path) for path in sorted((root / "benchmarks" / "results").glob(f"*/{suite}.json"))]
    return max(found, key=lambda one: str(one["date"]))


def gpu_tables(root: Path) -> dict[str, str]:
    """The tables of the newest results of a GPU."""
    made: dict[str, str] = {}
    for suite, tables, names in (
        ("gpu", report.gpu_tables, ("gpu_forward", "gpu_backward")),
        ("gpu-features", report.gpu_tables, ("gpu_features",)),
        ("hopper", report.gpu_tables, ("hopper_forward", "hopper_features")),
        ("decode", report.decode_tables, ("decode_plain", "decode_features")),
        ("gpu-model", report.model_tables, ("gpu_model",)),
    ):
        result = newest(root, suite)
        found = zip(names, tables(result["rows"]).values(), strict=True)
        made |= {name: f"{report.markdown(*table)}\n\n{source(result)}" for name, table in found}
    return made


def first_table(result: dict[str, Any]) -> str:
    """The time to the first token of a whole model."""
    return report.markdown(*report.first_table(result["rows"]))


def training_table(result: dict[str, Any]) -> str:
    """A step's time and attention's memory."""
    peers = report.peers_of(result["rows"])
    lines = [
        [f"{row['case']}: {row['metric']}", *(f"{value:,.0f} {row['unit']}" if isinstance(value, float) else ""
         for value in (row["strobe"], *(row["peers"].get(peer) for peer in peers)))]
        for row in result["rows"]
    ]  # fmt: skip
    return f"{report.markdown(['', 'strobe', *peers], lines)}\n\n{source(result)}"


def plan_text() -> str:
    """What `strobe explain` prints."""
    from strobe.cli.explain import _machine, problem_of
    from strobe.cli.parser import parser
    from strobe.plan import plan

    arguments = parser().parse_args(["explain", *PLAN.split()])
    return f"```text\n$ strobe explain {PLAN}\n{plan(problem_of(arguments, 'cpu'), _machine(arguments.machine))}\n```"


def digest(result: dict[str, Any]) -> str:
    """Of the numbers that the plots show."""
    numbers = [result["machine"], [[row["case"], row["strobe"], row["peers"], row["floor"]] for row in result["rows"]]]
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def filled(text: str, blocks: dict[str, str]) -> str:
    r"""The text with every marked place filled.

    >>> filled("a <!-- made: x -->old<!-- end --> b", {"x": "new"})
    'a <!-- made: x -->\nnew\n<!-- end --> b'
    """

    def fill(match: re.Match[str]) -> str:
        return f"<!-- made: {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def blocks_of(folder: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """(every block by name, the results that plots show by suite)."""
    cpu = results.read(folder / "cpu.json")
    model = results.read(folder / "model.json")
    blocks = {
        "plan": plan_text(),
        "cpu": cpu_table(cpu),
        "engine": engine_table(results.read(folder / "engine.json")),
        "model": engine_table(model),
        "first": first_table(model),
        "features": features_table(results.read(folder / "features.json")),
        "training": training_table(results.read(folder / "training.json")),
        **gpu_tables(folder.parents[2]),
    }
    return blocks, {"cpu": cpu, "gpu-model": newest(folder.parents[2], "gpu-model")}


def main(words: list[str]) -> int:
    """Writes, or with `--check` compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(words).check
    try:
        blocks, shown = blocks_of(machine_folder(ROOT))
    except StrobeError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    marks = {plot: f"<!-- numbers: {digest(shown[suite])} -->" for plot, (suite, _) in PLOTS.items()}
    before = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    after = {page: filled(text, blocks) for page, text in before.items()}
    if check:
        stale = [str(page) for page in PAGES if before[page] != after[page]]
        stale += [str(plot) for plot in PLOTS if not _carries(ROOT / plot, marks[plot])]
        print(f"readme: {' and '.join(stale)}: run tools/readme.py" if stale else "readme: up to date")
        return int(bool(stale))
    for page, text in after.items():
        (ROOT / page).write_text(text, encoding="utf-8")
    for plot, (suite, draw) in PLOTS.items():
        draw(shown[suite], ROOT / plot)
        (ROOT / plot).write_text(f"{(ROOT / plot).read_text(encoding='utf-8')}{marks[plot]}\n", encoding="utf-8")
    print(f"readme: {', '.join(map(str, (*PAGES, *PLOTS)))} written")
    return 0


def _carries(plot: Path, mark: str) -> bool:
    return plot.exists() and mark in plot.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
