"""The suite `features`: what a feature gains or costs beside the same call without it, and what a call costs that computes nothing.

Each row has its yardstick among its peers: narrow keys beside those of bfloat16, several queries beside one, a window
beside the whole past, packed sequences beside one after another, the invariant mode beside the usual one. Both run
interleaved on the same buffers, after the feature was compared with float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import strobe
from strobe import Causal, Mask, Packed, Scaled, Window
from strobe.errors import Broken
from strobe.lab.measure import Contender, Effort, available_bytes, interleave, poisoned, rotating_sets
from strobe.lab.results import Row
from strobe.lab.truth import allowed, distance, plainly

Way = Callable[[int], Any]
H, G, D = 32, 8, 128
CHECKED_ROWS = 8  # queries compared with float64, the first and the last among them
LENGTHS = (64, 300, 512, 1000, 1500, 2048)  # of packed sequences
SHARE = 0.4  # of the available memory that one row may take


@dataclass(frozen=True)
class Feature:
    """A row to come: the feature and its yardstick on buffer set i, and how the feature is compared with float64.

    bars  how many times the feature's time a yardstick should take at least, where that was promised
    """

    case: str
    run: Way
    beside: dict[str, Way]
    sets: int
    wrong: Callable[[], str | None]
    bars: dict[str, float] | None = None


def suite(quick: bool) -> list[Callable[[], Feature]]:
    """Makers of the features: each is made when it is its turn, because its buffers are large."""
    contexts = (1024,) if quick else (8192, 65536)
    S = contexts[0]
    found: list[Callable[[], Feature]] = []
    for keys in contexts:
        found += [lambda name=name, keys=keys: _narrow(name, keys) for name in NARROW]
    found += [lambda T=T: _queries(T, S) for T in (4, 8, 16)]
    found += [lambda kind=kind: _window(kind, S) for kind in ("bfloat16", "float32")]
    found += [lambda: _packed(LENGTHS[:3] if quick else LENGTHS)]
    found += [lambda B=B: _invariant(B, S) for B in (1, 8)]
    return [*found, _attention_call, _kept_call]


def measure(features: list[Callable[[], Feature]], effort: Effort) -> Iterator[Row]:
    """Rows, with as many threads as torch has.

    Raises:
        Broken: a feature is further from float64 than the contract allows.
    """
    for make in features:
        with torch.inference_mode():
            feature = make()
            wrong = feature.wrong()
            if wrong is not None:
                raise Broken(f"{feature.case}: {wrong}. It was not measured")
            runners = [Contender("strobe", feature.run), *(Contender(name, way) for name, way in feature.beside.items())]
            samples = interleave(runners, feature.sets, effort)
        peers = {name: round(samples.median_us(name), 2) for name in feature.beside}
        more: dict[str, Any] = {"rounds": samples.rounds, "sets": feature.sets}
        if feature.bars is not None:
            more["bars"] = feature.bars
        yield Row(f"{feature.case} {torch.get_num_threads()}T", round(samples.median_us("strobe"), 2), peers, None, "cpu", more=more)


def _drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype).normal_()


def _three(*shape: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    return _drawn(*shape, dtype=dtype), _drawn(*shape, dtype=dtype), _drawn(*shape, dtype=dtype)


def _sets(S: int) -> int:
    """Buffer sets of `S` keys and values in bfloat16 that together leave every cache, as far as memory goes."""
    size = 2 * S * G * D * 2
    return max(2, min(rotating_sets(size), int(SHARE * available_bytes() / (2 * size))))


def _judge(found: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> str | None:
    """Why a result is not good enough, None if it is: at most twice the plain computation's error."""
    rows = torch.linspace(0, q.shape[1] - 1, min(CHECKED_ROWS, q.shape[1])).long()
    truth = plainly(q, k, v, mask, torch.float64, rows)
    error, limit = distance(found[:, rows], truth), allowed(distance(plainly(q, k, v, mask, q.dtype, rows), truth), q.dtype)
    return None if error <= limit else f"error {error:.1e} against float64, {limit:.1e} is allowed"


