"""The arrays: their shapes, bytes and copies."""

from __future__ import annotations

import pytest
import torch

from strobe import Invalid
from strobe.cache.storage import Storage, Widths

LAYERS = (Widths(2, 8, 8), Widths(1, 16, 4))


def test_layers_may_differ() -> None:
    storage = Storage(LAYERS, 5, 4, dtype=torch.bfloat16)
    assert [tuple(x.shape) for x in storage.keys] == [(5, 4, 2, 8), (5, 4, 1, 16)]
    assert [tuple(x.shape) for x in storage.values] == [(5, 4, 2, 8), (5, 4, 1, 4)]
    assert storage.bytes == 5 * Storage.page_bytes(LAYERS, 4, torch.bfloat16) == 5 * 4 * (32 + 20) * 2


def test_copies_happen_at_once_in_every_layer() -> None:
    storage = Storage(LAYERS, 3, 2, dtype=torch.float32)
    for side in (*storage.keys, *storage.values):
        side[:] = torch.arange(3.0).view(3, 1, 1, 1)
    storage.copy([(0, 1), (1, 2)])  # page 1 as it was goes to 2
    for side in (*storage.keys, *storage.values):
        assert side[:, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    storage.copy([])


def test_integers_are_refused() -> None:
    with pytest.raises(Invalid, match="floating-point"):
        Storage(LAYERS, 1, 1, dtype=torch.int32)
