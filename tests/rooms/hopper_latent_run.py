"""Latent attention of the Hopper room without a GPU: cases, and its kernels run as plain Python.

    python -m tests.rooms.hopper_latent_run [WORD …]     the cases, or those with a WORD in their name, each with its error
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from strobe import Causal, Full, Window
from strobe.answers import Offer
from strobe.backends.hopper import latent, latent_desk
from strobe.backends.hopper import merge as merging
from strobe.layouts import Paged
from strobe.machine import Machine
from strobe.plan import Plan
from strobe.problem import Call, map_arrays
from strobe.state import State

from ..contract.cases import Case, build
from ..contract.poison import poison_unseen, poisoned_memory
from ..contract.rooms import problem_of, run
from ..contract.tolerance import PROMISED, error, plain
from .gluon_by_hand import ByHand
from .hopper_pretend import LATENT, Kernel

H200 = Machine.named("h200")
UNITS = 6  # so few that some hundred keys are cut
LENGTHS = (400, 0, 1, 63, 64, 65, 191)
WIDTHS = (576, 512)
CASES = (
    Case("one query", 1, 1, 700, 16, 1, *WIDTHS, mask=Causal()),
    Case("one query of 128 heads", 2, 1, 500, 128, 1, *WIDTHS, mask=Causal()),
    Case("few keys", 1, 1, 90, 16, 1, *WIDTHS, mask=Causal()),
    Case("full, five queries, two key heads", 1, 5, 300, 32, 2, *WIDTHS),
    Case("12 heads, six queries, an odd scale", 1, 6, 260, 12, 1, *WIDTHS, mask=Causal(), scale=0.07),
    Case("ranges", 7, 1, 400, 16, 1, *WIDTHS, keys="ranged", mask=Causal(), lengths=LENGTHS),
    Case("ranges, two queries, sink", 7, 2, 400, 16, 1, *WIDTHS, keys="ranged", mask=Causal(), lengths=LENGTHS, terms=("sink",)),
    Case("long ranges", 3, 2, 900, 16, 1, *WIDTHS, keys="ranged", mask=Causal(), lengths=(900, 65, 600)),
    Case("pages of 16", 7, 2, 400, 16, 1, *WIDTHS, keys="paged 16", mask=Causal(), lengths=LENGTHS, terms=("sink",)),
    Case("pages of 8, long", 3, 5, 900, 16, 1, *WIDTHS, keys="paged 8", mask=Causal(), lengths=(900, 0, 130)),
    Case("pages of 64", 2, 1, 600, 64, 1, *WIDTHS, keys="paged 64", mask=Causal(), lengths=(600, 600)),
    Case("pages of 256, a window", 3, 3, 900, 16, 1, *WIDTHS, keys="paged 256", mask=Causal() & Window(before=200), lengths=(900, 300, 64)),
    Case("a window of both sides", 1, 9, 700, 16, 1, *WIDTHS, mask=Window(before=100, after=3)),
    Case("a batch of equal lengths", 5, 1, 600, 16, 1, *WIDTHS, mask=Full()),
    Case("first given", 3, 4, 700, 16, 1, *WIDTHS, mask=Causal(), first=(-9, 300, 696)),
    Case("D 512", 1, 3, 400, 16, 1, 512, 512, mask=Causal()),
    Case("D 320, V 264", 2, 3, 400, 16, 1, 320, 264, mask=Causal(), terms=("sink",)),
    Case("D 552, V 512, pages of 32", 2, 3, 300, 16, 1, 552, 512, keys="paged 32", mask=Causal(), lengths=(300, 77)),
)  # fmt: skip


def in_one(call: Call) -> Call:
    """The call with values that are the first columns of the keys."""
    keys: Any = call.keys
    if isinstance(keys, Paged):
        return call._replace(keys=replace(keys, values=keys.keys[..., : keys.values.shape[-1]]))
    return call._replace(keys=replace(keys, v=keys.k[..., : keys.v.shape[-1]]))


def pretend(call: Call, seed: int = 0, units: int = UNITS) -> State:
    """The state as the launcher and the kernels make it, on a chip of so many multiprocessors that is drawn from the seed. A program of
    the merge takes whole rows, since it is programs that take time here."""
    asked, machine = problem_of(call), replace(H200, units=units)
    answer = latent_desk.latent(asked, machine)
    assert isinstance(answer, Offer), answer

    def start(code: Any, grid: int, args: tuple[Any, ...], named: dict[str, Any], _: object) -> None:
        code[(grid,)](*args, **named)

    with patch.object(latent, "start", start), patch.object(latent, "attend", Kernel("attend", seed, LATENT)), \
            patch.object(latent, "merge_parts", ByHand(merging.merge_parts)), \
            patch.object(latent, "taken", lambda *_: {"COLUMNS": 512, "AT_ONCE": 4, "num_warps": 1}), \
            poisoned_memory():  # fmt: skip
        return latent.launch(Plan(asked, machine, "hopper", answer), call)


def truth(call: Call) -> State:
    """What the reference room says of the same numbers in float64."""
    return run("reference", map_arrays(call, lambda x: x.double() if x.dtype in (torch.bfloat16, torch.float16) else x))[0]


def errors(case: Case, dtype: str, apart: bool = False, seed: int = 0, units: int = UNITS) -> tuple[float, float, float, float]:
    """(error of out, what is allowed, of lse, what is allowed), with poison where nobody looks."""
    call = build(case, dtype)
    call = call if apart else in_one(call)
    true, eps = truth(call), torch.finfo(getattr(torch, dtype)).eps
    bounds = [max(PROMISED["triton"] * error(x, y), eps) for x, y in zip(plain(call, problem_of(call)), true, strict=True)]
    poison_unseen(call, problem_of(call))
    state = pretend(call, seed, units)
    assert state.out.dtype == getattr(torch, dtype) and state.lse.dtype == torch.float32
    return error(state.out, true.out), bounds[0], error(state.lse, true.lse), bounds[1]


def main(words: list[str]) -> None:
    """Prints a line a case."""
    torch.set_num_threads(1)  # many small operations
    for case in CASES:
        if not words or any(word in case.name for word in words):
            for apart in (False, True):
                out, most, lse, most_lse = errors(case, "bfloat16", apart)
                good = out <= most and lse <= most_lse
                what = f"{case.name}{', apart' if apart else ''}"
                print(f"{'ok ' if good else 'BAD'} {what}: {out:.1e} of {most:.1e}, lse {lse:.1e} of {most_lse:.1e}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
