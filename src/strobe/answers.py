"""What a room's desk may be asked, and what it may answer: an offer, or a refusal with all its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from strobe.appending import Append
from strobe.merging import Merge
from strobe.problem import Problem

Question: TypeAlias = Problem | Merge | Append


@dataclass(frozen=True)
class Offer:
    """The room will run the problem.

    kernel           the stem of the file that runs, in the room's folder
    why              why this kernel, with these numbers
    tile             (rows of queries, keys) a step of the kernel handles
    splits           parts the keys are cut into; 1 means they are not
    workspace_bytes  scratch memory beside the outputs
    """

    kernel: str
    why: str
    tile: tuple[int, int] = (1, 1)
    splits: int = 1
    workspace_bytes: int = 0


@dataclass(frozen=True)
class Refusal:
    """The room cannot run the problem, for these reasons (all of them, not the first)."""

    reasons: tuple[str, ...]
