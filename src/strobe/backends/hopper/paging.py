"""Keys and values in pages: a block is fetched as boxes, each of one page, which the table tells.

    a block of width 128 with pages of 32 tokens, where a box is the tokens of a page by 64 columns, 128 bytes a row

        columns 0 … 63     box 0 │ box 1 │ box 2 │ box 3          columns 64 … 127     box 0 │ box 1 │ box 2 │ box 3

The swizzle repeats every eight rows of 128 bytes, so boxes of 8, 16, 32 … rows, one behind the other, are the same bytes as one box
of the whole block, and products read it as any other. A page of a block or more is read as a box of it.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from strobe.backends.hopper.compat import fetch, pieces


@gluon.jit
def pages_of(table, table_step, pages, sequence, at, length, S, form: gl.constexpr):
    """The pages of the block that begins at a key: box i's in lane i of a warp. Keys behind a sequence's last one are found in its page,
    so that no entry beyond the sequence is read; and no page is outside those there are, whatever the table says."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    b_pages = 0
    if form.page is not None:
        last = gl.maximum(gl.minimum(length, S), 1) - 1
        o_n = gl.minimum(at + gl.arange(0, 32, layout=layout) % form.boxes * form.box, last)
        b_pages = gl.load(table + gl.cast(sequence, gl.int64) * table_step + o_n // form.page)
        b_pages = gl.maximum(gl.minimum(b_pages, pages - 1), 0)
    return b_pages


@gluon.jit
def send_block(to, array, b_pages, batch, at, head, step, form: gl.constexpr):
    """Lets the copy engine fill the slot of a step with the block of keys, or values, that begins there."""
    if form.page is None:
        to.send(array, batch, at, head, step, 0)
    else:
        BOXES: gl.constexpr = form.boxes
        COLUMNS: gl.constexpr = form.width // form.columns
        o_box = gl.arange(0, 32, layout=gl.BlockedLayout([1], [32], [1], [0]))
        full, tile = to.begin(step, 0, COLUMNS * BOXES * array.block_type.nbytes)
        boxes = pieces(tile, array, COLUMNS * BOXES)
        for i in gl.static_range(BOXES):
            page = gl.max(gl.where(o_box == i, b_pages, 0), 0)
            for j in gl.static_range(COLUMNS):
                fetch(array, [page, at % form.page, head, j * form.columns], full, boxes.index(j * BOXES + i))
