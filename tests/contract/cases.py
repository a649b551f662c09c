"""The cases of the contract: from real models first, then the cruel ones. Shared with the benchmarks.

A case is numbers; `build` draws its arrays. Shapes from life keep a model's heads, widths and masks, with the
batch and length cut to what float64 can check in a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from strobe import (
    Alibi, Blocks, Causal, Dense, Documents, Dropout, Full, Mask, Packed, Paged, Prefix, Ranged, Scaled, Sink, SoftCap,
    Tree, Window,
)  # fmt: skip
from strobe import layouts
from strobe.problem import Call, key_sides, map_arrays

FLOATS = ("float32", "bfloat16", "float16")
NARROW = ("int4", "float8_e4m3fn", "float8_e5m2")  # beside int8, which has cases of its own


@dataclass(frozen=True)
class Case:
    """One problem. `keys` is "dense", "permuted", "ranged", "packed", "paged 16" …; `lengths` for all but dense."""

    name: str
    B: int
    T: int
    S: int
    H: int
    G: int
    D: int
    V: int = 0
    keys: str = "dense"
    queries: str = "dense"
    mask: Mask | Callable[[Case, torch.Generator], Mask] = Full()
    lengths: tuple[int, ...] = ()
    q_lengths: tuple[int, ...] = ()
    terms: tuple[str, ...] = ()  # of "cap", "bias", "bias head", "alibi", "sink"
    dropout: Dropout | None = None
    scale: float | None = None
    first: int | tuple[int, ...] | None = None
    times: float = 1.0  # what the queries are multiplied with: scores of ±1e4
    scaled: str = ""  # "int8", "int4", "float8_e4m3fn", "float8_e5m2"
    dtypes: tuple[str, ...] = FLOATS

    @property
    def width(self) -> int:
        return self.V or self.D


def documents(case: Case, g: torch.Generator) -> Mask:
    ids = torch.randint(0, 3, (case.B, case.S), generator=g).sort(-1).values.int()
    return Documents(ids[:, case.S - case.T :].contiguous(), ids) & Causal()


def blocks(case: Case, g: torch.Generator) -> Mask:
    kept = torch.rand(1, case.H, -(-case.T // 16), -(-case.S // 32), generator=g) < 0.5
    return Blocks(kept, 16, 32)


def large_blocks(case: Case, g: torch.Generator) -> Mask:
    """Of a size that rooms for GPUs list instead of looking at each pair."""
    kept = torch.rand(1, case.H, -(-case.T // 64), -(-case.S // 128), generator=g) < 0.6
    return Blocks(kept, 64, 128) & Causal()


def tree(case: Case, g: torch.Generator) -> Mask:
    parents = [-1] + [int(torch.randint(0, t, (), generator=g)) for t in range(1, case.T)]
    visible = torch.zeros(1, case.T, case.T, dtype=torch.bool)
    for t in range(case.T):
        node = t
        while node >= 0:
            visible[0, t, node] = True
            node = parents[node]
    return Tree(visible)


def dense(case: Case, g: torch.Generator) -> Mask:
    return Dense(torch.rand(case.B, 1, case.T, case.S, generator=g) < 0.5)


def prefix(case: Case, g: torch.Generator) -> Mask:
    return Prefix(torch.randint(0, case.S + 1, (case.B,), generator=g).int())


LIFE = (
    Case("llama-3-8b prefill", 1, 192, 192, 8, 2, 128, mask=Causal()),
    Case("llama-3-8b decode", 2, 1, 700, 32, 8, 128, mask=Causal()),
    Case("llama-3-8b chunk over a cache", 1, 48, 320, 8, 2, 128, mask=Causal()),
    Case("llama-3-8b paged decode", 3, 1, 300, 8, 2, 128, keys="paged 16", mask=Causal(), lengths=(300, 1, 131)),
    Case("qwen3 packed prefill", 3, 130, 130, 8, 4, 64, keys="packed", queries="packed", mask=Causal(), lengths=(130, 7, 64), q_lengths=(130, 7, 64)),
    Case("mistral window", 1, 150, 150, 4, 2, 64, mask=Causal() & Window(before=31)),
    Case("gemma-2 soft cap", 1, 96, 96, 4, 2, 256, mask=Causal(), terms=("cap",), scale=256**-0.5),
    Case("gpt-oss sinks", 1, 80, 80, 8, 1, 64, mask=Causal() & Window(before=15), terms=("sink",)),
    Case("gpt-2", 2, 70, 70, 12, 12, 64, mask=Causal()),
    Case("bert", 2, 65, 65, 4, 4, 64),
    Case("bert with padding", 2, 65, 65, 4, 4, 64, keys="ranged", lengths=(65, 20)),
    Case("t5 with position bias", 2, 33, 33, 4, 4, 64, scale=1.0, terms=("bias head",)),
    Case("bias of many tiles", 2, 150, 200, 2, 2, 64, mask=Causal() & Window(before=30), terms=("bias",), dtypes=("bfloat16",)),
    Case("two sequences share a bias of many tiles", 2, 150, 200, 2, 1, 64, mask=Causal() & Window(before=30), terms=("bias head",),
         dtypes=("bfloat16",)),
    Case("five sequences share a bias", 5, 20, 20, 2, 2, 64, mask=Causal(), terms=("bias head",), dtypes=("bfloat16",)),
    Case("bloom", 1, 64, 64, 8, 8, 64, mask=Causal(), terms=("alibi",)),
    Case("paligemma prefix", 2, 48, 48, 4, 1, 128, mask=prefix),
    Case("packed training", 2, 64, 64, 4, 4, 64, mask=documents),
    Case("block-sparse", 2, 64, 128, 4, 2, 64, mask=blocks),
    Case("large blocks, a list for each head", 1, 130, 300, 2, 2, 32, mask=large_blocks),
    Case("speculative tree", 2, 9, 100, 8, 2, 64, mask=tree),
    Case("deepseek 192/128", 1, 40, 40, 4, 4, 192, 128, mask=Causal()),
    Case("latent decode 576/512", 1, 1, 90, 16, 1, 576, 512, mask=Causal()),
    Case("verification of 5 drafts", 2, 5, 260, 8, 2, 64, keys="paged 8", mask=Causal(), lengths=(260, 77)),
    Case("mixed engine step", 4, 33, 190, 8, 2, 64, keys="paged 16", queries="packed", mask=Causal(), lengths=(190, 33, 5, 100), q_lengths=(1, 33, 5, 1)),
    Case("int8 cache", 2, 1, 120, 8, 2, 64, mask=Causal(), scaled="int8"),
    Case("float8 cache, paged", 2, 1, 60, 8, 2, 64, keys="paged 16", mask=Causal(), scaled="float8_e4m3fn", lengths=(60, 31)),
    Case("int8 cache, paged", 2, 3, 300, 32, 8, 128, keys="paged 16", mask=Causal(), scaled="int8", lengths=(300, 131)),
    Case("int8 chunk over a cache", 2, 48, 320, 8, 2, 128, keys="paged 16", mask=Causal(), scaled="int8", lengths=(320, 90)),
    Case("dropout", 1, 40, 40, 4, 2, 32, mask=Causal(), dropout=Dropout(0.25, 2**40 + 3)),
)  # fmt: skip

CRUEL = (
    Case("no keys", 2, 3, 0, 4, 2, 64),
    Case("no queries", 2, 0, 5, 4, 2, 64),
    Case("no batch", 0, 3, 5, 4, 2, 64),
    Case("one of each", 1, 1, 1, 1, 1, 8),
    Case("T > S causal", 1, 40, 17, 4, 2, 64, mask=Causal()),
    Case("T > S window", 2, 70, 33, 2, 1, 64, mask=Window(before=3, after=2)),
    Case("rows with no keys", 1, 30, 60, 4, 4, 64, mask=Window(before=4, after=0), first=50),
    Case("queries before all keys", 2, 5, 20, 4, 2, 64, mask=Causal(), first=(-9, 3)),
    Case("top-left alignment", 2, 20, 50, 4, 2, 64, mask=Causal(), first=0),
    Case("one past a tile", 1, 129, 257, 2, 2, 64, mask=Causal()),
    Case("one past a small tile", 1, 17, 65, 2, 1, 128, mask=Causal()),
    Case("one before a tile", 1, 63, 127, 2, 2, 128, mask=Causal()),
    # many rows, since where two keys are nearly as great a rounded score decides, and one such row would be all of the error
    Case("scores of 1e4", 8, 50, 90, 2, 2, 64, mask=Causal(), times=1e4 / 8),
    Case("scores of 1e4, one query", 2, 1, 333, 4, 1, 64, times=1e4 / 8),
    Case("scale 0", 1, 20, 30, 2, 2, 64, scale=0.0),
    Case("negative scale", 1, 20, 30, 2, 2, 64, scale=-0.3),
    Case("group of 3", 2, 37, 37, 6, 2, 64, mask=Causal()),
    Case("group of 3, one query", 2, 1, 200, 6, 2, 64),
    Case("group of 8", 1, 20, 70, 16, 2, 64, mask=Causal()),
    Case("group of 128, one query", 1, 1, 150, 128, 1, 128),
    Case("group of 32, three queries", 1, 3, 64, 32, 1, 256),
    Case("group of 128", 1, 9, 40, 128, 1, 64, mask=Causal()),
    Case("strides permuted", 2, 40, 50, 4, 2, 64, keys="permuted", queries="permuted", mask=Causal()),
    Case("strides permuted, one query", 2, 1, 90, 4, 2, 128, keys="permuted", queries="permuted"),
    *(Case(f"width {d}", 1, 21, 45, 2, 1, d, mask=Causal()) for d in (8, 16, 24, 40, 72, 80, 96, 112, 160, 256, 384, 512)),
    *(Case(f"width {d}, one query", 2, 1, 83, 4, 2, d) for d in (8, 24, 40, 80, 96, 256, 512)),
    Case("D 64, V 128", 1, 33, 50, 4, 2, 64, 128, mask=Causal()),
    Case("D 128, V 8", 1, 33, 50, 4, 2, 128, 8),
    Case("D 40, V 72, one query", 2, 1, 50, 4, 2, 40, 72),
    *(Case(f"pages of {z}", 2, 3, 100, 4, 2, 64, keys=f"paged {z}", mask=Causal(), lengths=(100, 37)) for z in (1, 3, 16, 128)),
    Case("a sequence of no keys, paged", 3, 1, 40, 4, 2, 64, keys="paged 16", mask=Causal(), lengths=(0, 40, 1)),
    Case("a sequence of no keys, packed", 3, 20, 40, 4, 2, 64, keys="packed", queries="packed", mask=Causal(), lengths=(0, 40, 3), q_lengths=(2, 20, 0)),
    Case("ranges, left padding", 3, 1, 60, 4, 2, 64, keys="ranged", mask=Causal(), lengths=(60, 11, 1)),
    Case("window both sides", 1, 90, 90, 2, 2, 64, mask=Window(before=7, after=12)),
    Case("window of one key", 1, 40, 40, 2, 2, 64, mask=Window(before=0, after=0)),
    Case("window over pages", 2, 2, 200, 4, 2, 64, keys="paged 16", mask=Causal() & Window(before=19), lengths=(200, 60)),
    Case("dense mask", 2, 20, 30, 4, 2, 64, mask=dense),
    Case("dense bias", 2, 20, 30, 4, 2, 64, mask=Causal(), terms=("bias",)),
    Case("all terms", 1, 24, 40, 4, 2, 64, mask=Causal() & Window(before=20), terms=("cap", "bias", "alibi", "sink"), dropout=Dropout(0.1, 9)),
    Case("sink and no keys", 1, 3, 0, 4, 2, 64, terms=("sink",)),
    Case("int8, ranges", 3, 1, 60, 4, 2, 64, keys="ranged", mask=Causal(), scaled="int8", lengths=(60, 11, 1)),
    Case("int8, packed", 3, 20, 40, 4, 2, 64, keys="packed", queries="packed", mask=Causal(), scaled="int8", lengths=(0, 40, 3), q_lengths=(2, 20, 0)),
    Case("int8, strides permuted", 2, 1, 90, 4, 2, 128, keys="permuted", queries="permuted", scaled="int8"),
    Case("int8, D 40, V 72", 2, 2, 50, 4, 2, 40, 72, mask=Causal(), scaled="int8"),
    Case("int8, all terms", 1, 24, 40, 4, 2, 64, mask=Causal() & Window(before=20), terms=("cap", "bias", "alibi", "sink"), scaled="int8"),
    Case("int8, group of 8, a window over pages", 2, 1, 200, 16, 2, 128, keys="paged 3", mask=Causal() & Window(before=70), scaled="int8", lengths=(200, 7)),
    Case("int8, negative scale and cap", 2, 1, 90, 4, 2, 64, terms=("cap",), scale=-0.3, scaled="int8"),
    *(Case(f"{kind}, group of 8", 2, 1, 150, 16, 2, 128, keys="paged 3", mask=Causal(), scaled=kind, lengths=(150, 70)) for kind in NARROW),
    *(Case(f"{kind}, D 40, V 72, five queries", 1, 5, 70, 4, 4, 40, 72, mask=Causal(), scaled=kind) for kind in NARROW),
    *(Case(f"{kind}, a chunk", 2, 30, 90, 4, 2, 64, keys="ranged", mask=Causal(), scaled=kind, lengths=(90, 41)) for kind in NARROW),
    Case("int8, 64k keys", 1, 1, 65_536, 4, 1, 64, scaled="int8"),
    Case("many keys, one head", 1, 1, 3001, 1, 1, 64),
    Case("64k keys, one query", 1, 1, 65_536, 4, 1, 64),
    Case("16k keys, a tile of queries", 1, 40, 16_384, 1, 1, 64),
    Case("long, one head", 1, 300, 1111, 1, 1, 64, mask=Causal()),
)  # fmt: skip

CASES = LIFE + CRUEL


def build(case: Case, dtype: str, seed: int = 0) -> Call:
    """The call of a case, its arrays drawn from a normal distribution."""
    g = torch.Generator().manual_seed(seed + sum(map(ord, case.name)))
    kind = getattr(torch, dtype)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(kind)

    q = _queries(case, draw)
    keys = _keys(case, draw, g)
    mask = case.mask if isinstance(case.mask, Mask) else case.mask(case, g)
    bias = None
    if "bias" in case.terms or "bias head" in case.terms:
        bias = draw(1 if "bias head" in case.terms else case.B, case.H, case.T, case.S)
    first = case.first
    if isinstance(first, tuple):
        first = torch.tensor(first, dtype=torch.int32)
    return Call(
        q, keys, mask,
        scale=case.scale,
        cap=SoftCap(2.5) if "cap" in case.terms else None,
        bias=bias,
        alibi=Alibi(torch.rand(case.H, generator=g)) if "alibi" in case.terms else None,
        sink=Sink(torch.randn(case.H, generator=g)) if "sink" in case.terms else None,
        dropout=case.dropout,
        first=first,
    )  # fmt: skip


def pairs(x: Tensor) -> Tensor:
    """Numbers −8 … 7, two a byte, the even one in the low half."""
    return (x[..., ::2] % 16 + x[..., 1::2] % 16 * 16).to(torch.uint8)


def _permuted(x: Tensor) -> Tensor:
    """The same array with its first three axes reversed in memory."""
    return x.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)


def _offsets(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor((0, *torch.tensor(lengths).cumsum(0).tolist()), dtype=torch.int32)


def _queries(case: Case, draw: Callable[..., Tensor]) -> Tensor | Packed:
    if case.queries == "packed":
        n = sum(case.q_lengths)
        return Packed(draw(n, case.H, case.D) * case.times, _offsets(case.q_lengths), max(case.q_lengths))
    q = draw(case.B, case.T, case.H, case.D) * case.times
    return _permuted(q) if case.queries == "permuted" else q


def _keys(case: Case, draw: Callable[..., Tensor], g: torch.Generator) -> layouts.Dense | Ranged | layouts.PackedKeys | Paged:
    lengths = torch.tensor(case.lengths, dtype=torch.int32)

    def narrow(x: Tensor) -> Tensor | Scaled:
        if not case.scaled:
            return x
        whole = {"int8": 127.0, "int4": 7.0}.get(case.scaled)
        kind = torch.int8 if whole else getattr(torch, case.scaled)
        scale = x.float().abs().amax(-1) / (whole or torch.finfo(kind).max)
        steps = x.float() / scale[..., None]
        data = (steps.round() if whole else steps).to(kind)
        return Scaled(pairs(data) if case.scaled == "int4" else data, scale)

    if case.keys.startswith("paged"):
        z = int(case.keys.split()[1])
        columns = -(-case.S // z)
        pages = columns * case.B + 3
        table = torch.randperm(pages, generator=g)[: case.B * columns].view(case.B, columns).int()
        k, v = (narrow(draw(pages, z, case.G, width)) for width in (case.D, case.width))
        return Paged(k, v, table, lengths, case.S)
    if case.keys == "packed":
        n = sum(case.lengths)
        k, v = (narrow(draw(n, case.G, width)) for width in (case.D, case.width))
        return layouts.PackedKeys(k, v, _offsets(case.lengths), case.S)
    k, v = (draw(case.B, case.S, case.G, width) for width in (case.D, case.width))
    if case.keys == "ranged":
        return Ranged(narrow(k), narrow(v), (case.S - lengths).int(), lengths)
    if case.keys == "permuted":
        k, v = _permuted(k), _permuted(v)
    return layouts.Dense(narrow(k), narrow(v))


def with_gradients(call: Call) -> tuple[Call, list[Tensor]]:
    """The call with every array that may have a gradient asking for one, and those arrays."""
    leaves: list[Tensor] = []

    def ask(x: Tensor) -> Tensor:
        if not x.dtype.is_floating_point:
            return x
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        leaves.append(leaf)
        return leaf

    q = map_arrays(call.q, ask)
    cached = isinstance(call.keys, Paged) or any(isinstance(side, Scaled) for side in key_sides(call.keys))
    keys = call.keys if cached else map_arrays(call.keys, ask)
    asked = call._replace(
        q=q, keys=keys, bias=map_arrays(call.bias, ask), alibi=map_arrays(call.alibi, ask), sink=map_arrays(call.sink, ask)
    )
    return asked, leaves
