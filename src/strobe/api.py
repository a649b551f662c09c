"""The six verbs. Each is: describe, check, plan, call.

The arrays decide the face (today torch), the face describes them, the hall checks and plans, a room runs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from strobe.appending import Rotary
from strobe.errors import Invalid
from strobe.faces import append as writing
from strobe.faces import recording
from strobe.faces import torch as face
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.masks import Full, Mask
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State
from strobe.terms import Alibi, Dropout, Sink, SoftCap

FULL = Full()


def _call(
    q: Any, k: Any, v: Any, mask: Mask, scale: float | None, cap: SoftCap | None, bias: Any,
    alibi: Alibi | None, sink: Sink | None, dropout: Dropout | None, first: Any,
) -> Call:  # fmt: skip
    """The call as one value, keys and values joined in their layout."""
    if scale is None or type(scale) is float:
        pass
    elif isinstance(scale, bool):  # True and 1.0 would be one key to every cache of checks
        raise Invalid(f"scale is a finite number; got {scale!r}")
    elif type(scale) is int:
        scale = float(scale)
    if isinstance(k, (Paged, Ranged)):
        if v is not None:
            raise Invalid(f"{type(k).__name__} carries its values, so v is left out; got both")
        keys = k
    elif v is None:
        raise Invalid("v is missing: keys that are an array or Packed come with their values")
    elif isinstance(k, Packed):
        if isinstance(v, Packed):
            raise Invalid("packed values lie as their keys do: give v as the bare array [N, G, V]")
        keys = PackedKeys(k.tokens, v, k.offsets, k.longest)
    else:
        keys = Dense(k, v)
    return Call(q, keys, mask, scale, cap, bias, alibi, sink, dropout, first)


def _attend(
    q: Any, k: Any, v: Any, mask: Mask, scale: float | None, cap: SoftCap | None, bias: Any,
    alibi: Alibi | None, sink: Sink | None, dropout: Dropout | None, first: Any,
) -> State:  # fmt: skip
    """The state of a call; one like one before is not made a value first, which takes longer than to find out that it is."""
    if bias is alibi is sink is dropout is first is None:
        state = recording.again(q, k, v, mask, scale, cap)
        if state is not None:
            return state
    return recording.attend(_call(q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first))


def attention(
    q: Any, k: Any, v: Any = None, *, mask: Mask = FULL, scale: float | None = None, cap: SoftCap | None = None,
    bias: Any = None, alibi: Alibi | None = None, sink: Sink | None = None, dropout: Dropout | None = None, first: Any = None,
) -> Any:  # fmt: skip
    """Each query's average of the values, weighted by how well its key matches.

        out[b, t, h] = Σ_s softmax_s(cap(scale · q[b, t, h] · k[b, s, g]) + bias, masked) v[b, s, g],   g = h // (H / G)

    The last query stands at the last key, so with T=3, S=5 `Causal()` lets through (■):

        ■ ■ ■ · ·
        ■ ■ ■ ■ ·
        ■ ■ ■ ■ ■

    Args:
        q: `[B, T, H, D]`, float16, bfloat16, float32 or float64; `Packed`; or float8, `Scaled`, beside such keys and values.
        k: `[B, S, G, D]`, `Packed`, or tokens that carry their values: `Ranged`, `Paged`. An array may be `Scaled`.
        v: `[B, S, G, V]`, or `[N, G, V]` beside packed keys.
        mask: which keys a query may see. Masks compose: `Causal() & Window(before=1023)`.
        scale: D**-0.5 unless given.
        cap: bounds the scores, `limit · tanh(score / limit)`.
        bias: added to the scores, broadcastable to `[B, H, T, S]`; it may ask for a gradient.
        alibi: adds `−slope · distance`.
        sink: one more logit a head in the denominator.
        dropout: drops weights, the same ones on every device.
        first: the position of the first query, an integer or int32 `[B]`; S − T unless given.

    Returns:
        `[B, T, H, V]` (`[N, H, V]` for packed queries), the dtype of `q`, of float8 bfloat16. A query that may see no key gets zeros.

    Raises:
        Invalid: the shapes, dtypes or devices make no sense together.
        Unsupported: no room on this machine can do it; the message lists each room's reasons.

    Error: at most twice that of the plain computation in the same dtype, both against float64 (docs/contract.md).
    Source: Dao, 2023, arXiv:2307.08691, algorithm 1; splitting: Flash-Decoding, Dao et al., 2023.

    >>> import torch
    >>> q = torch.randn(1, 3, 8, 64); k = torch.randn(1, 5, 2, 64); v = torch.randn(1, 5, 2, 64)
    >>> attention(q, k, v, mask=Causal()).shape
    torch.Size([1, 3, 8, 64])
    """
    return _attend(q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first).out


def attention_state(
    q: Any, k: Any, v: Any = None, *, mask: Mask = FULL, scale: float | None = None, cap: SoftCap | None = None,
    bias: Any = None, alibi: Alibi | None = None, sink: Sink | None = None, dropout: Dropout | None = None, first: Any = None,
) -> State:  # fmt: skip
    """`attention`, with the log of the softmax's denominator: a state that can be merged.

        lse[b, t, h] = ln Σ_s exp(score[b, h, t, s])        (natural logarithm; a sink is in the sum)

    Args:
        q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first: as for `attention`.

    Returns:
        `State(out, lse)`: out as `attention` returns it, lse float32 `[B, T, H]` (`[N, H]` packed; float64 for
        float64 queries), −∞ where no key is seen. Both have gradients.

    Raises:
        Invalid, Unsupported: as for `attention`.

    Error: of out and lse, at most twice that of the plain computation in the same dtype (docs/contract.md).
    Source: Dao, 2023, arXiv:2307.08691, section 3.1 (the log-sum-exp kept for the backward pass).

    >>> import torch
    >>> q = torch.randn(1, 3, 8, 64); k = torch.randn(1, 5, 2, 64); v = torch.randn(1, 5, 2, 64)
    >>> attention_state(q, k, v).lse.shape
    torch.Size([1, 3, 8])
    """
    return _attend(q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first)


def merge(*states: State) -> State:
    """The state over all the keys that the given states saw, each key by one of them.

        lse = ln Σ_i exp(lse_i)        out = Σ_i exp(lse_i − lse) · out_i

    Args:
        states: two or more of `State(out, lse)`, out `[..., V]`, lse float32 `[...]`.

    Returns:
        One state of the same shapes and dtypes. Merging is associative and commutative up to rounding; a state
        that saw no key (out 0, lse −∞) changes nothing. It has gradients.

    Raises:
        Invalid: fewer than two states, or shapes, dtypes or devices that differ.

    Error: that of one rounding to the dtype of `out`.
    Source: Flash-Decoding, Dao et al., 2023; Rabe and Staats, 2021, arXiv:2112.05682, section 2.

    >>> import torch
    >>> q = torch.randn(1, 1, 8, 64); k = torch.randn(1, 6, 2, 64); v = torch.randn(1, 6, 2, 64)
    >>> halves = [attention_state(q, k[:, i : i + 3], v[:, i : i + 3]) for i in (0, 3)]
    >>> torch.allclose(merge(*halves).out, attention(q, k, v), atol=1e-6)
    True
    """
    if len(states) < 2:
        raise Invalid(f"merge takes two states or more; got {len(states)}")
    result = states[0]
    for other in states[1:]:
        result = face.merge(result, other)
    return result


def append(pages: Paged, k: Any, v: Any, *, rotary: Rotary | None = None) -> None:
    """Writes new keys and values into the pages of their sequences, in place.

        token t of the T new ones of sequence b goes to position  lengths[b] − T + t

    `pages.lengths` are the lengths with the new tokens, so the same value serves the `attention` that follows.
    Pages that are `Scaled` are quantised on the way: one scale a token and head, `max |x|` over 127 for
    int8, 7 for int4, 448 and 57,344 for float8 e4m3 and e5m2, then the nearest even of `x / scale`.

    With `rotary` each new key is turned by the angles of its position p before that, in float32 (float64 keys in float64):

        k[i], k[j]  becomes  k[i] · cos[p, c] − k[j] · sin[p, c],  k[j] · cos[p, c] + k[i] · sin[p, c]

    for pair c, (i, j) = (c, c + width / 2), or (2c, 2c + 1) if interleaved. Values are not turned; queries are the caller's.

    Args:
        pages: `Paged`; its arrays are changed.
        k: `[B, T, G, D]`, or `Packed` of `[N, G, D]`.
        v: `[B, T, G, V]`, or `[N, G, V]` beside packed keys.
        rotary: `Rotary(cos, sin)`, tables float32 `[positions, width / 2]`; p is `lengths[b] − T + t` unless it says otherwise.

    Raises:
        Invalid: the tokens do not fit the pages, a table entry is not a page, or a position has no row in `rotary`; nothing
            is written then.

    Error: none, or the rounding to the pages' dtype. A turned number has three roundings to float32 before that, of the two
        products and their sum, and is the same in every room, bit for bit.
    Source: Kwon et al., 2023, arXiv:2309.06180, section 4.1; rotation: Su et al., 2021, arXiv:2104.09864, section 3.4.2.

    >>> import torch
    >>> table, lengths = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([6], dtype=torch.int32)
    >>> pages = Paged(torch.zeros(2, 4, 2, 64), torch.zeros(2, 4, 2, 64), table, lengths, longest=6)
    >>> append(pages, torch.ones(1, 6, 2, 64), torch.ones(1, 6, 2, 64))
    >>> pages.keys[:, :, 0, 0]
    tensor([[1., 1., 0., 0.],
            [1., 1., 1., 1.]])
    """
    writing.append(pages, k, v, rotary)


def explain(
    q: Any, k: Any, v: Any = None, *, mask: Mask = FULL, scale: float | None = None, cap: SoftCap | None = None,
    bias: Any = None, alibi: Alibi | None = None, sink: Sink | None = None, dropout: Dropout | None = None, first: Any = None,
) -> Plan:  # fmt: skip
    """The plan of a call, without running it: which file runs, why, and why nothing better does.

        problem × machine → plan

    Args:
        q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first: as for `attention`.

    Returns:
        A `Plan`: a value that prints, compares and hashes, and that `run` runs.

    Raises:
        Invalid, Unsupported: as for `attention`.

    Error: none; nothing is computed.
    Source: docs/how-it-works/plan.md.

    >>> import torch
    >>> q = torch.randn(1, 3, 8, 64, dtype=torch.float64)
    >>> explain(q, q, q).room
    'reference'
    """
    return face.plan_of(_call(q, k, v, mask, scale, cap, bias, alibi, sink, dropout, first))


def run(plan: Plan, q: Any, k: Any, v: Any = None, *, mask: Mask | None = None, bias: Any = None,
        alibi: Alibi | None = None, sink: Sink | None = None, first: Any = None) -> State:  # fmt: skip
    """Runs a plan that was kept: checked and planned once, run for every layer or step of the same shapes.

        plan × arrays → state

    Args:
        plan: what `explain` returned.
        q, k, v: arrays of the shapes and dtypes the plan was made for.
        mask: needed again only if it holds arrays (`Documents`, `Blocks`, `Tree`, `Dense`).
        bias, alibi, sink, first: given if, and only if, the plan's call had them.

    Returns:
        `State(out, lse)`. No gradient is recorded: that is what `attention_state` is for.

    Raises:
        Invalid: the arrays are not what the plan was made for.

    Error: that of `attention`.
    Source: the plan-and-run habit of FlashInfer, Ye et al., 2025, arXiv:2501.01005, section 3.4.

    >>> import torch
    >>> q = torch.randn(1, 3, 8, 64)
    >>> plan = explain(q, q, q)
    >>> torch.equal(run(plan, q, q, q).out, attention(q, q, q))
    True
    """
    problem = plan.problem
    if not isinstance(problem, Problem):
        raise Invalid(f"run takes the plan of an attention, as explain returns it; got the plan of {problem}")
    if mask is bias is alibi is sink is first is None:
        shortcut = face.kept(plan)
        state = None if shortcut is None else shortcut(q, k, v)
        if state is not None:
            return state
    asked = problem.call
    call = _call(q, k, v, asked.mask if mask is None else mask, asked.scale, asked.cap, bias, alibi, sink, asked.dropout,
                 asked.first if isinstance(asked.first, int) else first)  # fmt: skip
    return face.run(plan, call)


@contextmanager
def using(room: str | None = None, *, invariant: bool = False) -> Generator[None, None, None]:
    """Within the `with`, calls run in the named room, or invariantly, or raise `Unsupported`.

        invariant:   bits of a sequence = f(its queries, its keys)

    Invariantly computed, a query's output and lse have the same bits whatever else is in the batch, however a prompt is cut
    into chunks, whatever a page holds and however many threads there are. Gradients are not part of this. What it costs
    stands in the plan that `explain` prints.

    Args:
        room: "cpu", "sdpa", "hopper", "triton" or "reference"; unless given, as around the `with`.
        invariant: True asks for it; False leaves it as it is around the `with`.

    Raises:
        Invalid: there is no room of that name; neither is asked for.

    Source: docs/how-it-works/rooms.md, docs/how-it-works/split-keys.md.

    >>> import torch
    >>> q = torch.randn(1, 3, 8, 64)
    >>> with using(room="reference"):
    ...     explain(q, q, q).room
    'reference'
    """
    with face.using(room, invariant):
        yield
