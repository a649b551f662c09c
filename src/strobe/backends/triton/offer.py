"""Will the Triton room take it? Standard library only; imports no kernel and no Triton."""

from __future__ import annotations

from collections.abc import Callable

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.layouts import Paged
from strobe.machine import Machine
from strobe.masks import Blocks, Dense, Documents, split
from strobe.merging import Merge
from strobe.problem import NARROW, Problem, key_sides
from strobe.terms import Scaled

OLDEST = (3, 6)
DTYPES = ("float32", "bfloat16", "float16")
WIDEST = 512
FLOAT8 = {"float8_e4m3fn": ("sm89", "sm90", "sm100", "sm103", "sm120"), "float8_e5m2": ("sm89", "sm90", "sm100", "sm103", "sm120")}
# Shared memory a program may have, in KiB, by architecture (CUDA programming guide, table of compute capabilities; CDNA and
# RDNA instruction set guides, local data share).
COPY_ENGINE = ("sm90",)
CACHED = 32 << 20  # bytes of keys and values that stay in the cache of the GPUs this is for: 40 MB and more
SHARED_KIB = {
    "sm75": 64, "sm80": 163, "sm86": 99, "sm87": 163, "sm89": 99, "sm90": 227, "sm100": 227, "sm103": 227, "sm120": 99,
    "gfx90a": 64, "gfx942": 64, "gfx950": 160, "gfx1100": 64,
}  # fmt: skip


def padded(width: int) -> int:
    """The width of a tile's rows: a power of two, as Triton's tiles are, and 16 at least, as its products want."""
    return max(16, 1 << (width - 1).bit_length())


# (rows, keys) of a tile for the widest of D and V up to 64, 128, 256, 512: the largest that no compiler spills at 128
# (`tests/rooms/triton_targets.py` asks them all). Products of a Hopper or newer GPU read their second operand from shared memory,
# those of older ones from registers, Turing's are small and in order, and float32 ones are sums of registers alone.
Sizes = tuple[tuple[int, int], ...]
FORWARD: dict[str, Sizes] = {
    "boxes": ((128, 128), (128, 128), (128, 64), (32, 16)),
    "shared": ((128, 64), (128, 64), (64, 32), (32, 16)),
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
    "float32": ((64, 32), (32, 32), (32, 16), (16, 16)),
}
D_KEYS: dict[str, Sizes] = {
    "boxes": ((64, 128), (64, 128), (16, 64), (16, 32)),
    "shared": ((64, 128), (32, 128), (16, 64), (16, 32)),
    "registers": ((32, 128), (32, 64), (16, 64), (16, 32)),
    "amd": ((32, 128), (32, 64), (16, 64), (16, 32)),
    "blackwell": ((64, 128), (32, 128), (16, 64), (16, 32)),
    "turing": ((32, 32), (16, 16), (16, 16), (16, 16)),
    "float32": ((32, 32), (32, 32), (16, 32), (16, 16)),
}
# At most these where more than products meets the scores: forward, dQ and bias; dK and dV.
BUSY = {
    "boxes": ((64, 32), (16, 64)),
    "shared": ((64, 32), (16, 64)),
    "registers": ((32, 32), (16, 64)),
    "amd": ((64, 32), (16, 64)),  # Triton 3.6 does not compile 32 rows and keys for gfx942
    "blackwell": ((64, 32), (16, 64)),
    "turing": ((16, 16), (16, 16)),
    "float32": ((32, 32), (16, 64)),
}


def _kind(problem: Problem, machine: Machine) -> str:
    if problem.dtype == "float32":
        return "float32"
    if machine.arch.startswith("gfx"):
        return "amd"
    return {"sm75": "turing", "sm90": "shared", "sm100": "blackwell", "sm103": "blackwell"}.get(machine.arch, "registers")


def _size(sizes: dict[str, Sizes], problem: Problem, machine: Machine, by_box: bool | None = None) -> tuple[int, int]:
    kind, width = _kind(problem, machine), max(padded(problem.D), padded(problem.V))
    if boxes(problem, machine) if by_box is None else by_box:
        kind = "boxes"
    BM, BN = sizes[kind][0 if width <= 64 else width.bit_length() - 7]
    if busy(problem):
        most = BUSY[kind][sizes is D_KEYS]
        return min(BM, most[0]), min(BN, most[1])
    return BM, BN


def boxes(problem: Problem, machine: Machine) -> bool:
    """Whether tiles come through the copy engine (TMA), if the arrays are aligned: no program computes an address then."""
    plain = problem.dtype != "float32" and not problem.scaled and not isinstance(problem.call.keys, Paged)
    return machine.arch in COPY_ENGINE and plain and problem.T * problem.group > 16


