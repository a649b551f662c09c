"""The CPU room's team: as large as torch says, asleep between calls. (At once and after a fork: test_cpu.py.)"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from strobe import attention, explain, using
from strobe.machine import compiled_library

from .test_cpu_inputs import python

pytestmark = [pytest.mark.native, pytest.mark.alone, pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    with using("cpu"):
        yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_torchs() -> None:
    q = torch.ones(1, 4, 2, 16)
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        assert explain(q, q, q).machine.units == count


COUNTED = """
import os, torch
torch.set_num_threads({count})
from strobe import attention
q, k = torch.randn(1, 600, 8, 64), torch.randn(1, 3000, 8, 64)
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    attention(q, k, k), attention(q[:, :1], k, k)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_threads_run_than_torch_was_told(count: int) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("this machine does not list its threads")
    done = python(COUNTED.format(count=count))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= count - 1  # the caller is one of the team


def test_no_thread_spins_after_a_call() -> None:
    """What the process spends in the half second after a call. OpenMP's threads look for work for a moment, then they sleep."""
    q, k = torch.randn(1, 200, 8, 64), torch.randn(1, 2000, 8, 64)
    torch.set_num_threads(2)
    for _ in range(3):
        attention(q, k, k)
    spent, at = time.process_time(), time.perf_counter()
    time.sleep(0.5)
    assert time.process_time() - spent < 0.2 * (time.perf_counter() - at)
