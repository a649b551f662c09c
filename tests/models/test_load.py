"""What is wrong with a checkpoint folder is said before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from strobe import Invalid, Unsupported
from strobe.models.load import load
from strobe.models.prepare import prepare

from .families import build, checkpoint, tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_good_folder_loads_in_its_dtype(copy: Path) -> None:
    model, words = load(copy)
    assert model.dtype == torch.float32 and not model.training
    assert words.decode(words.encode("the cat")) == "the cat"
    assert load(copy, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_an_unknown_dtype(good: Path) -> None:
    with pytest.raises(Invalid, match="dtype is one of"):
        load(good, dtype="float31")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no folder"):
        load(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder(good: Path) -> None:
    with pytest.raises(Invalid, match="is a file"):
        load(good / "config.json")


def test_a_folder_that_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no config.json"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{"])
def test_a_config_that_is_not_json(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)
    with pytest.raises(Invalid, match="not JSON"):
        load(copy)


@pytest.mark.parametrize("family", [None, 5, ["llama"], ""])
def test_a_config_without_a_family(copy: Path, family: object) -> None:
    edit(copy, model_type=family)
    with pytest.raises(Invalid, match="model_type"):
        load(copy)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "wide"}, {"num_attention_heads": 0}, {"hidden_act": "foo"}, {"architectures": 5}, {"dtype": "float31"},
        {"rope_parameters": {"rope_type": "foo"}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_config_of_numbers_that_make_no_model(copy: Path, wrong: dict[str, object]) -> None:
    edit(copy, **wrong)
    with pytest.raises(Invalid, match="is not a configuration of llama|no model is made of the configuration"):
        load(copy)


def test_weights_that_need_another_package(copy: Path) -> None:
    edit(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(Invalid, match="need a package that is not here"):
        load(copy)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", None, 1.5])
def test_a_device_that_is_not_here_is_named_before_weights_are_read(copy: Path, device: object) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(Invalid, match="device"):
        load(copy, device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", [None, 5])
def test_a_folder_is_a_path(folder: object) -> None:
    with pytest.raises(Invalid, match="by its folder's path; got"):
        load(folder)  # type: ignore[arg-type]


def test_an_unknown_family(copy: Path) -> None:
    edit(copy, model_type="lama")
    with pytest.raises(Invalid, match="'lama' is not known"):
        load(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(Invalid, match="has no weights"):
        load(copy)


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -1000])
def test_truncated_weights(copy: Path, keep: int) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Invalid, match="truncated"):
        load(copy)


def test_weights_with_a_tail(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"tail")
    with pytest.raises(Invalid, match="damaged"):
        load(copy)


def test_a_damaged_header(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8] = 0
    path.write_bytes(data)
    with pytest.raises(Invalid, match="its header"):
        load(copy)


def framed(header: object) -> bytes:
    """A safetensors file of a header and nothing else."""
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data


@pytest.mark.parametrize(
    "header",
    [
        [], {"a": {}}, {"a": []}, {"a": {"data_offsets": "x"}}, {"a": {"dtype": "F32", "shape": [], "data_offsets": ["0", "0"]}},
        {"a": {"data_offsets": [0, 0]}}, {"a": {"dtype": 5, "shape": [0], "data_offsets": [0, 0]}},
    ],
)  # fmt: skip
def test_a_header_of_another_kind(copy: Path, header: object) -> None:
    (copy / "model.safetensors").write_bytes(framed(header))
    with pytest.raises(Invalid, match=r"damaged: its header is not .* fetch the file again"):
        load(copy)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>not found</html>" * 9, b"\0" * 999])
def test_something_else_in_place_of_weights(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(Invalid, match="truncated|damaged"):
        load(copy)


def test_half_of_a_file(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Invalid, match=rf"truncated: it has {len(data) // 2} bytes, its header promises {len(data)}; fetch"):
        load(copy)


def test_shards_without_their_index(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    with pytest.raises(Invalid, match=r"has model-00001-of-00002.safetensors, but neither model.safetensors nor .*index.json"):
        load(copy)


@pytest.mark.parametrize("named", ["config.json", "model.safetensors"])
def test_a_folder_where_a_file_is_due(copy: Path, named: str) -> None:
    (copy / named).unlink()
    (copy / named).mkdir()
    with pytest.raises(Invalid, match="no config.json|is missing from"):
        load(copy)


def test_a_shard_that_is_missing(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Invalid, match="model-2.safetensors is missing"):
        load(copy)


@pytest.mark.parametrize("content", [b"[]", b'{"weight_map": {"a"', b'{"weight_map": {"a": 1}}', b"\xff\xfe", b'{"weight_map": []}'])
def test_an_index_that_is_none(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(Invalid, match="not an index"):
        load(copy)


def test_weights_of_another_shape(copy: Path) -> None:
    edit(copy, hidden_size=64)
    with pytest.raises(Invalid, match="do not fit"):
        load(copy)


def test_weights_that_lack_a_layer(copy: Path) -> None:
    edit(copy, num_hidden_layers=3, layer_types=None)
    with pytest.raises(Invalid, match="do not fit"):
        load(copy)


def test_no_tokenizer(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(Invalid, match="no tokenizer"):
        load(copy)


@pytest.mark.parametrize(
    ("named", "content"),
    [
        ("tokenizer.json", "{}"), ("tokenizer.json", ""), ("tokenizer.json", "[]"), ("tokenizer.json", '{"version": "1.0", "model": {'),
        ("tokenizer_config.json", "{"), ("tokenizer_config.json", "[]"),
    ],
)  # fmt: skip
def test_a_damaged_tokenizer(copy: Path, named: str, content: str) -> None:
    (copy / named).write_text(content)
    with pytest.raises(Invalid, match="cannot be read"):
        load(copy)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            hf.BertForMaskedLM,
            hf.BertConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4),
        ),
        (hf.BertModel, hf.BertConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)),
        (hf.T5ForConditionalGeneration, hf.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)),
        (
            hf.ViTModel,
            hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8),
        ),
    ],
)
def test_an_encoder(kind: type, config: object, tmp_path: Path) -> None:
    kind(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(Invalid, match="encode|generate"):
        load(tmp_path)


def test_a_classifier(tmp_path: Path) -> None:
    hf.LlamaForSequenceClassification(build("llama").config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(Invalid, match="does not generate"):
        load(tmp_path)


def test_a_model_without_a_head() -> None:
    with pytest.raises(Invalid, match="head over its vocabulary"):
        prepare(hf.LlamaModel(build("llama").config))


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        (hf.MambaForCausalLM, hf.MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=1), "position_ids"),
        (hf.BloomForCausalLM, hf.BloomConfig(vocab_size=99, hidden_size=32, n_layer=1, n_head=4), "position_ids"),
        (
            hf.BertLMHeadModel,
            hf.BertConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4),
            "bidirectional",
        ),
    ],
)
def test_a_memory_the_cache_cannot_hold(kind: type, config: object, reason: str) -> None:
    model = kind(config)
    before = model.config._attn_implementation
    with pytest.raises(Unsupported, match=reason):
        prepare(model)
    assert model.config._attn_implementation == before and model.training
