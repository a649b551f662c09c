"""What a kernel is compiled for, from the problem. Standard library only: the desk's second file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from strobe.backends.hopper.tiles import (
    DIVIDED, FLOAT8, FOUR, LONG, MANY, NEAR, READ, SHORT, STEADY, THREE, TILES, TWO, UNEQUAL, WINDOWS, WITHIN_192, Tile,
)  # fmt: skip
from strobe.layouts import Dense, Packed, Paged, Ranged
from strobe.masks import Documents, Prefix, Tree, split
from strobe.problem import Problem, key_sides
from strobe.terms import Scaled

ROWS = 64  # of a warpgroup's product, the least there is
SHARED_BYTES = 227 << 10  # of a program (CUDA programming guide, table of compute capabilities)
CACHED = 32 << 20  # bytes of keys and values that stay in the cache while their tiles run; measured best on an H200
LEAST = 512  # keys of a part
IDLE = 12 * 128**3  # products of one head that a program would idle, on average, from which on the last tiles are shared
WIDEST = 256
PAGES = tuple(1 << n for n in range(3, 11))  # tokens: eight rows are a swizzle's pattern


@dataclass(frozen=True)
class Form:
    """One compiled kernel."""

    D: int
    V: int
    tile: Tile
    pack: int  # heads of one key head that are rows of a tile: row r is query r // pack, head r % pack
    before: bool  # a window reaches back only so far
    after: bool  # a window, or causality, or a tree's last node, reaches forward only so far
    prefix: bool
    unseen: bool  # a block may hold keys that a row of it does not see, and that are not zeros
    cap: str  # "no", "exact", "fast"
    packed: bool  # queries lie end to end
    divided: bool = False  # keys are cut into parts, which a merge joins
    spread: bool = False  # the heads of a group fill a tile: each warpgroup has `pack` of them, all of the same query
    tree: bool = False  # from the first query's position on, bits say which keys a query sees
    documents: bool = False  # a query sees keys of its own document; `before` and `after` then, as blocks at both ends are masked
    narrow: bool = False  # queries, keys and values are float8; values of a block come turned, `[width, keys]`
    page: int | None = None  # tokens of a page, a power of two from 8 on, where keys lie in pages
    shared: bool = False  # tiles that are too few for a last round of all programs are shared by them (`sharing.py`)
    steady: bool = False  # weights are relative to the greatest score of a row's first blocks, while that goes (`consuming.steadily`)

    @property
    def width(self) -> int:
        """The width of keys in a tile."""
        return padded(self.D)

    @property
    def beside(self) -> int:
        """Boxes of 64 columns that a block of keys is kept as, where as many as are a power of two would not fit; 1 otherwise."""
        return 3 if self.tile.keys > 64 and self.width == 256 and self.D <= 192 else 1

    @property
    def key_width(self) -> int:
        """Columns of keys in shared memory."""
        return 64 * self.beside if self.beside > 1 else self.width

    @property
    def value_width(self) -> int:
        """The width of values in a tile."""
        return padded(self.V)

    @property
    def depth(self) -> int:
        """Numbers of a row that an instruction multiplies: 32 bytes."""
        return 32 if self.narrow else 16

    @property
    def own_sums(self) -> bool:
        """Whether each thread sums up its own weights, until the last block. Measured, where the greatest score is followed: faster with
        blocks of 128 keys, slower with 64 and with float8 and a mask (docs/log.md, 2026-12-01); not measured with keys cut into parts,
        which are as they were."""
        masked = self.before or self.after or self.prefix
        return self.steady or (self.tile.keys == 128 and not self.divided and not (self.narrow and masked))

    @property
    def early(self) -> bool:
        """Whether what old sums are worth is computed before a block's weights. Measured: faster with threads' own sums of wide numbers."""
        return self.own_sums and not self.narrow

    @property
    def late(self) -> bool:
        """Whether sums of values are scaled while the next scores are multiplied. Measured: faster with 128 columns, slower with 64."""
        return self.early and self.value_width == 128 and not self.steady

    @property
    def value_rows(self) -> int:
        """Of a block of values as it comes."""
        return self.value_width if self.narrow else self.tile.keys

    @property
    def value_row(self) -> int:
        """Numbers of such a row."""
        return self.tile.keys if self.narrow else self.value_width

    @property
    def tokens(self) -> int:
        """Queries of a warpgroup."""
        return ROWS // self.pack

    @property
    def all_tokens(self) -> int:
        """Queries of a tile."""
        return self.tokens if self.spread else self.tokens * self.tile.groups

    @property
    def heads(self) -> int:
        """Heads of a tile."""
        return self.pack * self.tile.groups if self.spread else self.pack

    @property
    def next_tokens(self) -> int:
        """Queries from one warpgroup's first to the next one's."""
        return 0 if self.spread else self.tokens

    @property
    def next_heads(self) -> int:
        """Heads from one warpgroup's first to the next one's."""
        return self.pack if self.spread else 0

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return ROWS * self.tile.groups

    @property
    def box(self) -> int:
        """Keys that the copy engine fetches at a time."""
        return self.tile.keys if self.page is None else min(self.page, self.tile.keys)

    @property
    def boxes(self) -> int:
        """Of a block, side by side along the keys."""
        return self.tile.keys // self.box

    @property
    def columns(self) -> int:
        """Of a box of keys. Of a page's 64, a row of the swizzle: the columns of a block lie by such rows, and within those the boxes."""
        return self.key_width // self.beside if self.page is None else 64

    @property
    def value_columns(self) -> int:
        """Of a box of values, likewise."""
        return self.value_row if self.page is None else 64

    @property
    def shared_bytes(self) -> int:
        """What queries, keys and values in flight take, and results that have a place of their own."""
        tile = self.tile
        held = tile.turns * self.rows * self.width + tile.slots * tile.keys * (self.key_width + self.value_width)
        return held + 2 * self.rows * self.value_width if self.narrow else 2 * held


