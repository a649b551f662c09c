"""Which Triton this is, without reading all of it again.

Triton finds kernels on the disk by a hash of itself, 400 MB, which it reads anew in every process before the first kernel: half of
the time of a first call. The hash is kept beside those kernels, under the names, sizes and times of the files that it is of.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import triton
from triton import knobs
from triton.runtime import cache

HASHED = ("_C", "backends", "compiler", "language", "runtime")  # folders with what Triton's own hash is of
KEPT = "strobe-triton.json"


@lru_cache(maxsize=1)
def know() -> None:
    """Lets Triton have its own hash, from the disk if no file of Triton's has changed; else computed, and kept."""
    path, files = Path(knobs.cache.dir) / KEPT, _files()
    key = _read(path, files)
    if key is None:
        key = cache.triton_key()
        _write(path, files, key)
    else:
        cache.triton_key = lambda: key


def _files() -> list[list[object]]:
    """(name, size, time of the last change) of every file that may be hashed."""
    root = Path(triton.__file__).parent
    found = [path for folder in HASHED for path in (root / folder).rglob("*") if path.suffix in (".py", ".so", ".pyd", ".dylib")]
    return [[str(path), told.st_size, told.st_mtime_ns] for path, told in ((path, path.stat()) for path in sorted(found))]


def _read(path: Path, files: list[list[object]]) -> str | None:
    """What was kept, if it is of these files."""
    try:
        kept = json.loads(path.read_text())
        return kept["key"] if kept["files"] == files and isinstance(kept["key"], str) else None
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or not ours
        return None


def _write(path: Path, files: list[list[object]], key: str) -> None:
    """Written whole or not at all; where it cannot be, the next process computes it again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"key": key, "files": files}, file)
        Path(file.name).replace(path)
    except OSError:
        return
