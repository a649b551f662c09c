"""The arrays of all layers: the only file of the cache that knows torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strobe.cache.formats import AS_COMPUTED, AsComputed, Float8, Format, Int4, Int8
from strobe.errors import Invalid
from strobe.terms import Scaled


@dataclass(frozen=True)
class Widths:
    """What one layer keeps of a token: `G` keys of width `D` and `G` values of width `V`."""

    G: int
    D: int
    V: int


STORED = {Int8: torch.int8, Int4: torch.uint8, Float8: torch.float8_e4m3fn}  # of int4 a byte holds two


class Storage:
    """Keys `[P, Z, G, D]` and values `[P, Z, G, V]` of each layer; layers may differ in G, D and V.

    A side is an array of `dtype`, or, in a narrow format, `Scaled` with float32 scales `[P, Z, G]`.
    """

    def __init__(
        self, layers: Sequence[Widths], pages: int, size: int, *, dtype: torch.dtype, device: torch.device | str = "cpu",
        numbers: Format = AS_COMPUTED,
    ) -> None:  # fmt: skip
        if not dtype.is_floating_point:
            raise Invalid(f"the cache holds floating-point numbers; got {dtype}")
        if isinstance(numbers, Int4) and (odd := [n for w in layers for n in (w.D, w.V) if n % 2]):
            raise Invalid(f"Int4 keeps two numbers a byte, so widths are even; got {odd[0]}")
        self.layers = tuple(layers)
        self.size = size
        self.dtype, self.device, self.numbers = dtype, torch.device(device), numbers

        # zeros, not empty: the system hands out zeroed memory lazily, and no kernel ever meets a NaN that nobody wrote
        def side(G: int, width: int) -> Tensor | Scaled:
            if isinstance(numbers, AsComputed):
                return torch.zeros(pages, size, G, width, dtype=dtype, device=device)
            data = torch.zeros(pages, size, G, _stored(width, numbers), dtype=torch.uint8, device=device)
            return Scaled(data.view(STORED[type(numbers)]), torch.zeros(pages, size, G, device=device))

        self.keys = [side(w.G, w.D) for w in layers]
        self.values = [side(w.G, w.V) for w in layers]

    def _arrays(self) -> list[Tensor]:
        """Every array, scales among them; float8 as bytes, which copy on every device."""
        found: list[Tensor] = []
        for held in (*self.keys, *self.values):
            found += [held.data.view(torch.uint8), held.scale] if isinstance(held, Scaled) else [held]
        return found

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return sum(x.numel() * x.element_size() for x in self._arrays())

    @property
    def token_bytes(self) -> int:
        """Memory of a token's keys and values in the largest layer."""
        return max(Storage.page_bytes([w], 1, self.dtype, self.numbers) for w in self.layers)

    @staticmethod
    def page_bytes(layers: Sequence[Widths], size: int, dtype: torch.dtype, numbers: Format = AS_COMPUTED) -> int:
        """Memory of one page, all layers together."""
        if isinstance(numbers, AsComputed):
            return sum(w.G * (w.D + w.V) for w in layers) * size * dtype.itemsize
        scales = 2 * torch.float32.itemsize
        return sum(w.G * (_stored(w.D, numbers) + _stored(w.V, numbers) + scales) for w in layers) * size

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies whole pages (from, to) in every layer: what a table's `grow` asks for."""
        if not pairs:
            return
        source, target = ([pair[i] for pair in pairs] for i in (0, 1))
        for array in self._arrays():
            array[target] = array[source]


def _stored(width: int, numbers: Format) -> int:
    """Bytes of a narrow row."""
    return width // 2 if isinstance(numbers, Int4) else width
