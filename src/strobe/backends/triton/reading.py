"""A kernel that reads arrays and makes nothing of them: the floor that decoding is measured beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from strobe.backends.triton.sizes import tiles
from strobe.backends.triton.starting import start

WORDS, AT_ONCE, PROGRAMS = 2048, 4, 16  # words of a load, loads in flight, and programs a multiprocessor at most


@triton.jit
def either(a, b):
    """Of two words the one that depends on both."""
    return a ^ b


@triton.jit(do_not_specialize=["words", "each"])
def read(p_words, p_never, words, each, WORDS: tl.constexpr, AT_ONCE: tl.constexpr):
    """`each` words of the array, a program after another; a store that never happens keeps the loads."""
    first = tl.program_id(0).to(tl.int64) * each
    last = tl.minimum(first + each, words)
    b_found = tl.zeros([WORDS], tl.int32)
    for at in range(first, last, WORDS * AT_ONCE):
        for i in tl.static_range(AT_ONCE):
            o = at + i * WORDS + tl.arange(0, WORDS)
            b_found = b_found ^ tl.load(p_words + o, mask=o < last, other=0)
    found = tl.reduce(b_found, 0, either)
    if found == 123456789:
        tl.store(p_never, found)


def launch(arrays: Sequence[Tensor], units: int) -> None:
    """Reads contiguous arrays, once each; nothing waits for the device."""
    for x in arrays:
        words = x.flatten().view(torch.int32)
        programs = max(1, min(PROGRAMS * units, tiles(words.numel(), WORDS * AT_ONCE)))
        each = tiles(words.numel(), programs * WORDS) * WORDS
        with torch.cuda.device_of(words):
            start(read, (programs,), (words, words, words.numel(), each), {"WORDS": WORDS, "AT_ONCE": AT_ONCE, "num_warps": 8}, None)
