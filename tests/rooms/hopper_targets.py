"""Compiles the Hopper room's kernels without a GPU, as its launcher starts them, and tells their registers, spills and loops.

    python -m tests.rooms.hopper_targets [few] [WORD …]     a line of JSON a kernel; of few, or of those whose names have the words

A process of its own: where TRITON_INTERPRET is set, nothing is compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import create_function_from_signature

from strobe import Causal, Documents, Full, Packed, Prefix, Ranged, Scaled, Sink, SoftCap, Tree, Window
from strobe.backends.hopper import forward, sharing
from strobe.faces.torch import _described
from strobe.layouts import Dense, PackedKeys, Paged
from strobe.machine import Machine
from strobe.plan import plan
from strobe.problem import Call, check

TARGET = GPUTarget("cuda", 90, 32)
STACK = re.compile(r"\b(LDL|STL)\b")
PRODUCT = re.compile(r"\b[HQ]GMMA\b")
B, T, H = 2, 4096, 16


class Compiled(NamedTuple):
    """What the assembler says of a kernel, and what its loops hold."""

    what: str
    kernel: str
    tile: tuple[int, int]
    registers: int
    spills: int  # accesses to the stack, anywhere
    shared: int
    products: int  # HGMMA, or QGMMA of float8
    loops: list[tuple[int, int]]  # (products, accesses to the stack) of each innermost loop with products
    serialized: bool  # the assembler could not let products run beside other work
    places: list[list[tuple[int, int]]]  # (column, bytes behind the first) of the boxes that each barrier of keys or values waits for


def calls() -> dict[str, Call]:
    """What is compiled."""
    index = torch.empty(B, dtype=torch.int32, device="meta")
    offsets = torch.empty(B + 1, dtype=torch.int32, device="meta")
    sink = Sink(torch.empty(H, device="meta"))
    masks = {
        "full": Full(), "causal": Causal(), "window": Causal() & Window(before=1023), "window both sides": Window(before=99, after=99),
        "prefix": Prefix(77), "prefixes": Prefix(index) & Window(before=1000),
    }  # fmt: skip
    found = {}
    for D, (name, mask), G in product((64, 128, 256), masks.items(), (H, H // 4)):
        q, k = _arrays(torch.bfloat16, D, G)
        found[f"D {D}, {name}, group of {H // G}"] = Call(q, Dense(k, k), mask)
    for D, dtype in product((64, 128, 256), (torch.bfloat16, torch.float16)):
        q, k = _arrays(dtype, D, H)
        kind = str(dtype).removeprefix("torch.")
        found[f"D {D}, causal, cap and sink, {kind}"] = Call(q, Dense(k, k), Causal(), cap=SoftCap(30.0), sink=sink)
        found[f"D {D}, full, cap, {kind}"] = Call(q, Dense(k, k), Full(), cap=SoftCap(30.0))
        found[f"D {D}, window, firsts, sink, {kind}"] = Call(q, Dense(k, k), Causal() & Window(before=127), sink=sink, first=index)
        found[f"D {D}, full, ranges, {kind}"] = Call(q, Ranged(k, k, index, index), Full())
        found[f"D {D}, causal, packed, {kind}"] = Call(Packed(q[0], offsets, T), PackedKeys(k[0], k[0], offsets, T), Causal())
        found[f"D {D}, window, packed, {kind}"] = Call(Packed(q[0], offsets, T), PackedKeys(k[0], k[0], offsets, T), Causal() & Window(before=1023))
        found[f"D {D}, short window, packed, {kind}"] = Call(Packed(q[0], offsets, T), PackedKeys(k[0], k[0], offsets, T), Causal() & Window(before=127))
        found[f"D {D}, window, cap and sink, {kind}"] = Call(q, Dense(k, k), Causal() & Window(before=1023), cap=SoftCap(30.0), sink=sink)
        found[f"D {D}, full, packed, {kind}"] = Call(Packed(q[0], offsets, T), PackedKeys(k[0], k[0], offsets, T), Full())
    ids = torch.empty(B, T, dtype=torch.int32, device="meta")
    for D, G in product((64, 128, 256), (H, H // 4)):
        q, k = _arrays(torch.bfloat16, D, G)
        found[f"D {D}, documents, group of {H // G}"] = Call(q, Dense(k, k), Documents(ids, ids))
        found[f"D {D}, documents, causal, ranges, group of {H // G}"] = Call(q, Ranged(k, k, index, index), Documents(ids, ids) & Causal())
    for D in (40, 96, 192):
        q, k = _arrays(torch.bfloat16, D, H // 8)
        found[f"D {D}, causal"] = Call(q, Dense(k, k), Causal())
    for (D, V), (name, mask) in product(((192, 128), (256, 128), (128, 64)), masks.items()):
        q, k = _arrays(torch.bfloat16, D, H)
        found[f"D {D}, V {V}, {name}"] = Call(q, Dense(k, k[..., :V]), mask)
        found[f"D {D}, V {V}, {name}, packed"] = Call(
            Packed(q[0], offsets, T), PackedKeys(k[0], k[0, ..., :V], offsets, T), Causal() if "prefix" in name else mask
        )  # fmt: skip
    for D, mask in product((64, 128), (Full(), Causal(), Causal() & Window(before=2000))):
        q, k = _arrays(torch.bfloat16, D, H // 4)
        found[f"D {D}, {mask}, divided"] = Call(q[:, :32], Dense(k, k), mask)
        found[f"D {D}, {mask}, divided, group of 128"] = Call(q[:, :1, :1].expand(-1, -1, 128, -1), Dense(k[:, :, :1], k[:, :, :1]), mask)
    for D, dtype in product((64, 128), (torch.bfloat16, torch.float16)):
        q, k = _arrays(dtype, D, H // 4)
        tree = Tree(torch.empty(B, 32, 32, dtype=torch.bool, device="meta"))
        kind = str(dtype).removeprefix("torch.")
        found[f"D {D}, a tree, divided, {kind}"] = Call(q[:, :32], Dense(k, k), tree)
        found[f"D {D}, a tree, cap, ranges, firsts, divided, {kind}"] = Call(q[:, :32], Ranged(k, k, index, index), tree, cap=SoftCap(30.0), first=index)
        wide = Tree(torch.empty(1, 1, 1, dtype=torch.bool, device="meta"))
        found[f"D {D}, a tree, divided, group of 128, {kind}"] = Call(
            q[:, :1, :1].expand(-1, -1, 128, -1), Dense(k[:, :, :1], k[:, :, :1]), wide
        )  # fmt: skip
    for D, V, G in ((64, 64, H), (128, 128, H), (128, 128, H // 4), (256, 256, H), (192, 128, H)):
        q, k = (torch.empty(1, 4 * T, heads, D, dtype=torch.bfloat16, device="meta") for heads in (H, G))
        found[f"D {D}, V {V}, full, shared tiles, group of {H // G}"] = Call(q, Dense(k, k[..., :V]), Full(), sink=sink)
    for D, Z, G in product((64, 128, 256), (8, 16, 64, 256), (H, H // 4)):
        found[f"D {D}, causal, pages of {Z}, group of {H // G}"] = Call(_arrays(torch.bfloat16, D, G)[0], pages(D, Z, G), Causal())
    for D, Z in product((64, 128), (16, 64)):
        q, keys = _arrays(torch.bfloat16, D, H // 4)[0], pages(D, Z, H // 4)
        found[f"D {D}, full, pages of {Z}"] = Call(q, keys, Full())
        found[f"D {D}, window, pages of {Z}, sink"] = Call(q, keys, Causal() & Window(before=1023), sink=sink)
        found[f"D {D}, short window, pages of {Z}"] = Call(q, keys, Causal() & Window(before=127))
        found[f"D {D}, window, packed, pages of {Z}"] = Call(Packed(q[0], offsets, T), keys, Causal() & Window(before=1023))
        found[f"D {D}, packed queries, pages of {Z}"] = Call(Packed(q[0], offsets, T), keys, Causal())
        found[f"D {D}, divided, pages of {Z}"] = Call(q[:, :32], keys, Causal())
        found[f"D {D}, divided, group of 128, pages of {Z}"] = Call(q[:, :1, :1].expand(-1, -1, 128, -1), pages(D, Z, 1), Causal())
    for D, (name, mask), G in product((64, 128), masks.items(), (H, H // 4)):
        found[f"D {D}, float8, {name}, group of {H // G}"] = Call(_float8(D, H), Dense(_float8(D, G), _float8(D, G)), mask)
    for D, mask in product((64, 96, 128), (Full(), Causal())):
        found[f"D {D}, float8, {mask}, cap and sink"] = Call(_float8(D, H), Dense(_float8(D, H), _float8(D, H)), mask, cap=SoftCap(30.0), sink=sink)
    return found


def _float8(D: int, heads: int) -> Scaled:
    """Narrow numbers with one scale a sequence and head."""
    data = torch.empty(B, T, heads, D, dtype=torch.float8_e4m3fn, device="meta")
    return Scaled(data, torch.empty(B, 1, heads, device="meta"))


def pages(D: int, Z: int, G: int) -> Paged:
    """Keys that lie so, of which there is nothing but their shapes."""
    k = torch.empty(2 * B * T // Z, Z, G, D, dtype=torch.bfloat16, device="meta")
    table, lengths = (torch.empty(*shape, dtype=torch.int32, device="meta") for shape in ((B, T // Z), (B,)))
    return Paged(k, k, table, lengths, T)


def _arrays(dtype: torch.dtype, D: int, G: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys on the device `meta`, so that nothing is held."""
    return torch.empty(B, T, H, D, dtype=dtype, device="meta"), torch.empty(B, T, G, D, dtype=dtype, device="meta")


