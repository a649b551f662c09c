"""The suite `gpu`: prefill and training on this GPU beside torch's kernels and FlexAttention. What all suites of long calls need.

Contenders run in turns in one process, timed by the device's own clock around some milliseconds of calls, after a rest: a card that
computes without one throttles, and who comes first would win. The device waits until the host is ahead, so that the host's time, which
has a row of its own, is in no other. Before anything is timed, its result is compared with torch's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from strobe import Causal, Full, attention
from strobe.errors import Broken, Invalid
from strobe.faces.torch import machine
from strobe.lab.results import Row

TOKENS, WIDTH = 16384, 2048  # batch × length, heads × width
WIDEST_TRAINED = 128  # of the rows that measure the backward pass
ROUNDS, MILLISECONDS, FEWEST, IDLE = 7, 10.0, 5, 0.06
AHEAD_CYCLES = 10_000_000  # 5 ms at 2 GHz: more than a host takes for a step of training and the calls behind it
FLASH, CUDNN, FLEX = "torch flash", "cuDNN", "FlexAttention"
APART = {"forward": 0.02, "backward": 0.06}  # of a result, relative to its norm: both sides are rounded to bfloat16

Run = Callable[[], Any]


class Shape(NamedTuple):
    """Queries, keys and values of a row, in bfloat16."""

    S: int
    D: int
    H: int
    G: int
    masked: bool

    @property
    def batch(self) -> int:
        """Sequences."""
        return max(1, TOKENS // self.S)

    def __str__(self) -> str:
        return f"B{self.batch} S{self.S} H{self.H} G{self.G} D{self.D} bf16 {'causal' if self.masked else 'full'}"

    def flops(self, verb: str) -> float:
        """Of the products, those of masked pairs left out; 2.5 times as many backward."""
        return 4.0 * self.batch * self.H * self.S**2 * self.D * (0.5 if self.masked else 1.0) * (1.0 if verb == "forward" else 2.5)


@dataclass(frozen=True)
class Work:
    """A row to come."""

    case: str
    run: Run
    peers: dict[str, Run]
    flops: float = 0.0
    own_bytes: int = 0  # that what is measured adds to those of its yardstick


def shapes(quick: bool) -> list[Shape]:
    """The shapes that the field compares on, and one of grouped heads."""
    lengths = (1024,) if quick else (1024, 4096, 16384)
    found = [Shape(S, D, WIDTH // D, WIDTH // D, masked) for D in (64, 128, 256) for S in lengths for masked in (False, True)]
    return [*found, *(Shape(S, 128, 32, 8, True) for S in lengths[-1:])]


def suite(quick: bool, with_flex: bool) -> list[Callable[[], Work]]:
    """Forward passes of all shapes, then backward passes."""
    found = shapes(quick)
    works: list[Callable[[], Work]] = [lambda shape=shape: forward(shape, with_flex) for shape in found]
    return [*works, *(lambda shape=shape: backward(shape, with_flex) for shape in found if shape.D <= WIDEST_TRAINED)]


def arrays(shape: Shape, gradients: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys, values."""
    sizes = ((shape.H, shape.D), (shape.G, shape.D), (shape.G, shape.D))
    made = (torch.randn(shape.batch, shape.S, *size, device="cuda", dtype=torch.bfloat16, requires_grad=gradients) for size in sizes)
    return next(made), next(made), next(made)


@lru_cache(maxsize=1)
def flex() -> Any:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.cache_size_limit = 256
    return torch.compile(flex_attention, dynamic=False)


