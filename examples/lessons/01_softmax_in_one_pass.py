"""Lesson 1. Softmax in one pass: two running numbers are enough.

Attention is an average of values, weighted by a softmax of scores. The softmax seems to need all scores before it can
weigh the first value: it divides by a sum over all of them. This lesson computes it while the scores stream by, one
at a time, and never looks back. Everything Strobe does rests on it.

    python examples/lessons/01_softmax_in_one_pass.py

Source: Milakov and Gimelshein, 2018, arXiv:1805.02867 (the sum); Rabe and Staats, 2021, arXiv:2112.05682 (the average).
"""

import math

import torch

from strobe import State, attention_state, merge

SCORES = [1.0, 3.0, -2.0, 4.0, 0.5]  # how well one query matches five keys
VALUES = [10.0, 20.0, 30.0, 40.0, 50.0]  # what stands behind each key; in real attention a vector, here a number


def bar(weight: float, widest: int = 40) -> str:
    return "█" * round(weight * widest) or "▏"


# ── 1. As the textbook says: three passes ────────────────────────────────────────────────────────────────────────────


def textbook(scores: list[float], values: list[float]) -> float:
    weights = [math.exp(s) for s in scores]  # pass 1: exponentials
    total = sum(weights)  # pass 2: their sum
    return sum(w / total * v for w, v in zip(weights, values, strict=True))  # pass 3: the average


answer = textbook(SCORES, VALUES)
print("1. The weights, and the average they make\n")
total = sum(map(math.exp, SCORES))
for s, v in zip(SCORES, VALUES, strict=True):
    print(f"   score {s:5.1f}   weight {math.exp(s) / total:.4f} {bar(math.exp(s) / total)}   value {v:.0f}")
print(f"\n   average = {answer:.6f}")

# ── 2. What is wrong with it: exp overflows ──────────────────────────────────────────────────────────────────────────

try:
    textbook([1000.0, 999.0], [1.0, 2.0])
    raise AssertionError("not reached")
except OverflowError:
    print("\n2. exp(1000) overflows, though the weights of scores 1000 and 999 are harmless: 0.73 and 0.27.")

# Softmax does not change when a constant is taken from every score: exp(s − m) / Σ exp(s − m), the factors exp(−m) cancel.
# With m the largest score no exponential exceeds 1. But now m has to be known first: one more pass.

# ── 3. One pass: when a larger score arrives, repair the past ────────────────────────────────────────────────────────
#
#   m   the largest score so far
#   l   Σ exp(s − m) so far                 the denominator
#   o   Σ exp(s − m) · v so far             the numerator
#
# A new score s may raise the maximum from m to m'. All that was summed with m is too large by exp(m' − m), all of it by
# the same factor. So multiply l and o by exp(m − m') ≤ 1, and go on. That product is the whole trick.

print("\n3. One pass\n\n    score      m        l          o        o / l: the average of what was seen")


def one_pass(scores: list[float], values: list[float], show: bool = False) -> tuple[float, float]:
    m, l, o = -math.inf, 0.0, 0.0
    for s, v in zip(scores, values, strict=True):
        higher = max(m, s)
        shrink = math.exp(m - higher)  # 1 if the maximum stands; exp(−inf) = 0 at the very first score
        weight = math.exp(s - higher)
        l = l * shrink + weight
        o = o * shrink + weight * v
        m = higher
        if show:
            print(f"   {s:6.1f} {m:6.1f} {l:10.6f} {o:10.5f}   {o / l:10.6f}  {'← the past was shrunk' if 0 < shrink < 1 else ''}")
    return o / l, m + math.log(l)


average, lse = one_pass(SCORES, VALUES, show=True)
assert math.isclose(average, answer)
assert math.isclose(one_pass([1000.0, 999.0], [1.0, 2.0])[0], textbook([1.0, 0.0], [1.0, 2.0]))  # no overflow

# ── 4. Two numbers tell all: the average and the lse ─────────────────────────────────────────────────────────────────
#
# m alone and l alone mean little: l depends on which m it was summed with. Together they make
# lse = m + ln l = ln Σ exp(s), the log of the denominator. (out, lse) is a complete account of the keys seen, and two
# accounts of different keys make one:
#
#   denominator   exp(a.lse) + exp(b.lse)
#   average       (exp(a.lse) · a.out + exp(b.lse) · b.out) / denominator


def joined(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    m = max(a[1], b[1])
    weight_a, weight_b = math.exp(a[1] - m), math.exp(b[1] - m)
    return (weight_a * a[0] + weight_b * b[0]) / (weight_a + weight_b), m + math.log(weight_a + weight_b)


left, right = one_pass(SCORES[:2], VALUES[:2]), one_pass(SCORES[2:], VALUES[2:])
both = joined(left, right)
print("\n4. Accounts of different keys add up\n")
for name, (out, log_sum) in (("keys 0-1", left), ("keys 2-4", right), ("joined", both), ("one pass", (average, lse))):
    print(f"   {name:9} average {out:10.6f}   lse {log_sum:9.6f}")
assert math.isclose(both[0], average) and math.isclose(both[1], lse)

# ── 5. The same through Strobe ───────────────────────────────────────────────────────────────────────────────────────
#
# With one head of width 1, a query of 1 and scale 1, the score of a key is the key itself.

q = torch.ones(1, 1, 1, 1, dtype=torch.float64)  # [B, T, H, D]
k = torch.tensor(SCORES, dtype=torch.float64).view(1, 5, 1, 1)  # [B, S, G, D]
v = torch.tensor(VALUES, dtype=torch.float64).view(1, 5, 1, 1)

state = attention_state(q, k, v, scale=1.0)
parts = merge(attention_state(q, k[:, :2], v[:, :2], scale=1.0), attention_state(q, k[:, 2:], v[:, 2:], scale=1.0))
print("\n5. The same from strobe.attention_state, and from strobe.merge of two halves\n")
for name, found in (("whole", state), ("merged", parts)):
    print(f"   {name:9} average {found.out.item():10.6f}   lse {found.lse.item():9.6f}")
    assert isinstance(found, State)
    assert math.isclose(found.out.item(), average) and math.isclose(found.lse.item(), lse)

print("\nNext: 02_flash_attention_in_forty_lines.py does this for a tile of queries and a tile of keys at a time.")
