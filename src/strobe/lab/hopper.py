"""The suite `hopper`: prompts in the Hopper room, beside torch's kernels, FlashAttention 3 and 4 where they are at hand, and the Triton
room."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from strobe import Causal, Documents, Full, Packed, Paged, Scaled, Window, attention, using
from strobe.lab import fa3, fa4
from strobe.lab.gpu import CUDNN, TOKENS, WIDTH, Run, Shape, Work, arrays, forward, near
from strobe.lab.results import Row

ALIKE = 16  # sequences of one length, beside those of many
FA3, FA4, TRITON = "FlashAttention 3", "FlashAttention 4", "the Triton room"


class Flash(NamedTuple):
    """Which are at hand."""

    three: bool = False
    four: bool = False

    def over(self, *arrays: torch.Tensor, causal: bool = True, window: int = -1) -> dict[str, Run]:
        """Their calls of queries, keys and values."""
        found = {FA3: fa3.over(*arrays, causal=causal, window=window)} if self.three else {}
        return found | ({FA4: fa4.over(*arrays, causal=causal, window=window)} if self.four else {})


def suite(shapes: list[Shape], flash: Flash) -> list[Callable[[], Work]]:
    """The shapes that the field compares on, windows of 1,024, latent attention's prompts, a packed batch of ragged lengths, a chunk over a
    cache in pages, documents, float8, and scores that grow."""
    longest = max(shape.S for shape in shapes)
    works: list[Callable[[], Work]] = [lambda shape=shape: prompt(shape, flash) for shape in shapes]
    works += [lambda D=D: window(Shape(longest, D, 2048 // D, 2048 // D, True), flash) for D in (64, 128)]
    works += [lambda masked=masked: unequal(longest, masked, flash) for masked in (False, True)]
    works += [lambda D=D, masked=masked: float8(longest, D, masked, flash)[0] for D in (64, 128) for masked in (False, True)]
    return [*works, lambda: packed(longest), lambda: chunk(longest, flash), lambda: documents(longest), lambda: growing(longest)]


def errors(shapes: list[Shape], flash: Flash) -> list[Callable[[], Row]]:
    """Of float8."""
    longest = max(shape.S for shape in shapes)
    return [lambda D=D, masked=masked: float8_error(longest, D, masked, flash) for D in (64, 128) for masked in (False, True)]


def elsewhere(run: Run) -> Run:
    """The same call in the Triton room."""

    def there() -> object:
        with using("triton"):
            return run()

    return there


def prompt(shape: Shape, flash: Flash) -> Work:
    """A forward pass."""
    work = forward(shape, False)
    work.peers[TRITON] = elsewhere(work.run)
    work.peers.update(flash.over(*arrays(shape, False), causal=shape.masked))
    return work


def window(shape: Shape, flash: Flash) -> Work:
    """The last 1,024 keys of each query."""
    q, k, v = arrays(shape, False)
    mask = Causal() & Window(before=1023)
    run = lambda: attention(q, k, v, mask=mask)
    peers = {"its own whole past": lambda: attention(q, k, v, mask=Causal()), TRITON: elsewhere(run)}
    near("forward", f"window, {shape}", (run(),), (peers[TRITON](),))
    for name, other in flash.over(q, k, v, window=1023).items():
        peers[name] = other
        near("forward", f"window, {name}, {shape}", (run(),), (other(),))
    return Work(f"window of 1024, forward {shape}", run, peers)


def unequal(S: int, masked: bool, flash: Flash) -> Work:
    """Latent attention's prompts: keys of 192 numbers, values of 128."""
    H, D, V = 16, 192, 128
    q, k, v = (torch.randn(1, S, H, width, device="cuda", dtype=torch.bfloat16) for width in (D, D, V))
    mask = Causal() if masked else Full()
    run = lambda: attention(q, k, v, mask=mask)
    q_, k_, v_ = (x.transpose(1, 2) for x in (q, k, v))

    def cudnn() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return scaled_dot_product_attention(q_, k_, v_, is_causal=masked)

    peers: dict[str, Run] = {TRITON: elsewhere(run), CUDNN: cudnn} | flash.over(q, k, v, causal=masked)
    case = f"B1 S{S} H{H} G{H} D{D} V{V} bf16 {'causal' if masked else 'full'}"
    for peer, other in peers.items():
        theirs = other()
        near("forward", f"{peer}, {case}", (run(),), (theirs.transpose(1, 2) if peer == CUDNN else theirs,))
    return Work(f"forward {case}", run, peers, 2.0 * H * S**2 * (D + V) * (0.5 if masked else 1.0))


