"""The words of the command line. Each command's own module is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

DTYPES = ("float32", "bfloat16", "float16", "float64")


def parser() -> argparse.ArgumentParser:
    """The parser of every command; each sets `run`, which takes the arguments and returns an exit code."""
    from strobe import __version__

    top = argparse.ArgumentParser(prog="strobe", description="Exact attention in tiles, and a generation engine on it.")
    top.add_argument("--version", action="version", version=f"strobe {__version__}")
    commands = top.add_subparsers(metavar="command", required=True)
    for add in (_explain, _doctor, _bench):
        add(commands)
    return top


def _later(module: str, function: str = "run") -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        return getattr(import_module(f"strobe.cli.{module}"), function)(arguments)

    return run


def _explain(commands: Any) -> None:
    command = commands.add_parser("explain", help="print the plan of a call, for this machine or another", description=(
        "Prints which file would compute an attention, why, and why nothing better does. Nothing is computed."))  # fmt: skip
    command.add_argument("--machine", default="here", help="here, or a known machine: h200, a100, amx-2, …")
    for letter, default, meaning in (
        ("B", 1, "batch"), ("T", 1, "queries"), ("S", 1024, "keys"), ("H", 8, "query heads"), ("G", None, "key heads, H unless given"),
        ("D", 64, "width of a key"), ("V", None, "width of a value, D unless given"),
    ):  # fmt: skip
        command.add_argument(f"--{letter}", type=int, default=default, metavar="N", help=meaning)
    command.add_argument("--dtype", default="float32", choices=DTYPES)
    command.add_argument("--causal", action="store_true", help="the last query sees the last key, none sees a later one")
    command.add_argument("--window", type=int, metavar="N", help="a query sees N keys before its own position (and after it, unless causal)")
    command.add_argument("--paged", type=int, metavar="Z", help="keys lie in pages of Z tokens")
    command.add_argument("--draw", action="store_true", help="draw the mask (small sizes)")
    command.set_defaults(run=_later("explain"))


def _doctor(commands: Any) -> None:
    command = commands.add_parser("doctor", help="what this machine has, what runs, and whether it is right", description=(
        "Shows what this machine has, and compares every room that runs here with float64 on small problems. "
        "Exit code 1 if a room is wrong."))  # fmt: skip
    command.add_argument("--all", action="store_true", help="show every comparison, not each room's worst")
    command.set_defaults(run=_later("doctor"))


def _bench(commands: Any) -> None:
    command = commands.add_parser("bench", help="measure, and write the results", description="Measures, and writes DIR/<machine>/<suite>.json.")
    suites = command.add_subparsers(metavar="suite", required=True)
    cpu = suites.add_parser("cpu", help="attention on this processor beside torch's ways")
    cpu.add_argument("--quick", action="store_true", help="a few cases only")
    cpu.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    cpu.add_argument("--flex", action="store_true", help="FlexAttention as another peer (compiles for minutes)")
    cpu.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    cpu.add_argument("--plot", action="store_true", help="draw the results beside them (cpu.svg and cpu.png)")
    cpu.add_argument("--seconds", type=float, default=3.0, metavar="S", help="longest time a case, after at least five rounds")
    _common(cpu)
    cpu.set_defaults(run=_later("bench", "cpu"))


def _common(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--out", default="benchmarks/results", metavar="DIR", help="where results lie (benchmarks/results)")
    suite.add_argument("--seed", type=int, default=0)
