"""The arrays of all layers: the only file of the cache that knows torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from strobe.errors import Invalid


@dataclass(frozen=True)
class Widths:
    """What one layer keeps of a token: `G` keys of width `D` and `G` values of width `V`."""

    G: int
    D: int
    V: int


class Storage:
    """Keys `[P, Z, G, D]` and values `[P, Z, G, V]` of each layer; layers may differ in G, D and V."""

    def __init__(self, layers: Sequence[Widths], pages: int, size: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        if not dtype.is_floating_point:
            raise Invalid(f"the cache holds floating-point numbers; got {dtype}")
        self.layers = tuple(layers)
        self.size = size
        # zeros, not empty: the system hands out zeroed memory lazily, and no kernel ever meets a NaN that nobody wrote
        self.keys = [torch.zeros(pages, size, w.G, w.D, dtype=dtype, device=device) for w in layers]
        self.values = [torch.zeros(pages, size, w.G, w.V, dtype=dtype, device=device) for w in layers]

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))

    @property
    def token_bytes(self) -> int:
        """Memory of a token's keys and values in the largest layer."""
        return max(Storage.page_bytes([w], 1, self.keys[0].dtype) for w in self.layers)

    @staticmethod
    def page_bytes(layers: Sequence[Widths], size: int, dtype: torch.dtype) -> int:
        """Memory of one page, all layers together."""
        return sum(w.G * (w.D + w.V) for w in layers) * size * dtype.itemsize

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies whole pages (from, to) in every layer: what a table's `grow` asks for."""
        if not pairs:
            return
        source, target = ([pair[i] for pair in pairs] for i in (0, 1))
        for side in (*self.keys, *self.values):
            side[target] = side[source]