def packed(longest: int, sequences: int = 100) -> Work:
    """Sequences of 64 to half the longest, end to end, beside a few of one length whose products are as many: the rate of those is what
    ragged lengths could cost nothing of."""
    g = random.Random(0)
    lengths = [round(64 * (longest / 128) ** g.random()) for _ in range(sequences)]
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(sum(lengths), 16, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    run = lambda: attention(Packed(q, offsets, max(lengths)), Packed(k, offsets, max(lengths)), v, mask=Causal())
    near("forward", "packed", (run(),), (elsewhere(run)(),))
    pairs = sum(n * n for n in lengths)
    flops, each = 2.0 * 16 * 128 * pairs, round((pairs / ALIKE) ** 0.5)
    dense = [torch.randn(ALIKE, each, 16, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    peers = {TRITON: elsewhere(run), "one length": lambda: attention(*dense, mask=Causal())}
    case = f"forward B{sequences} packed, {min(lengths)} to {max(lengths)}, H16 D128 bf16 causal"
    return Work(case, run, peers, flops)


def chunk(longest: int, flash: Flash, queries: int = 512, page: int = 64) -> Work:
    """The last queries of a sequence of 32 heads over 8 of keys, which lie in pages of a table without order."""
    count = longest // page
    q = torch.randn(1, queries, 32, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(count, page, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    table = torch.randperm(count, device="cuda", dtype=torch.int32).view(1, count)
    keys = Paged(k, v, table, torch.full((1,), longest, device="cuda", dtype=torch.int32), longest)
    run = lambda: attention(q, keys, mask=Causal())
    peers = {TRITON: elsewhere(run)}
    if flash.three:
        peers[FA3] = fa3.paged(q, keys)
    case = f"B1 T{queries} S{longest} H32 G8 D128 bf16 causal, pages of {page}"
    for peer, other in peers.items():
        near("forward", f"{peer}, {case}", (run(),), (other(),))
    pairs = queries * longest - queries * (queries - 1) // 2
    return Work(f"forward {case}", run, peers, 4.0 * 32 * 128 * pairs)


def documents(longest: int) -> Work:
    """Eight documents of one length behind one another, beside the same as packed sequences."""
    each = longest // 8
    q, k, v = (torch.randn(1, longest, 16, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    ids = (torch.arange(longest, device="cuda") // each).int()[None]
    offsets = torch.arange(0, longest + 1, each, dtype=torch.int32, device="cuda")
    run = lambda: attention(q, k, v, mask=Documents(ids, ids) & Causal())
    packed_run = lambda: attention(Packed(q[0], offsets, each), Packed(k[0], offsets, each), v[0], mask=Causal())[None]
    peers = {TRITON: elsewhere(run), "packed": packed_run}
    case = f"B1 S{longest} H16 G16 D128 bf16 causal, documents of {each}"
    for peer, other in peers.items():
        near("forward", f"{peer}, {case}", (run(),), (other(),))
    return Work(f"forward {case}", run, peers, 2.0 * 16 * 128 * longest * each)


def growing(longest: int) -> Work:
    """A key in the middle whose scores are hundreds above and below all others: every tile behind it is passed again (decision 10)."""
    shape = Shape(longest, 128, 16, 16, True)
    q, k, v = arrays(shape, False)
    far = k.clone()
    far[:, longest // 2] *= 300
    run = lambda: attention(q, far, v, mask=Causal())
    peers = {"ordinary scores": lambda: attention(q, k, v, mask=Causal()), TRITON: elsewhere(run)}
    near("forward", f"scores that grow, {shape}", (run(),), (peers[TRITON](),))
    return Work(f"scores that grow, forward {shape}", run, peers)


def rounded(x: torch.Tensor) -> Scaled:
    """Numbers in float8 with one scale a sequence and head."""
    scale = x.float().abs().amax((1, 3))[:, None] / 448
    return Scaled((x.float() / scale[..., None]).to(torch.float8_e4m3fn), scale)


def float8(S: int, D: int, masked: bool, flash: Flash) -> tuple[Work, tuple[Scaled, ...], dict[str, Run]]:
    """(float8 beside bfloat16 and FlashAttention 3 in float8; queries, keys and values; what is compared in `float8_error`). Values have a
    mean, as those of a model do, so that what an accumulator cuts off shows."""
    B, H = max(1, TOKENS // S), WIDTH // D
    wide = [torch.randn(B, S, H, D, device="cuda", dtype=torch.bfloat16) + mean for mean in (0.0, 0.0, 0.5)]
    narrow, mask = tuple(map(rounded, wide)), Causal() if masked else Full()
    runs: dict[str, Run] = {"strobe": lambda: attention(*narrow, mask=mask)}
    if flash.three:
        scales = tuple(x.scale[:, 0].contiguous() for x in narrow)
        runs[FA3] = fa3.over(*(x.data for x in narrow), causal=masked, scales=scales)
    peers = {"bfloat16": lambda: attention(*wide, mask=mask)} | {name: run for name, run in runs.items() if name != "strobe"}
    case = f"float8, forward B{B} S{S} H{H} G{H} D{D} {'causal' if masked else 'full'}"
    return Work(case, runs["strobe"], peers), narrow, runs


def float8_error(S: int, D: int, masked: bool, flash: Flash) -> Row:
    """How far a head's last queries are from float64 over the same rounded numbers, beside weights rounded to float8 and nothing else."""
    work, narrow, runs = float8(S, D, masked, flash)
    q, k, v = (x.data[0, :, 0].double() * x.scale[0, :, :1].double() for x in narrow)
    scores = q[-512:] @ k.T * D**-0.5
    if masked:
        scores += torch.full_like(scores, -torch.inf).triu(S - 511)
    p = (scores - scores.amax(-1, keepdim=True)).exp()
    truth = p @ v / p.sum(-1, keepdim=True)
    found = {name: run()[0, -512:, 0] for name, run in runs.items()}
    found["weights rounded to float8"] = (256 * p).float().to(torch.float8_e4m3fn).double() / 256 @ v / p.sum(-1, keepdim=True)
    apart = {name: round(100 * float((x.double() - truth).norm() / truth.norm()), 4) for name, x in found.items()}
    ours = apart.pop("strobe")
    return Row(f"error of {work.case}", ours, apart, None, "hopper", metric="error", unit="%")
