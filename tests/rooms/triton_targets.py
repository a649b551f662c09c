"""Compiles the Triton room's kernels for GPUs that are not here, as its launchers start them, and tells their registers and spills.

    python -m tests.rooms.triton_targets [few] [ARCH …]     a line of JSON a kernel; of few, one of each

A process of its own: where TRITON_INTERPRET is set, kernels are interpreted and cannot be compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from strobe import Alibi, Blocks, Causal, Dense, Dropout, Full, Paged, Scaled, Sink, SoftCap, State, Unsupported
from strobe.appending import Rotary, check_append
from strobe.backends.triton import append, backward, forward, listing, merge, reading, shared, sinks
from strobe.faces.torch import _described, describe
from strobe.layouts import Dense as Keys
from strobe.machine import Machine
from strobe.merging import check_merge
from strobe.plan import Plan, plan
from strobe.problem import Call, check, map_arrays

ARCHS = ("sm75", "sm80", "sm89", "sm90", "sm100", "sm120", "gfx90a", "gfx942", "gfx950", "gfx1100")
WAVE = {"gfx90a": 64, "gfx942": 64, "gfx950": 64, "gfx1100": 32}
WIDTHS = (64, 128, 256, 512)
KERNELS = {forward: ("attend",), merge: ("merge_parts", "merge_two"), append: ("write_rows",), backward: ("prepare", "d_queries", "d_keys", "d_bias_of"), listing: ("list_kept",), shared: ("add_up",), sinks: ("d_sink_of",), reading: ("read",)}


class Compiled(NamedTuple):
    """What a compiler says of a kernel; -1 where it does not say."""

    arch: str
    what: str
    kernel: str
    registers: int
    spills: int  # bytes stored and loaded on the stack
    shared: int
    tile: tuple[int, int]
    warps: int
    stages: int


def target(arch: str) -> GPUTarget:
    return GPUTarget("hip", arch, WAVE[arch]) if arch in WAVE else GPUTarget("cuda", int(arch[2:]), 32)


def machine(arch: str) -> Machine:
    return replace(Machine.named("h200"), arch=arch)


@contextmanager
def compiling(arch: str, what: str, found: list[Compiled]) -> Iterator[None]:
    """Kernels that are started within are compiled for the arch instead."""

    class Recorder:
        def __init__(self, kernel: JITFunction[Any]) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **named: found.append(compiled(arch, what, self.kernel, args, named))

    with ExitStack() as stack:
        for module, names in KERNELS.items():
            for name in names:
                stack.enter_context(patch.object(module, name, Recorder(getattr(module, name))))
        yield


def compiled(arch: str, what: str, kernel: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Compiled:
    """One kernel with the arguments of a launch."""
    given = dict(zip((p.name for p in kernel.params), args)) | named  # noqa: B905 — the others are named
    for_target = target(arch)
    backend = make_backend(for_target)
    bound, specialised, rest = create_function_from_signature(kernel.signature, kernel.params, backend)(**given)
    chosen, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialised, rest)
    made = triton.compile(ASTSource(kernel, signature, constants, attributes), target=for_target, options=chosen.__dict__)
    registers, spills = _usage(arch, made)
    tile = given.get("BM", 1), given.get("BN", 1)
    return Compiled(arch, what, kernel.__name__, registers, spills, made.metadata.shared, tile, made.metadata.num_warps, made.metadata.num_stages)


def _usage(arch: str, made: Any) -> tuple[int, int]:
    """(registers, bytes spilled) as ptxas or the AMD assembler writes them."""
    if arch in WAVE:
        text = made.asm["amdgcn"]
        return _number(r"\.vgpr_count:\s+(\d+)", text), _number(r"\.vgpr_spill_count:\s+(\d+)", text)
    version = re.search(r"\.target (sm_\w+)", made.asm["ptx"])
    assert version is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(made.asm["ptx"])
        ptxas = knobs.nvidia.ptxas_blackwell if int(arch[2:]) >= 100 else knobs.nvidia.ptxas
        command = [ptxas.path, "-v", f"--gpu-name={version[1]}", str(source), "-o", str(Path(folder) / "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return _number(r"Used (\d+) registers", said), _number(r"(\d+) bytes spill stores", said) + _number(r"(\d+) bytes spill loads", said)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return -1 if found is None else int(found[1])


def arrays(dtype: torch.dtype, T: int, S: int, H: int, G: int, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys on the device `meta`, so that nothing is held."""
    return torch.empty(1, T, H, D, dtype=dtype, device="meta"), torch.empty(1, S, G, D, dtype=dtype, device="meta")


