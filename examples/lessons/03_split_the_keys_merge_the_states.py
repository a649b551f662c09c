"""Lesson 3. Split the keys, merge the states: Flash-Decoding, and what else follows from one law.

A model that writes a text asks one query at a time against all the keys so far. Lesson 2 shares out work by tiles of
queries; with one query there is one tile, and all processors but one stand idle. So cut the *keys* instead: each
processor attends to its own part and returns a state (out, lse), and the states are merged.

    python examples/lessons/03_split_the_keys_merge_the_states.py

Source: Dao, Haziza, Massa and Sizov, Flash-Decoding, 2023; Juravsky et al., 2024, arXiv:2402.05099 (shared prefixes).
"""

import itertools
import math

import torch

from strobe import Causal, Machine, State, attention, attention_state, merge
from strobe.answers import Offer
from strobe.backends.hopper.decoding import decode
from strobe.layouts import Dense
from strobe.problem import Call, Described, check

torch.manual_seed(0)
B, H, G, D, S = 1, 8, 2, 64, 4096
q = torch.randn(B, 1, H, D, dtype=torch.float64)  # one new token
k, v = (torch.randn(B, S, G, D, dtype=torch.float64) for _ in range(2))
whole = attention_state(q, k, v)


def distance(a: State, b: State) -> float:
    """The largest difference of out or lse."""
    return max((a.out - b.out).abs().max().item(), (a.lse - b.lse).abs().max().item())


# ── 1. Four parts of the keys, four states, one result ───────────────────────────────────────────────────────────────

print("""1. One query, 4,096 keys

   tiles of queries      ████████████████████████████████  processor 0
                                                           processors 1, 2, 3: nothing to do

   parts of the keys     ████████                          processor 0   → state a ┐
                                 ████████                  processor 1   → state b ┤ merge → out
                                         ████████          processor 2   → state c ┤
                                                 ████████  processor 3   → state d ┘
""")
parts = [attention_state(q, k[:, low : low + 1024], v[:, low : low + 1024]) for low in range(0, S, 1024)]
share = torch.softmax(torch.stack([part.lse for part in parts]), 0)[:, 0, 0, 0]  # what each part weighs, for head 0
for i, (part, weight) in enumerate(zip(parts, share.tolist(), strict=True)):
    print(f"   keys {1024 * i:4} … {1024 * i + 1023}   lse {part.lse[0, 0, 0]:.4f}   weighs {weight:.4f}   {'█' * round(40 * weight)}")
print(f"\n   merged − whole: {distance(merge(*parts), whole):.1e}")
assert distance(merge(*parts), whole) < 1e-12

# A state is small: V + 1 numbers a head. Four parts cost 4 · (64 + 1) numbers a head to write and read again, beside
# 4,096 · (64 + 64) numbers of keys and values that have to be read anyway.

# ── 2. Any order, any shape of tree ──────────────────────────────────────────────────────────────────────────────────

a, b, c, d = parts
orders = [merge(*(parts[i] for i in order)) for order in itertools.permutations(range(4))]
pairs = merge(merge(a, b), merge(c, d))  # a tree
chain = merge(merge(merge(a, b), c), d)  # a line
worst = max(distance(found, whole) for found in (*orders, pairs, chain))
print(f"\n2. 24 orders, a tree and a line: at most {worst:.1e} from the whole")
assert worst < 1e-12

# ── 3. The state of no keys ──────────────────────────────────────────────────────────────────────────────────────────
#
# ln 0 = −∞: a part without keys, or wholly masked, has lse −∞, weighs exp(−∞) = 0 and changes nothing. So parts need not be
# equal, full or even there: the lengths of the sequences may differ, and nobody has to treat an end specially.

empty = attention_state(q, k[:, :0], v[:, :0])
print(f"\n3. No keys: out {empty.out.abs().max():.0f}, lse {empty.lse.max():.0f}; merged with it, the whole stays to the bit:",
      torch.equal(merge(whole, empty).out, whole.out))  # fmt: skip
