"""Tiles of the kernels, from widths, lengths and machine: measured ones where there are any, else the largest that fit.

Standard library only. `tuned/<machine>.json` is written by `tools/tune.py` on the machine, and read here; no call measures anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from strobe.layouts import Dense as Keys
from strobe.layouts import Packed, Paged
from strobe.machine import Machine
from strobe.masks import Blocks, Dense, Documents, causal_window, split
from strobe.problem import Described, Problem


class Tile(NamedTuple):
    """(rows, keys) of a step; warps of a program; tiles in flight; and how many registers a thread may have, None for all."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


# Shared memory a program may have, in KiB, by architecture (CUDA programming guide, table of compute capabilities; CDNA and
# RDNA instruction set guides, local data share).
SHARED_KIB = {
    "sm75": 64, "sm80": 163, "sm86": 99, "sm87": 163, "sm89": 99, "sm90": 227, "sm100": 227, "sm103": 227, "sm120": 99,
    "gfx90a": 64, "gfx942": 64, "gfx950": 160, "gfx1100": 64,
}  # fmt: skip
COPY_ENGINE = ("sm90",)
WHOLE = 512  # the widest tile; of wider rows the rest is a tile of its own
MEASURED = {"sm90": "h200"}
CACHED = 32 << 20  # bytes of keys and values that stay in the cache of the GPUs this is for: 40 MB and more

# (rows, keys) of a tile for the widest of D and V up to 64, 128, 256, 512: the largest that no compiler spills at 128
# (`tests/rooms/triton_targets.py` asks them all). With the copy engine no register holds an address. Else products of a Hopper
# or newer GPU read their second operand from shared memory, those of older ones from registers, Turing's are small and in
# order, and float32 ones are sums of registers alone.
Sizes = tuple[tuple[int, int], ...]
FORWARD: dict[str, Sizes] = {
    "boxes": ((128, 64), (128, 64), (128, 64), (32, 16)),
    "shared": ((128, 64), (64, 64), (64, 32), (32, 16)),
    "registers": ((128, 64), (64, 64), (32, 32), (32, 16)),
    "amd": ((128, 64), (64, 64), (32, 32), (32, 16)),
    "blackwell": ((128, 64), (128, 32), (64, 32), (32, 16)),
    "turing": ((64, 32), (16, 32), (16, 16), (16, 16)),
    "float32": ((64, 32), (32, 32), (32, 16), (16, 16)),
}
D_QUERIES: dict[str, Sizes] = {
    "boxes": ((128, 64), (128, 64), (64, 32), (32, 16)),
    "shared": ((128, 64), (128, 64), (64, 32), (32, 16)),
    "registers": ((64, 64), (64, 64), (32, 32), (32, 16)),
    "amd": ((64, 64), (64, 64), (32, 32), (32, 16)),
    "blackwell": ((128, 64), (128, 32), (64, 32), (32, 16)),
    "turing": ((32, 32), (16, 16), (16, 16), (16, 16)),
    "float32": ((32, 32), (32, 32), (32, 16), (16, 16)),
}
D_KEYS: dict[str, Sizes] = {
    "boxes": ((64, 128), (32, 128), (32, 64), (16, 32)),
    "shared": ((64, 128), (32, 128), (16, 64), (16, 32)),
    "registers": ((32, 128), (32, 64), (16, 64), (16, 32)),
    "amd": ((32, 128), (32, 64), (16, 64), (16, 32)),
    "blackwell": ((64, 128), (32, 128), (16, 64), (16, 32)),
    "turing": ((32, 32), (16, 16), (16, 16), (16, 16)),
    "float32": ((32, 32), (32, 16), (16, 32), (16, 16)),
}
D_BIAS: Sizes = ((128, 64), (128, 64), (64, 64))  # through the copy engine
# At most these where more than products meets the scores: forward, dQ and bias; dK and dV.
BUSY = {
    "boxes": ((64, 32), (16, 64)),
    "shared": ((64, 32), (16, 64)),
    "registers": ((32, 32), (16, 32)),
    "amd": ((64, 32), (16, 64)),  # Triton 3.6 does not compile 32 rows and keys for gfx942
    "blackwell": ((64, 32), (16, 64)),
    "turing": ((16, 16), (16, 16)),
    "float32": ((32, 32), (16, 64)),
}
# Of forward attention with a bias that comes through the copy engine, by width: half as many programs read the keys, and a
# third tile is on its way (H200, 4,096 causal: 737 µs; programs of 64 rows took 838, without a bias 558).
BIASED = {128: Tile(128, 64, 8, 3)}
# Of few rows, up to width 128, by how keys lie (H200, 16 sequences of 8,192 keys: pages of 256 tokens 151 µs where four warps and two
# tiles in flight took 189, int8 114 where 64 keys took 157; one sequence of 1,024 keys 8.7 µs where two tiles in flight took 10.6).
FEW = {"dense": Tile(16, 64, 4, 3), "paged": Tile(16, 32, 2, 4), "narrow": Tile(16, 64, 4, 3)}
LATENT = Tile(64, 32, 8, 2)  # of keys above 512; no other tile leaves the loop of whole tiles without spills
NONE = Tile(0, 0, 0, 0)


