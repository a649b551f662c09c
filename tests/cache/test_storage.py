"""The arrays: their shapes, bytes and copies."""

from __future__ import annotations

import pytest
import torch

from strobe import Invalid, Scaled
from strobe.cache.formats import Float8, Format, Int4, Int8
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


@pytest.mark.parametrize(("numbers", "row"), [(Int8(), 8), (Float8(), 8), (Int4(), 4)])
def test_narrow_rows_carry_scales_that_are_counted_and_copied(numbers: Format, row: int) -> None:
    storage = Storage(LAYERS, 3, 2, dtype=torch.bfloat16, numbers=numbers)
    side = storage.keys[0]
    assert isinstance(side, Scaled) and side.data.shape == (3, 2, 2, row) and side.scale.shape == (3, 2, 2)
    per_token = (2 * 16 + 20) * row // 8 + 3 * 2 * 4  # numbers, and two scales a key head
    assert storage.bytes == 3 * Storage.page_bytes(LAYERS, 2, torch.bfloat16, numbers) == 3 * 2 * per_token
    side.data.view(torch.uint8)[0] = 7
    side.scale[0] = 0.5
    storage.copy([(0, 2)])
    assert bool((side.data.view(torch.uint8)[2] == 7).all()) and bool((side.scale[2] == 0.5).all()) and not bool(side.scale[1].any())


def test_pairs_need_even_widths() -> None:
    with pytest.raises(Invalid, match="widths are even; got 5"):
        Storage([Widths(1, 8, 5)], 1, 1, dtype=torch.float32, numbers=Int4())


def test_integers_are_refused() -> None:
    with pytest.raises(Invalid, match="floating-point"):
        Storage(LAYERS, 1, 1, dtype=torch.int32)
