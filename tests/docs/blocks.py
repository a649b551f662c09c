"""Fenced blocks of a page: what is in them, how they are tagged, where they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its first line of text, the words behind the fence, its text, the line above."""

    page: Path
    line: int
    tag: str
    text: str
    above: str

    @property
    def language(self) -> str:
        return self.tag.split()[0] if self.tag else ""

    @property
    def runs(self) -> bool:
        return "no-run" not in self.tag.split()


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    held: list[str] = []
    above = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if fence and opened is None:
            opened, held = (number + 1, fence[1].strip(), above), []
        elif fence and opened is not None:
            found.append(Block(page, opened[0], opened[1], "\n".join(held) + "\n", opened[2]))
            opened = None
        elif opened is not None:
            held.append(line)
        elif line.strip():
            above = line.strip()
    if opened is not None:
        raise ValueError(f"{page}: the block that opens before line {opened[0]} is not closed")
    return found
