"""Lesson 2. FlashAttention in forty lines: the one-pass softmax of lesson 1, a tile at a time.

Textbook attention writes a T × S matrix of scores to memory, reads it to take a softmax, and reads that to average the
values. FlashAttention cuts queries and keys into tiles, computes one small tile of scores where the processor's fastest
memory holds it, folds it into a running (m, l, o), and forgets it. The result is exact; the T × S matrix never exists.

    python examples/lessons/02_flash_attention_in_forty_lines.py

Source: Dao et al., 2022, arXiv:2205.14135; Dao, 2023, arXiv:2307.08691, algorithm 1.
"""

import math

import torch
from torch import Tensor

from strobe import Causal, attention_state

ROWS, COLUMNS = 16, 16  # a tile: 16 queries × 16 keys


def textbook(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one head, q `[T, D]`, k and v `[S, D]`, with every score in memory."""
    T, S = len(q), len(k)
    scores = q @ k.T / math.sqrt(q.shape[1])  # [T, S]: the matrix that costs
    scores = scores.masked_fill(~torch.ones(T, S, dtype=torch.bool).tril(S - T), -math.inf)
    return torch.softmax(scores, dim=1) @ v


# ── the forty lines ──────────────────────────────────────────────────────────────────────────────────────────────────


def flash(q: Tensor, k: Tensor, v: Tensor, visits: dict[tuple[int, int], str]) -> tuple[Tensor, Tensor]:
    """The same, a tile at a time: (out `[T, D]`, lse `[T]`). `visits` notes which tiles were computed."""
    (T, D), S = q.shape, len(k)
    out, lse = torch.empty(T, D, dtype=q.dtype), torch.empty(T, dtype=q.dtype)

    for top in range(0, T, ROWS):  # tiles of queries: each is independent work, for another thread or processor
        q_tile = q[top : top + ROWS] / math.sqrt(D)  # [rows, D], loaded once, scaled once
        rows = len(q_tile)
        position = S - T + torch.arange(top, top + rows)  # the last query stands at the last key
        m = torch.full((rows,), -math.inf, dtype=q.dtype)  # largest score so far
        l = torch.zeros(rows, dtype=q.dtype)  # Σ exp(score − m)
        o = torch.zeros(rows, D, dtype=q.dtype)  # Σ exp(score − m) · v

        for low in range(0, S, COLUMNS):  # tiles of keys: streamed past, one after another
            key = torch.arange(low, min(low + COLUMNS, S))
            if low > position[-1]:
                break  # a causal mask hides this tile and all after it: not computed at all
            s = q_tile @ k[key].T  # [rows, columns]: the only scores there are at this moment
            if key[-1] > position[0]:
                s = s.masked_fill(key[None] > position[:, None], -math.inf)  # only tiles on the diagonal pay for the mask
            visits[top // ROWS, low // COLUMNS] = "◪" if key[-1] > position[0] else "■"

            higher = torch.maximum(m, s.amax(1))
            shrink = torch.exp(m - higher)  # repairs what was summed with the old maximum
            p = torch.exp(s - higher[:, None])
            l = l * shrink + p.sum(1)
            o = o * shrink[:, None] + p @ v[key]
            m = higher

        out[top : top + rows] = o / l[:, None]  # divided once, at the end
        lse[top : top + rows] = m + torch.log(l)
    return out, lse


# ── 1. It is exact ───────────────────────────────────────────────────────────────────────────────────────────────────

torch.manual_seed(0)
T, S, D = 100, 130, 32  # neither is a multiple of a tile
q, k, v = (torch.randn(n, D, dtype=torch.float64) for n in (T, S, S))
visits: dict[tuple[int, int], str] = {}
out, lse = flash(q, k, v, visits)
difference = (out - textbook(q, k, v)).abs().max().item()
print(f"1. {T} queries, {S} keys: largest difference from the textbook, in float64: {difference:.1e}")
assert difference < 1e-12

# ── 2. Tiles that the mask hides cost nothing ────────────────────────────────────────────────────────────────────────

print("\n2. Tiles: ■ computed, ◪ computed and masked, · never touched\n")
tile_rows, tile_columns = math.ceil(T / ROWS), math.ceil(S / COLUMNS)
for i in range(tile_rows):
    print("   " + " ".join(visits.get((i, j), "·") for j in range(tile_columns)))
print(f"\n   {len(visits)} of {tile_rows * tile_columns} tiles")
assert len(visits) < tile_rows * tile_columns
assert Causal().bounds(first=S - T, last=S - T + ROWS - 1, keys=S) == (0, S - T + ROWS)  # the same bound, from the mask

# ── 3. What is in memory ─────────────────────────────────────────────────────────────────────────────────────────────
#
# The textbook holds T · S scores. Flash holds a tile of them, and m, l, o of one tile of queries: a size that does not
# depend on T or S. For a head with D = 128 and tiles of 128 × 128, in 4-byte floats:

print("\n3. Scores in memory, one head, 4 bytes each, tiles of 128 × 128, D = 128\n")
for n in (1024, 8192, 65536):
    print(f"   T = S = {n:6}   textbook {n * n * 4 / 2**20:9.0f} MiB   flash {(128 * 128 + 128 * (128 + 2)) * 4 / 2**20:.3f} MiB")

# And memory traffic, in numbers read or written if nothing is cached. The textbook moves the matrix four times: it writes
# the scores, reads them, writes the weights, reads them. Flash reads all keys and values once for each tile of queries. For
# long sequences the ratio is 4·T·S / (2·S·T·D / rows) = 2 · rows / D: taller tiles move less.

print("\n   numbers moved: textbook 4·T·S + (2T + 2S)·D, flash (2T + 2·S·T / 128)·D\n")
for n in (1024, 8192, 65536):
    slow, fast = 4 * n * n + 4 * n * 128, (2 * n + 2 * n * n // 128) * 128
    print(f"   T = S = {n:6}   textbook {slow / 1e6:9.0f} million   flash {fast / 1e6:8.0f}  million")
    assert fast < slow

# ── 4. The same through Strobe ───────────────────────────────────────────────────────────────────────────────────────
#
# One head of one sequence: B = 1, H = G = 1. Masks say the rule that the code above has in two comparisons.

as_heads = [x[None, :, None, :] for x in (q, k, v)]  # [B, T or S, heads, D]
state = attention_state(*as_heads, mask=Causal())
print("\n4. From strobe.attention_state, the largest differences:")
for name, ours, theirs in (("out", out, state.out[0, :, 0]), ("lse", lse, state.lse[0, :, 0])):
    difference = (ours - theirs).abs().max().item()
    print(f"   {name} {difference:.1e}")
    assert difference < 1e-12

print("\nNext: 03_split_the_keys_merge_the_states.py, for when there is only one query to share out.")
