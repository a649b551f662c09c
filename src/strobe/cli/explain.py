"""`strobe explain`: a plan, for this machine or one that is not here."""

from __future__ import annotations

import argparse

from strobe.errors import Invalid
from strobe.layouts import Dense, Paged
from strobe.machine import Machine
from strobe.masks import Causal, Full, Mask, Window
from strobe.plan import plan
from strobe.problem import Call, Described, Problem, check

LARGEST_PICTURE = 64  # keys or queries: what still fits a terminal


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan, and with `--draw` the mask."""
    where = _machine(arguments.machine)
    problem = problem_of(arguments, {"cuda": "cuda:0"}.get(where.device, where.device))
    print(plan(problem, where))
    if arguments.draw:
        if max(problem.T, problem.S) > LARGEST_PICTURE:
            raise Invalid(f"--draw takes up to {LARGEST_PICTURE} queries and keys; got T={problem.T}, S={problem.S}")
        print(f"\n{problem.call.mask.picture(problem.T, problem.S)}")
    return 0


def _machine(name: str) -> Machine:
    if name != "here":
        return Machine.named(name)
    import torch  # only to ask how many threads it uses

    return Machine.cpu(torch.get_num_threads())


def mask_of(causal: bool, window: int | None) -> Mask:
    """The mask that `--causal` and `--window` mean."""
    mask: Mask = Causal() if causal else Full()
    if window is not None:
        mask = mask & Window(before=window, after=None if causal else window)
    return mask


def problem_of(arguments: argparse.Namespace, device: str) -> Problem:
    """The problem that the letters describe; no array is made."""
    B, T, S, H, D = (getattr(arguments, letter) for letter in "BTSHD")
    G = H if arguments.G is None else arguments.G
    V = D if arguments.V is None else arguments.V
    for letter, value in {"B": B, "T": T, "S": S, "H": H, "G": G, "D": D, "V": V}.items():
        if value < 0:
            raise Invalid(f"--{letter} is a count, 0 or more; got {value}")

    def array(*shape: int, dtype: str = arguments.dtype) -> Described:
        return Described(shape, dtype, device)

    if arguments.paged is None:
        keys = Dense(array(B, S, G, D), array(B, S, G, V))
    else:
        Z = arguments.paged
        if Z < 1:
            raise Invalid(f"--paged is the tokens of a page, 1 or more; got {Z}")
        columns = -(-S // Z)
        pages = B * columns
        keys = Paged(array(pages, Z, G, D), array(pages, Z, G, V), array(B, columns, dtype="int32"), array(B, dtype="int32"), S)
    return check(Call(array(B, T, H, D), keys, mask_of(arguments.causal, arguments.window)))
