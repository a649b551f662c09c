"""Random problems for the CPU room: anything its desk takes, forward and backward, held against float64.

`tests/contract/test_drawn.py` takes the same few each time; `tools/check fuzz` takes new ones for as long as one likes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from strobe import Causal, Dense, Dropout, Full, Mask, Packed, Prefix, Window
from strobe.answers import Offer
from strobe.faces import torch as face
from strobe.machine import Machine
from strobe.plan import plan
from strobe.problem import Call, Problem, key_sides, map_arrays
from strobe.rooms import desk, kernel

from .cases import FLOATS, Case, blocks, build, documents, tree, with_gradients
from .poison import poison_unseen, poisoned_memory
from .rooms import problem_of
from .tolerance import GRADIENTS, PROMISED, allowed, allowed_gradient, error, plain

MOST_PAIRS = 100_000  # of a query and a key, so that a problem takes a moment
SETS = ("scalar", "avx2", "avx512", "amx")


@dataclass(frozen=True)
class Drawn:
    """A case, and who computes it."""

    case: Case
    dtype: str
    arch: str
    threads: int


def archs() -> tuple[str, ...]:
    """The instruction sets that this machine has."""
    best = Machine.cpu(1).arch
    return SETS[: SETS.index(best) + 1] if best in SETS else ("scalar", best)


def dense(case: Case, g: torch.Generator) -> Mask:
    return Dense(torch.rand(1, case.H, case.T, case.S, generator=g) < 0.6)


@st.composite
def masks(draw: st.DrawFn, T: int, S: int, interval: bool) -> object:
    """A mask; `interval` leaves out those whose arrays lie as dense tokens do."""
    side = st.none() | st.integers(0, 100)
    kinds = ["full", "causal", "window", "causal window"]
    if not interval:
        kinds += ["prefix", "blocks", "dense"] + (["documents", "tree"] if S >= T > 0 else [])
    kind = draw(st.sampled_from(kinds))
    made = {"full": Full(), "causal": Causal(), "documents": documents, "tree": tree, "blocks": blocks, "dense": dense}
    if kind == "window":
        return Window(before=draw(side), after=draw(side))
    if kind == "causal window":
        return Causal() & Window(before=draw(st.integers(0, 100)))
    if kind == "prefix":
        return Prefix(draw(st.integers(0, S))) & Window(before=draw(side))
    return made[kind]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A problem small enough for float64 to check in a moment; half of them of few queries."""
    B, G = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    T = draw(st.integers(1, 6) | st.integers(1, 90))
    S = draw(st.integers(0, 330))
    H = G * draw(st.integers(1, max(1, min(8, MOST_PAIRS // (B * G * T * max(S, 1))))))
    width = st.integers(1, 20) | st.sampled_from((8, 16, 24, 32, 72))
    D, V = 8 * draw(width), 8 * draw(width)
    queries, keys = draw(st.sampled_from((
        ("dense", "dense"), ("dense", "ranged"), ("dense", "paged"), ("permuted", "permuted"), ("dense", "permuted"),
        ("packed", "packed"), ("packed", "paged"),
    )))  # fmt: skip
    if keys == "paged":
        keys = f"paged {draw(st.sampled_from((1, 2, 3, 7, 16, 64, 128)))}"
    lengths, q_lengths = (tuple(draw(st.lists(st.integers(0, n), min_size=B, max_size=B))) for n in (S, T))
    plainly = queries != "packed" and keys in ("dense", "permuted")
    terms = draw(st.sets(st.sampled_from(("cap", "alibi", "sink") + ("bias", "bias head") * plainly), max_size=2))
    return Case(
        "drawn", B, T, S, H, G, D, V, keys, queries, draw(masks(T, S, not plainly)), lengths, q_lengths, tuple(sorted(terms)),
        dropout=draw(st.none() | st.none() | st.builds(Dropout, st.floats(0.05, 0.9), st.integers(0, 2**63 - 1))),
        scale=draw(st.none() | st.none() | st.sampled_from((-0.3, 0.0, 0.5))),
        first=draw(st.none() | st.none() | st.integers(-20, S + 20)) if queries != "packed" else None,
        times=draw(st.sampled_from((1.0, 1.0, 1.0, 20.0))),
    )  # fmt: skip


def drawn() -> st.SearchStrategy[Drawn]:
    """Problems with an instruction set and a team."""
    return st.builds(Drawn, cases(), st.sampled_from(FLOATS), st.sampled_from(archs()), st.sampled_from((1, 2, 3)))


def hold(it: Drawn) -> None:
    """Fails if the room breaks its promise for the problem, forward or backward.

    A drawn problem may be so small that the plain computation is exact by luck (one query, two keys). So each bound is no
    less than what the rounding of a score to float32 may do; the cases of the contract are large enough to go without.
    """
    call = build(it.case, it.dtype)
    problem = problem_of(call)
    machine = replace(Machine.cpu(it.threads), arch=it.arch)
    if not isinstance(desk("cpu").offer(problem, machine), Offer):
        return
    wide = map_arrays(call, lambda x: x.double() if x.dtype.is_floating_point else x)
    there = plan(problem_of(wide), machine, "reference")
    truth = kernel("reference", there.offer.kernel).launch(there, wide)
    asked, leaves = with_gradients(call)
    plain_out, plain_lse = plain(asked, problem)
    poison_unseen(call, problem)
    chosen = plan(problem, machine, "cpu")
    with poisoned_memory():
        state = face.launch(chosen, call)
    rounding, rows = _rounding(wide, problem), truth.lse.numel() ** 0.5
    least = {"out": rounding * rows * _longest(key_sides(wide.keys)[1]), "lse": rounding * rows}
    for name, a, b, c in zip(state._fields, state, (plain_out, plain_lse), truth, strict=True):
        bound = max(allowed(error(b.detach(), c), it.dtype, "cpu"), least[name] / _size(c))
        assert error(a, c) <= bound, f"{name}: {chosen}"

    back = replace(problem, verb="backward")
    if not isinstance(desk("cpu").offer(back, machine), Offer):
        return
    g = torch.Generator().manual_seed(1)
    d_out = torch.randn(truth.out.shape, generator=g).to(state.out.dtype)
    d_lse = torch.where(truth.lse == -torch.inf, 0.0, torch.randn(truth.lse.shape, generator=g))
    chosen = plan(back, machine, "cpu")
    with poisoned_memory():
        found = kernel("cpu", chosen.offer.kernel).launch(chosen, call, state, d_out, d_lse)
    there = plan(replace(there.problem, verb="backward"), machine, "reference")
    rule = kernel("reference", there.offer.kernel).launch
    exact = rule(there, wide, truth, d_out.double(), d_lse.double())
    keep = 1.0 if wide.dropout is None else 1 - wide.dropout.p
    off = _off(d_out, truth.out, _longest(key_sides(wide.keys)[1]) / keep, it.dtype)
    moved = rule(there, wide, truth, d_out.double(), d_lse.double() + off * (torch.rand(off.shape, generator=g) < 0.5).double().mul(2).sub(1))
    plainly = _plain_gradients((plain_out, plain_lse), leaves, d_out, d_lse)
    known = [(name, a, c, d) for name, a, c, d in zip(found._fields, found, exact, moved, strict=True) if a is not None]
    for (name, a, c, d), b in zip(known, plainly, strict=True):
        least = GRADIENTS["cpu"] * float((d - c).norm()) / _size(c) + 2 * rounding
        bound = max(allowed_gradient(error(torch.nan_to_num(b), c), it.dtype, "cpu", state.lse), least)
        assert error(a, c) <= bound, f"{name}: {chosen}"


def _size(x: Tensor) -> float:
    """The norm of what is finite, as `error` divides by it."""
    return float(x[torch.isfinite(x)].norm()) or 1.0


def _rounding(wide: Call, problem: Problem) -> float:
    """How far a score may be off in float32, and so, relatively, a weight: the products of q and k add up to no more than this."""
    q = wide.q.tokens if isinstance(wide.q, Packed) else wide.q
    scores = abs(problem.scale) * _longest(q) * _longest(key_sides(wide.keys)[0])
    return PROMISED["cpu"] * torch.finfo(torch.float32).eps * (1.0 + scores)


def _longest(x: Tensor) -> float:
    """The largest norm of a row."""
    return float(x.norm(dim=-1).max()) if x.numel() else 0.0


def _off(d_out: Tensor, out: Tensor, values: float, dtype: str) -> Tensor:
    """How far δ = Σ dout · out may be off in a row: out is rounded to the dtype, the products to float32. It is taken from dP,
    which it cancels where a row sees one key, and comes into the gradients as dlse does."""
    rounded = torch.finfo(getattr(torch, dtype)).eps * (d_out.double() * out).norm(dim=-1)
    return PROMISED["cpu"] * (rounded + torch.finfo(torch.float32).eps * d_out.double().norm(dim=-1) * values)


def _plain_gradients(found: tuple[Tensor, Tensor], leaves: list[Tensor], d_out: Tensor, d_lse: Tensor) -> tuple[Tensor, ...]:
    out, lse = found
    if not out.requires_grad:  # nothing was computed
        return tuple(torch.zeros_like(x) for x in leaves)
    finite_lse = torch.where(lse == -torch.inf, 0.0, lse)
    return torch.autograd.grad((out, finite_lse), leaves, (d_out, d_lse.to(lse.dtype)), allow_unused=True, materialize_grads=True)


