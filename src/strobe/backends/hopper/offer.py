"""Will the Hopper room take it? Standard library only; imports no kernel and no Triton."""

from __future__ import annotations

from strobe.answers import Offer, Question, Refusal
from strobe.backends.hopper import decoding, latent_desk
from strobe.backends.hopper.forms import (
    PAGES, ROWS, WIDEST, form, is_tree, last_tiles, packable, padded, page_tokens, parts, places, programs, sharing, turned_bytes,
)  # fmt: skip
from strobe.backends.hopper.predicting import divided_us
from strobe.layouts import Dense, Packed, Paged
from strobe.machine import Machine
from strobe.masks import Documents, Prefix, split
from strobe.problem import Problem, key_sides
from strobe.terms import Scaled

OLDEST, NEWEST = (3, 6), (3, 9)  # whose names `compat.py` knows
DTYPES = ("bfloat16", "float16")
CACHED = 4  # times as many keys as queries: those that came before lie in a cache, whose reading is cut over the whole chip


def offer(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer for attention on a Hopper GPU, of prompts, of tokens over a cache or over a latent one; all reasons of all otherwise."""
    no = _machine(machine)
    if no and machine.device != "cuda":  # nothing about the call would make it run here
        return Refusal(tuple(no))
    if no or not isinstance(problem, Problem) or problem.verb != "attention":
        return forward(problem, machine)
    asked = [decoding.decode, forward]
    if _prompt(problem, machine):
        asked.reverse()
    if max(problem.D, problem.V) > WIDEST:
        asked.insert(0, latent_desk.latent)
    answers = [ask(problem, machine) for ask in asked]
    for answer in answers:
        if isinstance(answer, Offer):
            return answer
    return Refusal(tuple(dict.fromkeys(why for answer in answers if isinstance(answer, Refusal) for why in answer.reasons)))


def _prompt(problem: Problem, machine: Machine) -> bool:
    """Whether forward is asked first: where it cuts keys, or queries are more than a few beside them. Over pages, whose keys are a cache
    always, it is asked for more rows than one warpgroup's: where it cuts keys, or its tiles fill half of the chip."""
    count = parts(problem, machine.units)
    if not isinstance(problem.call.keys, Paged):
        return problem.S < CACHED * problem.T or count > 1
    full = problem.S < CACHED * problem.T or 2 * programs(problem) >= machine.units
    return problem.T * problem.group > ROWS and (count > 1 or (problem.T * problem.group >= 2 * ROWS and full))


def forward(problem: Question, machine: Machine) -> Offer | Refusal:
    """An offer for 64 rows or more."""
    no = _machine(machine)
    if not isinstance(problem, Problem) or problem.verb != "attention":
        return Refusal((*no, "forward attention only"))
    count = parts(problem, machine.units)
    no += _arrays(problem) + _terms(problem, count)
    if no:
        return Refusal(tuple(no))
    made = sharing(problem, form(problem, count > 1), machine.units)
    why = f"{made.tile.groups} warpgroups of {ROWS} rows multiply, one warp loads; {made.heads} query head(s) of a key head in one tile"
    if count > 1:
        us = divided_us(programs(problem) * 2 * ROWS, problem.S, made.width, decoding.read_bytes(problem))
        why += f"; {count} equal parts of a tile's keys; {us:.1f} µs predicted"
    if made.shared:
        why += f"; all {machine.units} programs share the last {last_tiles(problem, made, machine.units)} tile(s), by blocks of keys"
    work = 4 * places(problem, made, count, machine.units) * (made.value_width + 2) + turned_bytes(problem, made)
    return Offer("forward", why, (made.rows, made.tile.keys), count, work)


def _machine(machine: Machine) -> list[str]:
    no = []
    if machine.arch != "sm90":
        no.append(f"runs on sm90; this is {machine.arch}")
    if machine.device == "cuda" and machine.triton is None:
        no.append("Triton is not installed: pip install triton")
    elif machine.triton is not None and not OLDEST <= machine.triton <= NEWEST:
        found, oldest, newest = (".".join(map(str, version)) for version in (machine.triton, OLDEST, NEWEST))
        no.append(f"needs Triton {oldest} to {newest}; this is {found}")
    return no


def _arrays(problem: Problem) -> list[str]:
    keys, no = problem.call.keys, []
    narrow = isinstance(problem.call.q, Scaled)
    if narrow:
        no += _narrow(problem)
    elif problem.dtype not in DTYPES:
        no.append(f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}")
    no += [f"widths are multiples of 8 up to {WIDEST}; got {n}" for n in dict.fromkeys((problem.D, problem.V)) if n % 8 or n > WIDEST]
    if padded(problem.D) < padded(problem.V):
        no.append(f"results take the place of queries, so values are no wider than keys; got D={problem.D}, V={problem.V}")
    if padded(problem.D) != padded(problem.V) and isinstance(keys, Paged):
        no.append(f"in pages, keys and values are padded to one width; got D={problem.D}, V={problem.V}")
    rows = problem.T * packable(problem.group)
    if rows < ROWS:
        no.append(f"a warpgroup's product has {ROWS} rows; {problem.T} queries make {rows}")
    page = page_tokens(problem)
    if page is not None and page not in PAGES:
        no.append(f"pages are powers of two from 8 to 1,024 tokens; got {page}")
    if problem.scaled and not narrow:
        no.append("keys with scales beside float8 queries only")
    elif 0 in (problem.S, *(n for side in key_sides(keys) for n in (side.data if narrow else side).shape)):
        no.append("there are no keys")
    tokens = problem.call.q.tokens.shape[0] if isinstance(problem.call.q, Packed) else problem.B * problem.T
    if tokens * problem.H >= 2**31 or problem.S >= 2**30:
        no.append(f"fewer than 2³¹ rows and 2³⁰ keys; got {tokens * problem.H} and {problem.S}")
    if problem.invariant:
        no.append("invariance is not shown here")
    return no


def _narrow(problem: Problem) -> list[str]:
    """Why not float8 queries, keys and values."""
    no, keys = [], problem.call.keys
    if not isinstance(keys, Dense):
        return [f"float8 queries over keys of plain arrays; got {type(keys).__name__}"]
    widths = dict.fromkeys((problem.D, problem.V))
    no += [f"float8 widths are multiples of 16 up to 128; got {n}" for n in widths if n % 16 or n > 128]
    if padded(problem.D) != padded(problem.V):
        no.append(f"float8 keys and values are padded to one width; got D={problem.D}, V={problem.V}")
    for name, side in zip(("keys", "values"), key_sides(keys), strict=True):
        if side.scale.shape[1] != 1:
            no.append(f"a scale of float8 {name} is one a sequence and head, [B, 1, G]; got {list(side.scale.shape)}")
    if any(isinstance(part, Documents) for part in split(problem.call.mask)[2]):
        no.append("no Documents of float8 queries")
    return no


def _terms(problem: Problem, count: int) -> list[str]:
    call, no = problem.call, []
    rest = split(call.mask)[2]
    if is_tree(problem):
        no += ["a Tree alone is taken where keys are cut into parts; these are not"] if count == 1 else []
    else:
        wrong = [type(part).__name__ for part in rest if not isinstance(part, Prefix | Documents)]
        no += [f"masks are Full, Causal, Window, Prefix and Documents; got {name}" for name in wrong]
    kinds = [type(part) for part in rest if isinstance(part, Prefix | Documents)]
    if len(kinds) > 1:
        no.append(f"one Prefix or one Documents a mask; got {' and '.join(kind.__name__ for kind in kinds)}")
    if Documents in kinds and (isinstance(call.keys, Paged) or isinstance(call.q, Packed)):
        no.append("Documents of queries and keys that lie apart from pages and are not packed")
    no += [f"no {name} here" for name in ("bias", "alibi", "dropout") if getattr(call, name) is not None]
    if problem.scale <= 0 and call.cap is None:
        no.append(f"the greatest score is that of the greatest product, so the scale is above 0; got {problem.scale}")
    return no
