"""The exchange of a model's linears: which calls it answers, with what, and that it is undone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe import Unsupported
from strobe.engine.engine import Engine
from strobe.engine.request import Sampling
from strobe.machine import Machine, compiled_library
from strobe.models import linears
from strobe.models.linears import ARCHS, AS_LOADED, AsLoaded, Exchanged, Int8, Rounded, described, exchange, rounded
from strobe.models.prepare import prepare

from .families import build, tokenizer

here = compiled_library() is not None and Machine.cpu(1).arch in ARCHS
needs_library = pytest.mark.skipif(not here, reason="needs the compiled CPU library")


def model(dtype: torch.dtype = torch.bfloat16, family: str = "llama") -> Any:
    return build(family).to(dtype)


class Counted:
    """Counts the calls that the compiled product answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        honest = Exchanged.launch

        def launch(one: Exchanged, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
            self.rows.append(x.numel() // x.shape[-1])
            return honest(one, x, weight, scales)

        monkeypatch.setattr(Exchanged, "launch", launch)


@needs_library
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_few_rows_are_ours_and_many_are_torchs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    module = nn.Linear(40, 24, dtype=dtype)
    plain = copy.deepcopy(module)
    module.forward = Exchanged(module).forward
    for shape, ours in (((40,), True), ((1, 1, 40), True), ((1, 8, 40), True), ((2, 4, 40), True), ((9, 40), False), ((0, 40), False)):
        x = torch.randn(shape, dtype=dtype)
        with torch.inference_mode():
            found, wanted = module(x), plain(x)
        assert found.shape == wanted.shape and len(counted.rows) == ours
        torch.testing.assert_close(found, wanted)
        counted.rows.clear()


@needs_library
def test_what_it_cannot_do_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    one = Exchanged(nn.Linear(8, 4, dtype=torch.bfloat16))
    x = torch.randn(2, 8, dtype=torch.bfloat16, requires_grad=True)
    one.forward(x).sum().backward()
    assert x.grad is not None and one.module.weight.grad is not None
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            one.forward(torch.randn(2, 8))
        with pytest.raises(RuntimeError):
            one.forward(torch.randn(2, 4, dtype=torch.bfloat16))
        one.module.weight = nn.Parameter(torch.randn(8, 4, dtype=torch.bfloat16).T)
        one.forward(torch.randn(2, 8, dtype=torch.bfloat16))
    assert counted.rows == []


@needs_library
@pytest.mark.parametrize("weights", (AS_LOADED, Int8()), ids=str)
def test_undo_restores(weights: AsLoaded | Int8) -> None:
    subject = model()
    before = [(module, dict(vars(module))) for module in subject.modules() if isinstance(module, nn.Linear)]
    bits = [module.weight.clone() for module, _ in before]
    prepared = prepare(subject, weights)
    assert all("forward" in vars(module) for module, _ in before)
    prepared.undo()
    assert all("forward" not in vars(module) for module, _ in before)
    assert all(torch.equal(module.weight, was) for (module, _), was in zip(before, bits, strict=True))


@needs_library
def test_the_last_prepare_counts_and_undo_goes_back_a_step() -> None:
    subject = model()
    first, second = prepare(subject), prepare(subject, Int8())
    head = subject.lm_head
    assert isinstance(head.forward.__self__, Rounded)
    second.undo()
    assert type(head.forward.__self__) is Exchanged
    first.undo()
    assert "forward" not in vars(head)


@needs_library
def test_a_copy_answers_for_its_own_weights() -> None:
    subject = model()
    prepare(subject)
    other = copy.deepcopy(subject)
    assert other.lm_head.forward.__self__.module is other.lm_head


@needs_library
def test_tied_heads_and_forwards_of_others() -> None:
    subject = model()
    subject.lm_head.weight = subject.get_input_embeddings().weight
    special = subject.model.layers[0].mlp.up_proj
    own = special.forward
    special.forward = own
    prepare(subject, Int8())
    assert special.forward is own, "whoever gave it a forward keeps it"
    assert isinstance(subject.lm_head.forward.__self__, Rounded)
    assert subject.lm_head.weight is subject.get_input_embeddings().weight and subject.lm_head.weight.dtype == torch.bfloat16


def test_float32_stays_with_torch() -> None:
    subject = model(torch.float32)
    prepare(subject)
    assert not any("forward" in vars(module) for module in subject.modules())


def test_rounding_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(33, 50, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 33)[:, None]
    weight[5] = 0
    found, scales = rounded(weight)
    assert found.dtype == torch.int8 and found.shape == (33, 50) and int(found.abs().max()) == 127
    assert ((found * scales[:, None] - weight).abs() <= scales[:, None] / 2 * (1 + 1e-5)).all()


@needs_library
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_int8_weights_compute_what_they_say(dtype: torch.dtype) -> None:
    module = nn.Linear(96, 40, dtype=dtype)
    one = Rounded(module)
    x = torch.randn(3, 96, dtype=dtype)
    exact = x.double() @ (one.weight.double() * one.scales.double()[:, None]).T + module.bias.detach().double()
    with torch.inference_mode():
        found, whole = one.forward(x), module(x).double()
    assert float((found.double() - exact).norm() / exact.norm()) <= 2 * torch.finfo(dtype).eps
    assert float((found.double() - whole).norm() / whole.norm()) < 0.02


@needs_library
@pytest.mark.parametrize("family", ("llama", "qwen3", "gemma2", "olmo2"))
def test_a_model_in_bfloat16_is_as_exact_as_with_torchs_linears(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, not tokens: a rounding may turn a near tie."""
    subject, ids = model(family=family), torch.arange(3, 11)[None]
    plain = copy.deepcopy(subject)
    counted = Counted(monkeypatch)
    exchange(subject, AS_LOADED)
    with torch.inference_mode():
        found, wanted = (one(input_ids=ids).logits.float() for one in (subject, plain))
        truth = build(family).to(torch.bfloat16).double()(input_ids=ids).logits
    assert counted.rows
    assert float((found - truth).norm()) <= 2 * float((wanted - truth).norm())


@needs_library
def test_an_engine_with_int8_weights_generates() -> None:
    engine = Engine(model(torch.float32), tokenizer(), pages=16, page_size=4, weights=Int8())
    (answer,) = engine.generate(["the cat"], Sampling(max_tokens=5))
    assert len(answer.tokens) == 5 and engine.model.weights == Int8()


def test_int8_is_refused_where_nothing_computes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "ARCHS", ())
    subject = model()
    with pytest.raises(Unsupported, match="int8 weights need the compiled library"):
        prepare(subject, Int8())
    assert subject.config._attn_implementation == "eager", "a refusal leaves nothing behind"
    assert exchange(subject, AS_LOADED) == [] and described() == "torch's"


@needs_library
def test_the_doctor_names_them() -> None:
    from strobe.lab.doctor import facts

    assert "bfloat16" in dict(facts())["linears"] and "linear.cpp" in dict(facts())["linears"]
