// What masks beyond intervals, bias and dropout say of a block of keys under some rows: written as arrays [keys][lanes] that
// lie as the scores do, so that a kernel reads them beside its scores. Nothing larger than a block is ever made.
#pragma once

#include "kernels.hpp"
#include "numbers.hpp"

namespace strobe {

constexpr int32_t HIDDEN = INT32_MAX;  // of a key that a row may not see, 0 otherwise: a bound that no key reaches

// A stretch of keys under some rows: lane i is query t[i] of head h[i], of one sequence.
struct Stretch {
  int64_t sequence, key0;
  int keys, lanes;
  const int32_t *t, *h;
};
enum class Sight { none, some, all };

// For each lane and key whether the mark hides it. What can be known of all of them at once is not looked up one by one.
[[maybe_unused]] static Sight look_at(const strobe_mark &mark, const Stretch &at, int64_t first, int32_t *hidden) {
  const int64_t *step = mark.strides;
  const char *base = static_cast<const char *>(mark.at);
  bool some = false, all = true;
  auto note = [&](int32_t *to, bool seen) {
    *to |= seen ? 0 : HIDDEN;
    some = some || seen, all = all && seen;
  };
  if (mark.kind == STROBE_DOCUMENTS) {
    const int32_t *ids = static_cast<const int32_t *>(mark.at) + at.sequence * step[0];
    const int32_t *keys = static_cast<const int32_t *>(mark.keys) + at.sequence * mark.keys_strides[0];
    int32_t own[64];
    for (int i = 0; i < at.lanes; i++) own[i] = ids[at.t[i] * step[2]];
    for (int j = 0; j < at.keys; j++) {
      int32_t id = keys[(at.key0 + j) * mark.keys_strides[1]];
      for (int i = 0; i < at.lanes; i++) note(hidden + j * at.lanes + i, own[i] == id);
    }
  } else if (mark.kind == STROBE_TREE) {
    if (at.key0 + at.keys <= first) return Sight::all;
    for (int j = 0; j < at.keys; j++) {
      int64_t node = at.key0 + j - first;
      for (int i = 0; i < at.lanes; i++)
        note(hidden + j * at.lanes + i,
             node < 0 || (node < mark.columns && base[at.sequence * step[0] + at.t[i] * step[2] + node * step[3]]));
    }
  } else {  // dense, or blocks of rows × columns
    for (int i = 0; i < at.lanes; i++) {
      const char *row = base + at.sequence * step[0] + at.h[i] * step[1] + at.t[i] / mark.rows * step[2];
      for (int64_t j = 0, end; j < at.keys; j = end) {
        int64_t column = (at.key0 + j) / mark.columns;
        end = least(at.keys, (column + 1) * mark.columns - at.key0);
        bool seen = row[column * step[3]];
        some = some || seen, all = all && seen;
        for (int64_t x = j; x < end && !seen; x++) hidden[x * at.lanes + i] = HIDDEN;
      }
    }
  }
  return all ? Sight::all : some ? Sight::some : Sight::none;
}

// All marks together.
[[maybe_unused]] static Sight look(const strobe_extras &extras, const Stretch &at, int64_t first, int32_t *hidden) {
  Sight sight = Sight::all;
  memset(hidden, 0, static_cast<size_t>(at.keys * at.lanes) * sizeof(int32_t));
  for (int m = 0; m < extras.mark_count && sight != Sight::none; m++) {
    Sight one = look_at(extras.marks[m], at, first, hidden);
    sight = one == Sight::all ? sight : one;
  }
  return sight;
}

// Bias times `by`.
[[maybe_unused]] static void read_bias(const strobe_extras &extras, const Stretch &at, float by, float *to) {
  const int64_t *step = extras.bias_strides;
  auto go = [&](auto *bias) {
    for (int i = 0; i < at.lanes; i++) {
      auto *row = bias + at.sequence * step[0] + at.h[i] * step[1] + at.t[i] * step[2] + at.key0 * step[3];
      for (int j = 0; j < at.keys; j++) to[j * at.lanes + i] = widen_one(row[j * step[3]]) * by;
    }
  };
  if (extras.bias_dtype == STROBE_F32) go(static_cast<const float *>(extras.bias));
  if (extras.bias_dtype == STROBE_BF16) go(static_cast<const bf16 *>(extras.bias));
  if (extras.bias_dtype == STROBE_F16) go(static_cast<const f16 *>(extras.bias));
}

// Weights that Philox4x32-10 keeps times `keep`, zero for the others: counter (s, t, h, b), key the seed's halves, kept if the
// first word is not below the bound (Salmon et al., SC 2011, section 3.3). Lanes are independent, so the compiler has vectors.
[[maybe_unused]] static void drop(const strobe_extras &extras, const Stretch &at, float *weights) {
  constexpr uint32_t MULTIPLIER0 = 0xD2511F53, MULTIPLIER1 = 0xCD9E8D57, WEYL0 = 0x9E3779B9, WEYL1 = 0xBB67AE85;
  constexpr int ROUNDS = 10;
  for (int j = 0; j < at.keys; j++) {
    for (int i = 0; i < at.lanes; i++) {
      uint32_t a = static_cast<uint32_t>(at.key0 + j), b = static_cast<uint32_t>(at.t[i]), c = static_cast<uint32_t>(at.h[i]),
               d = static_cast<uint32_t>(at.sequence), k0 = static_cast<uint32_t>(extras.seed),
               k1 = static_cast<uint32_t>(extras.seed >> 32);
#pragma GCC unroll 10
      for (int round = 0; round < ROUNDS; round++) {
        uint64_t ma = static_cast<uint64_t>(a) * MULTIPLIER0, mc = static_cast<uint64_t>(c) * MULTIPLIER1;
        a = static_cast<uint32_t>(mc >> 32) ^ b ^ k0, b = static_cast<uint32_t>(mc);
        c = static_cast<uint32_t>(ma >> 32) ^ d ^ k1, d = static_cast<uint32_t>(ma);
        k0 += WEYL0, k1 += WEYL1;
      }
      float *weight = weights + j * at.lanes + i;
      *weight = a < extras.drop_below ? 0 : *weight * extras.keep;
    }
  }
}

}  // namespace strobe
