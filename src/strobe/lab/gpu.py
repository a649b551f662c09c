"""The suite `gpu`: prefill and training on this GPU beside torch's kernels and FlexAttention, what features cost, memory, host time.

Contenders run in turns in one process, timed by the device's own clock around some milliseconds of calls, after a rest: a card that
computes without one throttles, and who comes first would win. Before anything is timed, its result is compared with torch's.
"""

from __future__ import annotations

import random
import subprocess
import sys
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

from strobe import Blocks, Causal, Full, Mask, Sink, SoftCap, Window, attention
from strobe.errors import Broken, Invalid
from strobe.faces.torch import machine
from strobe.lab.results import Row

TOKENS, WIDTH = 16384, 2048  # batch × length, heads × width
WIDEST_TRAINED = 128  # of the rows that measure the backward pass
ROUNDS, MILLISECONDS, IDLE = 5, 10.0, 0.06
TERMS = ("cap", "sink", "bias", "bias of each sequence")
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


def features(quick: bool) -> list[Callable[[], Work]]:
    """What features cost beside the same call without them."""
    S, long = (1024, 2048) if quick else (4096, 16384)
    return [
        lambda: _window(long),
        *(lambda share=share: _blocks(long, share) for share in (0.5, 0.25, 0.125)),
        *(lambda name=name: _term(name, "forward", S) for name in TERMS),
        *(lambda name=name: _term(name, "forward and backward", S) for name in TERMS),
    ]


def _window(S: int) -> Work:
    shape = Shape(S, 128, 16, 16, True)
    q, k, v = arrays(shape, False)
    ours = lambda: attention(q, k, v, mask=Causal() & Window(before=1023))
    return Work(f"window of 1024, forward {shape}", ours, {"its own whole past": lambda: attention(q, k, v, mask=Causal())})


def _blocks(S: int, share: float) -> Work:
    shape = Shape(S, 128, 16, 16, False)
    q, k, v = arrays(shape, False)
    n = S // 128
    g = torch.Generator("cuda").manual_seed(0)

    def mask(share: float) -> Mask:
        best = torch.rand(1, 1, n, n, device="cuda", generator=g).argsort(-1) < max(1, round(share * n))
        return Blocks(best, 128, 128)

    some, every = mask(share), mask(1.0)
    ours = lambda: attention(q, k, v, mask=some)
    peers = {"all blocks kept": lambda: attention(q, k, v, mask=every)}
    return Work(f"blocks of 128, {share:.3f} of them kept, forward {shape}", ours, peers)


def _term(name: str, verb: str, S: int) -> Work:
    shape = Shape(S, 128, 16, 16, True)
    training = verb != "forward"
    q, k, v = arrays(shape, training)
    learnt = [q, k, v]
    more: dict[str, Any] = {"cap": SoftCap(30.0)}
    size = 0
    if name == "sink":
        learnt.append(torch.randn(16, device="cuda", requires_grad=training))
        more = {"sink": Sink(learnt[-1])}
    elif name != "cap":
        sequences = 1 if name == "bias" else shape.batch
        learnt.append(torch.randn(sequences, 16, S, S, device="cuda", dtype=torch.bfloat16, requires_grad=training))
        more = {"bias": learnt[-1]}
        # a sequence's half that is seen is read by each pass, three of a step; the gradient is written, of a shared one from those of
        # all, which are written and read
        half, whole = shape.batch * 16 * S * S, 2 * learnt[-1].numel()
        size = half if not training else 3 * half + whole + (2 * half if name == "bias" else 0)
    gradient = torch.randn_like(q).detach()

    def step(leaves: list[Tensor], terms: dict[str, Any]) -> Any:
        out = attention(q, k, v, mask=Causal(), **terms)
        return torch.autograd.grad(out, leaves, gradient) if training else out

    return Work(f"{name}, {verb} {shape}", lambda: step(learnt, more), {"without it": lambda: step(learnt[:3], {})}, own_bytes=size)


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
    """Seconds a call: events around as many as take some milliseconds, after a rest."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(times: int) -> float:
        begin.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    run()
    times = max(2, int(MILLISECONDS / timed(2)))
    time.sleep(IDLE)
    return timed(times) / 1e3


def memory(S: int = 16384) -> Row:
    """Peak memory of a forward and a backward pass beside what was there before."""

    def peak(run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
        leaves = arrays(Shape(S, 128, 16, 16, True), True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = run(*leaves)
        out.backward(torch.ones_like(out))
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            found = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return found.transpose(1, 2)

    ours = peak(lambda q, k, v: attention(q, k, v, mask=Causal()))
    case = f"forward and backward S{S} H16 D128 bf16 causal"
    return Row(case, ours, {FLASH: peak(flash)}, None, "triton", metric="peak memory", unit="MiB")


def host(room: str = "triton", calls: int = 200) -> Row:
    """Time of the host for a call whose work the device does later."""
    shape = Shape(128, 64, 8, 8, True)
    q, k, v = (x[:1] for x in arrays(shape, False))
    peers = torchs(shape, q, k, v, False)
    samples: dict[str, list[float]] = {"strobe": [], FLASH: []}
    for _ in range(ROUNDS):
        for name, run in (("strobe", lambda: attention(q, k, v, mask=Causal())), (FLASH, peers[FLASH])):
            run()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            samples[name].append((time.perf_counter() - start) / calls)
            torch.cuda.synchronize()
    us = {name: round(1e6 * median(values), 2) for name, values in samples.items()}
    return Row("a call's host time", us["strobe"], {FLASH: us[FLASH]}, None, room, more={"rounds": ROUNDS})


FIRST = """
import time, torch
from strobe import Causal, attention, using
q, k, v = (torch.randn(1, 1024, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
torch.cuda.synchronize()
with using("triton"):
    start = time.perf_counter()
    attention(q, k, v, mask=Causal())
    torch.cuda.synchronize()
    print(time.perf_counter() - start)
"""


def first() -> Row:
    """The first call of a process, its kernels in Triton's cache on the disk (the second process of two)."""
    command = [sys.executable, "-c", FIRST]
    seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    cold, warm = (round(value, 3) for value in seconds)
    return Row("first call of a process", warm, {"kernels not in the cache": cold}, None, "triton", unit="s")


def check_gpu() -> Any:
    """The GPU.

    Raises:
        Invalid: there is none.
    """
    if not torch.cuda.is_available():
        raise Invalid("`strobe bench gpu` measures a GPU, and torch sees none here")
    return machine("cuda:0")
