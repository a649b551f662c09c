"""Compiles latent attention of the Hopper room without a GPU, as its launcher starts it, and tells registers, spills, memory and loops.

    python -m tests.rooms.hopper_latent_targets [few] [WORD …]     a line of JSON a kernel; of few, or of those whose names have the words

A process of its own: where TRITON_INTERPRET is set, nothing is compiled.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch

from strobe import Causal, Full, Mask, Paged, Ranged, Sink, Window
from strobe.answers import Offer
from strobe.backends.hopper import latent, latent_desk
from strobe.faces.torch import _described
from strobe.layouts import Dense
from strobe.machine import Machine
from strobe.plan import Plan
from strobe.problem import Call, check

from .hopper_targets import Compiled, compiled

H200 = Machine.named("h200")


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def called(
    T: int = 1, S: int = 65536, H: int = 128, G: int = 1, D: int = 576, V: int = 512, B: int = 1, lie: str = "dense",
    mask: Mask | None = None, dtype: torch.dtype = torch.bfloat16, **terms: Any,
) -> Call:  # fmt: skip
    """A call on the device `meta`; it lies "dense", "ranged", "paged 64" …, and "apart" where values are an array of their own."""
    index = empty(B, dtype=torch.int32)
    z = int(lie.split()[1]) if lie.startswith("paged") else 0
    k = empty(64, z, G, D, dtype=dtype) if z else empty(B, S, G, D, dtype=dtype)
    v = k[..., :V].contiguous() if lie.endswith("apart") else k[..., :V]
    keys: Any = Ranged(k, v, index, index) if lie.startswith("ranged") else Dense(k, v)
    if z:
        keys = Paged(k, v, empty(B, -(-S // z), dtype=torch.int32), index, S)
    return Call(empty(B, T, H, D, dtype=dtype), keys, Causal() if mask is None else mask, **terms)


def calls() -> dict[str, Call]:
    """What is compiled."""
    sink = Sink(empty(128, dtype=torch.float32))
    found = {
        "dense": called(), "dense, float16": called(dtype=torch.float16), "dense, apart": called(lie="dense apart"),
        "full": called(mask=Full()), "window": called(mask=Causal() & Window(before=4095)), "sink": called(sink=sink),
        "one part": called(B=132), "D 512": called(D=512), "D 320, V 264": called(D=320, V=264), "16 heads": called(H=16),
        "12 heads": called(H=12), "five queries": called(T=5), "two key heads": called(H=256, G=2),
        "a batch of equal lengths": called(B=40), "ranged": called(B=8, lie="ranged"), "ranged, apart": called(B=8, lie="ranged apart"),
        "ranged, firsts, sink": called(B=8, lie="ranged", first=empty(8, dtype=torch.int32), sink=sink),
        "4,096 sequences": called(B=4096, S=1024, lie="paged 64"), "paged, alone": called(lie="paged 64"),
    }  # fmt: skip
    for lie in ("dense", "dense apart", "ranged", "paged 8", "paged 64 apart"):
        found[f"mixed, {lie}"] = called(B=8, T=3, H=16, lie=lie)
    for z in (8, 16, 64, 256):
        found[f"pages of {z}"] = called(B=8, lie=f"paged {z}")
    found["pages of 8, apart"] = called(B=8, lie="paged 8 apart")
    found["pages of 16, window, sink, float16"] = called(
        B=8, T=3, lie="paged 16", mask=Window(before=99, after=7), sink=sink, dtype=torch.float16
    )  # fmt: skip
    return found


FEW = ("dense", "pages of 16", "ranged, apart")


def every(words: list[str]) -> Iterator[Compiled]:
    """The kernels whose names have the words."""
    for what, call in calls().items():
        if (what in FEW) if words == ["few"] else all(word in what for word in words):
            for kernel, args, named in started(call):
                yield compiled(what, kernel, args, named)


def planned(call: Call) -> Plan:
    """A plan of this kernel, whatever rooms there are."""
    problem = check(_described(call))
    offer = latent_desk.latent(problem, H200)
    assert isinstance(offer, Offer), offer
    return Plan(problem, H200, "hopper", offer)


def started(call: Call) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """(kernel, arguments, named ones) of each start of a call."""
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    with patch.object(latent, "start", lambda kernel, _, args, named, __: found.append((kernel, args, named))):
        latent.launch(planned(call), call)
    return [start for start in found if start[0] is latent.attend]


if __name__ == "__main__":
    for line in every(sys.argv[1:]):
        print(json.dumps(line._asdict()), flush=True)
