"""The command line: `strobe explain · doctor · bench · generate · chat · demo · warm`.

A `StrobeError` becomes one line on stderr: exit code 2 where it is the caller's mistake, 1 where it is ours.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from strobe.cli.parser import parser
from strobe.cli.screen import shown
from strobe.errors import Broken, StrobeError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what writing ends in, and hardly anything else
OK, WRONG, MISTAKE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the words after `strobe`; those of the process unless given.
    """
    try:
        arguments = parser().parse_args(argv)
        code = arguments.run(arguments)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] — so it is where the shell closed it
            sys.stdout.flush()
        return code
    except StrobeError as error:
        print(f"strobe: {one_line(error)}", file=sys.stderr)
        return WRONG if isinstance(error, Broken) else MISTAKE
    except KeyboardInterrupt:
        print("\nstrobe: interrupted" if shown(sys.stderr) else "strobe: interrupted", file=sys.stderr)  # after the terminal's ^C
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        _drop_output()
        return CLOSED_PIPE
    except OSError as error:
        if error.filename is not None:  # a file that may not be read or written
            print(f"strobe: {error.filename}: {error.strerror}", file=sys.stderr)
        elif error.errno in FULL:
            print(f"strobe: the output cannot be written: {error.strerror}", file=sys.stderr)
            _drop_output()
        else:
            raise
        return MISTAKE


def _drop_output() -> None:
    """What is left in the buffer must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: Exception) -> str:
    """An error's message with its lines joined."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
