"""torch's face of `append`: straight to its kernel, or, in a compiled step, through an operator that says what it writes into.

Beside `faces/torch.py` because no gradient is recorded here: the operator has neither outputs nor a formula for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strobe.appending import Rotary, check_append
from strobe.faces.seam import flatten_append, unflatten_append
from strobe.faces.torch import all_described, asks, describe, pages_described, planned
from strobe.layouts import Paged
from strobe.problem import map_arrays
from strobe.rooms import kernel


def append(pages: Paged, k: Any, v: Any, rotary: Rotary | None) -> None:
    """Writes new tokens into their pages."""
    compiling = torch.compiler.is_compiling()
    if not compiling and not (torch.is_grad_enabled() and any(map(asks, (pages.keys, pages.values, k, v, rotary)))):
        _write(pages, k, v, rotary)
        return
    with torch.no_grad():
        if compiling:
            torch.ops.strobe.append.default(*flatten_append(pages, k, v, rotary))
        else:
            _write(pages, k, v, rotary)


def _write(pages: Paged, k: Any, v: Any, rotary: Rotary | None) -> None:
    chosen = planned(check_append(pages_described(pages), all_described(k), describe(v), _turns_described(rotary)))
    kernel(chosen.room, chosen.offer.kernel).launch(chosen, pages, k, v, rotary)


def _turns_described(rotary: Any) -> Any:
    """In half the time of a walk over fields."""
    if type(rotary) is not Rotary:
        return map_arrays(rotary, describe)
    cos, sin, positions = rotary.cos, rotary.sin, rotary.positions
    return Rotary(describe(cos), describe(sin), None if positions is None else describe(positions), rotary.interleaved)


def _append(*flat: Any) -> None:
    _write(*unflatten_append(*flat))


def _append_fake(
    keys: Tensor, values: Tensor, key_scale: Any, value_scale: Any, k: Tensor, v: Tensor, rest: Any, words: str, sizes: Any
) -> None:
    """What is written has the shape it had."""


_library = torch.library.Library("strobe", "FRAGMENT")  # kept alive: torch forgets operators whose library is collected
_library.define(
    "append(Tensor(a!) keys, Tensor(b!) values, Tensor(c!)? key_scale, Tensor(d!)? value_scale, Tensor k, Tensor v, "
    "Tensor[] rest, str words, SymInt[] sizes) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)
for _device in ("CPU", "CUDA"):
    _library.impl("append", _append, _device)
torch.library.register_fake("strobe::append", _append_fake, lib=_library)
