"""Into how many parts are the keys cut, and by which rule? Standard library only; `parts.py` follows the rules on the device.

    whole    enough tiles of rows to fill the chip
    even     as many parts of each sequence as fill it once
    ragged   lengths are on the device and may differ: parts of one size, of all sequences, that fill it a few times over
    fixed    `invariant`: cuts at the same keys of every sequence, whatever else there is
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from strobe.backends.triton import sizes
from strobe.layouts import Dense as Keys
from strobe.machine import Machine
from strobe.masks import split
from strobe.problem import Problem

LEAST = 256  # keys of a part: fewer are over before the merge has begun
EVEN_WAVES, RAGGED_WAVES = 2, 8  # programs a multiprocessor; the more of them, the less the last ones matter
MOST_SEQUENCES = 4096  # whose lengths a program adds up in registers
SHORT = 1024  # keys: a sequence this long is over before cutting it pays
FEW = 128  # rows of a sequence and key head: more are a prompt's, of many tiles


class Split(NamedTuple):
    """How the keys are cut."""

    kind: str  # "whole", "even", "ragged" or "fixed"
    parts: int = 1  # of a sequence, at most; ragged: shares of all sequences' keys

    def slots(self, B: int) -> int:
        """Places for parts: a ragged batch leaves each sequence's last part short, at most."""
        return 0 if self.kind == "whole" else self.parts + B if self.kind == "ragged" else self.parts * B


def reach(problem: Problem) -> int:
    """Keys that the queries of a sequence may see, at most."""
    before, after, _ = split(problem.call.mask)
    if before is None or after is None:
        return problem.S
    return min(problem.S, before + after + problem.T)


def fixed_parts(S: int) -> int:
    """Parts of the longest sequence at fixed cuts, as `parts.cut` has them."""
    last = max(S - 1, 0)
    return 1 + (last // 256 if last < 4096 else (last + 4096) // 512 if last < 8192 else (last + 40960) // 2048)


@lru_cache(maxsize=4096)
def chosen(problem: Problem, machine: Machine) -> Split:
    """The split of a problem that a tile fits."""
    if problem.invariant:
        return Split("fixed", fixed_parts(problem.S))
    if sizes.listable(problem):
        return Split("whole")
    tile = sizes.forward(problem, machine, sizes.boxes(problem, machine))
    lanes = problem.G * sizes.tiles(problem.T * problem.group, tile.rows)
    differ = not isinstance(problem.call.keys, Keys) and 1 < problem.B <= MOST_SEQUENCES and problem.T * problem.group <= FEW
    shares = min(RAGGED_WAVES * machine.units // max(1, lanes), problem.B * sizes.tiles(reach(problem), LEAST))
    if differ and reach(problem) > SHORT and shares > problem.B:
        return Split("ragged", shares)
    parts = min(EVEN_WAVES * machine.units // max(1, lanes * problem.B), problem.S // LEAST)
    return Split("even", parts) if parts > 1 else Split("whole")
