"""The suite `gpu-model`: a token's time in a whole model, random weights in Llama-3.1-8B's shape, by the length of what came before.

Graphs of each way of attending, all else the same: norms, linears, rotation, the write into the cache, the head; what is between the
linears is compiled by torch. A model's caches and weights are read in turn, so none of them stays in the GPU's own cache. Of each way
several graphs are recorded, and in each a layer's arrays lie elsewhere: where they happen to lie changes the time of single linears by 8 %.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from strobe import Causal, attention
from strobe.errors import Broken
from strobe.lab import fa3, fa4
from strobe.lab.hopper import Flash
from strobe.lab.results import Row

ROUNDS, IDLE, GRAPHS = 7, 0.1, 6
PLACES, STEP = 1800, 512  # where the small arrays of a graph may begin, and bytes between: less than 1 MiB, as torch has a pool for those
PLAIN_REACH = 65536  # keys up to which plain attention is measured: beyond, it only gets slower
APART = 0.05  # of the logits, relative to their norm: rounding to bfloat16 in 32 layers
CUDNN, PLAIN, FLASH = "torch SDPA", "plain attention", "FlashAttention 2, not split"
UNSPLIT, UNSPLIT_4 = "FlashAttention 3, not split", "FlashAttention 4, not split"

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """The numbers of a decoder; Llama-3.1-8B's unless given."""

    hidden: int = 4096
    layers: int = 32
    H: int = 32
    G: int = 8
    D: int = 128
    inner: int = 14336
    vocabulary: int = 128256
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16

    def weights(self) -> list[dict[str, Tensor]]:
        """Of each layer, and of the head last; drawn so that numbers keep their size."""
        shapes = {"qkv": ((self.H + 2 * self.G) * self.D, self.hidden), "out": (self.hidden, self.H * self.D),
                  "up": (2 * self.inner, self.hidden), "down": (self.hidden, self.inner)}  # fmt: skip
        layers = [{name: self._drawn(shape) for name, shape in shapes.items()} for _ in range(self.layers)]
        return [*layers, {"head": self._drawn((self.vocabulary, self.hidden))}]

    def _drawn(self, shape: tuple[int, int]) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype).mul_(shape[1] ** -0.5)

    def caches(self, S: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values `[1, S, G, D]` of each layer; the new token's are the last."""
        return [(self._cache(S), self._cache(S)) for _ in range(self.layers)]

    def _cache(self, S: int) -> Tensor:
        return torch.randn(1, S, self.G, self.D, device=self.device, dtype=self.dtype)


def strobes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Strobe's attention."""
    return attention(q, k, v, mask=Causal())


def torchs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's, by cuDNN where it may be chosen."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        return scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores, softmax, values, with the keys of a group repeated: what models did before."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, 2).transpose(1, 2) for x in (k, v))
    scores = q.transpose(1, 2) @ k.mT * q.shape[-1] ** -0.5
    return (scores.float().softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def unsplit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention 3, held to one part."""
    return fa3.over(q, k, v, splits=1)()


def unsplit_4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention 4, likewise."""
    return fa4.over(q, k, v, splits=1)()


def unsplit_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention 2, torch's for packed sequences: told that a sequence may have two queries, it does not split keys."""
    of_q, of_k = (_ends(x.shape[1], x.device) for x in (q, k))
    packed = (x.flatten(0, 1) for x in (q, k, v))
    return torch.ops.aten._flash_attention_forward(*packed, of_q, of_k, 2, k.shape[1], 0.0, False, False)[0][None]


@lru_cache(maxsize=64)
def _ends(S: int, device: torch.device) -> Tensor:
    return torch.tensor([0, S], dtype=torch.int32, device=device)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves as pairs."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def normed(x: Tensor) -> Tensor:
    """x with a mean square of 1."""
    return rms_norm(x, x.shape[-1:])


def cached(heads: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Turned queries `[H, D]` of all heads `[H + 2 G, D]`; the others are written to their place in the cache, `[G, D]` each."""
    q, new_k, new_v = heads.split((len(heads) - 2 * len(k), len(k), len(k)))
    k.copy_(turned(new_k, cos, sin))
    v.copy_(new_v)
    return turned(q, cos, sin)


def gated(both: Tensor) -> Tensor:
    """SwiGLU of gate and value side by side."""
    gate, up = both.chunk(2, -1)
    return silu(gate) * up


def added(x: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """(the sum, its norm)."""
    x = x + more
    return x, normed(x)


@dataclass(frozen=True)
class Between:
    """What is between the linears."""

    normed: Callable[[Tensor], Tensor] = normed
    cached: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = cached
    gated: Callable[[Tensor], Tensor] = gated
    added: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = added

    def compiled(self) -> Between:
        """The same, each one kernel."""
        return Between(
            torch.compile(self.normed, fullgraph=True), torch.compile(self.cached, fullgraph=True),
            torch.compile(self.gated, fullgraph=True), torch.compile(self.added, fullgraph=True),
        )  # fmt: skip


def token(
    form: Form, between: Between, weights: list[dict[str, Tensor]], caches: list[tuple[Tensor, Tensor]], x: Tensor, attend: Attend
) -> Tensor:
    """Logits `[1, vocabulary]` after a token `[1, hidden]`, which is written last into the caches. No array is freed before the end: each
    layer's lie elsewhere, so that where they happen to lie is not one draw but as many as there are layers."""
    angle = caches[0][0].shape[1] * 500000.0 ** -(torch.arange(form.D // 2, device=x.device) / (form.D // 2))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    held: list[Tensor] = []

    def kept(x: Tensor) -> Tensor:
        held.append(x)
        return x

    n = kept(between.normed(x))
    for layer, (k, v) in zip(weights[:-1], caches, strict=True):
        heads = kept(linear(n, layer["qkv"]))
        q = kept(between.cached(heads.view(-1, form.D), cos, sin, k[0, -1], v[0, -1]))
        attended = kept(attend(q[None, None], k, v))
        x, n = map(kept, between.added(x, kept(linear(attended.reshape(1, -1), layer["out"]))))
        both = kept(linear(n, layer["up"]))
        x, n = map(kept, between.added(x, kept(linear(kept(between.gated(both)), layer["down"]))))
    return linear(n, weights[-1]["head"])


def captured(run: Callable[[], Tensor]) -> Callable[[], float]:
    """Records a token as a graph; what it gives replays the graph and tells its seconds."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ahead = torch.empty(STEP * random.randrange(1, PLACES), dtype=torch.uint8, device="cuda")
        run()
        del ahead
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        graph.replay()
        begin.record()
        for _ in range(3):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 3e3

    return timed


def measure(
    form: Form, contexts: Sequence[int], flash: Flash, between: Between,
    clock: Callable[[Callable[[], Tensor]], Callable[[], float]] = captured,
) -> Iterator[Row]:  # fmt: skip
    """A row a context; the ways say the same before they are timed, and take turns in shuffled order, when graphs are recorded too, since
    memory that is asked for early lies elsewhere than what is asked for late. A way's time is the median of its graphs', in each round.

    Raises:
        Broken: they do not.
    """
    weights, x = form.weights(), torch.randn(1, form.hidden, device=form.device, dtype=form.dtype)
    for S in contexts:
        caches = form.caches(S)
        ways: dict[str, Attend] = {"strobe": strobes, CUDNN: torchs}
        if S <= PLAIN_REACH:
            ways[PLAIN] = plain
        if flash.three:
            ways[UNSPLIT] = unsplit
        if flash.four:
            ways[UNSPLIT_4] = unsplit_4
        if form.device == "cuda":
            ways[FLASH] = unsplit_flash
        runs = {name: partial(token, form, between, weights, caches, x, attend) for name, attend in ways.items()}
        case = f"a token after {S}, {form.layers} layers, H{form.H} G{form.G} D{form.D}"
        _same(case, {name: run().double() for name, run in runs.items()})
        for run in runs.values():  # compiled, and every lazy thing done; once more, after what said the same
            run()
        clocks: dict[str, list[Callable[[], float]]] = {name: [] for name in runs}
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(GRAPHS):
            for name in random.sample(list(runs), len(runs)):
                clocks[name].append(clock(runs[name]))
        for _ in range(ROUNDS):
            for name in random.sample(list(runs), len(runs)):
                time.sleep(IDLE)
                samples[name].append(median(timed() for timed in clocks[name]))
        us = {name: round(1e6 * median(values), 1) for name, values in samples.items()}
        yield Row(case, us.pop("strobe"), us, None, "a graph of the whole model", more={"rounds": ROUNDS, "graphs": GRAPHS, "context": S})
        del caches, runs, clocks


def _same(case: str, logits: dict[str, Tensor]) -> None:
    ours = logits["strobe"]
    for name, theirs in logits.items():
        apart = float((ours - theirs).norm() / theirs.norm())
        if not apart <= APART:
            raise Broken(f"{case}: the logits are {apart:.1e} from those of {name}. It was not measured")


def small() -> Form:
    """A form for a try."""
    return replace(Form(), hidden=256, layers=2, H=8, G=2, D=64, inner=512, vocabulary=512)
