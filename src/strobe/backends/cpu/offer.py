"""Will the CPU room take it? Standard library only; imports no kernel."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.machine import CPU_ARCHS, Machine
from strobe.masks import Prefix, split
from strobe.merging import Merge
from strobe.problem import Problem, key_sides
from strobe.terms import Scaled

DTYPES = ("float32", "bfloat16", "float16")
NARROW = ("int8", "float8_e4m3fn", "float8_e5m2", "uint8")  # of keys and values with scales; uint8 is pairs of int4
WIDEST = 576
# Rows (queries × heads of a group) of the kernels whose lanes are the width, on tiles and else, and keys of their blocks.
FEW_ROWS_ON_TILES, FEW_ROWS = 64, 8
KEYS = 64
MOST_MARKS = 4
# Rows that pass at once, and keys whose gradients are gathered while all rows pass.
BACKWARD = {"scalar": (4, 192), "neon": (12, 192), "avx2": (24, 192), "avx512": (48, 192)}
BACKWARD_ON_TILES = {"bfloat16": (256, 256), "float16": (64, 256)}
TILES = {"scalar": (32, 96), "neon": (96, 96), "avx2": (192, 96), "avx512": (384, 96), "amx": (256, 256)}  # lanes are rows


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer for attention, its gradient, append and merge on a CPU with the compiled library; the reasons otherwise."""
    no = []
    if machine.device != "cpu":
        no.append(f"runs on a CPU; this is {machine.device}")
    elif machine.arch not in CPU_ARCHS:
        no.append(f"has no kernels for {machine.arch}")
    if not machine.compiled:
        no.append("the compiled library is not installed")
    if isinstance(problem, Merge):
        return _copy(no, "merge", (problem.V,), (problem.dtype,), "one pass over both states")
    if isinstance(problem, Append):
        if problem.value_dtype != problem.page_dtype:
            no.append(f"pages of keys and values are of one dtype; got {problem.page_dtype} and {problem.value_dtype}")
        if problem.page_dtype in NARROW:
            why = "each row becomes narrow numbers and one scale"
            return _copy(no, "append", (problem.D, problem.V), (problem.dtype,), why)
        if problem.page_dtype != problem.dtype and problem.dtype != "float32":
            no.append(f"pages are of the tokens' dtype, or narrower than float32; these are {problem.page_dtype} for {problem.dtype}")
        return _copy(no, "append", (problem.D, problem.V), (problem.dtype, problem.page_dtype), "a copy of rows")
    return _attention(problem, machine, no)


def _widths(widths: tuple[int, ...]) -> list[str]:
    return [f"widths are multiples of 8 up to {WIDEST}; got {n}" for n in dict.fromkeys(widths) if n % 8 or not 0 < n <= WIDEST]


def _copy(no: list[str], kernel: str, widths: tuple[int, ...], dtypes: tuple[str, ...], why: str) -> Offer | Refusal:
    no += _widths(widths)
    no += [f"dtypes are {', '.join(DTYPES)}; got {dtype}" for dtype in dict.fromkeys(dtypes) if dtype not in DTYPES]
    return Refusal(tuple(no)) if no else Offer(kernel, why)


def _narrow(problem: Problem) -> list[str]:
    """What speaks against the narrow keys and values of a problem, if it has any."""
    if not problem.scaled:
        return []
    no = []
    held = [side.data.dtype if isinstance(side, Scaled) else side.dtype for side in key_sides(problem.call.keys)]
    if held[0] != held[1]:
        no.append(f"keys and values with scales are of one dtype; got keys of {held[0]}, values of {held[1]}")
    if problem.verb == "backward":
        no.append("gradients are not computed over keys with scales")
    return no


def _attention(problem: Problem, machine: Machine, no: list[str]) -> Offer | Refusal:
    call = problem.call
    if problem.dtype not in DTYPES:
        no.append(f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}")
    no += _widths((problem.D, problem.V))
    longest = max(problem.T, problem.S)
    if longest >= 2**31:
        no.append(f"sequences have fewer than 2³¹ tokens; got {longest}")
    marks = [part for part in split(call.mask)[2] if not isinstance(part, Prefix)]
    if len(marks) > MOST_MARKS:
        no.append(f"masks are at most {MOST_MARKS} of Documents, Blocks, Tree and Dense, beside intervals; got {len(marks)}")
    no += _narrow(problem)
    if problem.verb == "double backward":
        no.append("no second gradient here")
    if no:
        return Refusal(tuple(no))
    if problem.verb == "backward":
        why = "weights computed again from the lse, a chunk of keys against all rows; memory grows with T, not T × S"
        if machine.arch == "amx" and problem.dtype in BACKWARD_ON_TILES and call.bias is None:
            return Offer("backward", why, BACKWARD_ON_TILES[problem.dtype])
        return Offer("backward", why, BACKWARD["avx512" if machine.arch == "amx" else machine.arch])
    shaped = bool(marks) or call.bias is not None or call.dropout is not None
    rows = problem.T * problem.group
    amx = machine.arch == "amx"
    on_tiles = amx and not shaped and not problem.scaled and problem.dtype == "bfloat16" and problem.D % 32 == problem.V % 32 == 0
    if problem.invariant and not shaped:
        why = "invariant: one kernel for any number of rows, keys cut at the same places; prompts take 2 to 5 times as long"
        return Offer("decode", why, (FEW_ROWS_ON_TILES if on_tiles else FEW_ROWS, KEYS))
    if not shaped and rows <= (FEW_ROWS_ON_TILES if on_tiles else FEW_ROWS):
        pairs = problem.B * problem.G
        splits = -(-machine.units // pairs) if pairs else 1
        why = f"{rows} row(s) a key head: the keys are read once, their blocks shared evenly by the threads"
        return Offer("decode", why, (rows, KEYS), splits)
    # float32 would be six products of bf16 terms, no faster; what shapes the weights is read beside the scores of these
    # tiles, and narrow keys are widened with their scales
    arch = "avx512" if amx and (shaped or problem.scaled or problem.dtype == "float32") else machine.arch
    return Offer("forward", f"{rows} rows a key head fill tiles whose lanes are rows", TILES[arch])
