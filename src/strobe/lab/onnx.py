"""A peer of `strobe bench cpu`: onnxruntime's GroupQueryAttention, the operator its generation models decode with.

Its cache is one buffer that past and present share, as its own generator binds it, so a call copies one token and not the
cache. The token it appends is the one that already stands last in our keys: every contender sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

DTYPES = ("float32", "float16")  # what the operator takes on a CPU
NUMBERED = {torch.float32: 1, torch.int32: 6, torch.float16: 10}  # as ONNX numbers its element types


def available() -> bool:
    """Whether onnxruntime and onnx are installed."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def decoder(q: Tensor, k: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """One token's attention by onnxruntime with as many threads as torch has now.

    Args:
        q: `[B, H, 1, D]`, contiguous, float32 or float16: only its shape and dtype count here, as k's.
        k: `[B, G, S, D]`, contiguous.

    Returns:
        A function of q, k and v of these shapes; its result is `[B, 1, H, D]`. It writes the last token of k and v anew.

    Source: onnxruntime, contributed operators, com.microsoft.GroupQueryAttention.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports] — a peer, measured where it is installed

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(_model(q, k), options, providers=["CPUExecutionProvider"])
    bound: dict[tuple[int, ...], tuple[Any, Tensor, tuple[Tensor, ...]]] = {}

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        at = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if at not in bound:
            bound[at] = _bound(session, q, k, v)
        binding, out, _ = bound[at]
        session.run_with_iobinding(binding)
        return out

    return run


def _bound(session: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
    """(inputs and outputs by address, the output, what has to live as long)."""
    (B, H, _, D), S = q.shape, k.shape[2]
    out = torch.empty(B, 1, H, D, dtype=q.dtype)
    last_k, last_v = (x[:, :, -1:].transpose(1, 2).contiguous() for x in (k, v))
    lengths, total = torch.full((B,), S - 1, dtype=torch.int32), torch.tensor(S, dtype=torch.int32)
    binding = session.io_binding()
    flat = {"q": (q, [B, 1, q.numel() // B]), "k": (last_k, [B, 1, last_k.numel() // B]), "v": (last_v, [B, 1, last_v.numel() // B])}
    inputs = flat | {name: (x, list(x.shape)) for name, x in {"past_k": k, "past_v": v, "lengths": lengths, "total": total}.items()}
    for name, (x, shape) in inputs.items():
        binding.bind_input(name, "cpu", 0, NUMBERED[x.dtype], shape, x.data_ptr())
    for name, x, shape in (("out", out, [B, 1, H * D]), ("now_k", k, list(k.shape)), ("now_v", v, list(v.shape))):
        binding.bind_output(name, "cpu", 0, NUMBERED[x.dtype], shape, x.data_ptr())
    return binding, out, (last_k, last_v, lengths, total)


def _model(q: Tensor, k: Tensor) -> bytes:
    """A model of the one operator."""
    from onnx import TensorProto, helper  # pyright: ignore[reportMissingImports]

    (B, H, _, D), (_, G, S, _) = q.shape, k.shape
    kind = TensorProto.FLOAT16 if q.dtype == torch.float16 else TensorProto.FLOAT

    def value(name: str, shape: list[int], kind: int = kind) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    tokens = [value("q", [B, 1, H * D]), value("k", [B, 1, G * D]), value("v", [B, 1, G * D])]
    past = [value("past_k", [B, G, S, D]), value("past_v", [B, G, S, D])]
    counts = [value("lengths", [B], TensorProto.INT32), value("total", [], TensorProto.INT32)]
    results = [value("out", [B, 1, H * D]), value("now_k", [B, G, S, D]), value("now_v", [B, G, S, D])]
    inputs = [*tokens, *past, *counts]
    node = helper.make_node(
        "GroupQueryAttention", [x.name for x in inputs], [x.name for x in results], domain="com.microsoft", num_heads=H, kv_num_heads=G
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "decode", inputs, results), opset_imports=versions, ir_version=9).SerializeToString()
