"""A kernel that reads arrays and makes nothing of them: the floor that decoding is measured beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from strobe.backends.triton.sizes import tiles

PROGRAMS = 32  # a multiprocessor
WORDS, AT_ONCE = 1024, 2  # of a load, and loads of each array in flight
MOST = 4  # arrays: keys, values, their scales


@triton.jit
def either(a, b):
    """Of two words the one that depends on both."""
    return a ^ b


@triton.jit
def share_of(words, WORDS: tl.constexpr):
    """(first word of an array that this program reads, words)."""
    each = tl.cdiv(tl.cdiv(words, tl.num_programs(0)), WORDS) * WORDS
    first = tl.program_id(0).to(tl.int64) * each
    return first, tl.minimum(first + each, words) - first


@triton.jit
def words_of(p_words, first, count, at, WORDS: tl.constexpr):
    """Words of a program's share, zeros behind it."""
    o = at + tl.arange(0, WORDS)
    return tl.load(p_words + first + o, mask=o < count, other=0)


@triton.jit(do_not_specialize=["n_a", "n_b", "n_c", "n_d"])
def read(p_a, p_b, p_c, p_d, p_never, n_a, n_b, n_c, n_d, WORDS: tl.constexpr, AT_ONCE: tl.constexpr, DEPENDENT: tl.constexpr):
    """All words of four arrays, those of nothing being None; a store that never happens keeps the loads."""
    if DEPENDENT:  # the next reader may start while this one ends, as our kernels may
        gdc_launch_dependents()
        gdc_wait()
    first_a, count_a = share_of(n_a, WORDS)
    first_b, count_b = share_of(n_b, WORDS)
    first_c, count_c = share_of(n_c, WORDS)
    first_d, count_d = share_of(n_d, WORDS)
    count = tl.maximum(tl.maximum(count_a, count_b), tl.maximum(count_c, count_d))
    b_found = tl.zeros([WORDS], tl.int32)
    for start in range(0, count, WORDS * AT_ONCE):
        for i in tl.static_range(AT_ONCE):
            at = start + i * WORDS
            b_found = b_found ^ words_of(p_a, first_a, count_a, at, WORDS)
            if p_b is not None:
                b_found = b_found ^ words_of(p_b, first_b, count_b, at, WORDS)
            if p_c is not None:
                b_found = b_found ^ words_of(p_c, first_c, count_c, at, WORDS)
            if p_d is not None:
                b_found = b_found ^ words_of(p_d, first_d, count_d, at, WORDS)
    found = tl.reduce(b_found, 0, either)
    if found == 123456789:
        tl.store(p_never, found)


def launch(arrays: Sequence[Tensor], units: int) -> None:
    """Reads one to four contiguous arrays, once each, in one kernel; nothing waits for the device."""
    assert 0 < len(arrays) <= MOST, "keys, values and their scales"
    words = [x.flatten().view(torch.int32) for x in arrays]
    padding = [None] * (MOST - len(words))
    counts = [x.numel() for x in words] + [0] * len(padding)
    programs = max(1, min(PROGRAMS * units, max(tiles(n, WORDS) for n in counts)))
    dependent = torch.version.hip is None and torch.cuda.is_available() and torch.cuda.get_device_capability(words[0].device)[0] >= 9
    named = {"WORDS": WORDS, "AT_ONCE": AT_ONCE, "DEPENDENT": dependent, "num_warps": 4}
    with torch.cuda.device_of(words[0]):
        read[(programs,)](*words, *padding, words[0], *counts, **named, **({"launch_pdl": True} if dependent else {}))