def section(problem: Problem, machine: Machine) -> int:
    """Pairs of a sequence and a key head whose programs run at a time: those whose keys and values fit a GPU's cache."""
    each = problem.S * (problem.D + problem.V) * (4 if problem.dtype == "float32" else 2)
    return max(1, min(problem.B * problem.G, CACHED // max(1, each)))


def tile(problem: Problem, machine: Machine, by_box: bool | None = None) -> tuple[int, int]:
    """(rows, keys) of a step forward, from the widths, the rows there are and the shared memory; (0, 0) if none fits."""
    BM, BN = _size(FORWARD, problem, machine, by_box)
    BM = min(BM, padded(problem.T * problem.group))
    if problem.scaled and BM > 16:  # narrow keys are widened in registers
        BM, BN = min(BM, 64), min(BN, 32)
    return _fit((BM, BN), lambda size: shared_bytes(size, problem, 1), machine)


def busy(problem: Problem) -> bool:
    """Whether arrays or random numbers meet the scores, which take registers of their own."""
    call = problem.call
    arrays = any(isinstance(part, Documents | Blocks | Dense) for part in split(call.mask)[2])
    return arrays or call.bias is not None or call.dropout is not None


def _fit(size: tuple[int, int], needed: Callable[[tuple[int, int]], int], machine: Machine) -> tuple[int, int]:
    """The tile, halved until shared memory holds it: keys first, since rows are what is read less often; (0, 0) if none fits."""
    BM, BN = size
    while needed((BM, BN)) > SHARED_KIB[machine.arch] * 1024:
        if BN > 16:
            BN //= 2
        elif BM > 16:
            BM //= 2
        else:
            return 0, 0
    return BM, BN


def shared_bytes(size: tuple[int, int], problem: Problem, in_flight: int) -> int:
    """Shared memory of a program: queries, `in_flight` tiles of keys and values, and the weights."""
    (BM, BN), each = size, 4 if problem.dtype == "float32" else 2
    D, V = padded(problem.D), padded(problem.V)
    return each * (BM * D + in_flight * BN * (D + V) + BM * BN)


def warps(problem: Problem, rows: int) -> int:
    """Warps of a program whose sums have so many rows."""
    return 4 if rows <= 16 and not problem.scaled else 8


def stages(size: tuple[int, int], problem: Problem, machine: Machine) -> int:
    """Tiles of keys and values in flight: what shared memory holds, three at most, two where registers are short, and
    one where loads are not asynchronous."""
    return _in_flight(lambda n: shared_bytes(size, problem, n), machine)


def _in_flight(needed: Callable[[int], int], machine: Machine) -> int:
    if machine.arch == "sm75":
        return 1
    most = 3 if machine.arch in ("sm90", "sm100", "sm103") else 2
    return max(n for n in range(1, most + 1) if n == 1 or needed(n) <= SHARED_KIB[machine.arch] * 1024)


def splits(problem: Problem, machine: Machine, programs: int) -> int:
    """Parts the keys are cut into: enough for two programs a multiprocessor, and none of fewer than 256 keys."""
    return max(1, min(2 * machine.units // max(1, programs), problem.S // 256))


def backward_tile(problem: Problem, machine: Machine, kind: str, by_box: bool | None = None) -> tuple[int, int]:
    """(rows, keys) of a step of a pass of `backward.py`: "queries", "keys" or "bias"; (0, 0) if none fits."""
    BM, BN = _size(D_KEYS if kind == "keys" else D_QUERIES, problem, machine, by_box and kind != "bias")
    size = (min(BM, 32 if _kind(problem, machine) == "blackwell" else 64), BN) if kind == "bias" else (BM, BN)
    return _fit(size, lambda size: backward_bytes(size, problem, kind, 1), machine)


def backward_bytes(size: tuple[int, int], problem: Problem, kind: str, in_flight: int) -> int:
    """Shared memory of a program of a pass: both arrays of what it keeps and of what passes, and weights and their gradients."""
    BM, BN = size
    held, passing = (BN, BM) if kind == "keys" else (BM, BN)
    both = padded(problem.D) + padded(problem.V)
    return (4 if problem.dtype == "float32" else 2) * (held * both + in_flight * passing * both + 2 * BM * BN)


def backward_stages(size: tuple[int, int], problem: Problem, machine: Machine, kind: str) -> int:
    """Tiles in flight in a pass; one where a shared bias is passed by loop in loop, which leaves registers for no more."""
    return 1 if kind == "bias" else _in_flight(lambda n: backward_bytes(size, problem, kind, n), machine)


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer for attention, its gradient, append and merge on a GPU that Triton compiles for; all reasons otherwise."""
    no = _machine(machine)
    if isinstance(problem, Merge):
        no += [] if problem.dtype in DTYPES else [f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}"]
        return Refusal(tuple(no)) if no else Offer("merge", "one pass over both states")
    if isinstance(problem, Append):
        no += _append(problem, machine)
        return Refusal(tuple(no)) if no else Offer("append", "one program a token and head, keys and values in one launch")
    if problem.verb == "double backward":
        no.append("no second gradient here")
    no += _problem(problem, machine)
    if no:
        return Refusal(tuple(no))
    sizes = [tile(problem, machine)]
    if problem.verb == "backward":
        sizes = [backward_tile(problem, machine, kind) for kind in ("queries", "keys")]
    if (0, 0) in sizes:
        held = SHARED_KIB[machine.arch]
        what = f"D={problem.D}, V={problem.V} in {problem.dtype}"
        return Refusal((f"no tile of {what} fits the {held} KiB of shared memory of {machine.arch}",))
    if problem.verb == "backward":
        return Offer("backward", "weights computed again from the lse; each number is written by one program", sizes[0])
    programs = -(-problem.T * problem.group // sizes[0][0]) * problem.G * problem.B
    parts = splits(problem, machine, programs)
    why = f"{programs * parts} program(s) on {machine.units} units, {problem.group} query head(s) of a key head in one tile"
    rows = problem.B * problem.T * problem.H
    return Offer("forward", why, sizes[0], parts, 0 if parts == 1 else 4 * parts * rows * (problem.V + 1))


def _machine(machine: Machine) -> list[str]:
    no = []
    if machine.device != "cuda":
        no.append(f"runs on a GPU; this is {machine.device}")
    elif machine.arch not in SHARED_KIB:
        no.append(f"compiled for {', '.join(SHARED_KIB)}; this is {machine.arch}")
    if machine.device == "cuda" and machine.triton is None:
        no.append("Triton is not installed: pip install triton")
    elif machine.triton is not None and machine.triton < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (machine.triton, OLDEST))
        no.append(f"needs Triton {oldest} or newer; this is {found}")
    return no


def _problem(problem: Problem, machine: Machine) -> list[str]:
    call, no = problem.call, []
    if problem.dtype not in DTYPES:
        no.append(f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}")
    if problem.dtype == "bfloat16" and machine.arch == "sm75":
        no.append("sm75 has no bfloat16 products")
    widths = dict.fromkeys((problem.D, problem.V))
    no += [f"widths are multiples of 8 up to {WIDEST}; got {n}" for n in widths if n % 8 or not 0 < n <= WIDEST]
    longest = max(problem.T * problem.group, problem.S)
    if longest >= 2**30:
        no.append(f"sequences have fewer than 2³⁰ keys, and rows (queries × heads of a group); got {longest}")
    kinds = [type(part) for part in split(call.mask)[2]]
    no += [f"one {kind.__name__} a mask; got {kinds.count(kind)}" for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]
    if problem.invariant:
        no.append("tiles follow the longest sequence of the batch, so it is not invariant")
    if problem.scaled:
        no += _narrow(problem, machine)
    return no


def _append(problem: Append, machine: Machine) -> list[str]:
    no = [f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}"] if problem.dtype not in DTYPES else []
    if problem.value_dtype != problem.page_dtype:
        no.append(f"pages of keys and values are of one dtype; got {problem.page_dtype} and {problem.value_dtype}")
    if problem.page_dtype not in (*DTYPES, *NARROW):
        no.append(f"pages are {', '.join((*DTYPES, *NARROW))}; got {problem.page_dtype}")
    if problem.page_dtype in FLOAT8 and machine.arch not in FLOAT8[problem.page_dtype]:
        no.append(f"{problem.page_dtype} is written on {', '.join(FLOAT8[problem.page_dtype])}; this is {machine.arch}")
    return no


def _narrow(problem: Problem, machine: Machine) -> list[str]:
    held = [side.data.dtype if isinstance(side, Scaled) else side.dtype for side in key_sides(problem.call.keys)]
    if held[0] != held[1]:
        return [f"keys and values with scales are of one dtype; got keys of {held[0]}, values of {held[1]}"]
    if held[0] not in NARROW:
        return [f"narrow keys are {', '.join(NARROW)}; got {held[0]}"]
    if held[0] in FLOAT8 and machine.arch not in FLOAT8[held[0]]:
        return [f"{held[0]} keys are read on {', '.join(FLOAT8[held[0]])}; this is {machine.arch}"]
    return []
