"""The results file of a suite while it is measured: whole at its end, and what there is of it where something ends it early."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from strobe.lab import results
from strobe.machine import Machine

TERMINATED = 143  # as a shell tells it: 128 and the signal's number


class Sheet:
    """Rows as they come; leaving the `with` writes them.

    At the suite's end that is `DIR/<machine>/<suite>.json`. Where an error, Control-C or SIGTERM ends it before, the rows
    measured so far go to `<suite>.partial.json`, which says what stopped it, and the error goes on; no row, no file. An
    older whole file stays as it was.

    Args:
        folder: DIR.
        suite: "cpu", "engine", …
        command: the words that make the file again.
        threads: the most that are measured with; or the machine, where that is not this processor.
        about: what else the file says of the machine.
        commit: of a checkout that was copied here without its history.

    Raises:
        Invalid: nothing can be written there; said before anything is measured.
    """

    def __init__(self, folder: Path, suite: str, command: str, threads: int | Machine, about: dict[str, Any] | None = None,
                 commit: str | None = None) -> None:  # fmt: skip
        results.writable(folder)
        self.machine = threads if isinstance(threads, Machine) else Machine.cpu(threads)
        self.path = folder / results.slug(self.machine) / f"{suite}.json"
        self.rows: list[results.Row] = []
        self._command, self._about, self._said = command, about or {}, {} if commit is None else {"commit": commit, "dirty": None}

    def __enter__(self) -> Sheet:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._before = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        partial = self.path.with_suffix(".partial.json")
        if error is None:
            self.result = self._document()
            results.write(self.path, self.result)
            partial.unlink(missing_ok=True)
        elif self.rows:
            results.write(partial, self._document() | {"stopped": stopped(error)})
            print(f"strobe: stopped; {len(self.rows)} row(s) that were measured are in {partial}, which is not whole", file=sys.stderr)

    def _document(self) -> dict[str, Any]:
        return results.document(self.rows, self.machine, self._command, **self._about) | self._said


def stopped(error: BaseException) -> str:
    """What ended a suite before its end, in a line.

    >>> stopped(KeyboardInterrupt()), stopped(SystemExit(TERMINATED)), stopped(ValueError("no", 3))
    ('Control-C', 'SIGTERM', "ValueError: ('no', 3)")
    """
    if isinstance(error, KeyboardInterrupt):
        return "Control-C"
    if isinstance(error, SystemExit):
        return "SIGTERM"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"


def _leave(number: int, frame: Any) -> NoReturn:
    """What SIGTERM does: the way out, through every `finally`."""
    raise SystemExit(TERMINATED)
