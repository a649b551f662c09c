"""What this machine has, which rooms run on it, and whether they are right: every room against float64 on small problems."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import util
from typing import Any

import torch
from torch import Tensor

import strobe
from strobe.answers import Offer
from strobe.errors import StrobeError
from strobe.lab.truth import allowed, distance, plainly
from strobe.machine import Machine, compiled_library
from strobe.masks import Causal, Full, Mask, Window
from strobe.models.linears import described
from strobe.rooms import ROOMS, desk, kernel

EXTRAS = {
    "models": ("transformers", "tokenizers", "safetensors", "jinja2", "rich"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "lab": ("matplotlib", "rich"),
    "jax": ("jax",),
}


@dataclass(frozen=True)
class Trial:
    """A small problem: sequences of (queries, keys), and how their tokens lie."""

    name: str
    sequences: tuple[tuple[int, int], ...]
    H: int
    G: int
    D: int
    mask: Mask = Full()
    layout: str = "dense"  # "dense", "ranged", "packed", "paged"
    gradient: bool = False


@dataclass(frozen=True)
class Check:
    """One room on one trial: its error and the plain computation's, both against float64, and the largest that passes.

    A check without an error did not run: the room refused (it passed), or broke (it did not); `why` says more.
    """

    room: str
    trial: str
    dtype: str
    passed: bool
    why: str = ""
    error: float | None = None
    plain: float | None = None
    allowed: float | None = None

    @property
    def ran(self) -> bool:
        """Whether the room took the trial."""
        return self.error is not None or not self.passed

    @property
    def share(self) -> float:
        """The error as a part of what is allowed; infinite where the room broke."""
        return float("inf") if self.error is None or not self.allowed else self.error / self.allowed


TRIALS = (
    Trial("prefill, causal, 2 heads a group", ((65, 65),), 4, 2, 64, Causal()),
    Trial("one query, 300 keys, 4 heads a group", ((1, 300), (1, 300)), 8, 2, 128),
    Trial("window of 17 keys", ((90, 90),), 2, 2, 80, Causal() & Window(before=16)),
    Trial("more queries than keys", ((40, 17),), 2, 1, 64, Causal()),
    Trial("padded batch", ((5, 33), (5, 20)), 4, 2, 64, Causal(), "ranged"),
    Trial("packed batch", ((33, 33), (1, 50), (7, 7)), 4, 2, 64, Causal(), "packed"),
    Trial("pages of 16, one of the batch empty", ((1, 130), (1, 0), (1, 16)), 8, 2, 64, Causal(), "paged"),
    Trial("gradient", ((20, 31),), 4, 2, 64, Causal(), gradient=True),
)
DTYPES = ("float32", "bfloat16", "float16")
PAGE = 16


def facts() -> list[tuple[str, str]]:
    """What this machine has, as (what, answer), in the order a reader wants them."""
    threads = torch.get_num_threads()
    here = Machine.cpu(threads)
    found = [
        ("strobe", strobe.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", str(torch.__version__)),
        ("processor", here.name),
        ("instruction set", f"{here.arch}, {threads} thread(s)"),
        ("compiled library", _library()),
        ("linears", described()),
        ("GPU", _gpu()),
    ]
    found += [("note", note) for note in here.notes]
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if util.find_spec(name) is None]
        answer = "installed" if not missing else f"not installed ({', '.join(missing)}): pip install 'strobe-attention[{extra}]'"
        found.append((f"extra [{extra}]", answer))
    return found


def _library() -> str:
    path = compiled_library()
    if path is None:
        return "missing: attention runs in torch's kernel, prefill up to twice as slow, caps and sinks in float64. Install with g++ present"
    try:
        workshop = kernel("cpu", "library")
        interface = workshop.library().strobe_interface()
    except (StrobeError, ImportError) as error:
        return f"{path.name} does not open: {error}"
    return f"{path.name}, {path.stat().st_size / 1024:.0f} KiB, interface {interface}, built from these sources"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that this torch can use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(names)}; no room of Strobe runs on it yet, attention there is the float64 definition"


def examine(rooms: tuple[str, ...] = ROOMS, trials: tuple[Trial, ...] = TRIALS, seed: int = 0) -> Iterator[Check]:
    """Every room on every trial in every dtype; the rooms that refuse say why."""
    for room in rooms:
        for trial in trials:
            for dtype in ("float32",) if trial.gradient else DTYPES:
                yield _check(room, trial, dtype, seed)


def _check(room: str, trial: Trial, dtype: str, seed: int) -> Check:
    kind = getattr(torch, dtype)
    arrays = _draw(trial, kind, seed)
    plan = strobe.explain(*_call(trial, arrays), mask=trial.mask)
    problem: Any = plan.problem
    for asked in (problem, *([replace(problem, verb="backward")] if trial.gradient else [])):
        refused = desk(room).offer(asked, plan.machine)
        if not isinstance(refused, Offer):
            return Check(room, trial.name, dtype, True, "; ".join(refused.reasons))
    try:
        with strobe.using(room):
            found = _gradients(trial, arrays) if trial.gradient else _outputs(trial, arrays)
    except (StrobeError, RuntimeError, OSError, ImportError) as error:  # what a broken room or library raises
        return Check(room, trial.name, dtype, False, f"{type(error).__name__}: {error}".splitlines()[0])
    truth, plain = _plain(trial, arrays, torch.float64), _plain(trial, arrays, kind)
    error, cost = distance(found, truth), distance(plain, truth)
    limit = allowed(cost, kind)
    why = "" if error <= limit else f"error {error:.1e}, at most {limit:.1e} is promised"
    return Check(room, trial.name, dtype, error <= limit, why, error, cost, limit)


Arrays = Sequence[tuple[Tensor, ...]]  # q [T, H, D], k and v [S, G, D], a sequence


def _draw(trial: Trial, kind: torch.dtype, seed: int) -> Arrays:
    g = torch.Generator().manual_seed(seed)

    def numbers(n: int, heads: int) -> Tensor:
        return torch.randn(n, heads, trial.D, generator=g).to(kind)

    return [(numbers(T, trial.H), numbers(S, trial.G), numbers(S, trial.G)) for T, S in trial.sequences]


def _call(trial: Trial, arrays: Arrays) -> tuple[Any, ...]:
    """The arguments of `attention`: the sequences joined in the trial's layout."""
    qs, ks, vs = zip(*arrays, strict=True)
    lengths = torch.tensor([k.shape[0] for k in ks], dtype=torch.int32)
    longest = int(lengths.max())
    if trial.layout == "dense":
        return torch.stack(qs), torch.stack(ks), torch.stack(vs)
    if trial.layout == "packed":
        most = max(q.shape[0] for q in qs)
        return strobe.Packed(torch.cat(qs), _offsets(qs), most), strobe.Packed(torch.cat(ks), _offsets(ks), longest), torch.cat(vs)
    if trial.layout == "ranged":
        k, v = (torch.stack([torch.nn.functional.pad(x, (0, 0, 0, 0, longest - x.shape[0], 0)) for x in side]) for side in (ks, vs))
        return torch.stack(qs), strobe.Ranged(k, v, (longest - lengths).int(), lengths)
    columns = -(-longest // PAGE)
    # sequences take their pages alternately and from the back: no table is in order
    table = torch.arange(columns * len(ks)).flip(0).view(columns, len(ks)).T.contiguous().int()
    pages = [torch.full((columns * len(ks), PAGE, trial.G, trial.D), torch.nan, dtype=ks[0].dtype) for _ in (0, 1)]
    for b, sides in enumerate(zip(ks, vs, strict=True)):
        for store, side in zip(pages, sides, strict=True):
            for i, part in enumerate(side.split(PAGE)):
                store[int(table[b, i]), : part.shape[0]] = part
    return torch.stack(qs), strobe.Paged(pages[0], pages[1], table, lengths, longest)


def _offsets(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.tensor([0, *(part.shape[0] for part in parts)]).cumsum(0).int()


def _outputs(trial: Trial, arrays: Arrays) -> Tensor:
    """Every sequence's result, end to end: `[N, H, D]`."""
    return strobe.attention(*_call(trial, arrays), mask=trial.mask).reshape(-1, trial.H, trial.D)


def _gradients(trial: Trial, arrays: Arrays) -> Tensor:
    """The gradients of q, k and v for an incoming gradient of ones at even and minus two at odd places, as one vector."""
    leaves = [tuple(x.clone().requires_grad_() for x in sequence) for sequence in arrays]
    out = strobe.attention(*_call(trial, leaves), mask=trial.mask)
    return _flat(torch.autograd.grad(out, [x for s in leaves for x in s], _incoming(out)))


def _incoming(out: Tensor) -> Tensor:
    return torch.where(torch.arange(out.numel()) % 2 == 0, 1.0, -2.0).to(out.dtype).view(out.shape)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _plain(trial: Trial, arrays: Arrays, kind: torch.dtype) -> Tensor:
    """What `_outputs` or `_gradients` should be, computed plainly in `kind`."""
    if not trial.gradient:
        return torch.cat([plainly(q[None], k[None], v[None], trial.mask, kind)[0] for q, k, v in arrays])
    leaves = [tuple(x.to(kind).requires_grad_() for x in sequence) for sequence in arrays]
    outs = torch.stack([plainly(q[None], k[None], v[None], trial.mask, kind)[0] for q, k, v in leaves])
    return _flat(torch.autograd.grad(outs, [x for s in leaves for x in s], _incoming(outs)))
