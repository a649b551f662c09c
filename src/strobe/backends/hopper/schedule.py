"""Who does what: which tile is next, and which blocks of keys it passes. Arithmetic of integers; the tests run it in plain Python.

Integers divide towards zero on a device, so nothing here divides a negative one.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from strobe.backends.hopper.parts import sequence, share, span


@gluon.jit
def tile_of(index, tiles, units, section):
    """(tile, unit) of a turn: units go in sections, and a section's last tiles, which take longest under a causal mask, go first."""
    first = index // (tiles * section) * section
    inside = gl.minimum(section, units - first)
    rest = index % (tiles * section)
    return tiles - 1 - rest // inside, first + rest % inside


@gluon.jit
def last_seen(position, length, prefix, after, form: gl.constexpr):
    """The last key that a query at the position sees, below 0 if there is none; positions may be a tile of integers."""
    last = length - 1 + position * 0
    if form.tree:
        last = gl.minimum(last, prefix + after)  # the last node; what precedes the first one is a prefix that all see
    elif form.after:
        last = gl.minimum(last, position + after)
    if form.prefix:
        last = gl.minimum(last, gl.maximum(position, prefix - 1))
    return last


@gluon.jit
def blocks_seen(low_position, high_position, length, prefix, before, after, form: gl.constexpr):
    """(low, high, full low, full high): blocks low … high − 1 hold all keys that queries at these positions see; of blocks
    full low … full high − 1 every one of them sees every key."""
    most = gl.maximum(last_seen(high_position, length, prefix, after, form) + 1, 0)
    least = gl.maximum(last_seen(low_position, length, prefix, after, form) + 1, 0)
    if form.tree:
        least = gl.maximum(gl.minimum(least, prefix), 0)
    if form.steady:  # every row sees a key of the block above the unmasked ones, with which its base is made
        least = gl.maximum(least - 1, 0)
    low = 0
    full_low = 0
    if form.before:
        low = gl.maximum(low_position - before, 0) // form.tile.keys
        full_low = (gl.maximum(high_position - before, 0) + form.tile.keys - 1) // form.tile.keys
    return low, (most + form.tile.keys - 1) // form.tile.keys, full_low, least // form.tile.keys


@gluon.jit
def blocks_of_tile(position, queries, length, prefix, before, after, form: gl.constexpr):
    """(low, high) of a tile whose first query stands at the position, with so many queries left: one block at least, so that no
    warpgroup has nothing to do."""
    high_position = position + gl.minimum(queries, form.all_tokens) - 1
    low, high, _, _ = blocks_seen(position, high_position, length, prefix, before, after, form)
    low = gl.minimum(low, gl.maximum(high - 1, 0))
    return low, gl.maximum(high, low + 1)


@gluon.jit
def part_of(part, parts, low, high):
    """(low, high, parts there are) of an equal part of a tile's blocks; of the last one, where there are fewer blocks than parts."""
    blocks = high - low
    count = gl.minimum(parts, blocks)
    i = gl.minimum(part, count - 1)
    return low + blocks * i // count, low + blocks * (i + 1) // count, count


@gluon.jit
def blocks_of_group(position, queries, length, prefix, before, after, low_of_tile, high_of_tile, form: gl.constexpr):
    """(low, high, full low, full high) of a warpgroup whose first query stands at the position, inside those of its tile. It
    passes block high − 1 first, then masked ones down to full high, unmasked ones down to full low, masked ones down to low."""
    high_position = position + gl.maximum(gl.minimum(queries, form.tokens), 1) - 1
    low, high, full_low, full_high = blocks_seen(position, high_position, length, prefix, before, after, form)
    low = gl.minimum(gl.maximum(low, low_of_tile), high_of_tile - 1)
    high = gl.minimum(gl.maximum(high, low + 1), high_of_tile)
    full_high = gl.maximum(gl.minimum(full_high, high - 1), low)
    full_low = gl.maximum(gl.minimum(full_low, full_high), low)
    return low, high, full_low, full_high


