"""The file a benchmark's results lie in: `benchmarks/results/<machine>/<suite>.json`. One shape, read by every report and check.

    machine   name, slug, arch, threads, last-level cache
    versions  python, torch, strobe, peers
    commit    and `dirty`: whether the package's sources differed from it
    command   that makes the file again;  date
    rows      {case, metric, unit, higher_is_better, strobe, peers, floor, plan}
    stopped   in a file that is not whole alone: what ended the suite; `read` refuses such a file
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from strobe.errors import Invalid
from strobe.machine import Machine

FIELDS = ("machine", "versions", "commit", "dirty", "command", "date", "rows")
ROW = ("case", "metric", "unit", "higher_is_better", "strobe", "peers", "floor", "plan")
PEERS = ("transformers", "tokenizers", "safetensors", "onnxruntime", "llama-cpp-python")


@dataclass(frozen=True)
class Row:
    """One measured number with its company.

    peers   measured in the same run, interleaved; a string is the reason why there is no number
    floor   what the machine's ceiling allows, None where nothing tells
    plan    the room, kernel and numbers that ran
    """

    case: str
    strobe: float
    peers: Mapping[str, float | str]
    floor: float | None
    plan: str
    metric: str = "time"
    unit: str = "us"
    higher_is_better: bool = False
    more: dict[str, Any] = field(default_factory=dict)  # what one suite has to say beside: rounds, floors' source

    def as_dict(self) -> dict[str, Any]:
        """The row as the file holds it."""
        row = asdict(self)
        more = row.pop("more")
        return {name: row[name] for name in ROW} | more


def document(rows: list[Row], machine: Machine, command: str, **more: Any) -> dict[str, Any]:
    """A result file's one object."""
    commit, dirty = provenance()
    about = {"name": machine.name, "slug": slug(machine), "device": machine.device, "arch": machine.arch, "threads": machine.units}
    return {
        "machine": about | more,
        "versions": versions(),
        "commit": commit,
        "dirty": dirty,
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "rows": [row.as_dict() for row in rows],
    }


def writable(folder: Path) -> None:
    """Tries, before anything is measured, whether a file can be written where a folder is or will be; leaves nothing behind.

    Raises:
        Invalid: it cannot.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise Invalid(f"results cannot be written to {folder}: {error.strerror}; give another folder with --out") from None


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes the file, whole or not at all."""
    check(result, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A whole result file that has the shape.

    Raises:
        Invalid: there is no such file, it is not a result file, or the suite that wrote it was stopped before its end.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"no results in {path}: {error.strerror}") from None
    except ValueError:
        raise Invalid(f"{path} is not JSON") from None
    check(result, str(path))
    if "stopped" in result:
        rows = len(result["rows"])
        raise Invalid(f"{path} is not whole: {result['stopped']} ended it after {rows} row(s); run `{result['command']}` again")
    return result


def check(result: Any, name: str) -> None:
    """Raises `Invalid` if the object is not a result file's."""
    missing = [key for key in FIELDS if not isinstance(result, dict) or key not in result]
    if missing:
        raise Invalid(f"{name} is not a result file: it has no {', '.join(missing)}")
    for place, row in enumerate(result["rows"]):
        missing = [key for key in ROW if key not in row]
        if missing:
            raise Invalid(f"{name}: row {place} has no {', '.join(missing)}")
        if not isinstance(row["strobe"], (int, float)) or not isinstance(row["peers"], dict):
            raise Invalid(f"{name}: row {place} ({row['case']}) has no number for strobe, or no peers")


def slug(machine: Machine) -> str:
    """A folder name for a machine: what is left of its name, its instruction set, a processor's threads.

    >>> slug(Machine("Intel(R) Xeon(R) Processor", "cpu", "amx", 2))
    'xeon-amx-2t'
    >>> slug(Machine("AMD EPYC 7763 64-Core Processor", "cpu", "avx2", 8))
    'epyc-7763-avx2-8t'
    >>> slug(Machine("NVIDIA H200", "cuda", "sm90", 132))
    'h200-sm90'
    """
    name = re.sub(r"\((r|tm)\)|@.*$|\d+-core", " ", machine.name.lower())
    words = [word for word in re.findall(r"[a-z0-9]+", name) if word not in ("intel", "amd", "nvidia", "cpu", "processor", "with")]
    threads = [f"{machine.units}t"] if machine.device == "cpu" else []
    return "-".join([*(words or [platform.machine().lower()]), machine.arch, *threads])


def versions() -> dict[str, str]:
    """Python, torch, Strobe and the peers that are installed."""
    from strobe import __version__

    found = {"python": platform.python_version(), "strobe": __version__}
    for name in ("torch", *PEERS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> tuple[str, bool | None]:
    """(the commit this package's sources are at, whether they differ from it); ("unknown", None) outside a checkout."""
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installed package may lie in the folder of some other project's checkout: only a tracked file counts
    if git("ls-files", "--error-unmatch", "errors.py") is None:
        return "unknown", None
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return commit or "unknown", None if changes is None else bool(changes)
