"""Will the Hopper room take latent attention, and how are the keys cut? The part of the desk that is its own; standard library only.

    lanes    tiles of 64 rows of key heads: G · ⌈T · group / 64⌉        programs   one wave, of one program a multiprocessor
    even     B · lanes · parts programs        lengths are the same, or too short for a long one to matter
    stream   lanes · parts programs            lengths are on the device and may differ, or an even grid would leave units idle
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from strobe.answers import Offer, Refusal
from strobe.backends.hopper.decoding import DTYPES, FULL, LONGEST, MOST_SEQUENCES, tiles
from strobe.backends.hopper.predicting import latent_us
from strobe.layouts import Dense, Packed, PackedKeys, Paged
from strobe.machine import Machine
from strobe.masks import split
from strobe.problem import Described, Problem, key_sides
from strobe.terms import Scaled

ROWS = 64  # of a tile
KEYS = 64  # of a block
HALF = 256  # columns of values, which one warpgroup adds up
TAIL = 64  # columns of keys that are no values
NARROWEST = HALF  # up to which the room's other kernels go
WIDEST_KEYS, WIDEST_VALUES = 2 * HALF + TAIL, 2 * HALF
PAGES = tuple(1 << n for n in range(3, 11))  # tokens: eight rows are a swizzle's pattern
MOST_QUERIES = 1024  # of a sequence; more are a prompt's, whose keys and values are made of latent ones first
SHORT = 512  # keys: a sequence this long is over before a stream's additional parts pay


@dataclass(frozen=True)
class Form:
    """One compiled kernel."""

    D: int
    V: int
    group: int  # heads of a key head: row r is query r // group, head r % group
    page: int | None  # tokens of a page, a power of two from 8 on, where keys lie in pages
    before: bool  # a window reaches back only so far
    after: bool  # a window, or causality, reaches forward only so far
    mixed: bool  # rows of a tile may be of several queries, which see different keys
    apart: bool  # values are an array of their own, not the keys' first columns
    stream: bool  # a program's blocks may lie in several sequences
    batch: int  # of a stream, a power of two from the number of sequences on
    divided: bool  # a sequence may be several parts

    @property
    def tail(self) -> bool:
        """Whether keys are wider than two halves."""
        return self.D > 2 * HALF

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread of the second warpgroup, and of the warp that loads; the first warpgroup has the rest, 240."""
        return (208, 56) if self.page is None and not self.apart else (200, 64)

    @property
    def slots(self) -> int:
        """Blocks of keys in flight, and as many of values apart."""
        return 1 if self.apart else 2

    @property
    def box(self) -> int:
        """Keys that the copy engine fetches at a time."""
        return KEYS if self.page is None else min(self.page, KEYS)

    @property
    def boxes(self) -> int:
        """Of a block, side by side along the keys."""
        return KEYS // self.box


class Chosen(NamedTuple):
    """How the keys are cut."""

    stream: bool
    parts: int  # of a sequence at most; of a stream, programs a lane
    lanes: int

    def programs(self, B: int) -> int:
        """Of the whole grid."""
        return self.lanes * self.parts * (1 if self.stream else B)

    def slots(self, B: int) -> int:
        """Places for parts: none where each sequence is one part."""
        if self.stream:
            return self.lanes * (self.parts + B)
        return self.lanes * self.parts * B if self.parts > 1 else 0


def page_tokens(problem: Problem) -> int | None:
    """Tokens of a page; None where keys do not lie in pages."""
    return _shape(key_sides(problem.call.keys)[0])[1] if isinstance(problem.call.keys, Paged) else None


def form(problem: Problem, machine: Machine, apart: bool) -> Form:
    """The kernel for a problem that the desk takes."""
    how, (before, after, _) = chosen(problem, machine), split(problem.call.mask)
    return Form(
        D=problem.D, V=problem.V, group=problem.group, page=page_tokens(problem),
        before=before is not None, after=after is not None,
        mixed=problem.T > 1 and problem.group % ROWS > 0, apart=apart, stream=how.stream,
        batch=1 << max(5, (problem.B - 1).bit_length()) if how.stream else 1, divided=how.slots(problem.B) > 0,
    )  # fmt: skip


def reach(problem: Problem) -> int:
    """Keys that a tile of rows may see, at most."""
    before, after, _ = split(problem.call.mask)
    if before is None or after is None:
        return problem.S
    return min(problem.S, before + after + min(problem.T, tiles(ROWS - 1, problem.group) + 1))


