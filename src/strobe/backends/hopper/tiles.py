"""The sizes of tiles, by the padded width of keys: measured. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Sizes by the padded width of keys.

    keys        of a block, one step of the loop
    groups      warpgroups of 64 rows each, which share the blocks
    slots       blocks of keys, and of values, in flight
    turns       tiles of queries in shared memory: with two, the next one comes while the last one runs
    registers   of a thread of each warpgroup but the first, which has the rest, and of the warp that loads
    """

    keys: int
    groups: int
    slots: int
    turns: int
    registers: tuple[int, ...]


# Keys cut into parts.
DIVIDED = {64: Tile(128, 2, 6, 1, (240, 24)), 128: Tile(128, 2, 3, 1, (240, 24))}  # a program has one tile, so all else is for keys
READ = Tile(64, 2, 4, 1, (240, 24))  # where a key head has one tile of rows, reading takes longer than products: blocks come sooner

# With a base that stays (`consuming.steadily`) a block ends soon after its exponentials, so that short blocks and many warpgroups cost
# little. H200, µs, docs/log.md, 2026-12-01.
#     width 64: four warpgroups with blocks of 64 keys, three with 128
#         at 1,024 251, 289, causal 167, 209; at 4,096 873, 890, causal 477, 507; at 16,384 3,386, 3,404, causal 1,692, 1,717
#     width 128: two warpgroups with 64, three with 64, two with 128
#         at 1,024 201, 203, 200, causal 132, 138, 137; at 2,048 causal 213, 210, 218; at 16,384 2,640, 2,595, 2,662, causal 1,348, 1,342,
#         1,349; windows of 4,096 631, 644, 650
TWO, THREE, FOUR = Tile(64, 2, 4, 2, (224, 56)), Tile(64, 3, 3, 2, (160, 160, 24)), Tile(64, 4, 6, 2, (112, 112, 112, 24))
STEADY = {64: FOUR, 128: TWO, 256: Tile(64, 2, 2, 1, (240, 24))}
LONG = 2048  # queries from which on three warpgroups' tiles are full enough, if there are MANY
MANY = 1024  # tiles of 128 rows, without which larger ones leave the last round empty

# Where the greatest score is followed, of float16. Of width 64, TFLOP/s of four warpgroups, and of three: 1,024 queries 474 and 424,
# causal 364 and 310; 4,096 queries, causal, 483 and 433; 16,384 534 and 560, causal 534 and 534 (docs/log.md, 2026-11-30).
SHORT = {"full": 2048, "masked": 8192}  # queries, below which four are faster
TILES = {
    "full": {64: Tile(128, 3, 2, 2, (160, 160, 24)), 128: Tile(128, 2, 2, 2, (224, 56)), 256: Tile(64, 2, 2, 1, (240, 24))},
    "masked": {64: Tile(128, 3, 3, 2, (160, 160, 24)), 128: Tile(128, 2, 2, 2, (224, 56)), 256: Tile(64, 2, 2, 1, (240, 24))},
}
# Windows likewise, by the keys that a query sees at most and the tiles of 128 rows that there are at least: fewer keys of a shorter block
# go unseen, and three warpgroups wait less, if their larger tiles do not leave the last wave empty (H200, µs at 16,384, windows of 128,
# 512, 1,024, 2,048, 4,096; width 64 as without a window 192, 259, 366, 580, 956, four warpgroups 152, 220, 338, 563, 960; width 128 110,
# 209, 272, 434, 727, two 93, 164, 260, 457, 798, three 99, 164, 253, 428, 761; docs/log.md, 2026-12-01).
WINDOWS = {64: ((2048, 0, FOUR),), 128: ((512, 0, TWO), (2048, MANY, THREE), (1024, 0, TWO))}

# Keys of 192 or 256, values of 128 or fewer: latent attention's prompts (H200, TFLOP/s at 4,096 and 16,384 causal and 16,384 full: 624,
# 665, 697; a third slot instead of the second turn 615, 660, 702; three warpgroups 605, 674, 723). Of up to 192, whose blocks of 128 keys
# fit as boxes of 64 columns, 664, 746, 785, but for short prompts with a mask and short windows (µs at 1,024 causal 211 where 196, a window
# of 1,024 318 where 308; docs/log.md, 2026-11-30 and 2026-12-01).
UNEQUAL, WITHIN_192 = Tile(64, 2, 2, 2, (224, 56)), Tile(128, 2, 2, 1, (240, 24))
NEAR = 2048
# Of float8 (H200, TFLOP/s at 16,384: width 128 with blocks of 128 keys 919, causal 725, of 64 keys causal 856; width 64 507; docs/log.md,
# 2026-12-01).
FLOAT8 = {
    "full": {64: Tile(128, 2, 6, 2, (240, 24)), 128: Tile(128, 2, 4, 2, (240, 24))},
    "masked": {64: Tile(128, 2, 6, 2, (240, 24)), 128: Tile(64, 2, 6, 2, (240, 24))},
}