def calls(dtype: torch.dtype) -> dict[str, Call]:
    """What is compiled, forward; and backward where the name says so."""
    found = {}
    for D in WIDTHS:
        q, k = arrays(dtype, 1024, 1024, 8, 8, D)
        found[f"D {D} causal, and backward"] = Call(q, Keys(k, k), Causal())
    q, k = arrays(torch.float32, 1024, 1024, 8, 8, 64)
    found["D 64 float32 causal, and backward"] = Call(q, Keys(k, k), Causal())
    q, k = (x[..., :128] for x in arrays(dtype, 1024, 1024, 8, 8, 132))
    found["D 128 not aligned, causal, and backward"] = Call(q, Keys(k, k), Causal())
    q, k = arrays(dtype, 1024, 1024, 32, 8, 128)
    found["D 128 full, and backward"] = Call(q, Keys(k, k), Full())
    found["D 128 group of 4, cap, sink, and backward"] = Call(q, Keys(k, k), Causal(), cap=SoftCap(30.0), sink=Sink(torch.empty(32, device="meta")))
    seen = Dense(torch.empty(1, 1, 1024, 1024, dtype=torch.bool, device="meta"))
    bias = torch.empty(1, 32, 1024, 1024, dtype=dtype, device="meta")
    slopes = Alibi(torch.empty(32, device="meta"))
    found["D 128 dense mask, bias, slopes, dropout, and backward"] = Call(q, Keys(k, k), seen, bias=bias, alibi=slopes, dropout=Dropout(0.1, 7))
    kept = Blocks(torch.empty(1, 1, 8, 8, dtype=torch.bool, device="meta"), 128, 128)
    found["D 128 blocks of 128, causal, and backward"] = Call(q, Keys(k, k), kept & Causal())
    found["D 128 bias of all pairs, and backward"] = Call(q, Keys(k, k), bias=bias)
    q1, k1 = arrays(dtype, 1024, 1024, 32, 32, 128)
    found["D 128 bias of all sequences, and backward"] = Call(q1, Keys(k1, k1), Causal(), bias=bias)
    found["D 128 bias of all heads, and backward"] = Call(q, Keys(k, k), bias=bias[:, :1])
    pages, index = torch.empty(64, 16, 8, 128, dtype=dtype, device="meta"), torch.empty(1, 64, dtype=torch.int32, device="meta")
    found["D 128 one query over pages"] = Call(q[:, :1], Paged(pages, pages, index, index[:, 0], 1024), Causal())
    narrow = Scaled(torch.empty(64, 16, 8, 128, dtype=torch.int8, device="meta"), torch.empty(64, 16, 8, device="meta"))
    found["D 128 one query over int8 pages"] = Call(q[:, :1], Paged(narrow, narrow, index, index[:, 0], 1024), Causal())
    table, lengths = torch.empty(4, 256, dtype=torch.int32, device="meta"), torch.empty(4, dtype=torch.int32, device="meta")
    found["D 128 ragged batch over pages"] = Call(q[:, :1].expand(4, -1, -1, -1), Paged(pages, pages, table, lengths, 4096), Causal())
    q, k = arrays(dtype, 1, 4096, 128, 1, 576)
    found["keys of 576, values of 512 in them"] = Call(q, Keys(k, k[..., :512]), Causal())
    return found


def chosen(call: Call, arch: str, verb: str) -> Plan:
    return plan(replace(check(_described(call)), verb=verb), machine(arch), "triton")


def appended(arch: str, dtype: torch.dtype) -> None:
    """Starts `append` into int8 pages, with rotation."""
    new = torch.empty(1, 8, 8, 128, dtype=dtype, device="meta")
    side = Scaled(torch.empty(64, 16, 8, 128, dtype=torch.int8, device="meta"), torch.empty(64, 16, 8, device="meta"))
    index = torch.empty(1, 64, dtype=torch.int32, device="meta")
    pages, turns = Paged(side, side, index, index[:, 0], 1024), Rotary(torch.empty(1024, 64, device="meta"), torch.empty(1024, 64, device="meta"))
    problem = check_append(map_arrays(pages, describe), describe(new), describe(new), map_arrays(turns, describe))
    append.launch(plan(problem, machine(arch), "triton"), pages, new, new, turns)


FEW = ("D 128 causal, and backward", "D 128 bias of all heads, and backward", "D 128 one query over int8 pages")


def every(arch: str, few: bool) -> Iterator[Compiled]:
    """All kernels of an arch."""
    dtype = torch.float16 if arch == "sm75" else torch.bfloat16
    found: list[Compiled] = []
    for what, call in calls(dtype).items():
        if few and what not in FEW:
            continue
        try:
            plans = [chosen(call, arch, verb) for verb in ("attention", "backward") if verb in (what.split()[-1], "attention")]
        except Unsupported:  # a tile of the widest does not fit the shared memory of each
            assert call.q.shape[-1] > 256, (arch, what)
            continue
        with compiling(arch, what, found):
            state = forward.launch(plans[0], call)
            if what.endswith("backward"):
                backward.launch(plans[1], call, state, torch.empty_like(state.out), None)
        yield from found
        found.clear()
    with compiling(arch, "two states", found):
        out = torch.empty(4096, 128, dtype=dtype, device="meta")
        a = State(out, out[:, 0].float())
        merge.launch(plan(check_merge(*map(describe, (*a, *a))), machine(arch), "triton"), a, a)
    with compiling(arch, "int8 pages, turned", found):
        appended(arch, dtype)
    with compiling(arch, "keys that are only read", found):
        reading.launch([torch.empty(1, 1024, 8, 128, dtype=dtype, device="meta")], 132)
    yield from found


def main(words: list[str]) -> None:
    """Prints a line of JSON a kernel."""
    for arch in [word for word in words if word != "few"] or ARCHS:
        for line in every(arch, "few" in words):
            print(json.dumps(line._asdict()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
