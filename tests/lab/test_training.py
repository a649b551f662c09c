"""The suite `training`: the two ways of a step, and what it takes for their losses to count as the same."""

from __future__ import annotations

import pytest
import torch

from strobe.errors import Broken
from strobe.lab import training
from strobe.lab.training import PEER, together


def test_a_step_and_the_memory_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_mib", lambda way, length: 10.0)
    step, memory = training.measure(count=2, sequences=1, length=24, long=64)
    assert step.strobe > 0 and set(step.peers) == {PEER} and set(memory.peers) == {PEER, training.PLAIN}
    more = step.more
    assert more["steps"] == 2 and more["losses_apart"] <= 1e-4 and more["noise_of_a_rounding"] > 0


def test_the_third_copy_differs_by_a_rounding() -> None:
    _, model = training.pair()
    before = [weight.detach().clone() for weight in model.parameters()]
    for weight, old in zip(training.nudged(model).parameters(), before, strict=True):
        assert torch.allclose(weight, old, rtol=2.5e-7, atol=0.0)
    assert any(not torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("ours", "noise", "fine"),
    [
        ([2.0] * 40, 1e-9, True),
        ([2.0] * 20 + [2.02] * 20, 0.01, True),  # noise that grew late, and the third copy's did too
        ([2.0] * 20 + [2.02] * 20, 0.001, False),
        ([2.001] + [2.0] * 39, 1.0, False),  # too far before noise can have grown
        ([2.0] * 39 + [float("nan")], 1.0, False),
    ],
)
def test_losses_are_the_same_as_far_as_noise_explains(ours: list[float], noise: float, fine: bool) -> None:
    losses = {"strobe": ours, PEER: [2.0] * 40}
    if fine:
        together(losses, noise)
    else:
        with pytest.raises(Broken, match="a rounding of the weights makes"):
            together(losses, noise)
