"""Keys turned while they are written, on every instruction set of the CPU room: the reference room's bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from strobe import Packed, Paged, Rotary, Scaled
from strobe.appending import check_append
from strobe.backends.cpu import library as lib
from strobe.faces.torch import describe
from strobe.machine import Machine, compiled_library
from strobe.plan import plan
from strobe.problem import map_arrays
from strobe.rooms import kernel

from .test_cpu import DTYPES, ISAS, draw

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")

STORED = {"int8": torch.int8, "int4": torch.uint8, "float8_e4m3fn": torch.float8_e4m3fn}


def written(machine: Machine, room: str, kind: str, k: Any, v: Tensor, rotary: Rotary) -> list[Tensor]:
    """The bytes of fresh pages after the call."""
    tokens = k.tokens if isinstance(k, Packed) else k
    G, D = tokens.shape[-2:]
    lengths = torch.tensor([150, 170], dtype=torch.int32)
    table = torch.arange(24, dtype=torch.int32).flip(0).view(2, 12)
    sides: list[Any] = []
    for width in (D, v.shape[-1]):
        if kind in STORED:
            data = torch.zeros(24, 16, G, width // (2 if kind == "int4" else 1), dtype=torch.uint8).view(STORED[kind])
            sides.append(Scaled(data, torch.zeros(24, 16, G)))
        else:
            sides.append(torch.zeros(24, 16, G, width, dtype=tokens.dtype))
    pages = Paged(sides[0], sides[1], table, lengths, 170)
    problem = check_append(map_arrays(pages, describe), map_arrays(k, describe), describe(v), map_arrays(rotary, describe))
    chosen = plan(problem, machine, room)
    kernel(room, "append").launch(chosen, pages, k, v, rotary)
    return [x.view(torch.uint8) for side in sides for x in ((side.data, side.scale) if isinstance(side, Scaled) else (side,))]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["float", *STORED])
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize(("D", "width"), [(128, 128), (80, 32), (40, 38), (8, 2), (576, 576)])
def test_every_instruction_set_writes_the_reference_rooms_bits(
    isa: str, dtype: torch.dtype, kind: str, interleaved: bool, D: int, width: int
) -> None:
    k, v = draw(2, 70, 2, D, dtype=dtype), draw(2, 70, 2, 24, dtype=dtype, seed=1)
    angles = draw(170, width // 2, seed=2) * 9
    rotary = Rotary(angles.cos(), angles.sin(), interleaved=interleaved)
    here = Machine.cpu(2)
    want = written(here, "reference", kind, k, v, rotary)
    assert bool(want[0].any())
    for threads in (1, 2):
        for a, b in zip(want, written(replace(here, arch=isa, units=threads), "cpu", kind, k, v, rotary), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("isa", ISAS)
def test_one_plan_takes_positions_or_none_in_turn(isa: str) -> None:
    """The struct of a plan is used again: what one call said of its positions may not reach the next."""
    k, v = draw(2, 9, 2, 64), draw(2, 9, 2, 24, seed=1)
    angles = draw(170, 32, seed=2)
    near = Rotary(angles.cos(), angles.sin())
    far = replace(near, positions=torch.arange(18, dtype=torch.int32).view(2, 9))
    machine = replace(Machine.cpu(1), arch=isa)
    for _ in range(2):
        for rotary in (far, near):
            assert torch.equal(written(machine, "cpu", "float", k, v, rotary)[0], written(machine, "reference", "float", k, v, rotary)[0])


def test_a_struct_that_asks_for_what_cannot_be_is_refused() -> None:
    """The library believes no width that it would write past."""
    keys, values = torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 1, 8)
    k, angles = torch.ones(1, 1, 1, 8), torch.ones(3, 4)
    index = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)

    def call(rotated: int, cos: int, sin: int) -> None:
        lib.run("strobe_append_tokens", lib.APPEND, lib.APPEND.pack(
            lib.APPEND.size, lib.INTERFACE, 0, 1, 0, 0, 1, 1, 1, 8, 8, k.data_ptr(), k.data_ptr(), keys.data_ptr(), values.data_ptr(),
            *[8] * 6, *[32, 8, 8] * 2, 0, index[0].data_ptr(), index[1].data_ptr(), 1, 1, 1, 4, 0, 0, *[0] * 6,
            cos, sin, 0, 4, 4, 0, 3, rotated, 0, 0, *lib.NO_FAULT,
        ))  # fmt: skip

    for rotated in (-2, 3, 10):
        with pytest.raises(lib.Broken, match="a size it does not take"):
            call(rotated, angles.data_ptr(), angles.data_ptr())
    for cos, sin in ((0, angles.data_ptr()), (angles.data_ptr(), 0)):
        with pytest.raises(lib.Broken, match="a size it does not take"):
            call(8, cos, sin)
    assert not bool(keys.any())
    call(8, angles.data_ptr(), angles.data_ptr())
    assert keys[0, 0, 0].tolist() == [0.0] * 4 + [2.0] * 4
