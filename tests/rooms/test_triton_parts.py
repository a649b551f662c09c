"""Keys in parts in the Triton room: what the desk chooses, that ragged batches come out right, and that invariant bits are invariant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from strobe import Alibi, Causal, Dropout, Full, Mask, Sink, Window
from strobe.answers import Offer, Refusal
from strobe.backends.triton import splitting
from strobe.backends.triton.offer import offer
from strobe.faces.torch import _described
from strobe.layouts import Dense as Keys
from strobe.machine import Machine
from strobe.problem import Call, Problem, check
from strobe.rooms import kernel
from strobe.plan import plan
from strobe.state import State

from ..contract.cases import Case, build
from ..contract.rooms import interpreted, machine
from ..contract.tolerance import allowed, error, plain
from . import own_bits

H200 = Machine.named("h200")
needs_interpreter = pytest.mark.skipif(not interpreted(), reason="this machine has no Triton, or a GPU that runs it")


def called(B: int, T: int, S: int, keys: str = "dense", lengths: tuple[int, ...] = (), mask: Mask | None = None, **more: object) -> Call:
    return build(Case("parts", B, T, S, 8, 2, 64, keys=keys, mask=mask or Causal(), lengths=lengths, **more), "float32")  # type: ignore[arg-type]


def problem(call: Call, invariant: bool = False) -> Problem:
    return replace(check(_described(call)), invariant=invariant)


SMALL = replace(H200, units=4)  # the interpreter takes milliseconds a program


def decoded(call: Call, invariant: bool = False) -> State:
    chosen = plan(problem(call, invariant), SMALL, "triton")
    return kernel("triton", chosen.offer.kernel).launch(chosen, call)


def meant(call: Call) -> State:
    chosen = plan(problem(call), machine("reference"), "reference")
    return kernel("reference", chosen.offer.kernel).launch(chosen, call)


LONG = (3000, 1, 0, 700, 1500)


@pytest.mark.parametrize(
    ("B", "T", "S", "keys", "lengths", "kind"),
    [
        (1, 1, 8192, "dense", (), "even"),
        (1, 1, 300, "dense", (), "whole"),
        (64, 1, 8192, "dense", (), "even"),
        (200, 1, 8192, "dense", (), "whole"),
        (5, 1, 3000, "ranged", LONG, "ragged"),
        (5, 3, 3000, "paged 16", LONG, "ragged"),
        (5, 1, 1000, "ranged", (1000, 1, 0, 700, 1000), "even"),
        (1, 1, 3000, "ranged", (3000,), "even"),
        (5, 1000, 3000, "ranged", (3000, 1000, 2000, 1700, 1500), "whole"),
    ],
)  # fmt: skip
def test_the_desk_cuts_what_would_leave_the_chip_idle(B: int, T: int, S: int, keys: str, lengths: tuple[int, ...], kind: str) -> None:
    asked = problem(called(B, T, S, keys, lengths))
    found, answer = splitting.chosen(asked, H200), offer(asked, H200)
    assert found.kind == kind and isinstance(answer, Offer) and answer.splits == found.parts
    assert answer.workspace_bytes == 4 * found.slots(B) * T * 8 * 66
    assert ("even share(s)" in answer.why) == (kind == "ragged")


def test_a_window_is_what_is_cut() -> None:
    asked = problem(called(2, 1, 8192, "ranged", (8192, 5000), Causal() & Window(before=600)))
    assert splitting.reach(asked) == 601 and splitting.chosen(asked, H200).kind == "even"


def test_invariance_is_offered_where_it_can_be_kept() -> None:
    call = called(2, 1, 8192, "ranged", (8192, 5000))
    answer = offer(problem(call, True), H200)
    assert isinstance(answer, Offer) and "cuts at fixed keys" in answer.why and answer.splits == 24
    for asked, why in (
        (problem(called(1, 8, 64, dropout=Dropout(0.1, 1)), True), "place in the batch"),
        (replace(problem(called(1, 8, 64), True), verb="backward"), "only forward attention is invariant"),
    ):
        refused = offer(asked, H200)
        assert isinstance(refused, Refusal) and why in "; ".join(refused.reasons)


def test_parts_at_fixed_cuts_are_as_many_as_the_device_counts() -> None:
    cuts = [i * 256 if i < 16 else i * 512 - 4096 if i < 24 else i * 2048 - 40960 for i in range(200)]
    for S in (0, 1, 255, 256, 257, 4095, 4096, 4097, 4608, 4609, 8191, 8192, 8193, 10240, 10241, 100000):
        assert splitting.fixed_parts(S) == max(1, sum(cut < S for cut in cuts)), S


@needs_interpreter
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize(
    ("keys", "T", "mask"),
    [
        ("ranged", 1, Causal()), ("ranged", 3, Causal() & Window(before=1100)), ("paged 16", 1, Causal() & Window(before=1100)),
        ("paged 16", 3, Full()), ("paged 1", 1, Causal()), ("packed", 3, Causal()),
    ],
    ids=str,
)  # fmt: skip
def test_ragged_batches(keys: str, T: int, mask: Mask, invariant: bool) -> None:
    lengths = (1, 1300, 700) if keys == "packed" else (1, 1300, 0, 700)
    call = called(len(lengths), T, 1300, keys, lengths, mask, terms=("sink",) if keys == "ranged" else ())
    asked = problem(call, invariant)
    assert splitting.chosen(asked, SMALL).kind == ("fixed" if invariant else "ragged")
    true, (plain_out, _) = meant(call), plain(call, asked)
    state = decoded(call, invariant)
    assert error(state.out, true.out) <= allowed(error(plain_out, true.out), "float32", "triton") and error(state.lse, true.lse) < 2e-6


@pytest.fixture
def products_by_row() -> Iterator[None]:
    """The interpreter's products are numpy's, whose bits depend on where in a tile a row is; a GPU's do not."""
    from triton.runtime import interpreter

    def product(_: object, a: interpreter.TensorHandle, b: interpreter.TensorHandle, d: interpreter.TensorHandle, *__: object) -> object:
        x, y = a.data.astype(np.float32), b.data.astype(np.float32)
        return interpreter.TensorHandle(np.add.reduce(x[:, :, None] * y[None], 1) + d.data, d.dtype.scalar)

    with patch.object(interpreter.InterpreterBuilder, "create_dot", product):
        yield