assert empty.lse.eq(-math.inf).all() and empty.out.eq(0).all() and torch.equal(merge(whole, empty).out, whole.out)

# Associative, commutative, with a neutral element: states are a commutative monoid under merge.

# ── 4. The same law, another use: a shared prefix is read once ───────────────────────────────────────────────────────
#
# Eight conversations begin with the same 3,000-token instruction. Asked one by one, its keys are read eight times. But to
# the prefix the eight queries look like eight queries of one sequence: one pass over its keys serves all.

users, prefix_k, prefix_v = 8, k[:, :3000], v[:, :3000]
queries = torch.randn(users, 1, H, D, dtype=torch.float64)
own_k, own_v = (torch.randn(users, 50, G, D, dtype=torch.float64) for _ in range(2))

together = attention_state(queries.transpose(0, 1), prefix_k, prefix_v)  # [1, 8 queries, H, D] against the prefix, once
shared = State(together.out.transpose(0, 1), together.lse.transpose(0, 1))  # back to eight sequences of one query
cascade = merge(shared, attention_state(queries, own_k, own_v))

one_by_one = attention_state(
    queries, torch.cat([prefix_k.expand(users, -1, -1, -1), own_k], 1), torch.cat([prefix_v.expand(users, -1, -1, -1), own_v], 1)
)
print(f"\n4. Shared prefix: keys read {users * 3050:,} → {3000 + users * 50:,}; difference {distance(cascade, one_by_one):.1e}")
assert distance(cascade, one_by_one) < 1e-12

# ── 5. Positions, when the keys are cut ──────────────────────────────────────────────────────────────────────────────
#
# A mask speaks of positions, and a part counts its own keys from 0. So the queries move with it: for the part that begins
# at key `low`, the first query stands at (S − T) − low. A part that lies before every query is seen whole.

T = 6
chunk = torch.randn(B, T, H, D, dtype=torch.float64)  # six tokens at once, the last six of the 4,096
masked = attention_state(chunk, k, v, mask=Causal())
cuts = [0, 2000, 4092, S]  # the last cut goes through the causal diagonal
pieces = [
    attention_state(chunk, k[:, low:high], v[:, low:high], mask=Causal(), first=S - T - low) for low, high in itertools.pairwise(cuts)
]
print(f"\n5. A causal mask, cut at {cuts[1:-1]}: difference {distance(merge(*pieces), masked):.1e}")
print(f"   queries that saw no key in the last part: {int(pieces[2].lse[0, :, 0].eq(-math.inf).sum())} of {T}")
assert distance(merge(*pieces), masked) < 1e-12 and int(pieces[2].lse[0, :, 0].eq(-math.inf).sum()) == 2

torch.testing.assert_close(attention(chunk, k, v, mask=Causal()), merge(*pieces).out)

# ── 6. In earnest ────────────────────────────────────────────────────────────────────────────────────────────────────
#
# How many parts? As many as fill the machine once, and no more, since each costs a state. The desk of the Hopper room decides it from
# shapes alone, on any machine; the kernel is src/strobe/backends/hopper/decode.py, which keys a program takes stands in parts.py beside
# it, and what joins the states in merge.py. On a CPU the same is src/strobe/backends/cpu/decode.hpp.

print("\n6. What the desk would do on an H200, one token of 32 heads on 8 key heads:")
for sequences, keys in ((1, 8192), (16, 8192), (12, 8192)):
    one, cache = Described((sequences, 1, 32, 128), "bfloat16", "cuda:0"), Described((sequences, keys, 8, 128), "bfloat16", "cuda:0")
    offer = decode(check(Call(one, Dense(cache, cache), Causal())), Machine.named("h200"))
    assert isinstance(offer, Offer)
    print(f"   {sequences:2} × {keys} keys: {offer.why}")

print("\nNext: 04_a_page_table_by_hand.py. Read also docs/how-it-works/split-keys.md and docs/rooms/hopper-decode.md.")
