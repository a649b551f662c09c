// Rows of the backward pass, and what makes P and dS of two products: shared by its vectors (backward.hpp) and its tiles
// (isa/amx_backward.hpp). Lanes are rows.
#pragma once

#include "gradients.hpp"
#include "marks.hpp"
#include "softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int MOST_LANES = ROW_VECTORS * W;  // rows that a sub-block may have

struct GradientSub {
  float lse[MOST_LANES], delta[MOST_LANES], slope[MOST_LANES], position[MOST_LANES];
  int32_t lo[MOST_LANES], hi[MOST_LANES], t[MOST_LANES], h[MOST_LANES];
  int64_t least_lo, most_lo, least_hi, most_hi;
  int rows, vectors;
  int finite;  // of the rows' numbers and the chunk's keys, 0 or 1; -1: nobody has looked
};

template <class T>
static float product(const char *a, const char *b, int64_t n) {
  const T *x = reinterpret_cast<const T *>(a), *y = reinterpret_cast<const T *>(b);
  vec total = set1(0);
  int64_t c = 0;
  for (; c + W <= n; c += W) total = fma(load(x + c), load(y + c), total);
  if (c < n) total = fma(load_part(x + c, static_cast<int>(n - c)), load_part(y + c, static_cast<int>(n - c)), total);
  return sum(total);
}

// delta = dO · O - dlse. A row that sees no key has lse -inf and passes nothing on.
static void deltas(const GradientPair &pair, int64_t row0, int64_t row1) {
  const strobe_attention &call = *pair.call;
  RowAt at = row_at(pair.rows, row0);
  for (int64_t i = row0; i < row1; i++, at = next_row(pair.rows, at)) {
    const char *dout = row_of(pair.dout, at), *out = pair.rows.out + at.t * pair.rows.out_token + at.h * pair.rows.out_head;
    float lse, dlse = 0, delta = 0;
    memcpy(&lse, pair.rows.lse + at.t * pair.rows.lse_token + at.h * pair.rows.lse_head, sizeof lse);
    if (pair.dlse.at) memcpy(&dlse, row_of(pair.dlse, at), sizeof dlse);
    if (call.dtype == STROBE_F32) delta = product<float>(dout, out, call.V);
    if (call.dtype == STROBE_BF16) delta = product<bf16>(dout, out, call.V);
    if (call.dtype == STROBE_F16) delta = product<f16>(dout, out, call.V);
    delta = lse == MINUS_INFINITY ? 0 : delta - dlse;
    memcpy(row_of(pair.delta, at), &delta, sizeof delta);
  }
}

// Bounds and numbers of the rows from row0 on, for keys key0 … key1 - 1; false where they see none of these. Lanes past the
// last row repeat it, and see no key.
static bool load_gradient_sub(const GradientPair &pair, int64_t row0, int most_rows, int64_t key0, int64_t key1, GradientSub &sub) {
  const strobe_attention &call = *pair.call;
  sub.rows = static_cast<int>(least(most_rows, pair.rows.count - row0));
  int64_t lo, hi;
  visible(call, pair.rows, pair.keys.count, row_at(pair.rows, row0).t, &lo, &hi);
  if (lo >= key1) return false;
  visible(call, pair.rows, pair.keys.count, row_at(pair.rows, row0 + sub.rows - 1).t, &lo, &hi);
  if (hi <= key0) return false;

  sub.vectors = (sub.rows + W - 1) / W;
  sub.least_lo = sub.least_hi = INT32_MAX;
  sub.most_lo = sub.most_hi = 0;
  sub.finite = -1;
  RowAt at = row_at(pair.rows, row0);
  for (int i = 0; i < round_up(most_rows, W); i++, at = i < sub.rows ? next_row(pair.rows, at) : at) {
    visible(call, pair.rows, pair.keys.count, at.t, &lo, &hi);
    lo = clamp(lo, key0, key1), hi = i < sub.rows ? clamp(hi, key0, key1) : key0;
    sub.lo[i] = static_cast<int32_t>(lo), sub.hi[i] = static_cast<int32_t>(hi);
    sub.least_lo = least(sub.least_lo, lo), sub.most_lo = most(sub.most_lo, lo);
    sub.most_hi = most(sub.most_hi, hi);
    if (i < sub.vectors * W) sub.least_hi = least(sub.least_hi, hi);
    sub.t[i] = static_cast<int32_t>(at.t), sub.h[i] = static_cast<int32_t>(pair.rows.head + at.h);
    sub.position[i] = static_cast<float>(pair.rows.first + at.t);
    sub.slope[i] = pair.rows.slopes ? pair.rows.slopes[pair.rows.head + at.h] : 0;
    memcpy(&sub.lse[i], pair.rows.lse + at.t * pair.rows.lse_token + at.h * pair.rows.lse_head, sizeof(float));
    memcpy(&sub.delta[i], row_of(pair.delta, at), sizeof(float));
    if (sub.lse[i] == MINUS_INFINITY) sub.lse[i] = 0;  // weights are 0 then: the scores are -inf too, or no key is seen
  }
  return true;
}

