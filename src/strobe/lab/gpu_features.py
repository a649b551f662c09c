"""The suite `gpu-features`: what features cost on this GPU beside the same call without them, memory, the host's time, the first call."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from strobe import Blocks, Causal, Mask, Sink, SoftCap, Window, attention
from strobe.lab.gpu import FLASH, ROUNDS, Shape, Work, arrays, torchs
from strobe.lab.results import Row

TERMS = ("cap", "sink", "bias", "bias of each sequence")


def suite(quick: bool) -> list[Callable[[], Work]]:
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
import sys, time, torch
from strobe import Causal, attention, using
q, k, v = (torch.randn(1, 1024, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
torch.cuda.synchronize()
with using(sys.argv[1]):
    start = time.perf_counter()
    attention(q, k, v, mask=Causal())
    torch.cuda.synchronize()
    print(time.perf_counter() - start)
"""


def first(room: str = "triton") -> Row:
    """The first call of a process, its kernels in Triton's cache on the disk: the second process of two, whose first had an empty one."""
    with tempfile.TemporaryDirectory() as cache:
        command = ["env", f"TRITON_CACHE_DIR={cache}", sys.executable, "-c", FIRST, room]
        seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    cold, warm = (round(value, 3) for value in seconds)
    return Row("first call of a process", warm, {"kernels not in the cache": cold}, None, room, unit="s")