@gluon.jit(do_not_specialize=["sequences"])
def list_tiles(offsets, listed, count, counter, sequences, EACH: gl.constexpr, BLOCK: gl.constexpr):
    """Writes the tiles of packed queries, EACH of them in one, as pairs (sequence, tile), those of the longest sequences last; one
    program a sequence. `tile_of` begins with the last."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    sequence = gl.program_id(0)
    tiles = (gl.load(offsets + sequence + 1) - gl.load(offsets + sequence) + EACH - 1) // EACH
    before = 0
    total = 0
    for at in range(0, sequences, BLOCK):
        o_other = at + gl.arange(0, BLOCK, layout=layout)
        m_other = o_other < sequences
        b_low = gl.load(offsets + o_other, mask=m_other, other=0)
        b_tiles = (gl.load(offsets + o_other + 1, mask=m_other, other=0) - b_low + EACH - 1) // EACH
        b_before = (b_tiles < tiles) | ((b_tiles == tiles) & (o_other < sequence))
        before += gl.sum(gl.where(m_other & b_before, b_tiles, 0), 0)
        total += gl.sum(gl.where(m_other, b_tiles, 0), 0)
    for at in range(0, tiles, BLOCK):
        o_tile = at + gl.arange(0, BLOCK, layout=layout)
        gl.store(listed + 2 * (before + o_tile), gl.full([BLOCK], 0, gl.int32, layout=layout) + sequence, mask=o_tile < tiles)
        gl.store(listed + 2 * (before + o_tile) + 1, o_tile, mask=o_tile < tiles)
    if sequence == 0:
        gl.store(count, total)
        gl.store(counter, 0)


@gluon.jit
def add(a, b):
    """a + b, for scans."""
    return a + b


@gluon.jit
def stream_begins(
    i, i_m, programs, p_lengths, p_starts, p_firsts, first, B, T, S, before, after, TREE: gl.constexpr, GROUP: gl.constexpr,
    BM: gl.constexpr, BN: gl.constexpr, BATCH: gl.constexpr, WARPS: gl.constexpr, FAR: gl.constexpr,
):  # fmt: skip
    """(sequence, tiles of it to skip, tiles of this program, of all sequences, of those before it) that program i of a lane's stream
    begins with (`parts.py`)."""
    o_b = gl.arange(0, BATCH, layout=gl.BlockedLayout([1], [32], [WARPS], [0]))
    _, o_length, o_at = sequence(gl.minimum(o_b, B - 1), p_lengths, p_starts, p_firsts, first, S, T, FAR)
    _, _, o_tiles = span(o_length, o_at, i_m, T, before, after, TREE, GROUP, BM, BN)
    o_tiles = gl.where(o_b < B, o_tiles, 0)
    total = gl.sum(o_tiles, 0)
    u, count = share(total, i, programs)
    i_b = gl.minimum(gl.sum((gl.associative_scan(o_tiles, 0, add) <= u).to(gl.int32), 0), B - 1)
    tiles_before = gl.sum(gl.where(o_b < i_b, o_tiles, 0), 0)
    return i_b, u - tiles_before, count, total, tiles_before


@gluon.constexpr_function
def SPAN(groups):  # noqa: N802 — a number of the device's
    """Numbers that `span_documents` writes of a tile."""
    return 2 + 2 * groups


@gluon.jit(do_not_specialize=["T", "S"])
def span_documents(q_documents, k_documents, spans, T, S, form: gl.constexpr):
    """Writes, of each tile of queries of each sequence, (low, high): no block of keys outside low … high − 1 has a key of their documents;
    and for each warpgroup (full low, full high): all its queries and all keys of blocks full low … full high − 1 are of one document. One
    program a tile. Documents may come in any order; those of tiles and blocks are told apart by the least and the greatest."""
    AT_ONCE: gl.constexpr = 32  # blocks
    GROUPS: gl.constexpr = form.tile.groups
    layout: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [4, 1], [1, 0])
    BLOCK: gl.constexpr = gl.SliceLayout(1, layout)
    tiles = (T + form.all_tokens - 1) // form.all_tokens
    sequence = gl.program_id(0) // tiles
    tile = gl.program_id(0) % tiles
    blocks = (S + form.tile.keys - 1) // form.tile.keys
    p_span = spans + gl.program_id(0) * SPAN(GROUPS)
    p_keys = k_documents + gl.cast(sequence, gl.int64) * S
    p_queries = q_documents + gl.cast(sequence, gl.int64) * T
    o_row = gl.arange(0, 64, layout=gl.BlockedLayout([1], [32], [4], [0])) // form.pack
    low_tile = blocks
    high_tile = 0
    for group in gl.static_range(GROUPS):
        # rows behind the last query are nobody's: of its document, as far as this goes
        b_mine = gl.load(p_queries + gl.minimum(tile * form.all_tokens + group * form.next_tokens + o_row, T - 1))
        least, greatest = gl.min(b_mine, 0), gl.max(b_mine, 0)
        full_high = 0
        for at in range(0, blocks, AT_ONCE):
            o_block = at + gl.arange(0, AT_ONCE, layout=BLOCK)
            low, high = ends_of(p_keys, o_block, S, layout, form)
            b_there = (o_block < blocks) & (low <= greatest) & (high >= least)
            low_tile = gl.minimum(low_tile, gl.min(gl.where(b_there, o_block, blocks), 0))
            high_tile = gl.maximum(high_tile, gl.max(gl.where(b_there, o_block + 1, 0), 0))
            b_full = b_there & (low == high) & (least == greatest)
            full_high = gl.maximum(full_high, gl.max(gl.where(b_full, o_block + 1, 0), 0))
        full_low = 0
        for at in range(0, full_high, AT_ONCE):  # the run of full blocks that ends there
            o_block = at + gl.arange(0, AT_ONCE, layout=BLOCK)
            low, high = ends_of(p_keys, o_block, S, layout, form)
            b_full = (low == high) & (low == greatest) & (least == greatest)
            full_low = gl.maximum(full_low, gl.max(gl.where((o_block < full_high) & (b_full == 0), o_block + 1, 0), 0))
        gl.store(p_span + 2 + 2 * group, full_low)
        gl.store(p_span + 3 + 2 * group, full_high)
    gl.store(p_span, gl.minimum(low_tile, gl.maximum(high_tile - 1, 0)))
    gl.store(p_span + 1, gl.maximum(high_tile, 1))


@gluon.jit
def ends_of(p_keys, o_block, S, layout: gl.constexpr, form: gl.constexpr):
    """(least, greatest) document of the keys of blocks."""
    o_key = o_block[:, None] * form.tile.keys + gl.arange(0, form.tile.keys, layout=gl.SliceLayout(0, layout))[None, :]
    b_its = gl.load(p_keys + gl.minimum(o_key, S - 1))
    return gl.min(b_its, 1), gl.max(b_its, 1)
