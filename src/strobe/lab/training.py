"""The suite `training`: a small model's steps with Strobe's attention and with torch's, and the memory of a long backward pass.

Two copies of the demonstration model's shape start from the same weights and see the same batches, in turns in one
process. Only what computes attention differs, so their losses have to stay together, or nothing is written: as near as
those of a third copy, with torch's attention, whose first weights differ by one rounding of float32. Training amplifies
such noise by orders of magnitude in hundreds of steps, so the third copy says how much of it there is.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from strobe.errors import Broken
from strobe.lab.results import Row

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo" / "config.json"
SETTLED = 20  # steps in which no noise has grown yet
APART = 1e-4  # of a loss, in those steps
NOISE = 3.0  # times the noise of the third copy, in all steps: both are one draw of something random
RATE = 1e-3
LONG = 8192
PEER, PLAIN = "torch sdpa", "plain"

# In a process of its own, so that its peak is its own: the largest resident size in KiB, before and after. (What getrusage
# tells is inherited from the process that started it.)
MEMORY = """
import sys, torch
sys.path.insert(0, {home!r})
from strobe import Causal, attention
torch.set_num_threads({threads})
way, S = {way!r}, {length}

def run(S):
    q, k, v = (torch.randn(1, S, 4, 64, requires_grad=True) for _ in range(3))
    if way == "strobe":
        out = attention(q, k, v, mask=Causal())
    else:
        q_, k_, v_ = (x.transpose(1, 2) for x in (q, k, v))
        if way == "plain":
            seen = torch.ones(S, S, dtype=torch.bool).tril()
            out = ((q_ @ k_.mT) * 64**-0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v_
        else:
            out = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, is_causal=True)
    out.sum().backward()

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

run(16)
before = peak()
run(S)
print(peak() - before)
"""


def layers_attention() -> Any:
    """A function that transformers calls for every layer: causal attention by Strobe."""
    from strobe import Causal, attention

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, scaling: float, **_: Any) -> tuple[Tensor, None]:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return attention(q, k, v, mask=Causal(), scale=scaling), None

    return attend


def pair() -> tuple[Any, Any]:
    """Two models of the demonstration's shape with the same random weights: Strobe's attention, torch's attention."""
    from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register("strobe_training", layers_attention())
    AttentionMaskInterface.register("strobe_training", lambda **_: None)  # causal is all there is, and the function knows it
    shape = json.loads(DEMO.read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (
            AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.float32, attn_implementation=name)
            for name in ("strobe_training", "sdpa")
        )
    second.load_state_dict(first.state_dict())
    return first.train(), second.train()


def nudged(model: Any) -> Any:
    """The same model, each weight one rounding of float32 larger or smaller."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.0 + torch.finfo(torch.float32).eps * (2.0 * torch.randint(0, 2, weight.shape, generator=g) - 1.0))
    return model


def batches(steps: int, sequences: int, length: int, vocabulary: int) -> Tensor:
    """Tokens with something to learn: each is the one before it plus a number that its sequence keeps, with some noise."""
    g = torch.Generator().manual_seed(1)
    start, stride = (torch.randint(1, 64, (steps, sequences, 1), generator=g) for _ in range(2))
    noise = (torch.rand(steps, sequences, length, generator=g) < 0.05).long()
    return (start + stride * torch.arange(length) + noise) % vocabulary


def steps_of(models: dict[str, Any], count: int, sequences: int, length: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(seconds of each step, losses) of models, step by step in turns."""
    tools = {name: torch.optim.AdamW(model.parameters(), lr=RATE) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    losses: dict[str, list[float]] = {name: [] for name in models}
    order = random.Random(0)
    vocabulary = next(iter(models.values())).config.vocab_size
    for tokens in batches(count, sequences, length, vocabulary):
        for name in order.sample(list(models), len(models)):
            start = time.perf_counter()
            loss = models[name](input_ids=tokens, labels=tokens).loss
            loss.backward()
            tools[name].step()
            tools[name].zero_grad()
            seconds[name].append(time.perf_counter() - start)
            losses[name].append(float(loss.detach()))
    return seconds, losses


def apart(losses: list[float], others: list[float]) -> float:
    """The greatest distance of two losses of one step, relative; NaN if any is."""
    return float((torch.tensor(losses, dtype=torch.float64) / torch.tensor(others, dtype=torch.float64) - 1.0).abs().max())


def together(losses: dict[str, list[float]], noise: float) -> float:
    """How far the losses of the two ways go apart.

    Raises:
        Broken: farther than noise explains.
    """
    ours, torchs = losses["strobe"], losses[PEER]
    early, all_steps = apart(ours[:SETTLED], torchs[:SETTLED]), apart(ours, torchs)
    if not (early <= APART and all_steps <= max(NOISE * noise, APART)):
        raise Broken(
            f"the losses with Strobe's attention and torch's go {early:.1e} apart in {SETTLED} steps and {all_steps:.1e} in "
            f"{len(ours)}; a rounding of the weights makes {noise:.1e}"
        )
    return all_steps


def peak_mib(way: str, length: int) -> float:
    """The memory that attention's forward and backward pass at a length added to a process of its own, MiB.

    Raises:
        Broken: that process failed, or the system does not tell.
    """
    home = str(Path(__file__).resolve().parents[2])
    script = MEMORY.format(home=home, threads=torch.get_num_threads(), way=way, length=length)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Broken(f"the memory of {way} at {length} tokens could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout) / 1024


def measure(count: int, sequences: int, length: int, long: int = LONG) -> Iterator[Row]:
    """Two rows, each when it is measured: a step's time, and attention's peak memory, forward and backward, at `long` tokens.
    The third copy trains afterwards, untimed.

    Args:
        count: steps; the first tenth is not timed.
        sequences, length: of a batch.

    Raises:
        Broken: the losses of the two models go apart.
    """
    seconds, losses = steps_of(dict(zip(("strobe", PEER), pair(), strict=True)), count, sequences, length)
    noise = apart(steps_of({PEER: nudged(pair()[1])}, count, sequences, length)[1][PEER], losses[PEER])
    distance = together(losses, noise)
    ms = {name: round(1e3 * median(values[count // 10 :]), 3) for name, values in seconds.items()}
    threads = torch.get_num_threads()
    ends = {"loss_first": losses["strobe"][0], "loss_last": losses["strobe"][-1], "losses_apart": distance, "noise_of_a_rounding": noise}
    more: dict[str, Any] = {"steps": count, **ends, "bars": {PEER: 1.2}}
    case = f"training demo float32 B{sequences} T{length} {threads}T"
    yield Row(case, ms["strobe"], {PEER: ms[PEER]}, None, "cpu: forward and backward", "a step", "ms", more=more)
    mib = {way: round(peak_mib(way, long), 1) for way in ("strobe", PEER, PLAIN)}
    others = {way: mib[way] for way in (PEER, PLAIN)}
    yield Row(f"forward + backward B1 H4 S{long} D64 f32 causal {threads}T", mib["strobe"], others, None, "cpu: forward and backward",
              "peak memory, inputs and gradients among it", "MiB", more={"bars": {PEER: 1.15, PLAIN: 0.1}})  # fmt: skip
