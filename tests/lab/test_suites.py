"""The suites `model` and `training` on tiny shapes: rows with numbers, and nothing where losses go apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from strobe import Broken
from strobe.cli import main
from strobe.lab import model, results, training

pytestmark = pytest.mark.models
TINY = {**model.SHAPE, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 200}


def test_the_shape_is_the_models() -> None:
    assert (model.LAYERS, model.SHAPE["hidden_size"], model.SHAPE["vocab_size"]) == (28, 1024, 151_936)


def test_a_whole_model_is_raced_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHAPE", TINY)
    words = "bench model --layers 2 --contexts 40 --tokens 2 --rounds 1 --threads 1 --dtype float32"
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/model.json")
    speed, cache, first = results.read(path)["rows"]
    assert speed["case"] == "engine qwen3-0.6b of 2 layers float32 context 40 1T" and "bars" not in speed
    assert (cache["unit"], first["unit"]) == ("MiB", "s") and "transformers eager" not in speed["peers"]
    assert all(row["strobe"] > 0 and row["peers"]["transformers sdpa"] > 0 for row in (speed, cache, first))


def test_a_context_of_the_whole_model_has_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHAPE", TINY)
    monkeypatch.setattr(model, "LAYERS", 1)
    monkeypatch.setattr(model, "BARS", {8: {"transformers sdpa": 1.25}})
    (eight, nine) = ([row.more.get("bars") for row in rows] for rows in model.measure(1, "float32", (8, 9), 1, 1))
    assert eight == [{"transformers sdpa": 1.25}, None, None] and nine == [None] * 3


def test_both_attentions_learn_the_same() -> None:
    models = dict(zip(("strobe", training.PEER), training.pair(), strict=True))
    seconds, losses = training.steps_of(models, 3, 2, 40)
    assert list(losses) == ["strobe", "torch sdpa"] and all(len(values) == 3 for values in seconds.values())
    for a, b in zip(*losses.values(), strict=True):
        assert abs(a - b) < 1e-4 * b
    assert losses["strobe"][0] != losses["strobe"][1]


def test_losses_that_go_apart_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training.layers_attention()

    def off(*arguments: Any, **more: Any) -> tuple[Any, None]:
        return honest(*arguments, **more)[0] * 3, None

    monkeypatch.setattr(training, "layers_attention", lambda: off)
    with pytest.raises(Broken, match="in 4; a rounding of the weights makes"):
        list(training.measure(4, 1, 40))


@pytest.mark.alone
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this machine does not tell a process's peak")
def test_the_plain_way_takes_the_memory_of_its_scores() -> None:
    ours, plain = (training.peak_mib(way, 2048) for way in ("strobe", "plain"))
    assert plain > 4 * 2048 * 2048 * 4 * 2 / 2**20 > 2 * ours > 0  # scores and weights of four heads, at the least
