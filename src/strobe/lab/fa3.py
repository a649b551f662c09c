"""FlashAttention 3 as a peer: the library in vLLM's wheel (`vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so`), loaded from its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from strobe.errors import Invalid
from strobe.layouts import Paged

NONE = None, None, None


def load(path: str) -> None:
    """Makes the library's operators known to torch.

    Raises:
        Invalid: the file is not there, or was made for another torch.
    """
    if not Path(path).is_file():
        raise Invalid(f"there is no library {path}")
    try:
        torch.ops.load_library(path)
        torch.ops._vllm_fa3_C.fwd  # noqa: B018 — an operator is looked up where it is named
    except (OSError, AttributeError) as wrong:
        raise Invalid(f"{path} is not FlashAttention 3 for torch {torch.__version__}: {wrong}") from wrong


def over(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window: int = -1, splits: int = 0, scales: tuple[Tensor | None, ...] = NONE
) -> Callable[[], Tensor]:  # fmt: skip
    """A call over dense arrays `[B, T, H, D]`, `[B, S, G, D]`, which it takes packed; `window` keys before a query's own, −1 for all; 0
    splits are as many as it likes; scales of float8 queries, keys and values are one a sequence and key head, `[B, G]`."""
    (B, T), S = q.shape[:2], k.shape[1]
    k_offsets = torch.arange(B + 1, dtype=torch.int32, device=q.device) * S
    return _started(q, k.flatten(0, 1), v.flatten(0, 1), (k_offsets, None, None), (T, S), (causal, window, splits), scales)


def paged(q: Tensor, keys: Paged, causal: bool = True) -> Callable[[], Tensor]:
    """A call of queries `[B, T, H, D]` over pages."""
    return _started(q, keys.keys, keys.values, (None, keys.lengths, keys.table), (q.shape[1], keys.longest), (causal, -1, 0))


def _started(
    q: Tensor, keys: Tensor, values: Tensor, lie: tuple[Tensor | None, Tensor | None, Tensor | None], longest: tuple[int, int],
    how: tuple[bool, int, int], scales: tuple[Tensor | None, ...] = NONE,
) -> Callable[[], Tensor]:  # fmt: skip
    """A call, its results as the queries lie; keys by (offsets, lengths in use, a table), how by (causal, window, splits)."""
    (B, T), rows = q.shape[:2], q.flatten(0, 1)
    q_offsets = torch.arange(B + 1, dtype=torch.int32, device=q.device) * T
    dtype = torch.bfloat16 if q.dtype.itemsize == 1 else q.dtype
    out, scale = rows.new_empty((*rows.shape[:-1], values.shape[-1]), dtype=dtype), q.shape[-1] ** -0.5
    (k_offsets, used, table), (causal, window, splits) = lie, how

    def run() -> Tensor:
        torch.ops._vllm_fa3_C.fwd(
            rows, keys, values,
            None, None, None,  # new keys, new values, queries of values
            out, q_offsets, k_offsets,
            None, None, used,  # offsets of new keys, queries in use, keys in use
            *longest,
            table, None, None,  # which sequences, padding to the left
            None, None, None,  # a rotation
            *scales,
            scale, causal, window, 0 if window >= 0 else -1, 0.0, True,  # no cap
            None, splits, None, 0,  # no plan, groups packed as it likes, all multiprocessors
            None, 1, 0, None,  # no sink, one device
        )  # fmt: skip
        return out.unflatten(0, (B, T))

    return run
