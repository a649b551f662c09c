"""What can go wrong, and whose doing it is.

    StrobeError
    ├── Invalid      (ValueError)           the caller's mistake: shapes, dtypes, numbers that make no sense
    ├── Unsupported  (NotImplementedError)  a sound question that no room on this machine can answer
    ├── Broken       (RuntimeError)         our own mistake, or a broken installation
    └── CacheFull    (RuntimeError)         the cache has no page left; wait, or ask for less
"""


class StrobeError(Exception):
    """Any error that Strobe raises on purpose."""


class Invalid(StrobeError, ValueError):
    """The call makes no sense; the message says what came, what was wanted and what to do."""


class Unsupported(StrobeError, NotImplementedError):
    """No room can run it here; the message lists each room's reasons."""


class Broken(StrobeError, RuntimeError):
    """The library is at fault, or its installation is."""


class CacheFull(StrobeError, RuntimeError):
    """No page is free; nothing was changed."""