def padded(width: int) -> int:
    """The width in a tile: a power of two, as Gluon's shapes are; the copy engine writes zeros past a row's end."""
    return max(64, 1 << (width - 1).bit_length())


def packable(group: int) -> int:
    """Heads of a group that share a tile: the largest power of two that divides it, 64 at most."""
    return min(ROWS, group & -group)


def is_tree(problem: Problem) -> bool:
    """Whether the mask is a tree and nothing else."""
    return isinstance(problem.call.mask, Tree)


def parts(problem: Problem, units: int) -> int:
    """Parts that the keys are cut into, so that one wave of programs fills the chip: 1 where tiles of rows do, where there are no more
    than a warpgroup's, or where the merge could not find the rows."""
    call, width = problem.call, padded(problem.D)
    bare = not split(call.mask)[2] or (is_tree(problem) and not isinstance(call.keys, Paged))
    plain = isinstance(call.keys, Dense | Ranged | Paged) and not isinstance(call.q, Packed) and bare
    rows = problem.T * problem.group
    whole = problem.group in (packable(problem.group), 2 * ROWS)  # a tile holds all heads of a key head
    if not plain or problem.scaled or width != padded(problem.V) or width > 128 or not whole or rows <= ROWS:
        return 1
    return max(1, min(units // max(1, programs(problem)), problem.S // LEAST))


def programs(problem: Problem) -> int:
    """Tiles of 128 rows of all key heads and sequences."""
    return -(-problem.T * problem.group // (2 * ROWS)) * problem.G * problem.B


def form(problem: Problem, divided: bool = False) -> Form:
    """The kernel for a problem that the desk takes; divided, for parts of the keys."""
    call = problem.call
    before, after, rest = split(call.mask)
    prefix, tree = any(isinstance(part, Prefix) for part in rest), is_tree(problem)
    documents = any(isinstance(part, Documents) for part in rest)
    whole, packed = isinstance(call.keys, Dense), isinstance(call.q, Packed)
    kind = "full" if before is None and after is None and not prefix and not documents else "masked"
    windowed = before is not None and after is not None and not prefix and not documents
    if steady := problem.dtype == "bfloat16" and not (divided or documents):
        tile = STEADY[padded(problem.D)]
        plain = isinstance(call.keys, Dense) and not packed and not windowed  # or the warp that loads has more to know than registers
        if tile is TWO and plain and problem.T >= LONG and programs(problem) >= MANY:
            tile = THREE
    else:
        few = SHORT[kind] > problem.T and padded(problem.D) == 64 and not documents  # whose masks take registers that four do not have
        tile = FOUR if few else TILES[kind][padded(problem.D)]
        if windowed:
            tile = of_window(problem, before + after + 1) or tile
    if padded(problem.V) < padded(problem.D) == 256:
        near = (kind == "masked" and problem.T < NEAR) or (windowed and before + after < NEAR)
        tile = UNEQUAL if problem.D > 192 or near else WITHIN_192
    narrow = isinstance(call.q, Scaled)
    if narrow:
        tile = FLOAT8[kind][padded(problem.D)]
    if divided:
        tile = READ if padded(problem.D) == 128 and problem.T * problem.group <= 2 * ROWS else DIVIDED[padded(problem.D)]
    page = page_tokens(problem)
    if page is not None and tile.groups == 2:
        tile = replace(tile, registers=(224, 56))  # or the warp that loads spills, which has pages to tell apart
    elif packed and tile.groups == 2:
        tile = replace(tile, registers=(240, 24))  # no spills, where (224, 56) has some; the other way round for dense queries
    return Form(
        D=problem.D, V=problem.V, tile=tile, pack=packable(problem.group),
        before=before is not None or documents, after=after is not None or tree or documents, prefix=prefix,
        unseen=not whole or prefix or tree or documents or (before, after) != (None, None),
        cap="no" if call.cap is None else "fast" if problem.dtype == "bfloat16" else "exact",
        packed=packed, divided=divided, spread=divided and problem.group > ROWS, tree=tree, documents=documents,
        narrow=narrow, page=page, steady=steady,
    )  # fmt: skip


def sharing(problem: Problem, made: Form, units: int) -> Form:
    """The kernel, with its last tiles shared where many programs would idle for long: where all tiles take as long, since elsewhere short
    ones come last. Blocks of all tiles of wide numbers take about as long. Of float8 the kernel that does both takes longer
    (docs/log.md, 2026-12-01)."""
    last, blocks = last_tiles(problem, made, units), -(-problem.S // made.tile.keys)
    plain = isinstance(problem.call.keys, Dense) and not (made.packed or made.divided or made.narrow or made.unseen)
    each = made.rows * made.tile.keys * (problem.D + problem.V) // 2
    least = IDLE * max(1, made.value_width // 128)  # parts of wider values are larger
    worth = last and (units - last) * blocks * each >= least * units and last * blocks * units < 2**31
    return replace(made, shared=True) if plain and worth else made


def last_tiles(problem: Problem, made: Form, units: int) -> int:
    """Tiles behind the rounds that all programs take part in; 0 where there is no such round."""
    tiles = -(-problem.T // made.all_tokens) * problem.B * (problem.H // made.heads)
    return tiles % units if tiles > units else 0


def of_window(problem: Problem, seen: int) -> Tile | None:
    """The tile where a query sees so many keys at most; None where it is that of any mask."""
    return next((tile for most, least, tile in WINDOWS.get(padded(problem.D), ()) if seen <= most and programs(problem) >= least), None)


def page_tokens(problem: Problem) -> int | None:
    """Tokens of a page; None where keys do not lie in pages."""
    if not isinstance(problem.call.keys, Paged):
        return None
    side = key_sides(problem.call.keys)[0]
    return (side.data if isinstance(side, Scaled) else side).shape[1]


def places(problem: Problem, made: Form, count: int, units: int) -> int:
    """Rows of all parts, of a split or of shares; none where keys are not cut."""
    if made.shared:
        return (units + last_tiles(problem, made, units)) * made.rows
    rows = problem.T * problem.group
    return count * problem.B * problem.G * -(-rows // made.rows) * min(rows, made.rows) if made.divided else 0


def turned_bytes(problem: Problem, made: Form) -> int:
    """Of narrow values turned for their products, whole blocks."""
    blocks = -(-problem.S // made.tile.keys)
    return problem.B * problem.G * blocks * made.value_width * made.tile.keys if made.narrow else 0


def section(problem: Problem, made: Form) -> int:
    """Units, pairs of a sequence and `pack` heads, whose tiles run at a time, longest first: those whose keys and values fit the
    cache. One where all tiles are as long."""
    if not (made.after or made.prefix or made.packed):
        return 1
    each = (1 if made.narrow else 2) * problem.S * (problem.D + problem.V)
    of_a_key_head = problem.group // made.pack
    return max(1, CACHED // max(1, each)) * of_a_key_head