def _checked(run: Callable[[], Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Callable[[], str | None]:
    def wrong() -> str | None:
        with poisoned():
            found = run()
        return _judge(found, q, k, v, mask)

    return wrong


def _int8(x: Tensor) -> Scaled:
    scale = x.float().abs().amax(-1) / 127
    return Scaled((x.float() / scale[..., None]).round().to(torch.int8), scale)


def _int4(x: Tensor) -> Scaled:
    scale = x.float().abs().amax(-1) / 7
    steps = (x.float() / scale[..., None]).round().to(torch.int8)
    return Scaled(((steps[..., ::2] & 15) | (steps[..., 1::2] << 4)).view(torch.uint8), scale)


def _float8(x: Tensor) -> Scaled:
    scale = x.float().abs().amax(-1) / 448
    return Scaled((x.float() / scale[..., None]).to(torch.float8_e4m3fn), scale)


NARROW = {"int8": (_int8, 1.4), "int4": (_int4, 1.9), "float8": (_float8, 1.0)}


def _wide(side: Scaled) -> Tensor:
    data: Tensor = side.data
    if data.dtype == torch.uint8:
        pairs = data.view(torch.int8)
        data = torch.stack(((pairs << 4) >> 4, pairs >> 4), -1).flatten(-2)
    return data.double() * side.scale[..., None].double()


def _narrow(name: str, S: int) -> Feature:
    make, bar = NARROW[name]
    sets = [(_drawn(1, 1, H, D), _drawn(1, S, G, D), _drawn(1, S, G, D)) for _ in range(_sets(S))]
    narrow = [(make(k), make(v)) for _, k, v in sets]

    def run(i: int) -> Tensor:
        return strobe.attention(sets[i][0], *narrow[i])

    k, v = map(_wide, narrow[0])
    beside = {"bf16 keys": lambda i: strobe.attention(*sets[i])}
    case = f"decode B1 H{H} G{G} S{S} D{D} bf16, {name} keys"
    return Feature(case, run, beside, len(sets), _checked(lambda: run(0), sets[0][0], k, v, strobe.Full()), {"bf16 keys": bar})


def _queries(T: int, S: int) -> Feature:
    sets = [(_drawn(1, T, H, D), _drawn(1, S, G, D), _drawn(1, S, G, D)) for _ in range(_sets(S))]

    def run(i: int) -> Tensor:
        return strobe.attention(*sets[i], mask=Causal())

    beside = {"one query": lambda i: strobe.attention(sets[i][0][:, :1], *sets[i][1:])}
    case = f"verify B1 H{H} G{G} T{T} S{S} D{D} bf16 causal"
    return Feature(case, run, beside, len(sets), _checked(lambda: run(0), *sets[0], Causal()), {"one query": 1 / 1.3})


def _window(kind: str, S: int) -> Feature:
    dtype, mask = getattr(torch, kind), Causal() & Window(before=511)
    sets = [_three(1, S, 4, D, dtype=dtype) for _ in range(2)]

    def run(i: int) -> Tensor:
        return strobe.attention(*sets[i], mask=mask)

    beside = {"causal alone": lambda i: strobe.attention(*sets[i], mask=Causal())}
    short = {"bfloat16": "bf16", "float32": "f32"}[kind]
    case = f"prefill B1 H4 G4 S{S} D{D} {short} window 512"
    return Feature(case, run, beside, len(sets), _checked(lambda: run(0), *sets[0], mask), {"causal alone": 6.0})


def _packed(lengths: tuple[int, ...]) -> Feature:
    N = sum(lengths)
    offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    ends = offsets.tolist()
    sets = [_three(N, 8, D) for _ in range(3)]

    def run(i: int) -> Tensor:
        q, k, v = sets[i]
        return strobe.attention(Packed(q, offsets, max(lengths)), Packed(k, offsets, max(lengths)), v, mask=Causal())

    def one_by_one(i: int) -> list[Tensor]:
        return [strobe.attention(*(x[None, a:b] for x in sets[i]), mask=Causal()) for a, b in pairwise(ends)]

    def wrong() -> str | None:
        with poisoned():
            found = run(0)
        q, k, v = (x[None] for x in sets[0])
        judged = (_judge(found[None, a:b], q[:, a:b], k[:, a:b], v[:, a:b], Causal()) for a, b in pairwise(ends))
        return next((why for why in judged if why is not None), None)

    case = f"packed prefill of {len(lengths)} sequences, N{N} H8 G8 D{D} bf16 causal"
    return Feature(case, run, {"one by one": one_by_one}, len(sets), wrong, {"one by one": 1.0})


def _invariant(B: int, S: int) -> Feature:
    sets = [(_drawn(B, 1, H, D), _drawn(B, S, G, D), _drawn(B, S, G, D)) for _ in range(max(2, _sets(S) // B))]

    def run(i: int, mode: AbstractContextManager[None] | None = None) -> Tensor:
        with mode or strobe.using(invariant=True):
            return strobe.attention(*sets[i])

    case = f"decode B{B} H{H} G{G} S{S} D{D} bf16, invariant"
    beside = {"not invariant": lambda i: run(i, nullcontext())}
    return Feature(case, run, beside, len(sets), _checked(lambda: run(0), *sets[0], strobe.Full()))


def _one_key() -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Way]]:
    """A call that computes next to nothing, and what torch's takes."""
    q, k, v = (torch.randn(1, 1, 1, 64) for _ in range(3))
    attend: Any = torch.nn.functional.scaled_dot_product_attention
    return (q, k, v), {"torch sdpa": lambda i: attend(q, k, v)}


def _attention_call() -> Feature:
    arrays, beside = _one_key()
    wrong = _checked(lambda: strobe.attention(*arrays), *arrays, strobe.Full())
    return Feature("call of attention on one key", lambda i: strobe.attention(*arrays), beside, 1, wrong)


def _kept_call() -> Feature:
    arrays, beside = _one_key()
    plan = strobe.explain(*arrays)
    wrong = _checked(lambda: strobe.run(plan, *arrays).out, *arrays, strobe.Full())
    return Feature("call of a kept plan on one key", lambda i: strobe.run(plan, *arrays), beside, 1, wrong)
