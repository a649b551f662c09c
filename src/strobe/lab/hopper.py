"""The suite `hopper`: prompts in the Hopper room, beside torch's kernels, FlashAttention 3 where it is at hand, and the Triton room."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from strobe import Causal, Packed, Window, attention, using
from strobe.lab import fa3
from strobe.lab.gpu import Run, Shape, Work, arrays, forward, near

FA3, TRITON = "FlashAttention 3", "the Triton room"


def suite(shapes: list[Shape], with_fa3: bool) -> list[Callable[[], Work]]:
    """The shapes that the field compares on, windows of 1,024, and a packed batch of ragged lengths beside a dense one."""
    longest = max(shape.S for shape in shapes)
    works: list[Callable[[], Work]] = [lambda shape=shape: prompt(shape, with_fa3) for shape in shapes]
    works += [lambda D=D: window(Shape(longest, D, 2048 // D, 2048 // D, True), with_fa3) for D in (64, 128)]
    return [*works, lambda: packed(longest)]


def elsewhere(run: Run) -> Run:
    """The same call in the Triton room."""

    def there() -> object:
        with using("triton"):
            return run()

    return there


def prompt(shape: Shape, with_fa3: bool) -> Work:
    """A forward pass."""
    work = forward(shape, False)
    work.peers[TRITON] = elsewhere(work.run)
    if with_fa3:
        q, k, v = arrays(shape, False)
        work.peers[FA3] = fa3.over(q, k, v, causal=shape.masked)
    return work


def window(shape: Shape, with_fa3: bool) -> Work:
    """The last 1,024 keys of each query."""
    q, k, v = arrays(shape, False)
    mask = Causal() & Window(before=1023)
    run = lambda: attention(q, k, v, mask=mask)
    peers = {"its own whole past": lambda: attention(q, k, v, mask=Causal()), TRITON: elsewhere(run)}
    near("forward", f"window, {shape}", (run(),), (peers[TRITON](),))
    if with_fa3:
        peers[FA3] = fa3.over(q, k, v, window=1023)
        near("forward", f"window, {FA3}, {shape}", (run(),), (peers[FA3](),))
    return Work(f"window of 1024, forward {shape}", run, peers)


def packed(longest: int, sequences: int = 100) -> Work:
    """Sequences of 64 to half the longest, end to end; its rate is that of the products they need."""
    g = random.Random(0)
    lengths = [round(64 * (longest / 128) ** g.random()) for _ in range(sequences)]
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(sum(lengths), 16, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    run = lambda: attention(Packed(q, offsets, max(lengths)), Packed(k, offsets, max(lengths)), v, mask=Causal())
    near("forward", "packed", (run(),), (elsewhere(run)(),))
    flops = 2.0 * 16 * 128 * sum(n * n for n in lengths)
    case = f"forward B{sequences} packed, {min(lengths)} to {max(lengths)}, H16 D128 bf16 causal"
    return Work(case, run, {TRITON: elsewhere(run)}, flops)

