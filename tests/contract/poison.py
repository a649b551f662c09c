"""Poison: what no one wrote and what no query may see is NaN, so that reading it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from strobe.backends.reference.padded import pad
from strobe.layouts import Paged
from strobe.problem import Call, Problem, key_sides
from strobe.terms import Scaled


def _filled(x: Tensor) -> Tensor:
    if x.dtype.is_floating_point and x.device.type != "meta":
        x.fill_(torch.nan)
    return x


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Whatever torch hands out uninitialised is NaN."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def poisoned(make: Any) -> Any:
        return lambda *args, **named: _filled(make(*args, **named))

    with (
        patch("torch.empty", poisoned(empty)),
        patch("torch.empty_like", poisoned(empty_like)),
        patch.object(Tensor, "new_empty", poisoned(new_empty)),
    ):
        yield


def poison_unseen(call: Call, problem: Problem) -> None:
    """Writes NaN and infinities, in place, into every key and value that no query of the call may see, or into its scale."""
    padded = pad(call, problem)
    seen = padded.seen(call).any(2).any(1)  # [B, S]
    for side in key_sides(call.keys):
        rows = side.scale[..., None] if isinstance(side, Scaled) else side
        if isinstance(call.keys, Paged) or padded.k_rows is not None:
            flat = rows.view(-1, *rows.shape[-2:])
            untouched = torch.ones(flat.shape[0], dtype=torch.bool)
            assert padded.k_rows is not None
            untouched[padded.k_rows[seen]] = False
            flat[untouched] = _wild(int(untouched.sum()), rows)
        else:
            rows[~seen] = _wild(int((~seen).sum()), rows)


def _wild(rows: int, like: Tensor) -> Tensor:
    """Rows of NaN, +∞, −∞ in turn."""
    values = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=like.dtype)
    return values.repeat(rows // 3 + 1)[:rows, None, None].expand(rows, *like.shape[-2:])
