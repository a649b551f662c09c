"""Will the Hopper room decode it, and how are the keys cut? The half of the desk that is decode's; standard library only.

    lanes    tiles of rows of key heads: G · ⌈T · group / rows⌉           programs   one wave: multiprocessors · programs each holds
    even     B · lanes · splits programs        lengths are the same, or too short for a long one to matter
    stream   lanes · shares programs            lengths are on the device and may differ, or an even grid would leave units idle
    fixed    as many parts as the longest has   `invariant`: cuts at the same keys of every sequence
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from strobe.answers import Offer, Refusal
from strobe.backends.hopper.predicting import decode_us
from strobe.layouts import Dense, Packed, PackedKeys, Paged
from strobe.machine import Machine
from strobe.masks import Tree, split
from strobe.problem import Described, Problem, key_sides
from strobe.terms import Scaled

OLDEST = (3, 6)
ARCH = "sm90"
DTYPES = ("bfloat16", "float16")
WIDEST = 256
MOST_QUERIES = 256  # of a sequence; more are a prompt's, and another kernel's
LONGEST = 2**26  # of products of tiles and programs, which stay below 2³¹
SHORT = 1024  # keys: a sequence this long is over before a stream's additional parts pay (H200: 33 to 42 % slower on such batches)
MOST_SEQUENCES = 4096  # whose lengths a program of a stream adds up in registers
FINE = 8192  # keys up to which parts are shorter than a stretch, whose parts are added up first
UNEVEN = 1.15  # times an equal share of the keys, that a program may have of stretches
FULL = 0.9  # of the chip, that an even grid of equal lengths has to use
# Narrow numbers: their name in the kernel, and how many lie in 16 bits.
KINDS = {"int8": ("int8", 2), "uint8": ("int4", 4), "float8_e4m3fn": ("e4m3", 2), "float8_e5m2": ("e5m2", 2)}

# (keys of a tile, tiles in flight, programs a multiprocessor holds) by rows of a tile, then by padded width: 128 KiB of keys and
# values under way on every multiprocessor. 128 keys, 2 in flight for 16 rows of width 128 is an H200's best of nine, or within
# 6 % of it, in each of 20 shapes (docs/rooms/hopper-decode.md); the others are the largest that do not spill.
TILES = {
    8: {64: (128, 4, 1), 128: (128, 2, 1), 256: (64, 2, 1)},
    16: {64: (128, 4, 1), 128: (128, 2, 1), 256: (64, 2, 1)},
    32: {64: (64, 4, 1), 128: (64, 4, 1), 256: (64, 2, 1)},
    64: {64: (64, 4, 1), 128: (64, 4, 1), 256: (64, 2, 1)},
    128: {64: (128, 4, 1), 128: (128, 2, 1), 256: (64, 2, 1)},
}
STREAM_TILES = {64: (128, 4, 1), 128: (64, 2, 1)}  # of 128 rows, whose queries of several sequences lie in shared memory too
# Width 128, rows up to 16, of sequences of at most SHORT keys. Where they are more than one wave, two programs share a multiprocessor, so
# that one loads while the other ends: by rows in arrays, and at fixed cuts or over pages (H200, 256 sequences of 256 keys 19.4 and 20.3 µs;
# 64 of 1,024 keys over pages 66.0 and 64.9). Of so few heads that each has 8 parts or more, twice as many of half the keys (1,024 keys 4.63
# and 4.75).
SHORT_TILES, SHORT_SMALL, SHORT_FINE = {8: (128, 1, 2), 16: (64, 3, 2)}, (64, 3, 2), (64, 4, 1)
# At fixed cuts, by rows and width: as many keys as those of short sequences, for the bits depend on them; of 128 rows, width 128, a
# thread spills with 128 keys, and of width 256 with 64.
FIXED_TILES = {(8, 128): (64, 4, 1), (16, 128): (64, 4, 1), (128, 128): (64, 4, 1), (32, 256): (32, 4, 1), (128, 256): (32, 4, 1)}
# (numbers in 16 bits, padded width) where rows up to 8 have tiles of their own, whose products are fewer: not where int8 waits for memory
# (H200, 64k: 37.6 µs with 16 rows, 38.6 to 41.1 with 8), not where a unit of int4 numbers is too few for four warps, and not at fixed
# cuts beyond 8 rows, as a prompt would read its keys twice as often.
EIGHT_ROWS = {(1, 64), (1, 128), (1, 256), (4, 128), (4, 256)}
# Of int4 numbers, where two programs a multiprocessor are one or two for each head of a sequence: more in flight, and less to merge
# (H200, µs beside those of four programs: 16 sequences of 8k 47.9 and 53.9, 32 of 4k 45.7 and 52.7; one of 64k 32.7 and 26.9).
FEW_PARTS = (128, 4, 2)
NARROW_TILES = {  # by numbers in 16 bits; some programs a multiprocessor, so that one converts numbers while another waits for loads
    (8, 4): {128: (128, 2, 4), 256: (64, 4, 2)},
    (16, 2): {64: (128, 4, 2), 128: (128, 2, 2), 256: (64, 2, 2)},
    (16, 4): {64: (128, 4, 2), 128: (128, 2, 3), 256: (64, 4, 2)},
    (32, 2): {64: (64, 4, 2), 128: (64, 4, 2)},
    (32, 4): {64: (64, 4, 2), 128: (64, 4, 2)},
}


class Chosen(NamedTuple):
    """How a problem is decoded."""

    rows: int  # of a tile
    keys: int  # of a tile
    stages: int
    warps: int
    held: int  # programs a multiprocessor holds
    split: str  # "even", "stream" or "fixed"
    parts: int  # of a sequence at most; of a stream, programs a lane
    lanes: int
    shares: int = 0  # of a sequence's parts, a program each; 0: as many as parts
    whole: bool = False  # of fixed cuts: parts are whole stretches of keys

    def programs(self, B: int) -> int:
        """Of the whole grid."""
        return self.lanes * (self.shares or self.parts) * (1 if self.split == "stream" else B)

    def slots(self, B: int) -> int:
        """Places for parts: none where each sequence is one part."""
        if self.split == "stream":
            return self.lanes * (self.parts + B)
        return self.lanes * self.parts * B if self.parts > 1 else 0


def tiles(length: int, size: int) -> int:
    """How many tiles of a size a length takes."""
    return -(-length // size)


def padded(width: int) -> int:
    """The width of a tile's rows: a power of two, and 64 at least, so that narrow ones fill a product."""
    return max(64, 1 << (width - 1).bit_length())


