"""Decode of the Hopper room without a GPU: its kernels run by hand, on the contract's cases and on ragged batches.

    python -m tests.rooms.hopper_decode_run [WORD …]     the contract's cases, or those with a WORD in their name, each with its error
    python -m tests.rooms.hopper_decode_run ragged N     N random ragged batches
    python -m tests.rooms.hopper_decode_run merge SEED   one of those with Triton's interpreter for the merge (TRITON_INTERPRET=1)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from strobe import Causal, Full, Paged, Ranged, Sink, Tree, Window
from strobe.answers import Offer
from strobe.backends.hopper import decode, decoding
from strobe.backends.hopper import merge as merging
from strobe.faces.torch import _described
from strobe.machine import Machine
from strobe.masks import Mask
from strobe.plan import Plan, plan
from strobe.problem import Call, Problem, check, map_arrays
from strobe.rooms import kernel
from strobe.state import State

from ..contract.cases import CASES, Case, build
from ..contract.poison import poison_unseen, poisoned_memory
from ..contract.rooms import posed
from ..contract.tolerance import allowed, error, plain
from .gluon_by_hand import ByHand

SMALL = replace(Machine.named("h200"), units=12)  # so few units that sequences of some hundred keys share them as long ones share a chip
FORMS = ("even", "stream", "fixed")


@contextmanager
def by_hand(merge: bool = True) -> Iterator[None]:
    """Kernels that are started within run on this processor; the merge too, unless Triton interprets it."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(decode, "attend", ByHand(decode.attend)))
        if merge:
            for name in ("merge_parts", "add_parts"):
                stack.enter_context(patch.object(decode, name, ByHand(getattr(decode, name))))
        for name in ("gdc_launch_dependents", "gdc_wait"):  # which Triton's interpreter does not have
            stack.enter_context(patch.object(merging, name, lambda: None))
        stack.enter_context(poisoned_memory())
        yield


def problem_of(call: Call, invariant: bool = False) -> Problem:
    return replace(check(_described(call)), invariant=invariant)


def offered(problem: Problem, machine: Machine = SMALL) -> Plan:
    """The plan of this kernel, whatever rooms there are."""
    offer = decoding.decode(problem, machine)
    assert isinstance(offer, Offer), offer
    return Plan(problem, machine, "hopper", offer)


def decoded(call: Call, invariant: bool = False, merge: bool = True) -> State:
    with by_hand(merge):
        return decode.launch(offered(problem_of(call, invariant)), call)


def truth(call: Call) -> State:
    """What the reference room says of the same numbers in float64."""
    def widen(x: torch.Tensor) -> torch.Tensor:
        return x.double() if x.dtype in (torch.bfloat16, torch.float16) else x

    wide = map_arrays(call, widen)
    chosen = plan(problem_of(wide), Machine.cpu(1), "reference")
    return kernel("reference", chosen.offer.kernel).launch(chosen, wide)


def small(case: Case) -> bool:
    return case.S <= 4096 and case.B * case.T * case.H <= 40_000


def taken() -> list[tuple[Case, str]]:
    """The contract's cases that decode takes and that are run in a second or so."""
    return [
        (case, dtype) for case in CASES for dtype in case.dtypes
        if small(case) and isinstance(decoding.decode(posed(case, dtype), SMALL), Offer)
    ]  # fmt: skip


def errors(case: Case, dtype: str) -> tuple[float, float, float, float]:
    """(error of out, what is allowed, of lse, what is allowed), with poison where nobody looks."""
    call = build(case, dtype)
    problem, true = problem_of(call), truth(call)
    plain_out, plain_lse = plain(call, problem)
    poison_unseen(call, problem)
    state = decoded(call)
    most = (allowed(error(x, y), dtype, "triton") for x, y in zip((plain_out, plain_lse), true, strict=True))
    return error(state.out, true.out), next(most), error(state.lse, true.lse), next(most)


def ragged(seed: int, form: str) -> Call:
    """A batch of sequences of any lengths, none and one among them, in pages or ranges, with a mask; `form` is how it is to be split."""
    draw, g = random.Random(seed), torch.Generator().manual_seed(seed)
    B, D, G, group, T = draw.randint(2, 6), draw.choice((64, 128)), draw.choice((1, 2)), draw.choice((1, 3, 4)), draw.choice((1, 1, 2, 5, 9))
    lengths = [draw.choice((0, 1, draw.randint(2, 300), draw.randint(300, 900))) for _ in range(B)]
    lengths[draw.randrange(B)] = 1300 if form == "stream" else 700
    S = max(lengths)
    node = torch.rand(1, T, T, generator=g) < 0.5
    masks: tuple[Mask, ...] = (Causal(), Full(), Window(before=1250, after=3), Causal() & Window(before=1200), Tree(node | torch.eye(T).bool()))
    q = torch.randn(B, T, G * group, D, generator=g).bfloat16()
    sink = Sink(torch.randn(G * group, generator=g)) if draw.random() < 0.3 else None
    index = torch.tensor(lengths, dtype=torch.int32)
    if draw.random() < 0.2:
        k, v = (torch.randn(B, S, G, D, generator=g).bfloat16() for _ in range(2))
        keys: Any = Ranged(k, v, S - index, index)
    else:
        z = draw.choice((1, 3, 16, 64, 128, 256, 1024))
        columns = -(-S // z)
        table = torch.randperm(columns * B + 2, generator=g)[: columns * B].view(B, columns).int()
        k, v = (torch.randn(columns * B + 2, z, G, D, generator=g).bfloat16() for _ in range(2))
        keys = Paged(k, v, table, index, S)
    return Call(q, keys, draw.choice(masks), sink=sink)


def ragged_errors(seed: int, form: str, merge: bool = True) -> tuple[float, float]:
    """(error of out, of lse) of a ragged batch that is split so, with poison where nobody looks."""
    call = ragged(seed, form)
    problem = problem_of(call, form == "fixed")
    assert decoding.chosen(problem, SMALL).split == form
    true = truth(call)
    poison_unseen(call, problem)
    state = decoded(call, form == "fixed", merge)
    return error(state.out, true.out), error(state.lse, true.lse)


def main(words: list[str]) -> None:
    """Prints a line a case."""
    torch.set_num_threads(1)  # many small operations
    if words[:1] == ["ragged"] or words[:1] == ["merge"]:
        for seed in range(int(words[1])) if words[0] == "ragged" else (int(words[1]),):
            for form in FORMS:
                out, lse = ragged_errors(seed, form, words[0] == "ragged")
                print(f"{'ok ' if out < 5e-3 and lse < 2e-6 else 'BAD'} {form} {seed}: {out:.1e}, lse {lse:.1e}", flush=True)
        return
    for case, dtype in taken():
        if not words or any(word in case.name for word in words):
            out, most, lse, most_lse = errors(case, dtype)
            good = out <= most and lse <= most_lse
            print(f"{'ok ' if good else 'BAD'} {case.name} {dtype}: {out:.1e} of {most:.1e}, lse {lse:.1e} of {most_lse:.1e}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
