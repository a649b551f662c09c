"""The two habits of rotary embedding are those of transformers' models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strobe import Paged, Rotary, append

pytest.importorskip("transformers")

B, T, G, D = 2, 5, 2, 32


def kept(k: Tensor, rotary: Rotary) -> Tensor:
    """What one page a sequence holds of the keys."""
    keys, values = torch.zeros(B, T, G, D), torch.zeros(B, T, G, D)
    table, lengths = torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([T, T], dtype=torch.int32)
    append(Paged(keys, values, table, lengths, T), k, k, rotary=rotary)
    assert torch.equal(values, k)
    return keys


def test_halves_are_llamas() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    k = torch.randn(B, T, G, D, generator=torch.Generator().manual_seed(0))
    table = LlamaRotaryEmbedding(LlamaConfig(hidden_size=2 * D, num_attention_heads=2, head_dim=D))
    cos, sin = table(k, torch.arange(T)[None])
    theirs = apply_rotary_pos_emb(k.transpose(1, 2), k.transpose(1, 2), cos, sin)[1].transpose(1, 2)
    torch.testing.assert_close(kept(k, Rotary(cos[0, :, : D // 2], sin[0, :, : D // 2])), theirs)


@pytest.mark.parametrize("width", [16, D])
def test_neighbours_are_gpt_js(width: int) -> None:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    k = torch.randn(B, T, G, D, generator=torch.Generator().manual_seed(1))
    sin, cos = create_sinusoidal_positions(16, width).split(width // 2, -1)
    at = torch.tensor([[0, 1, 2, 3, 4], [4, 9, 2, 15, 0]])
    theirs = torch.cat([apply_rotary_pos_emb(k[..., :width], sin[at], cos[at]), k[..., width:]], -1)
    torch.testing.assert_close(kept(k, Rotary(cos, sin, at.int(), interleaved=True)), theirs)