def kind(problem: Problem) -> tuple[str | None, int]:
    """(name of the narrow numbers in the kernel, how many lie in 16 bits)."""
    side = key_sides(problem.call.keys)[0]
    return KINDS[side.data.dtype] if isinstance(side, Scaled) else (None, 1)


def alone(problem: Problem) -> bool:
    """Whether all rows of a sequence see the same keys. An invariant call says no, so that all are the same machine code."""
    return problem.T == 1 and not _trees(problem) and not problem.invariant


def _trees(problem: Problem) -> int:
    """How many parts of the mask are trees."""
    return sum(isinstance(part, Tree) for part in split(problem.call.mask)[2])


def reach(problem: Problem, rows: int) -> int:
    """Keys that a tile of rows may see, at most."""
    before, after, _ = split(problem.call.mask)
    if before is None or after is None:
        return problem.S
    return min(problem.S, before + after + min(problem.T, tiles(rows - 1, problem.group) + 1))


@lru_cache(maxsize=4096)
def chosen(problem: Problem, machine: Machine) -> Chosen:
    """Tile and split."""
    width, (_, each) = max(padded(problem.D), padded(problem.V)), kind(problem)
    packed = problem.T * problem.group
    # reading a tree takes more registers than four warps with 64 rows have, and so do values of other rows in rows of width 256
    sizes = (16, 32) if _trees(problem) and not problem.invariant or (problem.invariant and width == 256) else (16, 32, 64)
    # an invariant tile is chosen by what is the model's alone, but that 8 rows have the bits of 16
    rows = next((n for n in sizes if (problem.group if problem.invariant else packed) <= n), 128)
    if packed <= 8 and (each, width) in EIGHT_ROWS:
        rows = 8
    if each > 1:  # they become operands in registers, which groups of warps do not take; beside them lie the queries
        rows = min(rows, 32 if width <= 128 else 16)
    tile = _tile(problem, machine, rows)
    even = _split(problem, machine, rows, tile, "even")
    if problem.invariant:
        return _fixed(problem, even)
    stream_tile = STREAM_TILES.get(width) if rows == 128 else tile
    if stream_tile is None or reach(problem, rows) <= SHORT or not 1 < problem.B <= MOST_SEQUENCES:
        return even
    stream = _split(problem, machine, rows, stream_tile, "stream")
    grid, room = even.programs(problem.B), machine.units * even.held
    uneven = not isinstance(problem.call.keys, Dense) or grid < FULL * room * tiles(grid, room)
    fits = stream.lanes <= room and tiles(problem.S, stream.keys) * problem.B * stream.parts < 2**31
    return stream if uneven and fits else even


