"""Names that moved between the Triton versions 3.6 to 3.9; the only file of the room that knows them apart."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import tma
from triton.language import core

aggregate = gluon.aggregate if hasattr(gluon, "aggregate") else core._aggregate  # public from 3.8
send_rows = async_copy.async_load if hasattr(async_copy, "async_load") else async_copy.async_copy_global_to_shared  # 3.8
fetch = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared  # 3.8 renamed it, 3.9 refuses the old name
write_back = tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global
barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier  # 3.7
SEEN_OTHERWISE = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))  # public from 3.9


@gluon.jit
def pieces(tile, array, COUNT: gl.constexpr):
    """A tile as so many boxes of an array, one behind the other."""
    if SEEN_OTHERWISE:
        found = tile.reinterpret(array.dtype, [COUNT] + array.block_type.shape, array.layout)
    else:
        found = tile._reinterpret(array.dtype, [COUNT] + array.block_type.shape, array.layout)
    return found
