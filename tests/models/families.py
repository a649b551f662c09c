"""Tiny seeded checkpoints of each family, written to a folder with a tokenizer of their own; and eager's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 300
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "initializer_range": 0.4, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 16}  # heads × width is not the hidden size
ALTERNATING = {**WIDE, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**ALTERNATING, use_sliding_window=True),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=6),
    "gemma2": lambda: hf.Gemma2Config(**ALTERNATING, attn_logit_softcapping=5.0, query_pre_attn_scalar=20),
    "gemma3": lambda: hf.Gemma3TextConfig(**ALTERNATING),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.4,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    ),
    "gpt-oss": lambda: hf.GptOssConfig(
        **ALTERNATING, num_local_experts=4, num_experts_per_tok=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    ),
    "phi": lambda: hf.PhiConfig(**GROUPED),
    "phi3": lambda: hf.Phi3Config(**GROUPED, sliding_window=9),
    "olmo": lambda: hf.OlmoConfig(**GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**COMMON),
    "cohere2": lambda: hf.Cohere2Config(**GROUPED, sliding_window=6, layer_types=ALTERNATING["layer_types"]),
    "mixtral": lambda: hf.MixtralConfig(**GROUPED, num_local_experts=4),
    "deepseek-v3": lambda: hf.DeepseekV3Config(  # values narrower than keys
        **{**COMMON, "num_key_value_heads": 4}, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=12, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1,
        moe_intermediate_size=16,
    ),
}  # fmt: skip


def build(family: str, seed: int = 0) -> Any:
    """A model of random weights, its norms, biases and sinks away from the ones and zeros they begin with."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager", dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            low, high = (-0.3, 0.3) if "bias" in name else (0.5, 1.5)
            torch.nn.init.uniform_(parameter, low, high)
    return model


def tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens, trained here: any text, any bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["the cat sat on the mat and the dog sat on the cat, then the cat ate the hat"] * 4, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>")


def checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder as one downloads it."""
    build(family, seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def prompts(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    """Random prompts of these lengths, special tokens left out."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def eager(model: Any, asked: Sequence[Sequence[int]], new: int) -> list[list[int]]:
    """transformers' own greedy tokens, the prompts padded on the left into one batch."""
    width = max(map(len, asked))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in asked])
    real = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in asked])
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    found = model.generate(ids, attention_mask=real, max_new_tokens=new, do_sample=False, pad_token_id=0)
    model.set_attn_implementation(before)
    return found[:, width:].tolist()
