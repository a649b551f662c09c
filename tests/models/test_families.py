"""Greedy tokens of every family equal transformers' eager generate, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strobe.engine.engine import Engine
from strobe.engine.request import Sampling
from strobe.models.load import load
from strobe.models.prepare import prepare

from .families import FAMILIES, build, checkpoint, eager, prompts

NEW = 256


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_eager_generate(family: str, tmp_path: Path) -> None:
    model, tokenizer = load(checkpoint(family, tmp_path))
    asked = prompts([3, 21, 40])
    expected = eager(model, asked, NEW)
    # 16 tokens a step: the longer prompts come in pieces beside those that generate already
    engine = Engine(model, tokenizer, pages=80, page_size=8, budget=16, running=4)
    answers = engine.generate(asked, Sampling(max_tokens=NEW, ignore_eos=True))
    assert [list(answer.tokens) for answer in answers] == expected
    assert min(len(set(tokens)) for tokens in expected) > 8, "the reference repeats itself and proves little"
    engine.check_integrity()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_logits_of_packed_prompts_equal_each_alone(family: str) -> None:
    from strobe.cache.pages import Pages
    from strobe.cache.storage import Storage, Widths
    from strobe.cache.tables import Table
    from strobe.engine.scheduler import Sequence, Work
    from strobe.engine.step import build as build_step

    model = build(family)
    asked = prompts([5, 1, 19])
    with torch.inference_mode():
        expected = torch.stack([model(torch.tensor([p])).logits[0, -1] for p in asked])
    prepared = prepare(model)
    book = Pages(16)
    storage = Storage([Widths(x.G, x.D, x.V) for x in prepared.layers], 16, 4, dtype=torch.float32)
    works = []
    for i, tokens in enumerate(asked):
        table = Table(book, 4)
        table.grow(len(tokens))
        works.append(Work(Sequence(i, tokens, len(tokens), 99, table), 0, len(tokens), True))
    step = build_step(works, storage)
    with torch.inference_mode():
        found = prepared.logits(step.ids, step.positions, step.wanted, step)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_prepare_can_be_undone() -> None:
    model = build("llama").train()
    prepared = prepare(model)
    assert model.config._attn_implementation == "strobe" and not model.training
    prepared.undo()
    assert model.config._attn_implementation == "eager" and model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    ids = torch.tensor([[5, 6, 7]])
    model(ids, labels=ids).loss.backward()


def test_prepare_shows_what_each_layer_is() -> None:
    layers = prepare(build("gpt-oss")).layers
    assert [(x.H, x.G, x.D, x.V) for x in layers] == [(4, 2, 16, 16)] * 2
    assert [str(x.terms.mask) for x in layers] == ["Causal() & Window(before=5, after=None)", "Causal()"]
    assert all(x.terms.sink is not None for x in layers)
