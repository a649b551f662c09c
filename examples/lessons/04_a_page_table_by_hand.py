"""Lesson 4. A page table by hand: how many texts share one memory while each of them grows.

A model that writes keeps the keys and values of every token so far. How long a text becomes is not known before, so
reserving the longest for each wastes most of the memory. An operating system solved this long ago: memory comes in
pages, and a table a process says which pages are its own. Here: a table a sequence.

    python examples/lessons/04_a_page_table_by_hand.py

Source: Kwon et al., 2023, arXiv:2309.06180.
"""

import torch

from strobe import Causal, Invalid, Paged, append, attention

torch.manual_seed(0)
P, Z, G, H, D = 8, 4, 2, 8, 16  # eight pages of four tokens
keys, values = (torch.full((P, Z, G, D), torch.nan) for _ in range(2))  # NaN: whoever reads an unwritten row will know
written = [["·"] * Z for _ in range(P)]  # for the pictures: whose token lies where


def pages(tables: list[list[int]], lengths: list[int]) -> Paged:
    """The tables of a batch as `append` and `attention` take them; rows are filled up with −1, which is never read."""
    widest = max(map(len, tables))
    table = torch.tensor([row + [-1] * (widest - len(row)) for row in tables], dtype=torch.int32)
    return Paged(keys, values, table, torch.tensor(lengths, dtype=torch.int32), longest=max(lengths))


def note(name: str, table: list[int], start: int, stop: int) -> None:
    for s in range(start, stop):
        written[table[s // Z]][s % Z] = name


def show(title: str) -> None:
    print(f"   {title}\n")
    print("   " + "  ".join(f"page {p}".ljust(7) for p in range(P)))
    print("   " + "  ".join(" ".join(rows) for rows in written) + "\n")


# ── 1. Where token s lies ────────────────────────────────────────────────────────────────────────────────────────────
#
#   page  table[s // Z]        row  s % Z
#
# Pages need not be neighbours, nor in order. Two texts, six and three tokens long:

a_table, b_table = [5, 2], [0]
a_k, a_v = (torch.randn(1, 6, G, D) for _ in range(2))
b_k, b_v = (torch.randn(1, 3, G, D) for _ in range(2))

print("1. Two texts: a in pages 5 and 2, b in page 0\n")
for s in range(6):  # by hand, as the rule says
    page, row = a_table[s // Z], s % Z
    keys[page, row], values[page, row] = a_k[0, s], a_v[0, s]
append(pages([b_table], [3]), b_k, b_v)  # the same rule by `append`; the length counts the new tokens already
note("a", a_table, 0, 6)
note("b", b_table, 0, 3)
show("eight pages of four rows")
assert keys[0, 2].equal(b_k[0, 2]) and keys[2, 1].equal(a_k[0, 5]) and keys[2, 2].isnan().all()

# ── 2. Attention through the table ───────────────────────────────────────────────────────────────────────────────────
#
# One query each, texts of different lengths, unwritten rows full of NaN: the lengths say where a text ends.

q = torch.randn(2, 1, H, D)
both = attention(q, pages([a_table, b_table], [6, 3]), mask=Causal())
torch.testing.assert_close(both[:1], attention(q[:1], a_k, a_v))
torch.testing.assert_close(both[1:], attention(q[1:], b_k, b_v))
print("2. attention(q, pages) equals attention over each text's own keys; no NaN came through:", bool(both.isfinite().all()))

# ── 3. A step: both texts grow by a token ────────────────────────────────────────────────────────────────────────────

new_k, new_v = (torch.randn(2, 1, G, D) for _ in range(2))
append(pages([a_table, b_table], [7, 4]), new_k, new_v)
note("A", a_table, 6, 7)
note("B", b_table, 3, 4)
print("\n3. Each text gets a token; capital letters are new\n")
show("no row moved, nothing was copied")
b_table.append(7)  # b's page is full: its next token needs a page, any free one
append(pages([b_table], [5]), new_k[1:], new_v[1:])
note("B", b_table, 4, 5)
show("b's fifth token: a page was added to its table")

# ── 4. Two continuations of one text ─────────────────────────────────────────────────────────────────────────────────
#
# c continues a in another way. Page 5 is full and never written again: both tables name it. Page 2 is half full, and
# both want to write its last row: c gets a copy. That is copy on write.

c_table = [5, 4]
keys[4], values[4] = keys[2], values[2]
written[4] = [cell.lower() for cell in written[2]]
c_k, c_v = (torch.randn(1, 1, G, D) for _ in range(2))
append(pages([c_table], [8]), c_k, c_v)
note("C", c_table, 7, 8)
print("4. c continues a: page 5 is shared, page 2 was copied to page 4 before the write\n")
show("tables: a [5, 2], c [5, 4], b [0, 7]")
text = [torch.cat([old, new[:1]], 1) for old, new in ((a_k, new_k), (a_v, new_v))]
found = attention(q, pages([a_table, c_table], [7, 8]))
torch.testing.assert_close(found[:1], attention(q[:1], *text))
torch.testing.assert_close(found[1:], attention(q[1:], torch.cat([text[0], c_k], 1), torch.cat([text[1], c_v], 1)))

# ── 5. What it saves, and what it costs ──────────────────────────────────────────────────────────────────────────────

lengths, tables = {"a": 7, "b": 5, "c": 8}, {"a": a_table, "b": b_table, "c": c_table}
used = {page for table in tables.values() for page in table}
print(f"5. {sum(lengths.values())} tokens stand in {len(used)} pages = {len(used) * Z} rows; without sharing they would need "
      f"{sum(-(-n // Z) for n in lengths.values())} pages")  # fmt: skip
print(f"   a text wastes at most Z − 1 = {Z - 1} rows, in its last page; reserving 32 rows for each would waste {3 * 32 - 20}")
assert len(used) == 5

# ── 6. A wrong table ─────────────────────────────────────────────────────────────────────────────────────────────────

try:
    attention(q[:1], pages([[5, 99]], [7]))
    raise AssertionError("not reached")
except Invalid as no:
    print(f"\n6. A table that points nowhere is named, not followed:\n   {no}")

# In earnest: an entry of a table is a load whose result is the address of the next one, so a kernel asks for it a tile before it needs
# it, and clamps it, for it can't raise: src/strobe/backends/hopper/sending.py, `next_page` and `row_offsets`. Writing new tokens through
# the table, with rotation and quantisation, is src/strobe/backends/triton/append.py; on a CPU src/strobe/backends/cpu/append.cpp.

print("\nWho counts the holders of a page and finds shared beginnings: docs/how-it-works/cache.md.\nNext: 05_masks_are_pictures.py.")
