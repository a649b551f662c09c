"""What is shown: tables and progress, through rich where it is installed, plainly where it is not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any, TextIO

PATIENCE_S = 1.0  # nothing moves on the screen for what takes less


def has_rich() -> bool:
    """Whether rich is installed."""
    return util.find_spec("rich") is not None


def shown(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; it is None where the shell closed it."""
    return stream is not None and stream.isatty()


def show_table(headings: list[str], lines: list[list[str]], title: str = "") -> None:
    """A table on stdout, the first column to the left and the others to the right."""
    if not has_rich() or not shown(sys.stdout):
        print(plain_table(headings, lines, title))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for line in lines:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
    Console().print(table)


STYLES = {"pass": "green", "FAIL": "bold red", "same": "green"}


def plain_table(headings: list[str], lines: list[list[str]], title: str = "") -> str:
    """The same without rich.

    >>> print(plain_table(["a", "b"], [["one", "2"]]))
    a    b
    ---  -
    one  2
    """
    widths = [max(len(line[i]) for line in (headings, *lines)) for i in range(len(headings))]
    rows = [headings, ["-" * width for width in widths], *lines]

    def drawn(row: list[str]) -> str:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([title] * bool(title) + [drawn(row) for row in rows])


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr while in it; the function it gives says what was just done. Silent where stderr is no terminal."""
    if not has_rich() or not shown(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, advance=1, description=done)


class Waiting:
    """A sign of life on stderr that appears only where something takes longer than a second, and not after `stop`."""

    def __init__(self, text: str) -> None:
        self.start, self.text, self.over = time.monotonic(), text, False
        self.bar: Any = None
        self.task: Any = None
        self.lock = threading.Lock()  # the timer of `waiting` and whoever reports progress may draw at once

    def show(self, done: int | None = None, total: int | None = None) -> None:
        """Draws, if a second has passed: how much of `total` is done, or only that something goes on."""
        with self.lock:
            if self.over:
                return
            if self.bar is None:
                if time.monotonic() - self.start < PATIENCE_S or not has_rich() or not shown(sys.stderr):
                    return
                self.bar = self._begin(total)
            if total is not None:
                self.bar.update(self.task, completed=done, total=total)

    def _begin(self, total: int | None) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = bar.add_task(self.text, total=total)
        bar.start()
        return bar

    def stop(self) -> None:
        """Takes the sign away for good and shows the cursor again."""
        with self.lock:
            self.over = True
            if self.bar is not None:
                self.bar.stop()
                self.bar = None


@contextmanager
def waiting(text: str) -> Iterator[Waiting]:
    """Within, a bar that comes up by itself after a second, and goes whatever happens."""
    sign = Waiting(text)
    timer = threading.Timer(PATIENCE_S, sign.show)
    timer.daemon = True
    timer.start()
    try:
        yield sign
    finally:
        timer.cancel()
        timer.join()
        sign.stop()