// What few calls have, for a block; null where there is none.
struct BlockTerms {
  const int32_t *hidden;  // [keys][lanes], by marks
  const float *keep;      // what dropout multiplies weights by
  const float *bias;
  float *slopes;  // gathers what the rows' slopes receive
  float *dbias;   // [keys][lanes]
};

// Where they are written: [keys][lanes].
struct TermArrays {
  int32_t *hidden;
  float *keep, *bias;
};

// Fills what the call has for keys from … from + n - 1 under `lanes` rows.
static Sight find_terms(const GradientPair &pair, const GradientSub &sub, int64_t from, int n, int lanes, const TermArrays &to,
                        BlockTerms *terms) {
  const strobe_attention &call = *pair.call;
  if (!call.extras) return Sight::all;
  Stretch stretch = {pair.rows.sequence, from, n, lanes, sub.t, sub.h};
  Sight sight = call.extras->mark_count > 0 ? look(*call.extras, stretch, pair.rows.first, to.hidden) : Sight::all;
  if (sight == Sight::none) return sight;
  if (sight == Sight::some) terms->hidden = to.hidden;
  if (call.extras->bias) read_bias(*call.extras, stretch, 1.0f, to.bias), terms->bias = to.bias;
  if (call.extras->drop_below > 0) {
    for (int i = 0; i < n * lanes; i += W) store(to.keep + i, set1(1.0f));
    drop(*call.extras, stretch, to.keep);
    terms->keep = to.keep;
  }
  return sight;
}

// From K·Qᵀ in `p` and V·dOᵀ in `ds` to P and dS · scale, for keys k0 … k0 + n - 1.
template <int R, class Terms>
static void weigh(const GradientSub &sub, const strobe_attention &call, int64_t k0, int n, float *p, float *ds, const Terms &terms) {
  constexpr bool TERMS = std::is_same_v<Terms, BlockTerms>;
  bool partial = k0 < sub.most_lo || k0 + n > sub.least_hi, masked = partial;
  if constexpr (TERMS) masked = partial || terms.hidden;
  vec scale = set1(call.scale), to_cap = set1(call.cap > 0 ? call.scale / call.cap : 0), cap = set1(call.cap), one = set1(1.0f);
  for (int x = 0; x < R; x++) {
    vec lse = load(sub.lse + x * W), delta = load(sub.delta + x * W), slope = load(sub.slope + x * W), gathered = set1(0);
    for (int j = 0; j < n; j++) {
      float *pj = p + (j * R + x) * W, *dj = ds + (j * R + x) * W;
      vec y = load(pj), through = one, away = set1(0);
      if constexpr (TERMS) {
        away = abs(minus(load(sub.position + x * W), set1(static_cast<float>(k0 + j))));
        if (call.cap > 0) {
          vec t = tanh_of(mul(y, to_cap));
          through = minus(one, mul(t, t));
          y = mul(t, cap);
        } else {
          y = mul(y, scale);
        }
        y = minus(y, mul(slope, away));
        if (terms.bias) y = add(y, load(terms.bias + (j * R + x) * W));
        y = minus(y, lse);
      } else {
        y = fms(y, scale, lse);
      }
      y = mul(y, set1(LOG2_E));  // after the difference, which is small: a factor on scores of 1e4 would round at their size
      vec hidden = set1(0);      // or -inf
      if (partial) hidden = hide(hidden, sub.lo + x * W, sub.hi + x * W, static_cast<int32_t>(k0 + j));
      if constexpr (TERMS)
        if (terms.hidden) hidden = hide(hidden, terms.hidden + (j * R + x) * W, sub.hi + x * W, static_cast<int32_t>(k0 + j));
      y = exp2_exact(y);
      vec dp = load(dj), kept = y;
      if constexpr (TERMS)
        if (terms.keep) dp = mul(dp, load(terms.keep + (j * R + x) * W)), kept = mul(y, load(terms.keep + (j * R + x) * W));
      vec d = mul(y, minus(dp, delta));
      if (masked) {  // chosen, not multiplied by 0: what is hidden may hold NaN
        kept = select_less(hidden, set1(-1.0f), set1(0), kept);
        d = select_less(hidden, set1(-1.0f), set1(0), d);
      }
      if constexpr (TERMS) {
        gathered = fma(d, away, gathered);
        if (terms.dbias) store(terms.dbias + (j * R + x) * W, d);
        d = mul(d, through);
      }
      store(pj, kept);
      store(dj, mul(d, scale));
    }
    if constexpr (TERMS)
      if (terms.slopes) store(terms.slopes + x * W, minus(load(terms.slopes + x * W), gathered));
  }
}

}  // namespace STROBE_ISA
}  // namespace strobe
