"""Rooms: every folder of `backends` is listed, has a desk, and ends with the one that always says yes."""

from __future__ import annotations

from pathlib import Path

import strobe.rooms
from strobe.rooms import ROOMS, desk

BACKENDS = Path(strobe.rooms.__file__).parent / "backends"


def test_every_folder_is_a_room_and_every_room_a_folder() -> None:
    assert sorted(ROOMS) == sorted(path.parent.name for path in BACKENDS.glob("*/offer.py"))


def test_the_definition_is_asked_last() -> None:
    assert ROOMS[-1] == "reference"


def test_a_desk_has_one_question() -> None:
    for room in ROOMS:
        assert callable(desk(room).offer)
        assert (desk(room).__doc__ or "").startswith("Will ") or room == "reference"
