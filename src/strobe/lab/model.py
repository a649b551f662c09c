"""The suite `model`: what a token costs in a whole model of a size that people run, beside transformers' `generate` and llama.cpp.

Weights are random and nothing is downloaded: time depends on shapes alone. The race is that of the suite `engine`;
llama.cpp takes part where its Python package and gguf are installed. Of transformers' attentions sdpa is measured, which
it takes by itself: eager is slower, and takes seconds a token over long contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from strobe.lab import engine, llama
from strobe.lab.measure import available_bytes
from strobe.lab.results import Row

NAME = "qwen3-0.6b"
SHAPE = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 40_960,
}  # fmt: skip
LAYERS = 28
TRANSFORMERS = "transformers sdpa"
BARS = {  # times a peer's rate that Strobe wants to reach at a context, on all layers
    1024: {TRANSFORMERS: 1.25, llama.NAME: 1.0},
    8192: {TRANSFORMERS: 2.2, llama.NAME: 1.5},
    32768: {TRANSFORMERS: 5.0},
}
COPIES = 4  # of a cache: the engine's, what transformers was given, what it grows (a layer at a time), llama.cpp's


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


def absent(layers: int, context: int, dtype: str) -> str | None:
    """Why llama.cpp is not measured at a context, None where it is."""
    if not llama.available():
        return llama.ABSENT
    token = 2 * SHAPE["num_key_value_heads"] * SHAPE["head_dim"] * getattr(torch, dtype).itemsize
    return None if COPIES * layers * token * context < available_bytes() else "not measured: there is no memory for its cache"


def measure(layers: int, dtype: str, contexts: tuple[int, ...], tokens: int, rounds: int) -> Iterator[list[Row]]:
    """The rows of each context, with the bars of a context that has them.

    Raises:
        Invalid: a context that the model does not reach.
        Broken: transformers' tokens differ in float32.
    """
    models = (build(layers, dtype, 0), build(layers, dtype, 0), Numbers())
    name = NAME if layers == LAYERS else f"{NAME} of {layers} layers"
    with llama.opened(models[1]) if llama.available() else nullcontext() as other:
        for context in contexts:
            why = absent(layers, context, dtype)
            others = () if other is None or why else (other,)
            for rows in engine.measure(models, name, (context,), tokens, rounds, ways=("sdpa",), others=others):
                if why:
                    rows = [replace(row, peers={**row.peers, llama.NAME: why}) for row in rows]
                elif other is not None:
                    rows[0].more["llama.cpp"] = other.about
                if layers == LAYERS and context in BARS:
                    rows[0].more["bars"] = BARS[context]
                yield rows
