"""The public verbs at their edges: kept plans, named rooms, mistakes, and what must not be lost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import strobe
from strobe import (
    Alibi, Causal, Dense, Invalid, Packed, Paged, Ranged, Sink, State, Unsupported, Window, append, attention, attention_state,
    explain, merge, run, using,
)  # fmt: skip

Q, K = torch.randn(2, 3, 4, 16), torch.randn(2, 5, 2, 16)


def test_a_kept_plan_runs_again() -> None:
    plan = explain(Q, K, K, mask=Causal())
    again = torch.randn_like(Q)
    assert torch.equal(run(plan, again, K, K).out, attention(again, K, K, mask=Causal()))


@pytest.mark.parametrize("room", ["reference", "sdpa", "cpu"])
def test_a_kept_plan_runs_again_in_every_room(room: str) -> None:
    again = torch.randn_like(Q)
    with using(room):
        try:
            plan = explain(Q, K, K, mask=Causal())
        except Unsupported as without:  # no compiler, so no compiled library
            pytest.skip(str(without))
        assert plan.room == room
        assert torch.equal(run(plan, again, K, K).out, attention(again, K, K, mask=Causal()))
    assert run(explain(Q[..., :12], K[..., :12], K), Q[..., :12], K[..., :12], K).out.shape == Q.shape  # a width no kernel takes


@pytest.mark.parametrize("other", [torch.randn(2, 4, 4, 16), torch.randn(2, 3, 4, 16).bfloat16(), torch.randn(1, 3, 4, 16)])
def test_a_kept_plan_refuses_other_arrays(other: torch.Tensor) -> None:
    with pytest.raises(Invalid):
        run(explain(Q, K, K), other, K, K)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [lambda x: x[:, :2], lambda x: x.bfloat16(), lambda x: x.transpose(2, 3).contiguous().transpose(2, 3), lambda x: x.to("meta"), lambda _: None],
    ids=["shape", "dtype", "stride", "device", "none"],
)
def test_a_kept_plan_looks_at_each_array(place: int, change: Callable[[torch.Tensor], object]) -> None:
    arrays = [Q, K, torch.randn(2, 5, 2, 16)]
    plan = explain(*arrays)
    arrays[place] = change(arrays[place])  # type: ignore[call-overload]
    with pytest.raises(Invalid):
        run(plan, *arrays)


def test_a_kept_plan_takes_strides_as_they_come() -> None:
    q, k, v = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 5, 16), torch.randn(5, 2, 2, 16)
    plan = explain(Q, K, K, first=2)
    arrays = q.transpose(1, 2), k.transpose(1, 2), v.transpose(0, 1)
    assert torch.equal(run(plan, *arrays).out, attention(*arrays))


def test_a_kept_plan_wants_its_terms_again() -> None:
    plan = explain(Q, K, K, sink=Sink(torch.zeros(4)))
    with pytest.raises(Invalid):
        run(plan, Q, K, K)
    assert run(plan, Q, K, K, sink=Sink(torch.zeros(4))).out.shape == Q.shape


def test_a_room_can_be_asked_for() -> None:
    with using(room="reference"):
        assert explain(Q, K, K).room == "reference"
    with pytest.raises(Invalid, match="no room is called"), using(room="hooper"):
        pass
    with using(room="sdpa"), pytest.raises(Unsupported, match="sdpa: "):
        attention(Q, K, K, sink=Sink(torch.zeros(4)))


def test_the_room_of_one_thread_is_not_anothers() -> None:
    seen: list[str] = []
    with using(room="reference"):
        thread = threading.Thread(target=lambda: seen.append(explain(Q, K, K).room))
        thread.start()
        thread.join()
    assert seen[0] == explain(Q, K, K).room


def _gradient_in_sdpa() -> None:
    with using(room="sdpa"):
        attention(Q.clone().requires_grad_(), K, K).sum().backward()


MISTAKES = {
    "width": (lambda: attention(Q, K[..., :8], K), "one width D"),
    "heads": (lambda: attention(Q[:, :, :3], K, K), "G must divide H"),
    "tokens and heads exchanged": (lambda: attention(Q.transpose(1, 2), K.transpose(1, 2), K.transpose(1, 2)), "exchanged"),
    "batch": (lambda: attention(Q, K[:1], K[:1]), "one batch"),
    "values": (lambda: attention(Q, K, K[:, :4]), "each key has its value"),
    "missing values": (lambda: attention(Q, K), "v is missing"),
    "axes": (lambda: attention(Q[0], K, K), "got 3 axes"),
    "dtype": (lambda: attention(Q, K.half(), K.half()), "one dtype"),
    "integers": (lambda: attention(Q.int(), K, K), "queries are one of"),
    "stride": (lambda: attention(Q.transpose(2, 3).contiguous().transpose(2, 3), K, K), "contiguous"),
    "not an array": (lambda: attention([1.0], K, K), "q is an array"),
    "numpy": (lambda: attention(Q.numpy(), K, K), "q is an array .*got 'a ndarray'. Give a tensor"),
    "numpy values": (lambda: attention(Q, K, K.numpy()), "v is an array .*got 'a ndarray'. Give a tensor"),
    "a rank of five": (lambda: attention(Q[None], K, K), "q is .B, T, H, D.; got 5 axes"),
    "heads of the values": (lambda: attention(Q, K, K.repeat(1, 1, 2, 1)), "k and v differ in their last axis only"),
    "NaN scale": (lambda: attention(Q, K, K, scale=math.nan), "scale is a finite number"),
    "scale of truth": (lambda: attention(Q, K, K, scale=True), "scale is a finite number; got True"),
    "scale in an array": (lambda: attention(Q, K, K, scale=torch.tensor(0.5)), "scale is a finite number; got tensor"),
    "infinite scale": (lambda: attention(Q, K, K, scale=math.inf), "scale is a finite number"),
    "a type for a mask": (lambda: attention(Q, K, K, mask=Causal), r"write Causal\(…\)"),
    "a flag for a mask": (lambda: attention(Q, K, K, mask=True), "mask is a Mask"),
    "an array for a mask": (lambda: attention(Q, K, K, mask=torch.ones(3, 5)), "got float32 \\[3, 5\\]. An array of bool is wrapped as Dense"),
    "composition with a flag": (lambda: Causal() & True, "& joins masks"),
    "composition with an array": (lambda: Causal() & torch.ones(3, 5, dtype=torch.bool), "got a Tensor. An array of bool is wrapped as Dense"),
    "negative window": (lambda: Window(before=-1), "0 or more"),
    "float mask": (lambda: attention(Q, K, K, mask=Dense(torch.zeros(3, 5))), "is bool"),
    "mask shape": (lambda: attention(Q, K, K, mask=Dense(torch.ones(4, 5, dtype=torch.bool))), "Dense.visible is"),
    "bias shape": (lambda: attention(Q, K, K, bias=torch.zeros(7, 5)), "broadcastable"),
    "slopes": (lambda: attention(Q, K, K, alibi=Alibi(torch.ones(3))), "Alibi.slopes"),
    "sink is bare": (lambda: attention(Q, K, K, sink=torch.ones(4)), "sink is a Sink"),
    "first": (lambda: attention(Q, K, K, first=torch.zeros(2)), "first is int32"),
    "one state": (lambda: merge(attention_state(Q, K, K)), "two states or more"),
    "states": (lambda: merge(attention_state(Q, K, K), attention_state(Q[:1], K[:1], K[:1])), "one shape"),
    "device": (lambda: attention(Q, K.to("meta"), K.to("meta")), "one device"),
    "unknown device": (lambda: attention(Q.to("meta"), K.to("meta"), K.to("meta")), "no room runs on the device"),
    "gradient of pages": (lambda: attention(Q, _paged(longest=5, grad=True)), "take no gradient"),
    "longest beyond the table": (lambda: attention(Q, _paged(longest=9)), "hold 8 keys"),
    "length beyond longest": (lambda: attention(Q, _paged(longest=4)), "length"),
    "table out of range": (lambda: attention(Q, _paged(entry=7)), "is not a page"),
    "negative table": (lambda: attention(Q, _paged(entry=-1)), "is not a page"),
    "table of int64": (lambda: attention(Q, _paged(index=torch.int64)), "is int32"),
    "table elsewhere": (lambda: attention(Q, replace(_paged(), table=torch.zeros(2, 2, dtype=torch.int32, device="meta"))), "one device; .* pages.table"),
    "lengths elsewhere": (lambda: attention(Q, replace(_paged(), lengths=torch.zeros(2, dtype=torch.int32, device="meta"))), "one device; .* pages.lengths"),
    "lengths in a list": (lambda: attention(Q, replace(_paged(), lengths=[5, 5])), "pages.lengths is an array"),
    "negative length": (lambda: attention(Q, replace(_paged(), lengths=torch.tensor([-1, 5]).int())), "length.* -1"),
    "append with a negative length": (lambda: append(replace(_paged(), lengths=torch.tensor([-1, 5]).int()), K[:, :1], K[:, :1]), "length.* -1"),
    "append beyond the pages": (lambda: append(replace(_paged(), lengths=torch.tensor([9, 5]).int()), K, K), "length.* 9"),
    "range beyond its array": (lambda: attention(Q, Ranged(K, K, torch.tensor([0, 3]).int(), torch.tensor([5, 5]).int())), "length|range"),
    "a room without gradients": (_gradient_in_sdpa, "sdpa: offers forward attention only"),
    "packed values": (lambda: attention(Packed(Q[0], torch.tensor([0, 3]).int(), 3), Packed(K[0], torch.tensor([0, 5]).int(), 5), Packed(K[0], torch.tensor([0, 5]).int(), 5)), "bare array"),
    "offsets": (lambda: attention(Packed(Q[0], torch.tensor([0, 9]).int(), 3), Packed(K[0], torch.tensor([0, 5]).int(), 5), K[0]), "offsets"),
    "append of another width": (lambda: append(_paged(), K[..., :8], K), "new keys are"),
}  # fmt: skip


def _paged(longest: int = 5, entry: int = 1, index: torch.dtype = torch.int32, grad: bool = False) -> Paged:
    pages = torch.randn(4, 4, 2, 16, requires_grad=grad)
    table = torch.tensor([[0, entry], [2, 3]], dtype=index)
    return Paged(pages, pages, table, torch.tensor([5, 5], dtype=torch.int32), longest)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_error(mistake: str) -> None:
    ask, words = MISTAKES[mistake]
    with pytest.raises((Invalid, Unsupported), match=words):
        ask()


def test_errors_are_what_people_catch() -> None:
    assert issubclass(Invalid, ValueError) and issubclass(Unsupported, NotImplementedError)
    assert issubclass(strobe.Broken, RuntimeError) and issubclass(strobe.CacheFull, RuntimeError)


def test_merge_of_many_is_the_whole() -> None:
    parts = [attention_state(Q, K[:, i : i + 1], K[:, i : i + 1]) for i in range(5)]
    whole = attention_state(Q, K, K)
    found = merge(*parts)
    assert torch.allclose(found.out, whole.out, atol=1e-6) and torch.allclose(found.lse, whole.lse, atol=1e-6)
    assert isinstance(found, State)