@lru_cache(maxsize=4096)
def chosen(problem: Problem, machine: Machine) -> Chosen:
    """The split: over one wave of programs, no more than there are blocks."""
    lanes, seen, B = problem.G * tiles(problem.T * problem.group, ROWS), reach(problem), problem.B
    longest = max(1, tiles(seen, KEYS) + (seen < problem.S))  # where a window begins within a block, it takes one more
    parts = max(1, min(machine.units // max(1, lanes * B), longest))
    even = Chosen(False, tiles(longest, tiles(longest, parts)), lanes)  # no more than those that the longest part leaves
    if seen <= SHORT or not 1 < B <= MOST_SEQUENCES or lanes > machine.units:
        return even
    stream = Chosen(True, min(machine.units // lanes, longest * B), lanes)
    grid, room = even.programs(B), machine.units
    uneven = not isinstance(problem.call.keys, Dense) or grid < FULL * room * tiles(grid, room)
    return stream if uneven and tiles(problem.S, KEYS) * B * stream.parts < 2**31 else even


def latent(problem: Problem, machine: Machine) -> Offer | Refusal:
    """An offer for keys or values that are wider than the room's other kernels take; all reasons otherwise."""
    no = _problem(problem) + _keys(problem)
    if no:
        return Refusal(tuple(no))
    how, B = chosen(problem, machine), problem.B
    rows, grid = problem.T * problem.group, how.programs(B)
    cuts = f"{how.parts} even share(s) of all sequences' blocks a head" if how.stream else f"{how.parts} equal part(s) a sequence"
    size = 2 * B * problem.G * reach(problem) * problem.D  # of keys, which hold the values
    why = f"{rows} row(s) a key head; {cuts}; {grid} program(s), {grid / machine.units:.2f} wave(s); {size / 1e6:.1f} MB of keys"
    why += f", {latent_us(B * how.lanes * tiles(reach(problem), KEYS) / machine.units):.1f} µs predicted"
    return Offer("latent", why, (ROWS, KEYS), how.parts, how.slots(B) * min(ROWS, rows) * (WIDEST_VALUES + 2) * 4)


def _problem(problem: Problem) -> list[str]:
    call, no = problem.call, []
    if problem.verb != "attention":
        no.append(f"latent offers forward attention only; this is {problem.verb}")
    if problem.dtype not in DTYPES:
        no.append(f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}")
    fits = NARROWEST < problem.V <= min(WIDEST_VALUES, problem.D) and problem.D <= WIDEST_KEYS
    if not fits or problem.D % 8 or problem.V % 8:
        wanted = f"multiples of 8, {NARROWEST} < V ≤ D ≤ {WIDEST_KEYS} and V ≤ {WIDEST_VALUES}"
        no.append(f"latent keys and values have widths that are {wanted}; got D={problem.D}, V={problem.V}")
    if isinstance(call.q, Packed):
        no.append("latent has the same number of queries a sequence; these are packed")
    if problem.T > MOST_QUERIES:
        no.append(f"latent is for at most {MOST_QUERIES} queries a sequence; got {problem.T}")
    no += [f"masks are Full, Causal and Window; got {type(part).__name__}" for part in split(call.mask)[2]]
    no += [f"latent has no {name}" for name in ("cap", "bias", "alibi", "dropout") if getattr(call, name) is not None]
    if problem.scale <= 0:
        no.append(f"the greatest score is that of the greatest product, so the scale is above 0; got {problem.scale}")
    if problem.invariant:
        no.append("latent is not invariant: how keys are cut depends on the batch")
    return no


def _keys(problem: Problem) -> list[str]:
    keys, no, page = problem.call.keys, [], page_tokens(problem)
    if isinstance(keys, PackedKeys):
        no.append("latent reads dense keys, ranges and pages; these are packed")
    if problem.scaled:
        no.append("latent has no keys with scales")
    if page is not None and page not in PAGES:
        no.append(f"pages are powers of two from 8 to 1,024 tokens; got {page}")
    if problem.S >= LONGEST:
        no.append(f"sequences have fewer than 2²⁶ keys; got {problem.S}")
    if problem.B * problem.T * problem.H >= 2**31:
        no.append(f"fewer than 2³¹ rows; got {problem.B * problem.T * problem.H}")
    return no


def _shape(side: object) -> tuple[int, ...]:
    found = side.data if isinstance(side, Scaled) else side
    assert isinstance(found, Described)
    return found.shape
