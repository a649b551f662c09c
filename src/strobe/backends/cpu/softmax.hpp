// exp2, the score's adjustments and the end of a row: what every kernel of an instruction set shares.
// Included after isa/<name>.hpp, whose vectors it is written over.
#pragma once

#include <math.h>

#include <type_traits>

#include "kernels.hpp"

namespace strobe {
namespace STROBE_ISA {

// 2^x; -inf gives 0, NaN stays. Minimax on [0, 1) for the fraction: relative error 2e-9, 3e-6, 7e-5 before rounding.
static inline vec exp2_exact(vec x) {
  vec f = fraction(x), p = set1(0.0002170225568f);
  p = fma(p, f, set1(0.00124396877f));
  p = fma(p, f, set1(0.009678841018f));
  p = fma(p, f, set1(0.05548334197f));
  p = fma(p, f, set1(0.2402298363f));
  p = fma(p, f, set1(0.6931469838f));
  p = fma(p, f, set1(1.000000002f));
  return scale_by_floor(p, x);
}
[[maybe_unused]] static inline vec exp2_half(vec x) {  // enough for weights of 11 to 16 bits
  vec f = fraction(x), p = set1(0.01353416785f);
  p = fma(p, f, set1(0.05201146078f));
  p = fma(p, f, set1(0.2414427568f));
  p = fma(p, f, set1(0.6930038345f));
  p = fma(p, f, set1(1.000002593f));
  return scale_by_floor(p, x);
}
[[maybe_unused]] static inline vec exp2_quick(vec x) {  // enough for weights rounded to 8 bits
  vec f = fraction(x), p = set1(0.07802452726f);
  p = fma(p, f, set1(0.2260671487f));
  p = fma(p, f, set1(0.6958335427f));
  p = fma(p, f, set1(0.9999252186f));
  return scale_by_floor(p, x);
}

// tanh x. Near 0 the quotient cancels, so there the series. Beyond FAR it is 1, and the power might be too large for a float.
// In this order of max a NaN stays.
static inline vec tanh_of(vec x) {
  constexpr float NEAR = 0.25f, FAR = 64.0f;
  vec e = exp2_exact(minus(set1(0.0f), max(set1(-FAR), mul(x, set1(-2 * LOG2_E)))));
  vec far = minus(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
  vec y = mul(x, x);
  vec p = set1(-0.00886323553f);        // -1382 / 155925
  p = fma(p, y, set1(0.0218694885f));   // 62 / 2835
  p = fma(p, y, set1(-0.0539682540f));  // -17 / 315
  p = fma(p, y, set1(0.1333333333f));
  p = fma(p, y, set1(-0.3333333333f));
  return select_less(abs(x), set1(NEAR), fma(mul(p, y), x, x), far);
}

// Whether more than an interval of keys, a cap and slopes shapes the weights: a matter for the tiles whose lanes are rows.
static inline bool shaped(const strobe_attention &call) {
  return call.extras && (call.extras->mark_count > 0 || call.extras->bias || call.extras->drop_below > 0);
}

// How products become scores in powers of two. Mostly by one factor, which then is folded into the exponent,
// 2^(product · factor - base), where it costs neither time nor a rounding. With a cap or slopes, `adjust` is a pass over
// the products; so it is for a factor that is not positive, which would turn greatest into least.
struct Scoring {
  bool folded;
  float factor;    // of the product
  float cap_log2;  // cap · log2 e, or 0

  float exponent() const { return folded ? factor : 1.0f; }
};
static inline Scoring scoring(const strobe_attention &call) {
  if (call.cap > 0) return {false, call.scale / call.cap, call.cap * LOG2_E};
  bool biased = call.extras && call.extras->bias;
  return {call.slopes == nullptr && !biased && call.scale > 0, call.scale * LOG2_E, 0};
}
// `away` is the lane's |position of query - key| times slope · log2 e.
static inline vec adjust(const Scoring &how, vec x, vec away) {
  x = mul(x, set1(how.factor));
  if (how.cap_log2 != 0) x = mul(tanh_of(x), set1(how.cap_log2));
  return minus(x, away);
}

template <class To, class From>
static void write_row(To *to, const From *o, int64_t width, float by) {
  int64_t c = 0;
  for (; c + W <= width; c += W) store(to + c, mul(load(o + c), set1(by)));
  if (c < width) store_part(to + c, mul(load_part(o + c, static_cast<int>(width - c)), set1(by)), static_cast<int>(width - c));
}
static inline void widen_row(float *to, int dtype, const char *from, int64_t width) {
  if (dtype == STROBE_F32) write_row(to, reinterpret_cast<const float *>(from), width, 1.0f);
  if (dtype == STROBE_BF16) write_row(to, reinterpret_cast<const bf16 *>(from), width, 1.0f);
  if (dtype == STROBE_F16) write_row(to, reinterpret_cast<const f16 *>(from), width, 1.0f);
}
static inline void write_row(void *to, int dtype, const float *o, int64_t width, float by) {
  if (dtype == STROBE_F32) write_row(static_cast<float *>(to), o, width, by);
  if (dtype == STROBE_BF16) write_row(static_cast<bf16 *>(to), o, width, by);
  if (dtype == STROBE_F16) write_row(static_cast<f16 *>(to), o, width, by);
}

// A row is done: its greatest score m (powers of two) and its sum l, which the sink joins, become its lse. Returns what its
// values are to be multiplied with; −1 if it saw no key (l = 0), whose output is zero and whose lse −∞.
static float close_row(const Piece &piece, RowAt at, float m, float l) {
  const strobe_attention &call = *piece.call;
  const Rows &rows = *piece.rows;
  const bool empty = l == 0;  // before the sink joins: no key was seen, and the row's values may be anything
  float by = 1;
  if (call.sink) {
    float sink = call.sink[rows.head + at.h] * LOG2_E, top = m > sink ? m : sink;
    by = m == MINUS_INFINITY ? 0 : exp2f(m - top);
    l = l * by + (sink == MINUS_INFINITY ? 0 : exp2f(sink - top));
    m = top;
  }
  if (rows.lse) {
    float lse = l == 0 ? MINUS_INFINITY : (m + log2f(l)) * LN_2;
    memcpy(rows.lse + at.t * rows.lse_token + at.h * rows.lse_head, &lse, sizeof lse);
  }
  return empty ? -1 : by / l;
}
static inline char *out_at(const Rows &rows, RowAt at) { return rows.out + at.t * rows.out_token + at.h * rows.out_head; }

// Row i of a piece, at `at`, with its values o: to the partial or to the output.
static void finish_row(const Piece &piece, int i, RowAt at, float m, float l, const float *o) {
  const strobe_attention &call = *piece.call;
  if (piece.partial) {
    float *ms = piece.partial, *ls = ms + piece.row_count, *os = ls + piece.row_count + i * call.V;
    ms[i] = m, ls[i] = l;
    memcpy(os, o, static_cast<size_t>(call.V) * sizeof(float));
    return;
  }
  float by = close_row(piece, at, m, l);
  if (by < 0) {
    memset(out_at(*piece.rows, at), 0, static_cast<size_t>(call.V * dtype_bytes(call.dtype)));
  } else {
    write_row(out_at(*piece.rows, at), call.dtype, o, call.V, by);
  }
}

// Several partials of the same rows, in the order of their keys, to the output.
static void merge_partials(const Piece &piece, const float *const *partials, int count) {
  int64_t V = piece.call->V;
  alignas(64) float o[MAX_WIDTH];
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int i = 0; i < piece.row_count; i++, at = next_row(*piece.rows, at)) {
    float m = MINUS_INFINITY, l = 0;
    for (int p = 0; p < count; p++) m = partials[p][i] > m || partials[p][i] != partials[p][i] ? partials[p][i] : m;
    memset(o, 0, static_cast<size_t>(V) * sizeof(float));
    for (int p = 0; p < count; p++) {
      const float *ms = partials[p], *ls = ms + piece.row_count, *os = ls + piece.row_count + i * V;
      if (ms[i] == MINUS_INFINITY) continue;
      float by = exp2f(ms[i] - m);
      l += ls[i] * by;
      for (int64_t c = 0; c < V; c++) o[c] += os[c] * by;
    }
    finish_row(piece, i, at, m, l, o);
  }
}

template <class T>
static void merge_rows(const strobe_merge &c, const T *a, const T *b, T *out, float lse_a, float lse_b, float *lse) {
  float top = lse_a > lse_b ? lse_a : lse_b;
  bool empty = top == MINUS_INFINITY;
  float wa = empty ? 0 : expf(lse_a - top), wb = empty ? 0 : expf(lse_b - top), sum = wa + wb;
  *lse = empty ? MINUS_INFINITY : top + logf(sum);
  if (!empty) wa /= sum, wb /= sum;
  auto one = [&](vec x, vec y) {  // an empty side may hold anything
    vec from_a = lse_a == MINUS_INFINITY ? set1(0) : mul(x, set1(wa));
    return lse_b == MINUS_INFINITY ? from_a : fma(y, set1(wb), from_a);
  };
  int64_t i = 0;
  for (; i + W <= c.V; i += W) store(out + i, one(load(a + i), load(b + i)));
  int left = static_cast<int>(c.V - i);
  if (left) store_part(out + i, one(load_part(a + i, left), load_part(b + i, left)), left);
}

// All heads of token t of sequence b.
static void merge_states(const strobe_merge &c, int64_t b, int64_t t) {
  auto at = [&](const int64_t *strides, int64_t h) { return b * strides[0] + t * strides[1] + h * strides[2]; };
  auto go = [&](auto *type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t h = 0; h < c.H; h++) {
      float lse;
      merge_rows(c, static_cast<const T *>(c.out_a) + at(c.out_a_strides, h), static_cast<const T *>(c.out_b) + at(c.out_b_strides, h),
                 static_cast<T *>(c.out) + at(c.out_strides, h), c.lse_a[at(c.lse_a_strides, h)], c.lse_b[at(c.lse_b_strides, h)], &lse);
      c.lse[at(c.lse_strides, h)] = lse;
    }
  };
  if (c.dtype == STROBE_F32) go(static_cast<float *>(nullptr));
  if (c.dtype == STROBE_BF16) go(static_cast<bf16 *>(nullptr));
  if (c.dtype == STROBE_F16) go(static_cast<f16 *>(nullptr));
}

static void copy_row(const void *from, int from_dtype, void *to, int to_dtype, int64_t width) {
  if (from_dtype == to_dtype) {
    memcpy(to, from, static_cast<size_t>(width * dtype_bytes(to_dtype)));
  } else {
    write_row(to, to_dtype, static_cast<const float *>(from), width, 1.0f);
  }
}

}  // namespace STROBE_ISA
}  // namespace strobe
