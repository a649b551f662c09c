"""The suite `model`: what a token costs in a whole model of a size that people run, beside transformers' `generate`.

Weights are random and nothing is downloaded: time depends on shapes alone. The race is that of the suite `engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from strobe.lab import conventional, engine
from strobe.lab.measure import available_bytes
from strobe.lab.results import Row

NAME = "qwen3-0.6b"
SHAPE = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 40_960,
}  # fmt: skip
LAYERS = 28
BARS = {1024: 1.25, 8192: 2.2, 32768: 5.0}  # times transformers' rate that Strobe wants to reach at a context, on all layers
COPIES = 3  # of a cache while transformers continues it: the prepared one, the one that grows, and its next size


def build(layers: int, dtype: str, seed: int) -> Any:
    """A model of the shape with random weights, in evaluation mode.

    Args:
        layers: `LAYERS`, or fewer for a try.
        dtype: "float32", "bfloat16" or "float16".
    """
    from transformers import AutoModelForCausalLM, Qwen3Config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen3Config(**SHAPE, num_hidden_layers=layers)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


class Numbers:
    """A tokenizer that calls every token by its number: all that an engine asks of one."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        """The numbers; no token is special, whether such are skipped or not."""
        return " ".join(map(str, tokens))


def peers(layers: int, context: int, dtype: str) -> tuple[str, ...]:
    """transformers' attentions for which there is memory: eager repeats the keys of a group for every head."""
    token = 2 * SHAPE["num_key_value_heads"] * SHAPE["head_dim"] * getattr(torch, dtype).itemsize
    repeated = SHAPE["num_attention_heads"] // SHAPE["num_key_value_heads"] * token * context
    fits = COPIES * layers * token * context + 2 * repeated < available_bytes()
    return conventional.ATTENTIONS if fits else ("sdpa",)


def measure(layers: int, dtype: str, contexts: tuple[int, ...], tokens: int, rounds: int) -> Iterator[list[Row]]:
    """The rows of each context, with the bar of a context that has one.

    Raises:
        Invalid: a context that the model does not reach.
        Broken: tokens differ in float32.
    """
    models = (build(layers, dtype, 0), build(layers, dtype, 0), Numbers())
    name = NAME if layers == LAYERS else f"{NAME} of {layers} layers"
    for context in contexts:
        for rows in engine.measure(models, name, (context,), tokens, rounds, ways=peers(layers, context, dtype)):
            if layers == LAYERS and context in BARS:
                rows[0].more["bar"] = BARS[context]
            yield rows