def tiles(length: int, size: int) -> int:
    """How many tiles of a size a length takes."""
    return -(-length // size)


def padded(width: int) -> int:
    """The width of a tile's rows: a power of two, as Triton's tiles are, and 16 at least, as its products want. Above 512 a `tail`
    has the rest."""
    return max(16, 1 << (min(width, WHOLE) - 1).bit_length())


def tail(width: int) -> int:
    """The width of the tail of a tile's rows, 0 if they need none: latent attention's keys are 512 and 64 wide."""
    return 0 if width <= WHOLE else padded(width - WHOLE)


def boxes(problem: Problem, machine: Machine) -> bool:
    """Whether tiles come through the copy engine (TMA), if the arrays are aligned: no program computes an address then."""
    plain = problem.dtype != "float32" and not problem.scaled and not isinstance(problem.call.keys, Paged)
    plain = plain and problem.D <= WHOLE
    return machine.arch in COPY_ENGINE and plain and problem.T * problem.group > 32 and not problem.invariant


def packed(problem: Problem) -> int:
    """Rows of a sequence and key head that a tile is chosen for; invariant, only those that are the model's."""
    return problem.group if problem.invariant else problem.T * problem.group


def listable(problem: Problem) -> bool:
    """Whether the blocks a mask keeps can be listed: no other array hides pairs, and no tile crosses an edge of a block."""
    call = problem.call
    found = [part for part in split(call.mask)[2] if isinstance(part, Documents | Blocks | Dense)]
    if len(found) != 1 or not isinstance(found[0], Blocks) or isinstance(call.first, Described) or problem.invariant:
        return False
    kept, dense = found[0].kept.shape, isinstance(call.keys, Keys) and not isinstance(call.q, Packed)
    return dense and found[0].rows % 64 == 0 and found[0].columns % 128 == 0 and (kept[1] == 1 or problem.group == 1)


def bias_by_box(problem: Problem, kind: str) -> bool:
    """Whether a bias comes through the copy engine too, if it is aligned: it has a number for each query and key, of 16 bits, and
    the rows of a tile are queries of one head."""
    bias = problem.call.bias
    if not isinstance(bias, Described) or (problem.group > 1 and kind in ("forward", "queries")):
        return False
    return bias.dtype in ("bfloat16", "float16") and bias.shape[-2:] == (problem.T, problem.S) and problem.S % 8 == 0


def section(problem: Problem) -> int:
    """Pairs of a sequence and a key head whose programs run at a time: those whose keys and values fit a GPU's cache."""
    each = problem.S * (problem.D + problem.V) * (4 if problem.dtype == "float32" else 2)
    return max(1, min(problem.B * problem.G, CACHED // max(1, each)))


@lru_cache(maxsize=4096)
def forward(problem: Problem, machine: Machine, by_box: bool) -> Tile:
    """The tile of `forward.py`; NONE if none fits the shared memory."""
    light = by_box and _extras(problem) < 2 and not listable(problem)  # a bias alone leaves enough registers
    known = measured("attend", problem, machine) if light else None
    if known is not None and known.rows <= padded(packed(problem)):
        if problem.call.bias is None:
            return known
        if not bias_by_box(problem, "forward"):
            return known._replace(rows=64)
        best = BIASED.get(padded(max(problem.D, problem.V)))
        if best is not None and best.rows <= padded(problem.T):
            return best
        return known._replace(stages=2)  # tiles of a bias would take the shared memory of a multiprocessor's second program
    BM, BN = _size(FORWARD, problem, machine, by_box, _extras(problem, "forward" if by_box else ""))
    BM = min(BM, padded(packed(problem)))
    if problem.scaled and BM > 16:  # narrow keys are widened in registers
        BM, BN = min(BM, 64), min(BN, 32)
    if machine.arch == "sm75" and _short(problem):
        BN = min(BN, 16)
    BM = _in_block(Tile(BM, BN, 0, 0), problem).rows
    if BM <= 16 and machine.arch in MEASURED and max(problem.D, problem.V) <= 128 and problem.dtype != "float32" and not _extras(problem):
        return FEW["narrow" if problem.scaled else "paged" if isinstance(problem.call.keys, Paged) or problem.invariant else "dense"]
    if problem.D > WHOLE and machine.arch in MEASURED and problem.dtype != "float32" and not problem.scaled and not _extras(problem):
        rows = min(LATENT.rows, padded(packed(problem)))
        return LATENT._replace(rows=rows, stages=2 if rows > 32 else 3)
    if problem.D > WHOLE and machine.arch == "sm75":  # the sums pass through shared memory at the end, beside all of the queries
        return NONE
    full = problem.scaled or _extras(problem) == 2 or problem.dtype == "float32"
    wide = problem.dtype == "float32" and max(problem.D, problem.V) > 128
    few = BM <= 16 and not wide and not (machine.arch == "sm75" and full)
    # with a bias alone the assembler would take 128 registers, for more programs a multiprocessor, and spill
    biased = BM <= 32 and _extras(problem) == 1 and _kind(problem, machine) == "registers"
    found = _fit(BM, BN, 4 if few or biased else 8, 2 if few else 3, lambda *sizes: _forward_bytes(problem, *sizes), machine)
    return found._replace(registers=255) if biased else found


def of_one_array(tile: Tile, problem: Problem, machine: Machine) -> Tile:
    """The tile where values are the first numbers of the keys: one more of it is in flight."""
    return tile._replace(stages=3) if machine.arch in MEASURED and tile[:2] == LATENT[:2] else tile


def _short(problem: Problem) -> bool:
    """Whether Turing has registers for 16 keys only; invariant, whatever the layout."""
    return listable(problem) or problem.dtype == "float32" or isinstance(problem.call.keys, Paged) or problem.invariant


@lru_cache(maxsize=4096)
def backward(problem: Problem, machine: Machine, kind: str, by_box: bool) -> Tile:
    """The tile of a pass of `backward.py`: "queries", "keys" or "bias"; NONE if none fits the shared memory."""
    known = measured(f"d_{kind}", problem, machine) if by_box and not _extras(problem, kind) else None
    if known is not None:
        return known if kind == "keys" else _in_block(known, problem)
    if kind == "bias":
        return _bias(problem, machine, by_box)
    busy = _extras(problem, kind if by_box else "")
    BM, BN = _size(D_KEYS if kind == "keys" else D_QUERIES, problem, machine, by_box, busy)
    if kind == "queries":
        BM = _in_block(Tile(BM, BN, 0, 0), problem).rows
    # of float32 the assembler would have three programs of 8 warps a multiprocessor, and spill
    narrow = problem.dtype == "float32" and kind == "keys" and max(problem.D, problem.V) <= 64
    warps = 4 if narrow or (by_box and kind == "queries" and busy) else 8
    found = _fit(BM, BN, warps, 3, lambda *sizes: _backward_bytes(problem, kind, *sizes), machine)
    # sm120's assembler would take 128 registers here too, and spill
    return found._replace(registers=255) if kind == "keys" and busy == 2 and machine.arch == "sm120" else found


def _bias(problem: Problem, machine: Machine, by_box: bool) -> Tile:
    """Of a bias that is shared: all that shares it passes, queries too. Through addresses registers are left for one tile in flight."""
    width = max(padded(problem.D), padded(problem.V), 64)
    if by_box and _extras(problem) == 1 and width <= 256:
        BM, BN = D_BIAS[width.bit_length() - 7]
    else:
        BM, BN = _size(D_QUERIES, problem, machine, False, _extras(problem))
        BM = min(BM, 32 if _kind(problem, machine) == "blackwell" else 64)
    return _fit(BM, BN, 8, 3 if by_box else 1, lambda *sizes: _backward_bytes(problem, "bias", *sizes), machine)


def _in_block(tile: Tile, problem: Problem) -> Tile:
    """The tile, with 64 rows if it would cross the edge of a listed block."""
    crosses = listable(problem) and any(
        isinstance(part, Blocks) and part.rows * problem.group % tile.rows for part in split(problem.call.mask)[2]
    )
    return tile._replace(rows=64, warps=4) if crosses and tile.rows > 64 else tile


def measured(kernel: str, problem: Problem, machine: Machine) -> Tile | None:
    """The tile that was fastest on a machine like this, if one was measured."""
    width = max(padded(problem.D), padded(problem.V), 64)
    seen = "full" if causal_window(problem.call.mask) == (None, None) else "masked"
    found = tuned(MEASURED[machine.arch])["tiles"].get(kernel, {}).get(f"{width} {seen}") if machine.arch in MEASURED else None
    return None if found is None else Tile(*found)


@lru_cache(maxsize=None)
def tuned(name: str) -> dict[str, Any]:
    """What `tools/tune.py` wrote on a machine."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "tuned" / f"{name}.json").read_text())
    return found


def _kind(problem: Problem, machine: Machine) -> str:
    if problem.dtype == "float32":
        return "float32"
    if machine.arch.startswith("gfx"):
        return "amd"
    return {"sm75": "turing", "sm90": "shared", "sm100": "blackwell", "sm103": "blackwell"}.get(machine.arch, "registers")


def _size(sizes: dict[str, Sizes], problem: Problem, machine: Machine, by_box: bool, busy: int) -> tuple[int, int]:
    kind, width = "boxes" if by_box else _kind(problem, machine), max(padded(problem.D), padded(problem.V))
    BM, BN = sizes[kind][0 if width <= 64 else width.bit_length() - 7]
    if busy:
        most = BUSY[kind][sizes is D_KEYS]
        if kind == "blackwell" and busy == 2:
            most = (min(most[0], 32), most[1])
        return min(BM, most[0]), min(BN, most[1])
    return BM, BN


def _extras(problem: Problem, by_box: str = "") -> int:
    """What takes registers of its own: 1 for a bias alone, 2 where masks by arrays or random numbers meet the scores. A bias that
    comes through the copy engine, to the kernel named, takes none."""
    call = problem.call
    arrays = not listable(problem) and any(isinstance(part, Documents | Blocks | Dense) for part in split(call.mask)[2])
    if arrays or call.dropout is not None or (call.bias is not None and call.alibi is not None):
        return 2
    return int(call.bias is not None and not (by_box and problem.group == 1 and bias_by_box(problem, by_box)))


def _fit(BM: int, BN: int, warps: int, most: int, needed: Callable[[int, int, int], int], machine: Machine) -> Tile:
    """The tile, halved until shared memory holds it, keys first, since rows are what is read less often; with as many tiles
    in flight as it holds: `most` at most, two where registers are short, and one where loads are not asynchronous."""
    held = SHARED_KIB[machine.arch] * 1024
    while needed(BM, BN, 1) > held:
        if BN > 16:
            BN //= 2
        elif BM > 16:
            BM //= 2
        else:
            return NONE
    most = min(most, {"sm75": 1, "sm90": 3, "sm100": 3, "sm103": 3}.get(machine.arch, 2))
    return Tile(BM, BN, warps, max(n for n in range(1, most + 1) if n == 1 or needed(BM, BN, n) <= held))


def _forward_bytes(problem: Problem, BM: int, BN: int, in_flight: int) -> int:
    """Shared memory of a program: queries, tiles of keys and values in flight, and the weights."""
    D, V = padded(problem.D) + tail(problem.D), padded(problem.V)
    bias = BM if problem.call.bias is not None else 0
    return (4 if problem.dtype == "float32" else 2) * (BM * D + in_flight * BN * (D + V + bias) + BM * BN)


def _backward_bytes(problem: Problem, kind: str, BM: int, BN: int, in_flight: int) -> int:
    """Shared memory of a program of a pass: both arrays of what it keeps and of what passes, and weights and their gradients."""
    held, passing = (BN, BM) if kind == "keys" else (BM, BN) if kind == "queries" else (0, BM + BN)
    both = padded(problem.D) + padded(problem.V)
    bias = BM * BN if problem.call.bias is not None else 0
    made = 0 if kind == "bias" else 2 * BM * BN
    return (4 if problem.dtype == "float32" else 2) * (held * both + in_flight * (passing * both + bias) + made)
