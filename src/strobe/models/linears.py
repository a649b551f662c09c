"""Linears of 1 to 8 rows at the memory's speed: what a token costs is reading the weights, once.

torch's own product of one bfloat16 row reads memory at about half its speed. So on a CPU with the compiled library each
`torch.nn.Linear` of the model is given a `forward` that hands few rows to `backends/cpu/linear.cpp`, which reads torch's
own storage in place, and everything else to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strobe.errors import Unsupported
from strobe.machine import Machine
from strobe.rooms import kernel

MOST_ROWS = 8  # the kernel takes 16, but from about 9 on torch's tiles are faster
ROWS_AT_ONCE = 4096  # of weights that are rounded: the float32 copy stays small
ARCHS = ("avx2", "avx512", "amx")  # where it was measured; NEON was not
DTYPES = (torch.bfloat16, torch.float16)  # torch reads float32 weights as fast


@dataclass(frozen=True)
class AsLoaded:
    """The weights as they are."""


@dataclass(frozen=True)
class Int8:
    """Weights rounded to int8, a scale a row of W (an output channel): the greatest |w| becomes 127.

    Calls of at most 8 rows read half the bytes of bfloat16. Longer prompts still meet the float weights, which stay
    where they are: memory grows by half. A linear's outputs are off by about 1 % of their size, so tokens may differ.
    """


Weights = AsLoaded | Int8
AS_LOADED = AsLoaded()


class Exchanged:
    """What answers for a linear's `forward`; it keeps the module, so that a deep copy of a model answers for its own."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module

    def takes(self, x: Tensor) -> bool:
        """Few rows, of the weights' dtype, with no gradient to keep and nobody tracing."""
        weight = self.module.weight
        rows = x.numel() // max(1, weight.shape[1])
        return (
            1 <= rows <= MOST_ROWS
            and x.dtype is weight.dtype
            and x.shape[-1] == weight.shape[1]
            and x.device.type == weight.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 — torch names it so
        """As `torch.nn.Linear.forward`."""
        weight = self.module.weight
        if not self.takes(input) or not weight.is_contiguous():
            return nn.Linear.forward(self.module, input)
        return self.launch(input, weight)

    def launch(self, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        """The compiled product."""
        machine = Machine.cpu(torch.get_num_threads())
        y = kernel("cpu", "linear").launch(machine, x.reshape(-1, x.shape[-1]), weight, self.module.bias, scales)
        return y.view(*x.shape[:-1], y.shape[-1])


class Rounded(Exchanged):
    """The same with int8 weights."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__(module)
        self.weight, self.scales = rounded(module.weight)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 — torch names it so
        """As `torch.nn.Linear.forward`, but for the rounding."""
        return self.launch(input, self.weight, self.scales) if self.takes(input) else nn.Linear.forward(self.module, input)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 `[N, K]`, float32 scales `[N]`): w ≈ int8 · scale, off by half a scale at most."""
    found, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    for i in range(0, weight.shape[0], ROWS_AT_ONCE):
        part = weight[i : i + ROWS_AT_ONCE].detach().float()
        scale = part.abs().amax(1) / 127 if part.shape[1] else torch.ones(part.shape[0])
        scales[i : i + ROWS_AT_ONCE] = scale
        found[i : i + ROWS_AT_ONCE] = (part / torch.where(scale > 0, scale, 1)[:, None]).round().to(torch.int8)
    return found, scales


def exchange(model: Any, weights: Weights) -> list[Callable[[], object]]:
    """Gives the model's linears their fast `forward`, where there is one; what undoes it.

    Raises:
        Unsupported: int8 weights were asked for, and nothing here computes with them.
    """
    machine = Machine.cpu(1)
    here = machine.compiled and machine.arch in ARCHS and model.device.type == "cpu"
    if isinstance(weights, Int8) and not here:
        raise Unsupported(
            f"int8 weights need the compiled library on one of {', '.join(ARCHS)}; "
            f"this is {machine.arch} {'with' if machine.compiled else 'without'} it, and the model is on {model.device}"
        )
    if not here:
        return []
    kind, dtypes = (Rounded, (*DTYPES, torch.float32)) if isinstance(weights, Int8) else (Exchanged, DTYPES)
    return [_give(module, kind(module)) for module in _linears(model) if module.weight.dtype in dtypes]


def _linears(model: Any) -> Iterator[nn.Linear]:
    """Those that compute what `torch.nn.Linear` does, and no wrapper's or subclass's own."""
    for module in model.modules():
        given = vars(module).get("forward")
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            if given is None or isinstance(getattr(given, "__self__", None), Exchanged):
                yield module


def _give(module: nn.Linear, other: Exchanged) -> Callable[[], object]:
    """`other` answers for the module; what makes it as it was."""
    before = vars(module).get("forward")
    module.forward = other.forward
    if before is None:
        return lambda: vars(module).pop("forward", None)
    return lambda: setattr(module, "forward", before)


def described() -> str:
    """Which linears run where on this machine, in a line."""
    machine = Machine.cpu(1)
    if not machine.compiled or machine.arch not in ARCHS:
        return "torch's"
    names = ", ".join(str(kind).removeprefix("torch.") for kind in DTYPES)
    return f"{names} of 1 to {MOST_ROWS} rows: linear.cpp ({machine.arch}), int8 on request; the others: torch's"