def compiled(what: str, kernel: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Compiled:
    """One kernel with the arguments of a launch."""
    given = dict(zip((p.name for p in kernel.params), args)) | named  # noqa: B905 — the others are named
    backend = make_backend(TARGET)
    bound, specialised, rest = create_function_from_signature(kernel.signature, kernel.params, backend)(**given)
    chosen, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialised, rest)
    source_of = GluonASTSource if kernel.is_gluon() else ASTSource
    made = triton.compile(source_of(kernel, signature, constants, attributes), target=TARGET, options=chosen.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        source, code = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(made.asm["ptx"])
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", str(source), "-o", str(code)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        code.write_bytes(made.asm["cubin"])
        sass = subprocess.run([knobs.nvidia.cuobjdump.path, "-sass", str(code)], capture_output=True, text=True, check=True).stdout
    form = named.get("form")
    tile = (form.rows, form.tile.keys) if hasattr(form, "tile") else (1, 1)
    serial = re.search(r"\(C75\d\d\)", said) is not None
    registers, spills = _number(r"Used (\d+) registers", said), len(STACK.findall(sass))
    held = made.metadata.shared
    return Compiled(what, kernel.__name__, tile, registers, spills, held, len(PRODUCT.findall(sass)), loops(sass), serial, places(made.asm["ptx"]))


def wrong(found: Compiled) -> list[str]:
    """What makes a kernel slow: products that wait for each other, and a main loop with accesses to the stack. Each warpgroup has its own
    copy of it; the loops of blocks that are masked may have some, in versions of Triton that tiles were not chosen with."""
    if found.kernel != "attend":
        return []
    clean, groups = sum(not stack for _, stack in found.loops), found.tile[0] // 64
    said = ["the assembler lets no products run beside other work"] if found.serialized else []
    said += [f"{clean} loop(s) touch no stack, for {groups} warpgroup(s)"] if clean < groups else []
    return said + (["it has no products"] if not found.products else [])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return -1 if found is None else int(found[1])


def places(ptx: str) -> list[list[tuple[int, int]]]:
    """(column, place in bytes) of the boxes of each copy to shared memory, those of one barrier together, from the first place on."""
    known: dict[str, int] = {}
    found: dict[str, list[tuple[int, int]]] = {}
    box = re.compile(r"cp\.async\.bulk\.tensor\.4d\.shared\S* \[(%r\d+)\], \[%rd\d+, \{(%r\d+), [^}]*\}\], \[(%r\d+)\]")
    for line in ptx.splitlines():
        if made := re.search(r"mov\.b32 \s*(%r\d+), (\d+);", line) or re.search(r"add\.s32 \s*(%r\d+), %r\d+, (\d+);", line):
            known[made[1]] = int(made[2])
        elif sent := box.search(line):
            found.setdefault(sent[3], []).append((known.get(sent[2], -1), known.get(sent[1], 0)))  # a base as it is has no place added
    return [[(column, place - min(p for _, p in boxes)) for column, place in boxes] for boxes in found.values()]


def loops(sass: str) -> list[tuple[int, int]]:
    """(products, accesses to the stack) of each innermost loop that has products."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]
    # a loop asks whether it goes on; jumps back that ask nothing come from waits, which the assembler moves behind the code
    jumps = [(int(found[1], 16), at) for at, text in lines if (found := re.match(r"@\S+ BRA (?:\S+, )?0x([0-9a-f]+)", text))]
    back = [(low, high) for low, high in jumps if low < high]
    found = []
    for low, high in back:
        inside = [text for at, text in lines if low <= at <= high]
        products = sum(PRODUCT.search(text) is not None for text in inside)
        nested = any((a, b) != (low, high) and low <= a and b <= high and any(PRODUCT.search(t) for at, t in lines if a <= at <= b) for a, b in back)
        if products and not nested:
            found.append((products, sum(STACK.search(text) is not None for text in inside)))
    return found


FEW = ("D 64, causal, group of 1", "D 128, causal, group of 4", "D 128, window, group of 1", "D 128, causal, packed, bfloat16", "D 128, Causal(), divided",
       "D 128, a tree, divided, bfloat16", "D 128, causal, pages of 16, group of 4", "D 128, full, pages of 64", "D 192, V 128, causal",
       "D 128, V 128, full, shared tiles, group of 1", "D 128, documents, causal, ranges, group of 4", "D 128, float8, full, group of 1", "D 128, float8, causal, group of 4")  # fmt: skip


def every(words: list[str]) -> Iterator[Compiled]:
    """The kernels whose names have the words."""
    for what, call in calls().items():
        if (what in FEW) if words == ["few"] else all(word in what for word in words):
            for kernel, args, named in started(call):
                yield compiled(what, kernel, args, named)


def started(call: Call) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """(kernel, arguments, named ones) of each start of a call."""
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def start(kernel: Any, _: int, args: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        found.append((kernel, args, named))

    with patch.object(forward, "join"), patch.object(forward, "start", start), patch.object(sharing, "start", start):
        forward.launch(plan(check(_described(call)), Machine.named("h200"), "hopper"), call)
    return found


def main(words: list[str]) -> int:
    """Prints a line of JSON a kernel, or, with the word "judged", what is wrong with each."""
    judged = "judged" in words
    found = list(every([word for word in words if word != "judged"])) if judged else every(words)
    for line in found:
        print(f"{line.what}: {'; '.join(wrong(line)) or 'good'}" if judged else json.dumps(line._asdict()), flush=True)
    return int(judged and any(map(wrong, found)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
