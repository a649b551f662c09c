"""Will the Triton room take it? Standard library only; imports no kernel and no Triton."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.appending import Append
from strobe.backends.triton import sizes, splitting
from strobe.machine import Machine
from strobe.masks import split
from strobe.merging import Merge
from strobe.problem import NARROW, Problem, key_sides
from strobe.terms import Scaled

OLDEST = (3, 6)
DTYPES = ("float32", "bfloat16", "float16")
WIDEST = 512
LATENT = 576  # keys of latent attention, whose values are 512 wide
FLOAT8 = {"float8_e4m3fn": ("sm89", "sm90", "sm100", "sm103", "sm120"), "float8_e5m2": ("sm89", "sm90", "sm100", "sm103", "sm120")}


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
    by_box = sizes.boxes(problem, machine)
    tiles = [sizes.forward(problem, machine, by_box)]
    if problem.verb == "backward":
        tiles = [sizes.backward(problem, machine, kind, by_box) for kind in ("queries", "keys")]
    if sizes.NONE in tiles:
        held = sizes.SHARED_KIB[machine.arch]
        what = f"D={problem.D}, V={problem.V} in {problem.dtype}"
        return Refusal((f"no tile of {what} fits the {held} KiB of shared memory of {machine.arch}",))
    if problem.verb == "backward":
        return Offer("backward", "weights computed again from the lse; each number is written by one program", tiles[0][:2])
    cut = splitting.chosen(problem, machine)
    lanes = sizes.tiles(problem.T * problem.group, tiles[0].rows) * problem.G
    programs = lanes * (cut.slots(problem.B) or problem.B)
    why = f"{programs} program(s) on {machine.units} units, {problem.group} query head(s) of a key head in one tile"
    why += {"ragged": f"; {cut.parts} even share(s) of all sequences' keys", "fixed": "; invariant: cuts at fixed keys"}.get(cut.kind, "")
    return Offer("forward", why, tiles[0][:2], cut.parts, 4 * cut.slots(problem.B) * problem.T * problem.H * (problem.V + 2))


def _machine(machine: Machine) -> list[str]:
    no = []
    if machine.device != "cuda":
        no.append(f"runs on a GPU; this is {machine.device}")
    elif machine.arch not in sizes.SHARED_KIB:
        no.append(f"compiled for {', '.join(sizes.SHARED_KIB)}; this is {machine.arch}")
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
    most = {problem.D: LATENT if problem.verb == "attention" else WIDEST} | {problem.V: WIDEST}
    no += [f"widths are multiples of 8 up to {widest}; got {n}" for n, widest in most.items() if n % 8 or not 0 < n <= widest]
    longest = max(problem.T * problem.group, problem.S)
    if longest >= 2**30:
        no.append(f"sequences have fewer than 2³⁰ keys, and rows (queries × heads of a group); got {longest}")
    kinds = [type(part) for part in split(call.mask)[2]]
    no += [f"one {kind.__name__} a mask; got {kinds.count(kind)}" for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]
    if problem.invariant and problem.verb != "attention":
        no.append("only forward attention is invariant here")
    if problem.invariant and call.dropout is not None:
        no.append("dropout is drawn by a sequence's place in the batch, so it is not invariant")
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
