"""Lesson 5. Masks are pictures: a row a query, a column a key, ■ where the query may see the key.

A mask in Strobe is a value that knows four things: which pairs it allows, what a kernel may skip, how it looks, and how
it composes with another. Here each is drawn, and then a drawing is made into a mask.

    python examples/lessons/05_masks_are_pictures.py
"""

import torch

from strobe import Blocks, Causal, Dense, Documents, Full, Mask, Packed, Prefix, Tree, Window, attention

torch.manual_seed(0)
B, T, H, G, D, S = 1, 8, 4, 2, 16, 8
q = torch.randn(B, T, H, D, dtype=torch.float64)
k, v = (torch.randn(B, S, G, D, dtype=torch.float64) for _ in range(2))


def beside(*columns: tuple[str, str], indent: str = "   ", width: int = 36) -> None:
    """Pictures next to each other, each under its title."""
    rows = [[title, *picture.split("\n")] for title, picture in columns]
    for line in range(max(map(len, rows))):
        print((indent + "".join((row[line] if line < len(row) else "").ljust(width) for row in rows)).rstrip())
    print()


def from_picture(picture: str) -> Dense:
    """The mask that a drawing is."""
    return Dense(torch.tensor([[cell == "■" for cell in row.split()] for row in picture.strip().split("\n")]))


def same(mask: Mask, picture: str, keys: int = S, **more: object) -> None:
    """Attention under the mask is attention under its picture."""
    ours = attention(q, k[:, :keys], v[:, :keys], mask=mask, **more)
    torch.testing.assert_close(ours, attention(q, k[:, :keys], v[:, :keys], mask=from_picture(picture)))


# ── 1. Masks made of numbers ─────────────────────────────────────────────────────────────────────────────────────────

print("1. Masks made of numbers: eight queries, eight keys\n")
numbers: list[Mask] = [Full(), Causal(), Window(before=2, after=1), Prefix(3)]
for pair in (numbers[:2], numbers[2:]):
    beside(*((repr(mask), mask.picture(T, S)) for mask in pair))
for mask in numbers:
    same(mask, mask.picture(T, S))

# ── 2. They compose ──────────────────────────────────────────────────────────────────────────────────────────────────

local = Causal() & Window(before=2)
print("2. `&` keeps what both allow: a sliding window of three keys, the query's own among them\n")
beside(*((repr(mask), mask.picture(T, S)) for mask in (Causal(), Window(before=2), local)), width=34)
same(local, local.picture(T, S))
assert local == Window(before=2) & Causal() == local & Full() == local & Window(before=5)  # equal masks are equal values

# ── 3. A mask speaks of positions ────────────────────────────────────────────────────────────────────────────────────

print("3. Three queries, eight keys: the last query stands at the last key, unless `first` says otherwise\n")
usual, early = Causal().picture(3, 8), "■ ■ · · · · · ·\n■ ■ ■ · · · · ·\n■ ■ ■ ■ · · · ·"
beside(("Causal()", usual), ("Causal(), first=1", early))
three = q[:, :3]
for picture, first in ((usual, None), (early, 1)):
    placed = attention(three, k, v, mask=Causal(), first=first)
    torch.testing.assert_close(placed, attention(three, k, v, mask=from_picture(picture)))

# ── 4. What a kernel may skip ────────────────────────────────────────────────────────────────────────────────────────
#
# `bounds(first, last, keys)` holds all that queries at these positions may see. A kernel walks only the tiles within.

print("4. Bounds: sixteen queries in tiles of 4 × 4, Causal() & Window(before=5); ▒ a tile that is never touched\n")
wide = Causal() & Window(before=5)
rows = [row.split() for row in wide.picture(16, 16).split("\n")]
touched = 0
for top in range(0, 16, 4):
    low, high = wide.bounds(top, top + 3, 16)
    tiles = range(low // 4, -(-high // 4))
    touched += len(tiles)
    for t in range(top, top + 4):
        print("   " + "  ".join(" ".join(rows[t][4 * j : 4 * j + 4] if j in tiles else "▒▒▒▒") for j in range(4)))
        assert all(cell == "·" for j in range(4) if j not in tiles for cell in rows[t][4 * j : 4 * j + 4])
    print()
print(f"   {touched} of 16 tiles\n")
assert touched == 9

# ── 5. Masks that hold arrays ────────────────────────────────────────────────────────────────────────────────────────

ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]], dtype=torch.int32)
kept = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)[None, None]
print("5. Masks that hold arrays: three documents in one row, and a map of blocks of 2 × 2\n")
documents, blocks = Causal() & Documents(ids, ids), Blocks(kept, rows=2, columns=2)
beside(("Causal() & Documents(ids, ids)", documents.picture(T, S)), ("Blocks(kept, 2, 2)", blocks.picture(T, S)))
same(documents, documents.picture(T, S))
same(blocks, blocks.picture(T, S))

# Documents that lie one after another can also be packed: the tokens are no longer one sequence, and need no mask.
offsets = torch.tensor([0, 3, 7, 8], dtype=torch.int32)
packed = attention(Packed(q[0], offsets, longest=4), Packed(k[0], offsets, longest=4), v[0], mask=Causal())
torch.testing.assert_close(packed, attention(q, k, v, mask=documents)[0])

# ── 6. A tree of drafts ──────────────────────────────────────────────────────────────────────────────────────────────
#
# Speculative decoding asks about several continuations at once. Each drafted token sees the text and its own ancestors.

print("""6. Eight drafted tokens as a tree, behind a text of four keys

   text ─ 0 ┬ 1 ┬ 2
            │   └ 3 ─ 4
            └ 5 ┬ 6
                └ 7
""")
parents = [None, 0, 1, 1, 3, 0, 5, 5]
visible = torch.eye(8, dtype=torch.bool)
for node, parent in enumerate(parents):
    if parent is not None:
        visible[node] |= visible[parent]  # what my parent sees, I see
tree = Tree(visible[None])
beside(("Tree(visible): 4 keys of text, 8 of the tree", tree.picture(8, 12)))
more = [torch.cat([torch.randn(B, 4, G, D, dtype=torch.float64), x], 1) for x in (k, v)]
torch.testing.assert_close(attention(q, *more, mask=tree), attention(q, *more, mask=from_picture(tree.picture(8, 12))))

# ── 7. A drawing is a mask ───────────────────────────────────────────────────────────────────────────────────────────

drawing = "\n".join(" ".join("■" if abs(2 * t - 7) + abs(2 * s - 7) <= 8 else "·" for s in range(8)) for t in range(8))
print("7. Any drawing is a mask: Dense\n")
beside(("from_picture(drawing)", drawing))
assert from_picture(drawing).picture(8, 8) == drawing
out = attention(q, k, v, mask=from_picture(drawing))
unseen = torch.tensor([[cell == "·" for cell in row.split()] for row in drawing.split("\n")])
spoilt = v.clone()
spoilt[:, 0] = torch.nan  # key 0 is seen by the two middle queries only
touched_rows = attention(q, k, spoilt, mask=from_picture(drawing)).isnan()[0, :, 0, 0]
assert torch.equal(touched_rows, ~unseen[:, 0])
print(f"   A NaN in key 0 reaches the queries {touched_rows.nonzero().flatten().tolist()} and no other.")
