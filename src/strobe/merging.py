"""The problem of `merge`: two states over different keys become one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from strobe.errors import Invalid
from strobe.problem import FLOATS, Described


@dataclass(frozen=True)
class Merge:
    """Two states of `rows` rows and width `V`, without their data."""

    rows: int
    V: int
    dtype: str
    device: str

    def __str__(self) -> str:
        return f"merge rows={self.rows} V={self.V} {self.dtype}"


@lru_cache(maxsize=1024)
def check_merge(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> Merge:
    """The problem that merging two described states is.

    Raises:
        Invalid: the states do not belong together.
    """
    for name, value in (("a.out", out_a), ("a.lse", lse_a), ("b.out", out_b), ("b.lse", lse_b)):
        if not isinstance(value, Described):
            raise Invalid(f"{name} is an array; got {value!r}. merge takes State(out, lse), as attention_state returns them")
        if value.device != out_a.device:
            raise Invalid(f"both states are on one device; a.out is on {out_a.device}, {name} on {value.device}")
    if out_a.shape != out_b.shape or out_a.dtype != out_b.dtype:
        raise Invalid(f"both outs have one shape and dtype; got a.out {out_a}, b.out {out_b}")
    if out_a.dtype not in FLOATS:
        raise Invalid(f"out is one of {', '.join(FLOATS)}; got {out_a.dtype}")
    for name, lse in (("a.lse", lse_a), ("b.lse", lse_b)):
        if lse.shape != out_a.shape[:-1] or lse.dtype not in ("float32", "float64"):
            raise Invalid(f"{name} is float32 {list(out_a.shape[:-1])}, out's shape but for the last axis; got {lse}")
    rows = 1
    for n in out_a.shape[:-1]:
        rows *= n
    return Merge(rows, out_a.shape[-1], out_a.dtype, out_a.device)
