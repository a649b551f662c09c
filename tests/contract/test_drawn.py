"""The CPU room on random problems: the same few each time. `tools/check fuzz` takes new ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from strobe.lab.measure import threads
from strobe.machine import compiled_library

from .drawn import Drawn, drawn, hold


@pytest.mark.native
@pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")
@settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn())
def test_the_promise_holds_for_problems_nobody_thought_of(it: Drawn) -> None:
    with threads(1):  # the definition is small; what is drawn is how many threads the room takes
        hold(it)
