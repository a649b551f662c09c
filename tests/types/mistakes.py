"""Uses that are wrong: a type checker rejects each line that says so, for the reason behind the sign, and no other."""

from __future__ import annotations

import torch

from strobe import Causal, Dropout, Machine, Mask, Paged, Plan, Rotary, SoftCap, State, Window, append, attention, attention_state, explain, merge, run, using

q = torch.zeros(1, 3, 8, 64)

attention(q, q, q, mask=Causal)  # ✗ reportArgumentType
attention(q, q, q, mask=True)  # ✗ reportArgumentType
attention(q, q, q, causal=True)  # ✗ reportCallIssue
attention(q, q, q, Causal())  # ✗ reportCallIssue
attention(q, q, q, cap=30.0)  # ✗ reportArgumentType
attention(q, q, q, scale="auto")  # ✗ reportArgumentType
attention(q, q, q, dropout=0.1)  # ✗ reportArgumentType
attention(q, q, q, sink=q)  # ✗ reportArgumentType
attention(q)  # ✗ reportCallIssue
attention_state(q, q, q).logsumexp  # ✗ reportAttributeAccessIssue
merge(q, q)  # ✗ reportArgumentType
append(q, q, q)  # ✗ reportArgumentType
append(Paged(q, q, q, q, 1), q, q, rotary=(q, q))  # ✗ reportArgumentType
append(Paged(q, q, q, q, 1), q, q, Rotary(q, q))  # ✗ reportCallIssue
Rotary(q, q, interleaved="neighbours")  # ✗ reportArgumentType
run(q, q, q, q)  # ✗ reportArgumentType
explain(q, q, q).kernel  # ✗ reportAttributeAccessIssue
using(backend="cpu")  # ✗ reportCallIssue
Causal() & True  # ✗ reportOperatorIssue
Causal() | Window(before=3)  # ✗ reportOperatorIssue
Window(before=4095.5)  # ✗ reportArgumentType
Window(left=1)  # ✗ reportCallIssue
Causal().picture(3)  # ✗ reportCallIssue
SoftCap()  # ✗ reportCallIssue
Dropout(0.1)  # ✗ reportCallIssue
Machine.named(200)  # ✗ reportArgumentType
Paged(q, q, q, q)  # ✗ reportCallIssue
Paged(q, q, q, q, longest=q)  # ✗ reportArgumentType
Causal().plain = True  # ✗ reportAttributeAccessIssue


def frozen(plan: Plan, mask: Window, state: State) -> Mask:
    plan.room = "cpu"  # ✗ reportAttributeAccessIssue
    mask.before = 3  # ✗ reportAttributeAccessIssue
    state.out = q  # ✗ reportAttributeAccessIssue
    return "causal"  # ✗ reportReturnType
