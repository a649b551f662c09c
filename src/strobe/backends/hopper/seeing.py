"""Which keys the rows of a warpgroup see: by position, by a tree's bits, by documents."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from strobe.backends.hopper.block import scores_lie
from strobe.backends.hopper.jobs import AFTER, BATCH, BEFORE, HIGH, LENGTH, LOW, ONLINE, POSITION, PREFIX, QUERIES, TOKEN
from strobe.backends.hopper.schedule import SPAN, blocks_of_group, last_seen


@gluon.jit
def nodes(rows, jobs, turn, b_position, form: gl.constexpr):
    """(position of a tree's first node, address of the sequence's bits, where among them those of each row begin), or nothing."""
    found = None
    if form.tree:
        at = jobs.get(turn, PREFIX)
        last = jobs.get(turn, AFTER)
        b_node = gl.minimum(b_position - at, last)  # rows behind the last query are nobody's
        found = at, rows.bits(jobs.get(turn, BATCH)), b_node * (last + 1)
    return found


@gluon.jit
def own(rows, jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
    """(address of the documents of a sequence's keys, how many these are, the documents of the rows), or nothing."""
    found = None
    if form.documents:
        sequence = jobs.get(turn, BATCH)
        T, S = rows.get(11), rows.get(12)
        o_row = gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form))) // form.pack
        o_query = gl.minimum(jobs.get(turn, TOKEN) + GROUP * form.next_tokens + o_row, gl.cast(T - 1, gl.int32))
        found = rows.integers(9) + sequence * S, gl.cast(S, gl.int32), gl.load(rows.integers(8) + sequence * T + o_query)
    return found


@gluon.jit
def seen(rows, jobs, turn, GROUP: gl.constexpr, form: gl.constexpr):
    """(first keys, last keys) that the rows of a warpgroup see, and its blocks (low, high, full low, full high)."""
    skipped: gl.constexpr = GROUP * form.next_tokens
    position = jobs.get(turn, POSITION) + skipped
    length = jobs.get(turn, LENGTH)
    prefix = jobs.get(turn, PREFIX)
    before = jobs.get(turn, BEFORE)
    after = jobs.get(turn, AFTER)
    low, high, full_low, full_high = blocks_of_group(
        position, jobs.get(turn, QUERIES) - skipped, length, prefix, before, after, jobs.get(turn, LOW), jobs.get(turn, HIGH), form
    )
    if skipped > 0 and not form.divided:  # behind the last query there may be nobody's rows alone, who pass one block
        if jobs.get(turn, QUERIES) <= skipped:
            low = high - 1
            full_high = low
            full_low = low
    if form.documents:
        of_tile = jobs.get(turn, TOKEN) // form.all_tokens
        tiles = (gl.cast(rows.get(11), gl.int32) + form.all_tokens - 1) // form.all_tokens
        p_span = rows.integers(10) + (jobs.get(turn, BATCH) * tiles + of_tile) * SPAN(form.tile.groups) + 2 + 2 * GROUP
        full_high = gl.maximum(gl.minimum(full_high, gl.load(p_span + 1)), low)
        full_low = gl.maximum(gl.minimum(gl.maximum(full_low, gl.load(p_span)), full_high), low)
    if form.steady:
        if jobs.get(turn, ONLINE) != 0:  # all blocks as masked ones, which follow the greatest score
            full_high = full_low
    b_position = position + gl.arange(0, 64, layout=gl.SliceLayout(1, scores_lie(form))) // form.pack
    return b_position - before, last_seen(b_position, length, prefix, after, form), low, high, full_low, full_high
