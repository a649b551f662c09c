"""What `strobe warm` runs is compiled for all that an engine does afterwards: asked of Triton's own signatures, on no GPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
import torch

from strobe.engine.engine import Engine
from strobe.engine.request import Sampling
from strobe.lab import warm
from strobe.machine import Machine, installed_triton

from . import tiny

pytestmark = pytest.mark.skipif(installed_triton() is None, reason="this machine has no Triton")


def signatures(run: Callable[[], None]) -> set[str]:
    """What the rooms for GPUs would compile on an H200 while this runs; nothing is computed."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from strobe.backends.hopper import decode
    from strobe.backends.hopper import forward as prompts
    from strobe.backends.triton import append, forward, merge

    if knobs.runtime.interpret:
        pytest.skip("kernels are interpreted here")
    backend, found = make_backend(GPUTarget("cuda", 90, 32)), set[str]()

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel, self.arg_names = kernel, kernel.arg_names
            self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)

        def __getitem__(self, grid: object) -> Callable[..., None]:
            return self.start

        def start(self, *args: Any, **named: Any) -> None:
            given = dict(zip(self.arg_names, args)) | named  # noqa: B905 — the others are named
            found.add(f"{self.kernel.fn.__module__}.{self.kernel.__name__}: {self.kernel._pack_args(backend, given, *self.bind(**given))}")

    with ExitStack() as stack:
        kernels = (forward, "attend"), (merge, "merge_parts"), (merge, "merge_two"), (append, "write_rows")
        kernels += (decode, "attend"), (decode, "merge_parts"), (prompts, "attend"), (prompts, "list_tiles")
        for module, name in kernels:
            stack.enter_context(patch.object(module, name, Recorder(getattr(module, name))))
        stack.enter_context(patch("strobe.faces.torch.machine", lambda device: Machine.named("h200")))
        run()
    return found


def engine() -> Engine:
    """One layer whose contexts are long, and whose heads are those of larger models."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        vocab_size=64, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    return Engine(LlamaForCausalLM(config).bfloat16().eval(), tiny.words(), pages=4000)


def test_a_warm_engine_compiles_nothing() -> None:
    told: list[str] = []
    warmed = signatures(lambda: warm.warm(engine(), told.append))
    assert len(told) == warm.STEPS
    draw = random.Random(1)

    def serve() -> None:
        served = engine()
        for _ in range(12):
            prompts = [[draw.randrange(64) for _ in range(int(2 ** draw.uniform(0, 12)))] for _ in range(draw.randrange(1, 12))]
            prompts += [prompts[0] + [1] * n for n in range(draw.randrange(3))]
            served.generate(prompts, Sampling(max_tokens=draw.randrange(1, 20), ignore_eos=True))

    met = signatures(serve)
    assert met and not met - warmed
    assert len(warmed) < 60