def _tile(problem: Problem, machine: Machine, rows: int) -> tuple[int, int, int]:
    """(keys, tiles in flight, programs a multiprocessor holds) of tiles of so many rows."""
    width, (_, each), units = max(padded(problem.D), padded(problem.V)), kind(problem), machine.units
    heads = problem.B * problem.G * tiles(problem.T * problem.group, rows)
    if each > 1:
        few = (rows, each, width) == (8, 4, 128) and heads <= 2 * units < 3 * heads
        return FEW_PARTS if few else NARROW_TILES[rows, each][width]
    if width == 128 and rows <= 16 and (problem.invariant or reach(problem, rows) <= SHORT):
        if heads > units:
            return SHORT_SMALL if problem.invariant or isinstance(problem.call.keys, Paged) else SHORT_TILES[rows]
        if rows == 8 and 8 * heads <= units:
            return SHORT_FINE
    tile = TILES[rows][width]
    return FIXED_TILES.get((rows, width), tile) if problem.invariant else tile


def _split(problem: Problem, machine: Machine, rows: int, tile: tuple[int, int, int], how: str) -> Chosen:
    """An even split, or a stream, over one wave of programs: no more than there are tiles."""
    keys, stages, held = tile
    lanes, seen = problem.G * tiles(problem.T * problem.group, rows), reach(problem, rows)
    longest = max(1, tiles(seen, keys) + (seen < problem.S))  # where a window begins within a tile, it takes one more
    if how == "stream":
        parts = min(machine.units * held // max(1, lanes), longest * problem.B)
    else:
        parts = max(1, min(machine.units * held // max(1, lanes * problem.B), longest))
        whole = max(1, tiles(seen, keys))
        parts = tiles(whole, tiles(whole, parts))  # no more than those that the longest part leaves
    return Chosen(rows, keys, stages, 8 if rows == 128 else 4, held, how, max(1, parts), lanes)


def _fixed(problem: Problem, even: Chosen) -> Chosen:
    """Cuts at fixed keys, shared by as many programs as an even split has. Where those have stretches to themselves, about, and registers
    for a second sum, a program adds up a stretch's parts itself: fewer are stored. Of sequences whose lengths are on the device, a
    program has four stretches at most, or one long sequence would be one program's."""
    seen, width, dense = reach(problem, even.rows), padded(problem.V), isinstance(problem.call.keys, Dense)
    wide = even.rows >= 64
    stretch = 2048 if wide else 1024  # as `parts.stretch`
    stretches = min(tiles(problem.S, stretch), seen // stretch + 2)
    most = min(_fixed_parts(problem.S), seen // 128 + 2)
    shares = min(even.parts, most)
    if dense or problem.B == 1 or wide:
        each = min(seen, tiles(stretches, shares) * stretch) * shares
        whole = dense and (problem.S > FINE and not wide or each <= UNEVEN * seen)
    else:
        whole, shares = even.parts == 1, max(shares, tiles(stretches, 4))
    whole = whole and even.rows * width <= 64 * 32 * even.warps // (1 if wide else 4) and not problem.scaled
    if wide and not whole:  # a part takes longer than a program's beginning: many small programs fill the chip best
        shares = most
    parts = stretches if whole else most
    return even._replace(split="fixed", parts=parts, shares=min(shares, parts), whole=whole)


def _fixed_parts(S: int) -> int:
    """Parts of the longest sequence at fixed cuts, as `parts.part_at` has them."""
    last = max(S - 1, 0)
    late = (last + 8192) // 512 if last < 8192 else (last + 24576) // 1024
    return 1 + (last // 128 if last < 2048 else (last + 2048) // 256 if last < 4096 else late)


def read_bytes(problem: Problem) -> int:
    """Of keys, values and scales, if every sequence is as long as the longest; of pages, no more than there are."""
    _, each = kind(problem)
    row = 2 * (problem.D + problem.V) // each + (8 if each > 1 else 0)
    keys = problem.B * reach(problem, problem.T * problem.group)
    if isinstance(problem.call.keys, Paged):
        pages, page = _data(problem.call.keys.keys).shape[:2]
        keys = min(keys, pages * page)
    return keys * problem.G * row


def decode(problem: Problem, machine: Machine) -> Offer | Refusal:
    """An offer to decode on Hopper; all reasons otherwise."""
    no = [*_machine(machine), *_problem(problem)]
    if no:
        return Refusal(tuple(no))
    how = chosen(problem, machine)
    grid, count = how.programs(problem.B), read_bytes(problem)
    cuts = {
        "even": f"{how.parts} equal part(s) a sequence",
        "stream": f"{how.parts} even share(s) of all sequences' tiles a head",
        "fixed": f"cuts at fixed keys, {how.parts} part(s) at most",
    }[how.split]
    waves, us = grid / (machine.units * how.held), _predicted(problem, machine)
    why = f"{problem.T * problem.group} row(s) a key head; {cuts}; {grid} program(s), {waves:.2f} wave(s); {count / 1e6:.1f} MB"
    why += f", {us:.1f} µs predicted"
    if problem.invariant:
        usual = _predicted(replace(problem, invariant=False), machine)
        why += f", {us - usual:.1f} µs of them so that no neighbour shows in the bits"
    rows = min(how.rows, problem.T * problem.group)
    return Offer("decode", why, (how.rows, how.keys), how.parts, how.slots(problem.B) * rows * (padded(problem.V) + 2) * 4)


def _predicted(problem: Problem, machine: Machine) -> float:
    """Microseconds."""
    how, each = chosen(problem, machine), kind(problem)[1]
    keys = problem.B * how.lanes * tiles(reach(problem, how.rows), 128)
    return decode_us(
        read_bytes(problem), how.slots(problem.B) > 0, how.programs(problem.B) / (machine.units * how.held), how.rows,
        how.parts if how.split == "fixed" else 0, how.whole, keys / machine.units if each == 4 else 0.0,
    )  # fmt: skip


def _machine(machine: Machine) -> list[str]:
    no = []
    if machine.arch != ARCH:
        no.append(f"needs {ARCH}; this is {machine.arch}")
    if machine.triton is None:
        no.append("Triton is not installed: pip install triton")
    elif machine.triton < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (machine.triton, OLDEST))
        no.append(f"needs Triton {oldest} or newer; this is {found}")
    return no


def _problem(problem: Problem) -> list[str]:
    call, no = problem.call, []
    if problem.verb != "attention":
        no.append(f"decode offers forward attention only; this is {problem.verb}")
    if problem.dtype not in DTYPES:
        no.append(f"dtypes are {', '.join(DTYPES)}; got {problem.dtype}")
    widths = dict.fromkeys((problem.D, problem.V))
    no += [f"widths are multiples of 8 up to {WIDEST}; got {n}" for n in widths if n % 8 or not 0 < n <= WIDEST]
    if isinstance(call.q, Packed):
        no.append("decode has the same number of queries a sequence; these are packed")
    if isinstance(call.keys, PackedKeys):
        no.append("decode reads dense keys, ranges and pages; these are packed")
    if problem.T > MOST_QUERIES and not problem.invariant:
        no.append(f"decode is for at most {MOST_QUERIES} queries a sequence; got {problem.T}")
    rest = split(call.mask)[2]
    no += [f"masks are Causal, Window and Tree; got {type(part).__name__}" for part in rest if not isinstance(part, Tree)]
    if _trees(problem) > 1:
        no.append(f"one Tree a mask; got {_trees(problem)}")
    no += [f"decode has no {name}" for name in ("bias", "dropout") if getattr(call, name) is not None]
    no += _keys(problem)
    return no


def _keys(problem: Problem) -> list[str]:
    keys, no = problem.call.keys, []
    if problem.S >= LONGEST:
        no.append(f"sequences have fewer than 2²⁶ keys; got {problem.S}")
    if isinstance(keys, Paged) and not 1 <= (_data(keys.keys).shape[1]) <= 1024:
        no.append(f"pages have 1 to 1,024 tokens; got {_data(keys.keys).shape[1]}")
    if problem.scaled:
        dtypes = [side.data.dtype if isinstance(side, Scaled) else side.dtype for side in key_sides(keys)]
        if dtypes[0] != dtypes[1]:
            no.append(f"keys and values with scales are of one dtype; got keys of {dtypes[0]}, values of {dtypes[1]}")
        if problem.invariant and problem.dtype == "float16":
            no.append("sums of narrow values in float16 are in units of the greatest scale, which a neighbour may have")
    return no


def _data(side: object) -> Described:
    found = side.data if isinstance(side, Scaled) else side
    assert isinstance(found, Described)
    return found
