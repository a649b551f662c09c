"""A checkpoint folder → model and tokenizer, with every mistake named before any work is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from strobe import Invalid
from strobe.models.attend import register

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# What reading JSON of another shape than was wanted ends in, wherever in transformers it does.
WRONG_KINDS = (KeyError, TypeError, AttributeError, IndexError)


def load(folder: str | Path, *, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """The model and the tokenizer of a checkpoint folder, as `Engine` takes them. Nothing is downloaded.

    Args:
        folder: holds `config.json`, `*.safetensors` and the tokenizer's files.
        dtype: "auto" (what the checkpoint says), "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", …

    Returns:
        `(model, tokenizer)`: transformers' own objects, the model in evaluation mode.

    Raises:
        Invalid: the folder is missing, is not a checkpoint, has a truncated or missing weight file, a family that
            transformers does not know, an encoder without a decoder, or no tokenizer.

    Example: `model, tokenizer = load("checkpoints/llama")`
    """
    if not isinstance(folder, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance] — callers may not check types
        raise Invalid(f"a checkpoint is given by its folder's path; got {folder!r}")
    where = Path(folder)
    _device(device)
    config = check(where, dtype)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
    except (ValueError, OSError, *WRONG_KINDS) as wrong:
        raise Invalid(f"the tokenizer in {where} cannot be read: {wrong}") from wrong
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=kind, local_files_only=True, output_loading_info=True
        )
        model, found = loaded
    except RuntimeError as wrong:  # transformers' word for weights of another shape
        raise Invalid(f"the weights in {where} do not fit its config.json: {wrong}") from wrong
    except (ValueError, ArithmeticError, *WRONG_KINDS) as wrong:  # a number or a name that no model of the family is built with
        raise Invalid(f"no model is made of the configuration in {where}: {wrong!r}") from wrong
    except ImportError as wrong:  # quantised weights want a library of their own
        raise Invalid(f"the weights in {where} need a package that is not here: {wrong}") from wrong
    if found["missing_keys"]:
        raise Invalid(f"the weights in {where} do not fit its config.json: they lack {_few(found['missing_keys'])}")
    return model.to(device).eval(), tokenizer


def _device(device: str) -> None:
    """Refuses a device that is not here, before gigabytes are read for it."""
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as wrong:
        raise Invalid(f'device is "cpu", "cuda", "cuda:1", …; got {device!r}') from wrong
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()):
        raise Invalid(f"device {device!r} is not here; here are cpu and {torch.cuda.device_count()} of cuda")


def _few(names: Any) -> str:
    """The first of many names."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check(where: Path, dtype: str = "auto") -> Any:
    """The configuration of a folder that can be loaded; reads headers only.

    Raises:
        Invalid: as for `load`.
    """
    if dtype not in DTYPES:
        raise Invalid(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}")
    if not where.exists():
        raise Invalid(f"there is no folder {where}; models are not downloaded, give the path of a checkpoint")
    if not where.is_dir():
        raise Invalid(f"{where} is a file; give the checkpoint's folder, which holds config.json")
    config = _config(where)
    _weights(where)
    if not any((where / name).exists() for name in TOKENIZERS):
        raise Invalid(f"{where} has no tokenizer; one of {', '.join(TOKENIZERS)} was expected beside config.json")
    return config


def _config(where: Path) -> Any:
    """The configuration of a family that generates text."""
    path = where / "config.json"
    if not path.is_file():
        raise Invalid(f"{where} is not a checkpoint: it has no config.json")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as wrong:
        raise Invalid(f"{path} is not JSON: {wrong}") from wrong
    family = told.get("model_type") if isinstance(told, dict) else None
    if not family or not isinstance(family, str):
        raise Invalid(f"{path} does not name a model_type, so the family is unknown")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    if family not in CONFIG_MAPPING:
        raise Invalid(f"the family {family!r} is not known to this transformers; a newer one may know it")
    if told.get("is_encoder_decoder"):
        raise Invalid(f"{family} is an encoder with a decoder; the engine generates with decoders alone")
    named = told.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise Invalid(f"{path} is not a configuration of {family}: architectures is a list of names; got {named!r}")
    if not _generates(CONFIG_MAPPING[family], told):
        raise Invalid(f"{', '.join(named) or family} encodes or classifies and does not generate text; give a causal language model")
    try:
        return AutoConfig.from_pretrained(where, local_files_only=True)
    except (ValueError, ArithmeticError, StrictDataclassError, *WRONG_KINDS) as wrong:
        raise Invalid(f"{path} is not a configuration of {family}: {wrong}") from wrong


def _generates(kind: type, told: dict[str, Any]) -> bool:
    """Whether a configuration is that of a decoder with a head over its vocabulary."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    if kind in MODEL_FOR_MASKED_LM_MAPPING and not told.get("is_decoder"):  # BERT and its kin serve as either
        return False
    named = told.get("architectures") or []
    ends = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "Model")
    return not named or any(name.endswith(ends) for name in named)


def _weights(where: Path) -> None:
    """Every weight file there, and as long as its header says."""
    index = where / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [where / name for name in names]
        except (OSError, ValueError, *WRONG_KINDS) as wrong:
            raise Invalid(f"{index} is not an index of weights: {wrong!r}") from wrong
    else:
        files = sorted(where.glob("*.safetensors"))
        if files and where / "model.safetensors" not in files:
            named = _few(path.name for path in files)
            raise Invalid(f"{where} has {named}, but neither model.safetensors nor {index.name}, which says what lies in which file")
    if not files:
        raise Invalid(f"{where} has no weights: no *.safetensors file is there")
    for path in files:
        if not path.is_file():
            raise Invalid(f"{path.name} is missing from {where}; {'the index names it' if index.exists() else 'a folder has its name'}")
        check_file(path)


def check_file(path: Path) -> None:
    """Whether a safetensors file is as long as its header says: 8 bytes of header length, header, data.

    Raises:
        Invalid: it is not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if size < 8 or header > size - 8:
            raise Invalid(f"{path} is truncated: {size} bytes do not hold its header; fetch the file again")
        try:
            told = json.loads(file.read(header))
            ends = [_end(entry) for name, entry in told.items() if name != "__metadata__"]
        except (ValueError, *WRONG_KINDS) as wrong:
            raise Invalid(f"{path} is damaged: its header is not the JSON of a safetensors file ({wrong}); fetch the file again") from wrong
    need = 8 + header + max(ends, default=0)
    if size != need:
        how = "truncated" if size < need else "damaged"
        raise Invalid(f"{path} is {how}: it has {size} bytes, its header promises {need}; fetch the file again")


def _end(entry: dict[str, Any]) -> int:
    """Where a tensor's bytes end, after its header's entry was looked at."""
    _, end = entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or not isinstance(entry["shape"], list) or not isinstance(end, int):
        raise TypeError(f"dtype, shape and data_offsets are text, a list and two integers; got {entry}")
    return end