def torchs(shape: Shape, q: Tensor, k: Tensor, v: Tensor, with_flex: bool) -> dict[str, Run]:
    """torch's ways of the same forward pass."""
    q_, k_, v_ = (x.transpose(1, 2) for x in (q, k, v))

    def sdpa(backend: SDPBackend) -> Run:
        def run() -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q_, k_, v_, is_causal=shape.masked, enable_gqa=shape.H != shape.G)

        return run

    found = {FLASH: sdpa(SDPBackend.FLASH_ATTENTION), CUDNN: sdpa(SDPBackend.CUDNN_ATTENTION)}
    if with_flex:
        from torch.nn.attention.flex_attention import create_block_mask

        seen = None
        if shape.masked:
            seen = create_block_mask(lambda b, h, i, j: i >= j, None, None, shape.S, shape.S, device="cuda")
        found[FLEX] = lambda: flex()(q_, k_, v_, block_mask=seen, enable_gqa=shape.H != shape.G)
    return found


def forward(shape: Shape, with_flex: bool) -> Work:
    """A forward pass."""
    q, k, v = arrays(shape, False)
    mask = Causal() if shape.masked else Full()
    peers = torchs(shape, q, k, v, with_flex)
    near("forward", str(shape), (attention(q, k, v, mask=mask),), (peers[FLASH]().transpose(1, 2),))
    return Work(f"forward {shape}", lambda: attention(q, k, v, mask=mask), peers, shape.flops("forward"))


def backward(shape: Shape, with_flex: bool) -> Work:
    """A backward pass, of a forward pass made once."""
    leaves = arrays(shape, True)
    gradient = torch.randn_like(leaves[0]).detach()
    mask = Causal() if shape.masked else Full()

    def again(out: Tensor, given: Tensor) -> Run:
        return lambda: torch.autograd.grad(out, leaves, given, retain_graph=True)

    ours = again(attention(*leaves, mask=mask), gradient)
    peers = {name: again(run(), gradient.transpose(1, 2)) for name, run in torchs(shape, *leaves, with_flex).items()}
    near("backward", str(shape), ours(), peers[FLASH]())
    return Work(f"backward {shape}", ours, peers, shape.flops("backward"))


def near(verb: str, case: str, found: tuple[Tensor, ...], known: tuple[Tensor, ...]) -> None:
    """Compares with torch's own results.

    Raises:
        Broken: they are apart.
    """
    for mine, theirs in zip(found, known, strict=True):
        apart = float((mine.double() - theirs.double()).norm() / theirs.double().norm())
        if not apart <= APART[verb]:
            raise Broken(f"{verb} {case}: {apart:.1e} from torch flash. It was not measured")


def measure(works: list[Callable[[], Work]], room: str = "triton") -> Iterator[Row]:
    """Rows, one after another, of what runs in a room; nothing of one is held when the next is made."""
    for make in works:
        work = make()
        runs = {"strobe": work.run, **work.peers}
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name in random.sample(list(runs), len(runs)):
                samples[name].append(once(runs[name]))
        us = {name: round(1e6 * median(values), 2) for name, values in samples.items()}
        ours = us.pop("strobe")
        more: dict[str, Any] = {"rounds": ROUNDS}
        if work.flops:
            more["tflops"] = round(work.flops / ours / 1e6, 1)
        if work.own_bytes:
            more["own_bytes"] = work.own_bytes
        yield Row(work.case, ours, us, None, room, more=more)
        del work, runs
        torch.cuda.empty_cache()


def once(run: Run) -> float:
    """Seconds of the device a call: events around as many as take some milliseconds, after a rest."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(times: int) -> float:
        # An idle device passes the first event at once, and stands still until the host has started a kernel: hundreds of µs in a step
        # of training, which a few calls of some ms do not hide. So it spins while the host gets ahead.
        torch.cuda._sleep(AHEAD_CYCLES)
        begin.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    run()
    times = max(FEWEST, int(MILLISECONDS / timed(2)))
    time.sleep(IDLE)
    return timed(times) / 1e3


def check_gpu() -> Any:
    """The GPU.

    Raises:
        Invalid: there is none.
    """
    if not torch.cuda.is_available():
        raise Invalid("this suite measures a GPU, and torch sees none here")
    return machine("cuda:0")
