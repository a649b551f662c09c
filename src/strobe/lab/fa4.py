"""FlashAttention 4 as a peer: the package flash-attn-4, which is compiled when it is called, installed or in a folder."""

from __future__ import annotations

import site
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from strobe.errors import Invalid


def load(folder: str) -> None:
    """Makes the package in a folder, with all that it needs, one that can be imported.

    Raises:
        Invalid: there is no such folder, or no package in it that this Python can import.
    """
    if not Path(folder).is_dir():
        raise Invalid(f"there is no folder {folder}")
    site.addsitedir(folder)  # which reads the .pth files there, as CUTLASS's needs
    try:
        _function()
    except (ImportError, AttributeError, OSError, RuntimeError) as wrong:  # its compiler's import fails in many ways
        raise Invalid(f"FlashAttention 4 cannot be imported from {folder}: {wrong}") from wrong


def _function() -> Any:
    from flash_attn.cute import flash_attn_func  # pyright: ignore[reportMissingImports]

    return flash_attn_func


def over(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window: int = -1, splits: int = 1) -> Callable[[], Tensor]:
    """A call over dense arrays `[B, T, H, D]`, `[B, S, G, D]`; `window` keys before a query's own, −1 for all."""
    attend, seen = _function(), (window, 0) if window >= 0 else (None, None)

    def run() -> Tensor:
        found = attend(q, k, v, causal=causal and window < 0, window_size=seen, num_splits=splits)
        return found[0] if isinstance(found, tuple) else found

    return run
