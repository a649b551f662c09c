"""A model of transformers as a GGUF file, the format that llama.cpp reads: the same numbers under its names.

Only the weights and the shape: the vocabulary is of type «none», tokens are numbers. Matrices keep their dtype; vectors
(norms) are float32, as llama.cpp wants them, which holds bfloat16 and float16 exactly.

Source: the GGUF specification of ggml; llama.cpp's own conversion of Qwen3, which permutes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strobe.errors import Invalid

FAMILIES = ("qwen3",)  # as transformers and GGUF both call them
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def name_of(parameter: str) -> str:
    """GGUF's name of a parameter.

    >>> name_of("model.norm.weight"), name_of("model.layers.3.mlp.up_proj.weight")
    ('output_norm.weight', 'blk.3.ffn_up.weight')

    Raises:
        Invalid: no model of `FAMILIES` has such a parameter.
    """
    words = parameter.split(".")
    if words[:2] == ["model", "layers"] and ".".join(words[3:-1]) in NAMES:
        return f"blk.{words[2]}.{NAMES['.'.join(words[3:-1])]}.{words[-1]}"
    if parameter not in NAMES:
        raise Invalid(f"no name in GGUF is known for the parameter {parameter}")
    return NAMES[parameter]


def write(path: Path, model: Any) -> None:
    """Writes a model; the file takes as many bytes as its parameters, tied ones once.

    Raises:
        Invalid: a model that is not of `FAMILIES`, or whose positions are rotated otherwise than plainly.
    """
    import gguf  # pyright: ignore[reportMissingImports] — what llama.cpp is measured with, where it is installed

    config = model.config
    if config.model_type not in FAMILIES:
        raise Invalid(f"a GGUF file is written of {', '.join(FAMILIES)}; got {config.model_type}")
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise Invalid(f"a GGUF file is written of models with plain rotary positions; got {rope['rope_type']}")
    file = gguf.GGUFWriter(path, config.model_type)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_key_length(config.head_dim)
    file.add_value_length(config.head_dim)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(float(rope["rope_theta"]))
    file.add_vocab_size(config.vocab_size)
    file.add_tokenizer_model("none")
    kinds = {torch.float32: gguf.GGMLQuantizationType.F32, torch.float16: gguf.GGMLQuantizationType.F16}
    kinds[torch.bfloat16] = gguf.GGMLQuantizationType.BF16
    for name, tensor in tensors(model):
        # numpy has no bfloat16: bytes, from which the writer finds the shape
        file.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=kinds[tensor.dtype])
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in GGUF, numbers) of each parameter."""
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().contiguous()
        yield name_of(name), numbers.float() if numbers.ndim == 1 else numbers