@needs_interpreter
@pytest.mark.usefixtures("products_by_row")
@pytest.mark.parametrize(("dtype", "mask"), [(torch.float32, Causal()), (torch.float16, Causal() & Window(before=300))], ids=str)
def test_a_sequences_bits_are_its_own(dtype: torch.dtype, mask: Mask) -> None:
    torch.manual_seed(0)
    q, *own = (torch.randn(n, heads, 64).to(dtype) for n, heads in ((20, 2), (600, 1), (600, 1)))
    own_bits.same(lambda call: decoded(call, True), q, (own[0], own[1]), mask, 3, 600, (1, 16, 100))


@needs_interpreter
@pytest.mark.usefixtures("products_by_row")
@pytest.mark.parametrize("terms", [{"alibi": Alibi(torch.rand(4))}, {"sink": Sink(torch.randn(4))}], ids=["alibi", "sink"])
def test_terms_do_not_change_that(terms: dict[str, object]) -> None:
    torch.manual_seed(0)
    q, *own = (torch.randn(n, heads, 64) for n, heads in ((9, 4), (700, 2), (700, 2)))
    whole = decoded(Call(q[None], Keys(own[0][None], own[1][None]), Causal(), **terms), True)  # type: ignore[arg-type]
    last = decoded(Call(q[None, -2:], Keys(own[0][None], own[1][None]), Causal(), **terms), True)  # type: ignore[arg-type]
    assert torch.equal(whole.out[:, -2:], last.out) and torch.equal(whole.lse[:, -2:], last.lse)
