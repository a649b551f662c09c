"""A peer of `strobe bench model`: llama.cpp, through its Python package, on the same weights.

It reads a GGUF file of them into memory of its own (no mapping, so that no page is read late), decodes with flash attention
and as many threads as torch has. Its cache is float16, its default, whatever the weights are: flash attention rounds a
float32 cache to float16 at every step, and only float16 has its keys split over threads. So its tokens may differ from
a float32 path's; they are counted, not required. The likeliest token is taken from its logits by torch.

A short prompt is computed by llama.cpp itself. Of a long one, which would take it many minutes, it is given the keys and
values that transformers computed: only decoding is compared there. What it is given is checked against what it computes
of the first tokens.

Built with gcc it asks for libgomp by the name that torch's own has, so the process has one OpenMP runtime, torch's, and
one pool of threads for all that are measured.
"""

from __future__ import annotations

import ctypes
import logging
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strobe.errors import Broken
from strobe.lab import llama_file
from strobe.lab.conventional import Told

NAME = "llama.cpp"
ABSENT = "not installed"
OWN = 8192  # tokens of a prompt that llama.cpp computes itself
FIRST = 4  # tokens at which its cache is compared with transformers'
CLOSE = 0.05  # of the largest key or value: bfloat16 and float16 through some tens of layers
GGML_TYPE_F16 = 1  # as ggml numbers its types


def available() -> bool:
    """Whether llama-cpp-python and gguf are installed."""
    return find_spec("llama_cpp") is not None and find_spec("gguf") is not None


@contextmanager
def opened(model: Any) -> Iterator[Llama]:
    """llama.cpp with a copy of a transformers model's weights, until the block ends.

    Raises:
        Broken: llama.cpp does not take the file.
        Invalid: no file can be written of this model.
    """
    import llama_cpp  # pyright: ignore[reportMissingImports] — a peer, measured where it is installed

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)  # the package takes llama.cpp's warnings for errors
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.load_mode, params.n_gpu_layers = llama_cpp.LLAMA_LOAD_MODE_NONE, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        llama_file.write(path, model)
        weights = llama_cpp.llama_model_load_from_file(bytes(path), params)
    if not weights:
        raise Broken("llama.cpp cannot load the GGUF file that was written for it")
    found = Llama(llama_cpp, weights)
    try:
        yield found
    finally:
        found.free()
        llama_cpp.llama_model_free(weights)


