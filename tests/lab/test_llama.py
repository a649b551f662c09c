"""llama.cpp as a peer: it runs the same model, takes transformers' cache, and where it is absent the rows say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from strobe import Broken, Invalid
from strobe.cli import main
from strobe.lab import conventional, llama, llama_file, model, report, results

pytestmark = pytest.mark.models
TINY = {**model.SHAPE, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 512, "vocab_size": 1000}
KINDS = ("float32", "bfloat16", "float16")
needs_llama = pytest.mark.skipif(not llama.available(), reason="this machine has no llama-cpp-python, or no gguf")
WORDS = "bench model --layers 2 --contexts 40 --tokens 3 --rounds 1 --threads 1 --dtype float32"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHAPE", TINY)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # two that wait for each other on a busy machine take seconds a token


def drawn(dtype: str, **changes: Any) -> Any:
    """A model of two layers whose norms and head's scores are far from one and from each other."""
    found = model.build(2, dtype, 0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            _ = parameter.uniform_(0.5, 1.5, generator=g) if parameter.ndim == 1 else parameter.mul_(2)
    for name, value in changes.items():
        setattr(found.config, name, value)
    return found


def prompt(count: int) -> list[int]:
    return torch.randint(0, TINY["vocab_size"], (count,), generator=torch.Generator().manual_seed(2)).tolist()


def last_logits(given: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return given(input_ids=torch.tensor([ids])).logits[0, -1].double()


def logits_of(given: Any, ids: list[int]) -> torch.Tensor:
    with llama.opened(given) as peer:
        peer.prepare(ids[:2], len(ids), None)
        peer.answer(ids[:1], 0)  # forgets all
        return peer.logits(ids).double()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@needs_llama
def test_llama_computes_the_same_model(kind: str) -> None:
    """Its error against float64 is at most transformers' own in this dtype, in float16 for a float32 model, as its cache is."""
    given, ids = drawn(kind), prompt(70)
    truth = last_logits(drawn(kind).double(), ids)
    plain = last_logits(drawn(kind).half() if kind == "float32" else given, ids)
    assert (logits_of(given, ids) - truth).abs().max() <= (plain - truth).abs().max()


@needs_llama
@pytest.mark.parametrize("changes", [{"rms_norm_eps": 0.1}, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}], ids=lambda c: next(iter(c)))
def test_another_model_is_told_apart(changes: dict[str, Any]) -> None:
    ids = prompt(70)
    truth = last_logits(drawn("float32").double(), ids)
    assert (logits_of(drawn("float32", **changes), ids) - truth).abs().max() > 0.1 * truth.abs().max()


@needs_llama
def test_its_tokens_are_transformers_also_after_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    given, ids = drawn("float32"), prompt(70)
    wanted = conventional.generate(given, ids, 8, "sdpa").tokens
    with llama.opened(given) as peer:
        assert isinstance(peer.prepare(ids, 8, None), float)
        assert [peer.answer(ids, 8).tokens for _ in range(2)] == [wanted] * 2
        monkeypatch.setattr(llama, "OWN", 10)
        cache = conventional.prefilled(given, ids, "sdpa")
        assert peer.prepare(ids, 8, cache) == "not timed: its cache is transformers'"
        told = peer.answer(ids, 8)
        assert told.tokens == wanted and len(told.token_s) == 7 and told.cache_bytes >= 2 * 77 * 2 * 2 * 4 * 64  # layers, tokens, bytes, keys and values
        with torch.inference_mode():
            cache.layers[1].keys[:, :, 2] *= 2
        with pytest.raises(Broken, match="keys and values of the first 4 tokens are .*% away from transformers'"):
            peer.prepare(ids, 8, cache)


@needs_llama
def test_a_cache_in_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given, ids = drawn("float32"), prompt(20)
    honest = llama.packed
    monkeypatch.setattr(llama, "OWN", 10)
    monkeypatch.setattr(llama, "packed", lambda magic, layers: honest(magic, layers) + b"more")
    with llama.opened(given) as peer, pytest.raises(Broken, match="writes its cache in another way"):
        peer.prepare(ids, 8, conventional.prefilled(given, ids, "sdpa"))


@needs_llama
def test_the_file_holds_the_models_numbers(kind: str, tmp_path: Path) -> None:
    from gguf import GGUFReader

    given = drawn(kind)
    llama_file.write(tmp_path / "model.gguf", given)
    file = GGUFReader(tmp_path / "model.gguf")
    assert {field.rsplit(".", 1)[1]: file.fields[field].contents() for field in file.fields if field.startswith("qwen3.")} | {"rope": 0} == {
        "context_length": 40_960, "embedding_length": 256, "block_count": 2, "feed_forward_length": 512, "head_count": 8, "head_count_kv": 4, "key_length": 64,
        "value_length": 64, "layer_norm_rms_epsilon": pytest.approx(1e-6), "freq_base": 1e4, "vocab_size": 1000, "rope": 0,
    }  # fmt: skip
    wanted = dict(llama_file.tensors(given))
    assert {tensor.name for tensor in file.tensors} == set(wanted)
    for tensor in file.tensors:
        assert bytes(tensor.data) == bytes(wanted[tensor.name].view(torch.uint8).numpy())


def test_what_has_no_name_or_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no name in GGUF is known for the parameter model.layers.0.mlp.gate.weight"):
        llama_file.name_of("model.layers.0.mlp.gate.weight")
    pytest.importorskip("gguf", reason="this machine has no gguf")
    for changes, says in (({"model_type": "llama"}, "written of qwen3; got llama"), ({"rope_parameters": {"rope_type": "yarn"}}, "got yarn")):
        with pytest.raises(Invalid, match=says):
            llama_file.write(tmp_path / "model.gguf", drawn("float32", **changes))


def test_a_cache_comes_back_from_its_bytes() -> None:
    layers = [torch.randn(2, 3, 4).half() for _ in range(6)]
    again = llama.unpacked(bytes(llama.packed(b"ggsq", layers)), layers)
    assert all(torch.equal(a, b) for a, b in zip(again, layers, strict=True))


@needs_llama
def test_llama_has_its_numbers_in_the_rows(tmp_path: Path) -> None:
    assert main([*WORDS.split(), "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/model.json")
    speed, cache, first = results.read(path)["rows"]
    assert all(row["peers"]["llama.cpp"] > 0 for row in (speed, cache, first)) and "AVX" in speed["llama.cpp"]
    assert results.read(path)["versions"]["llama-cpp-python"]


def test_where_it_is_absent_the_rows_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(llama, "available", lambda: False)
    assert main([*WORDS.split(), "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-1t/model.json")
    rows = results.read(path)["rows"]
    assert [row["peers"]["llama.cpp"] for row in rows] == ["not installed"] * 3 and all(row["peers"]["transformers sdpa"] > 0 for row in rows)
    assert capsys.readouterr().out.count("not installed") == 2


def test_without_memory_the_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "available", lambda: True)
    monkeypatch.setattr(model, "available_bytes", lambda: 4 << 30)
    assert model.absent(28, 1024, "bfloat16") is None
    assert model.absent(28, 65_536, "bfloat16") == "not measured: there is no memory for its cache"


def test_a_peer_that_a_row_does_not_know_is_an_empty_place() -> None:
    row = {"case": "a", "unit": "ms", "strobe": 1.0, "peers": {"transformers sdpa": 2.0, "llama.cpp": 3.0}, "floor": 0.5, "tokens": 4, "tokens_the_same": {}}
    other = {**row, "case": "b", "peers": {"transformers sdpa": 2.0, "llama.cpp": "not measured"}}
    more = {**row, "case": "c", "peers": {"transformers sdpa": 2.0, "transformers eager": 9.0}}
    sizes = [{**each, "unit": "MiB", "peers": {"transformers sdpa": 7.0, "llama.cpp": 8.0}} for each in (row, other, more)]
    headings, lines = report.engine_table([row, other, more, *sizes])
    assert headings[2:5] == ["transformers sdpa", "llama.cpp", "transformers eager"] and headings[7] == "cache, transformers"
    assert [line[2:5] for line in lines] == [["2.00 ms", "3.00 ms", ""], ["2.00 ms", "not measured", ""], ["2.00 ms", "", "9.00 ms"]]
    assert {line[7] for line in lines} == {"7.0 MiB"}
