"""Compiles decode of the Hopper room for an H200 that is not here, as its launcher starts it, and tells registers, spills, memory.

    python -m tests.rooms.hopper_decode_targets [few] [WORD …]     a line of JSON a kernel; of WORDs, cases with one in their name

A process of its own: where TRITON_INTERPRET is set, the merge is interpreted and cannot be compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import create_function_from_signature

from strobe import Alibi, Causal, Full, Mask, Paged, Ranged, Scaled, Sink, SoftCap, Tree, Window
from strobe.answers import Offer
from strobe.backends.hopper import decode, decoding
from strobe.faces.torch import _described
from strobe.layouts import Dense as Keys
from strobe.machine import Machine
from strobe.plan import Plan
from strobe.problem import Call, Problem, check

H200 = Machine.named("h200")
TARGET = GPUTarget("cuda", 90, 32)
NARROW = {"int8": torch.int8, "int4": torch.uint8, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


class Compiled(NamedTuple):
    """What ptxas says of a kernel."""

    what: str
    kernel: str
    registers: int
    spills: int  # bytes stored and loaded on the stack
    shared: int
    rows: int
    keys: int
    stages: int
    warps: int


def problem_of(call: Call) -> Problem:
    return check(_described(call))


def planned(call: Call, **changed: Any) -> Plan:
    """A plan of this kernel, whatever rooms there are."""
    problem = problem_of(call)
    for name, value in changed.items():
        problem = problem.__class__(**{**problem.__dict__, name: value})
    offer = decoding.decode(problem, H200)
    assert isinstance(offer, Offer), offer
    return Plan(problem, H200, "hopper", offer)


def compiled(what: str, kernel: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Compiled:
    """One kernel with the arguments of a launch."""
    given = dict(zip((p.name for p in kernel.params), args)) | named  # noqa: B905 — the others are named
    backend = make_backend(TARGET)
    bound, specialised, rest = create_function_from_signature(kernel.signature, kernel.params, backend)(**given)
    chosen, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialised, rest)
    source = GluonASTSource if kernel.is_gluon() else ASTSource
    made = triton.compile(source(kernel, signature, constants, attributes), target=TARGET, options=chosen.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(made.asm["ptx"])
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", str(ptx), "-o", str(Path(folder) / "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    of = given.get("BM", 0), given.get("BN", 0), given.get("STAGES", 0)
    return Compiled(what, kernel.__name__, int(registers[1]), spills, made.metadata.shared, *of, made.metadata.num_warps)


def started(call: Call, what: str, **changed: Any) -> list[Compiled]:
    """Both kernels of a call, compiled instead of started."""
    found: list[Compiled] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel, self.arg_names = kernel, kernel.arg_names

        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **named: found.append(compiled(what, self.kernel, args, named))

    kernels = {name: Recorder(getattr(decode, name)) for name in ("attend", "merge_parts", "add_parts")}
    with patch.multiple(decode, **kernels):
        decode.launch(planned(call, **changed), call)
    return found


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def side(shape: tuple[int, ...], kind: str, dtype: torch.dtype) -> Any:
    """Keys or values, narrow if there is a kind of them."""
    if not kind:
        return empty(*shape, dtype=dtype)
    width = shape[-1] // 2 if kind == "int4" else shape[-1]
    return Scaled(empty(*shape[:-1], width, dtype=NARROW[kind]), empty(*shape[:-1], dtype=torch.float32))


def called(
    T: int = 1, S: int = 8192, D: int = 128, V: int = 0, group: int = 4, B: int = 2, lie: str = "dense", kind: str = "",
    mask: Mask | None = None, dtype: torch.dtype = torch.bfloat16, **terms: Any,
) -> Call:  # fmt: skip
    """A call of eight key heads on the device `meta`; it lies "dense", "ranged", "paged 16" …"""
    q, index = empty(B, T, 8 * group, D, dtype=dtype), empty(B, dtype=torch.int32)
    shown = mask if mask is not None else Causal()
    if lie.startswith("paged"):
        z = int(lie.split()[1])
        k, v = (side((64, z, 8, width), kind, dtype) for width in (D, V or D))
        keys: Any = Paged(k, v, empty(B, -(-S // z), dtype=torch.int32), index, S)
    else:
        k, v = (side((B, S, 8, width), kind, dtype) for width in (D, V or D))
        keys = Keys(k, v) if lie == "dense" else Ranged(k, v, index, index)
    return Call(q, keys, shown, **terms)


def calls() -> dict[str, Call]:
    """What the desk can offer: each width with each number of rows, each way to lie, each kind of narrow numbers, each term."""
    found: dict[str, Call] = {}
    for D in (64, 128, 256):
        for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
            found[f"D {D} {name} one query"] = called(D=D, dtype=dtype)
        for T in (3, 4, 8, 16, 32, 64):
            found[f"D {D} {T} queries"] = called(T=T, D=D)
        for T in (1, 8, 32):
            found[f"D {D} {T} queries in pages of 16"] = called(T=T, D=D, lie="paged 16")
            found[f"D {D} {T} queries in pages of 256"] = called(T=T, D=D, lie="paged 256")
            found[f"D {D} {T} queries ranged"] = called(T=T, D=D, lie="ranged")
        for kind in NARROW:
            for T in (1, 2, 8):
                found[f"D {D} {kind} {T} queries"] = called(T=T, D=D, kind=kind)
                found[f"D {D} {kind} {T} queries in pages of 16"] = called(T=T, D=D, kind=kind, lie="paged 16")
            found[f"D {D} {kind} float16 ranged"] = called(D=D, kind=kind, dtype=torch.float16, lie="ranged")
    for z in (1, 3, 64, 128, 1024):
        found[f"D 128 pages of {z}"] = called(lie=f"paged {z}")
    for D, V in ((96, 96), (192, 192), (192, 128), (8, 8), (40, 72)):
        found[f"D {D} V {V}"] = called(D=D, V=V)
        found[f"D {D} V {V} 32 queries"] = called(T=32, D=D, V=V)
    found["D 128 group of 128"] = called(group=128)
    for lie, T in product(("dense", "ranged", "paged 1", "paged 16", "paged 256"), (1, 4)):
        found[f"D 128 batch, short, {T} queries {lie}"] = called(T=T, B=256, S=256, lie=lie)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        terms = {"cap": SoftCap(30.0), "sink": Sink(empty(32, dtype=torch.float32)), "alibi": Alibi(empty(32, dtype=torch.float32))}
        node = Tree(empty(1, 4, 4, dtype=torch.bool))
        found[f"D 128 batch, short, {name} all terms"] = called(B=256, S=256, lie="paged 16", dtype=dtype, **terms)
        found[f"D 128 batch, short, {name} tree, all terms"] = called(
            T=4, B=256, S=256, lie="ranged", mask=node & Window(before=99), dtype=dtype, **terms
        )  # fmt: skip
    y = empty(256, 256, 8, 132)[..., :128]
    for T in (1, 4):
        found[f"D 128 batch, short, {T} queries not aligned"] = Call(empty(256, T, 32, 128), Keys(y, y), Causal())
    for T in (5, 9, 33):
        found[f"D 128 tree of {T}"] = called(T=T, mask=Tree(empty(1, T, T, dtype=torch.bool)), lie="paged 16")
    found["D 128 tree of one"] = called(mask=Tree(empty(1, 1, 1, dtype=torch.bool)))
    found["D 128 full"] = called(mask=Full())
    found["D 128 window"] = called(mask=Causal() & Window(before=4095), lie="paged 16")
    found["D 128 window 8 queries"] = called(T=8, mask=Causal() & Window(before=4095), first=empty(2, dtype=torch.int32))
    terms = {"cap": SoftCap(30.0), "sink": Sink(empty(32, dtype=torch.float32)), "alibi": Alibi(empty(32, dtype=torch.float32))}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        for T in (1, 8, 32):
            found[f"D 128 {name} all terms {T} queries"] = called(T=T, dtype=dtype, lie="paged 16", **terms)
    x = empty(2, 8192, 8, 132)[..., :128]
    found["D 128 not aligned"] = Call(empty(2, 1, 32, 128), Keys(x, x), Causal())
    found["D 128 not aligned 32 queries"] = Call(empty(2, 32, 32, 128), Keys(x, x), Causal())
    return found


def invariant_calls() -> dict[str, Call]:
    """At fixed cuts: parts, and whole stretches, which have a second sum in registers."""
    found = {}
    for D, (S, B), group in product((64, 128, 256), ((8192, 1), (65536, 1), (8192, 16)), (4, 20, 40, 128)):
        found[f"D {D} invariant, {B} sequence(s) of {S}, group of {group}"] = called(D=D, S=S, B=B, group=group)
        found[f"D {D} invariant, {B} sequence(s) of {S}, group of {group}, pages of 16"] = called(D=D, S=S, B=B, group=group, lie="paged 16")
    for kind in NARROW:
        found[f"D 128 {kind} invariant"] = called(B=16, S=8192, kind=kind)
    return found


FEW = (
    "D 128 bfloat16 one query", "D 128 8 queries in pages of 16", "D 128 32 queries", "D 128 int8 1 queries in pages of 16",
    "D 128 int4 2 queries", "D 128 batch, short, 4 queries paged 16",
)  # fmt: skip


def main(words: list[str]) -> None:
    """Prints a line of JSON a kernel; the merge is compiled for fixed cuts too."""
    few, wanted = "few" in words, [word for word in words if word != "few"]
    for what, call in calls().items():
        if (few and what not in FEW) or (wanted and not any(word in what for word in wanted)):
            continue
        for line in started(call, what):
            print(json.dumps(line._asdict()), flush=True)
    if not few and not wanted:
        for what, call in invariant_calls().items():
            for line in started(call, what, invariant=True):
                print(json.dumps(line._asdict()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
