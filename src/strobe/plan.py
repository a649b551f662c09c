"""Problem × Machine → Plan: which room runs, why, and why nothing better does. A pure function.

A plan can be made for a machine that is not there, printed, compared, kept, and used as a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from strobe.answers import Offer, Question, Refusal
from strobe.errors import Invalid, Unsupported
from strobe.machine import Machine
from strobe.rooms import ROOMS, desk


@dataclass(frozen=True)
class Plan:
    """What will run: `offer.kernel` in `room`. `refusals` says why no room before it does."""

    problem: Question
    machine: Machine
    room: str
    offer: Offer
    refusals: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.problem, self.machine, self.room, self.offer))

    def __hash__(self) -> int:
        """Computed once: kernels keep what they prepare by their plan."""
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Without the hash: texts hash otherwise in every process, so it would be wrong where the plan is unpickled."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @property
    def file(self) -> str:
        """The file that runs, below the package's folder."""
        return f"backends/{self.room}/{self.offer.kernel}.py"

    def __str__(self) -> str:
        offer = self.offer
        tile = f", tile {offer.tile[0]}×{offer.tile[1]}" if offer.tile != (1, 1) else ""
        work = f", workspace {offer.workspace_bytes / 2**20:.1f} MiB" if offer.workspace_bytes else ""
        lines = [
            str(self.problem),
            f"  runs in   {self.room}: {offer.kernel}{tile}, {offer.splits} split(s){work}",
            f"  file      {self.file}",
            f"  on        {self.machine.name}, {self.machine.arch}, {self.machine.units} unit(s)",
            f"  because   {offer.why}",
        ]
        lines += [f"  not in    {room}: {'; '.join(reasons)}" for room, reasons in self.refusals]
        lines += [f"  note      {note}" for note in self.machine.notes]
        return "\n".join(lines)


@lru_cache(maxsize=4096)
def plan(problem: Question, machine: Machine, room: str | None = None) -> Plan:
    """The first room that takes the problem, or the one that is asked for.

    Raises:
        Unsupported: no room takes it; the message lists each room's reasons.
        Invalid: there is no room of that name.
    """
    if room is not None and room not in ROOMS:
        raise Invalid(f"no room is called {room!r}; the rooms are {', '.join(ROOMS)}")
    refusals: list[tuple[str, tuple[str, ...]]] = []
    for name in ROOMS if room is None else (room,):
        answer: Offer | Refusal = desk(name).offer(problem, machine)
        if isinstance(answer, Offer):
            return Plan(problem, machine, name, answer, tuple(refusals))
        refusals.append((name, answer.reasons))
    asked = "no room on this machine can run it" if room is None else "the room that was asked for cannot run it"
    raise Unsupported("\n".join([f"{asked}: {problem}", *(f"  {name}: {'; '.join(why)}" for name, why in refusals)]))
