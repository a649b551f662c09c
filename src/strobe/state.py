"""The result of attention over some of the keys, and how two results make one.

    State(out, lse)   out  the average over the keys seen so far    [B, T, H, V]
                      lse  ln Σ exp(score) over the same keys       [B, T, H], float32

    merge(a, b):      lse = ln(exp(a.lse) + exp(b.lse))
                      out = exp(a.lse − lse) · a.out + exp(b.lse − lse) · b.out

`merge` is associative and commutative up to rounding, and a state that saw no key
(out 0, lse −∞) changes nothing: a commutative monoid. Splitting keys over a chip,
sharing a prefix and attending over a ring of machines are all this one law.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class State(NamedTuple):
    """The average of the values seen so far and the log of the weights' sum."""

    out: Any
    lse: Any


class Gradients(NamedTuple):
    """What a call's arrays receive; None for what the call does not have, or what takes no gradient."""

    q: Any
    k: Any
    v: Any
    bias: Any
    slopes: Any
    sink: Any
