"""Uses that are meant: a type checker accepts every line of this file."""

from __future__ import annotations

from typing import Any

import torch

from strobe import (
    Alibi,
    Blocks,
    Causal,
    Dense,
    Documents,
    Dropout,
    Full,
    Invalid,
    Machine,
    Mask,
    Packed,
    Paged,
    Plan,
    Prefix,
    Ranged,
    Rotary,
    Scaled,
    Sink,
    SoftCap,
    State,
    StrobeError,
    Tree,
    Window,
    append,
    attention,
    attention_state,
    explain,
    merge,
    run,
    using,
)


def calls(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: torch.Tensor) -> None:
    attention(q, k, v)
    attention(q, k, v, mask=Causal() & Window(before=4095), scale=0.5, cap=SoftCap(30.0), bias=q)
    attention(q, k, v, alibi=Alibi(q), sink=Sink(q), dropout=Dropout(0.1, seed=1), first=0)
    attention(q, Ranged(k, v, index, index), first=index)
    attention(q, Paged(k, v, index, index, longest=5))
    attention(Packed(q, index, longest=3), Packed(k, index, longest=5), v)
    attention(q, Scaled(k, v), Scaled(v, k))


def states(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> State:
    state: State = attention_state(q, k, v)
    out, lse = state
    whole = merge(state, State(out, lse), state)
    rows: Any = whole.out[0]
    return State(rows, whole.lse)


def plans(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: Paged) -> str:
    plan: Plan = explain(q, k, v, mask=Causal())
    state: State = run(plan, q, k, v)
    nothing: None = append(pages, k, v)
    append(pages, Packed(k, q, longest=3), v, rotary=Rotary(q, q, positions=k, interleaved=True))
    with using(room="reference"):
        attention(q, k, v)
    kept: dict[Plan, State] = {plan: state}
    return f"{plan.room} {plan.file} {plan.offer.why} {plan.machine.arch} {len(kept)} {nothing}"


def masks(ids: torch.Tensor, kept: torch.Tensor) -> list[Mask]:
    composed: Mask = Full() & Causal() & Prefix(3)
    low, high = composed.bounds(0, 3, 9)
    drawn: str = composed.picture(low, high)
    assert drawn
    return [composed, Documents(ids, ids), Blocks(kept, rows=64, columns=64), Tree(kept), Dense(kept), Prefix(ids)]


def machines() -> tuple[str, ...]:
    here: Machine = Machine.cpu(threads=2)
    return Machine.named("h200").name, here.arch, *here.notes


def errors(q: torch.Tensor) -> str:
    try:
        attention(q, q, q)
    except Invalid as mistake:
        as_value_error: ValueError = mistake
        return str(as_value_error)
    except StrobeError as error:
        return str(error)
    return ""