class Llama:
    """A model in llama.cpp, and one sequence.

    Args:
        library: the module `llama_cpp`.
        weights: what it loaded.
    """

    name = NAME

    def __init__(self, library: Any, weights: Any) -> None:
        self._c, self._weights, self._context = library, weights, None
        self._vocabulary: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(weights))

    @property
    def about(self) -> str:
        """What this build of it uses, as it says itself."""
        return self._c.llama_print_system_info().decode()

    def prepare(self, ids: list[int], tokens: int, cache: Any) -> float | str:
        """Makes room for a prompt and `tokens` more, and has the prompt in the cache but for its last token.

        Args:
            cache: transformers' cache of the same, which is taken over where the prompt is long.

        Returns:
            Seconds to the first token; or why there are none.
        """
        self.free()
        c, threads = self._c, torch.get_num_threads()
        params = c.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = len(ids) + tokens, threads, threads
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k = params.type_v = GGML_TYPE_F16
        self._context = c.llama_init_from_model(self._weights, params)
        if not self._context:
            raise Broken(f"llama.cpp gives no context of {len(ids) + tokens} tokens")
        if len(ids) > OWN:
            self._take(ids, cache)
            return "not timed: its cache is transformers'"
        start = time.perf_counter()
        self.logits(ids).argmax()
        return time.perf_counter() - start

    def answer(self, ids: list[int], count: int) -> Told:
        """The likeliest `count` tokens after the prompt that was prepared."""
        self._forget(len(ids) - 1)
        told, token, start = Told(), ids[-1], time.perf_counter()
        for _ in range(count):
            token = int(self.logits([token]).argmax())
            told.tokens.append(token)
            told.came.append(time.perf_counter() - start)
        told.cache_bytes = self._c.llama_state_seq_get_size(self._context, 0)
        return told

    def logits(self, ids: list[int]) -> Tensor:
        """The last token's logits, float32, after these tokens are added to the sequence; gone with the next call."""
        c = self._c
        for piece in torch.tensor(ids, dtype=torch.int32).split(c.llama_n_batch(self._context)):
            there = (c.llama_token * len(piece))(*piece.tolist())
            failed = c.llama_decode(self._context, c.llama_batch_get_one(there, len(piece)))
            if failed:
                raise Broken(f"llama.cpp's llama_decode returned {failed}")
        last = c.llama_get_logits_ith(self._context, -1)
        return torch.frombuffer((ctypes.c_float * self._vocabulary).from_address(ctypes.addressof(last.contents)), dtype=torch.float32)

    def free(self) -> None:
        """Gives the cache back."""
        if self._context:
            self._c.llama_free(self._context)
        self._context = None

    def _forget(self, kept: int) -> None:
        """Takes all but the first tokens out of the cache."""
        if not self._c.llama_memory_seq_rm(self._c.llama_get_memory(self._context), 0, kept, -1):
            raise Broken(f"llama.cpp does not forget the tokens after {kept}")

    def _take(self, ids: list[int], cache: Any) -> None:
        """Reads transformers' cache in place of computing the prompt.

        Raises:
            Broken: this llama.cpp keeps a cache in another way, or computes other keys or values.
        """
        c = self._c
        theirs = [layer.keys[0] for layer in cache.layers] + [layer.values[0] for layer in cache.layers]
        few = [x[:, :FIRST].half() for x in theirs]
        self.logits(ids[:FIRST])
        own = (ctypes.c_uint8 * c.llama_state_seq_get_size(self._context, 0))()
        c.llama_state_seq_get_data(self._context, own, len(own), 0)
        magic, computed = bytes(own[:4]), unpacked(bytes(own), few)
        if packed(magic, computed) != bytes(own):
            raise Broken("this llama.cpp writes its cache in another way than is known here, so it cannot be given transformers'")
        off = max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(computed, few, strict=True))
        if not off <= CLOSE:
            raise Broken(f"llama.cpp's keys and values of the first {FIRST} tokens are {off:.1%} away from transformers'")
        self._forget(0)
        state = packed(magic, theirs)
        there = (ctypes.c_uint8 * len(state)).from_buffer(state)
        if c.llama_state_seq_set_data(self._context, there, len(state), 0) != len(state):
            raise Broken("llama.cpp did not take transformers' cache")


def packed(magic: bytes, layers: list[Tensor]) -> bytearray:
    """A sequence's cache as llama.cpp's `llama_state_seq_get_data` writes it: sequence 0, float16, flash attention.

    Args:
        magic: its first four bytes.
        layers: keys of all layers and then values of all layers, each `[G, n, D]`.
    """
    G, n, D = layers[0].shape
    token = 2 * G * D
    head = magic + struct.pack("<iII", 0, 1, n)  # sequence, streams, cells
    head += b"".join(struct.pack("<iIi", place, 1, 0) for place in range(n))  # position, how many sequences, which
    head += struct.pack("<II", 0, len(layers) // 2)  # values are not transposed
    kind = struct.pack("<iQ", GGML_TYPE_F16, token)
    state = bytearray(len(head) + len(layers) * (len(kind) + n * token))
    state[: len(head)] = head
    at = len(head)
    for layer in layers:
        state[at : at + len(kind)] = kind
        at += len(kind)
        # in place, for the whole is gigabytes
        there = torch.frombuffer(state, dtype=torch.uint8, count=n * token, offset=at).view(torch.float16).view(n, G, D)
        there.copy_(layer.transpose(0, 1))
        at += n * token
    return state


def unpacked(state: bytes, like: list[Tensor]) -> list[Tensor]:
    """The keys and values in such bytes, by the shapes they ought to have; nonsense where the bytes are of others."""
    G, n, D = like[0].shape
    each, at = 2 * n * G * D, 16 + 12 * n + 8
    starts = [at + place * (12 + each) + 12 for place in range(len(like))]
    found = [bytearray(state[start : start + each].ljust(each, b"\0")) for start in starts]
    return [torch.frombuffer(data, dtype=torch.float16).view(n, G, D).transpose(0, 1) for data in found]
