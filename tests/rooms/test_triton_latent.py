"""Latent attention in the Triton room: keys of 512 + 64 numbers, whose first 512 are the values, in one array or in two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strobe import Causal, Paged, Ranged
from strobe.answers import Offer, Refusal
from strobe.backends.triton.offer import offer
from strobe.faces.torch import _described
from strobe.layouts import Dense
from strobe.machine import Machine
from strobe.plan import plan
from strobe.problem import Call, Problem, check, key_sides, map_arrays
from strobe.rooms import kernel
from strobe.state import State

from ..contract.rooms import back, interpreted, machine, moved, on_a_gpu
from ..contract.tolerance import allowed, error, plain

arguments = pytest.importorskip("strobe.backends.triton.arguments", reason="this machine has no Triton")
needs_triton = pytest.mark.skipif(not (interpreted() or on_a_gpu("triton")), reason="this machine has no Triton, or a GPU that runs it")
D, V = 576, 512


def problem(call: Call) -> Problem:
    return check(_described(call))


def called(layout: str, dtype: torch.dtype, lengths: tuple[int, ...], H: int, T: int) -> Call:
    """Queries, and keys with values that are a part of them; NaN where no sequence has a key."""
    B, S = len(lengths), max(lengths)
    q, counts = torch.randn(B, T, H, D).to(dtype), torch.tensor(lengths, dtype=torch.int32)
    if layout == "paged":
        columns = -(-S // 16)
        pool, table = torch.randn(B * columns, 16, 1, D).to(dtype), torch.randperm(B * columns).view(B, columns).int()
        for b, length in enumerate(lengths):
            for n in range(length, columns * 16):
                pool[table[b, n // 16], n % 16] = float("nan")
        return Call(q, Paged(pool, pool[..., :V], table, counts, S), Causal())
    k = torch.randn(B, S, 1, D).to(dtype)
    if layout == "dense":
        return Call(q, Dense(k, k[..., :V]), Causal())
    for b, length in enumerate(lengths):
        k[b, length:] = float("nan")
    return Call(q, Ranged(k, k[..., :V], torch.zeros_like(counts), counts), Causal())


def in_one(call: Call) -> Call:
    """The call with values that are a part of the keys again, wherever those were moved."""
    keys = call.keys
    if isinstance(keys, Paged):
        return call._replace(keys=replace(keys, values=keys.keys[..., :V]))
    assert isinstance(keys, Dense | Ranged)
    return call._replace(keys=replace(keys, v=keys.k[..., :V]))


def launched(room: str, call: Call) -> State:
    chosen = plan(problem(call), machine(room), room)
    return kernel(room, chosen.offer.kernel).launch(chosen, call)


@needs_triton
@pytest.mark.parametrize(("layout", "lengths"), [("dense", (200,)), ("ranged", (200, 33)), ("paged", (200, 1, 90))])
@pytest.mark.parametrize(("H", "T", "dtype"), [(16, 3, torch.float32), (128, 1, torch.float16)], ids=str)
def test_values_may_be_a_part_of_the_keys(H: int, T: int, dtype: torch.dtype, layout: str, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    call = called(layout, dtype, lengths, H, T)
    true, (plain_out, _) = launched("reference", call), plain(call, problem(call))
    most = allowed(error(plain_out, true.out), str(dtype).removeprefix("torch."), "triton")
    apart = moved("triton", call._replace(keys=map_arrays(call.keys, lambda x: x.clone())))
    for given, one in ((in_one(apart), True), (apart, False)):
        assert arguments.one_array(problem(call), *key_sides(given.keys)) == one
        state = back(launched("triton", given))
        assert error(state.out, true.out) <= most and error(state.lse, true.lse) < 1e-5


def test_the_desk_takes_their_widths_forward_alone() -> None:
    h200 = Machine.named("h200")
    q, k, v = (torch.empty(1, n, heads, width, dtype=torch.bfloat16, device="meta") for n, heads, width in ((1, 128, D), (4096, 1, D), (4096, 1, V)))
    answer = offer(problem(Call(q, Dense(k, v), Causal())), h200)
    assert isinstance(answer, Offer) and answer.tile == (64, 32) and answer.splits == 16
    t4 = offer(problem(Call(q.half(), Dense(k.half(), v.half()), Causal())), Machine.named("t4"))
    assert isinstance(t4, Refusal) and "no tile of D=576, V=512 in float16 fits the 64 KiB" in "; ".join(t4.reasons)
    for of_q, of_k, of_v, says in ((q, k, k, "up to 512; got 576"), (q[..., :520], k[..., :520], k[..., :520], "got 520")):
        refused = offer(problem(Call(of_q, Dense(of_k, of_v), Causal())), h200)
        assert isinstance(refused, Refusal) and says in "; ".join(refused.reasons)
