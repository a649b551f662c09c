// The backward pass, lanes are rows where scores are made, the width where keys' gradients are; written once over an
// instruction set.
//
// Keys are taken CHUNK at a time and rows SUB_ROWS at a time. With P = exp(score - lse) and dS = P (dO Vᵀ - delta), both
// kept transposed as [key][row]:
// - K·Qᵀ and V·dOᵀ broadcast numbers of K and V against vectors of rows, by `scores` of tile.hpp.
// - What dQᵀ gains, Kᵀ dSᵀ, broadcasts numbers of K against vectors of dS, by `gather_values`.
// - What dV and dK gain, P dO and dS Q, broadcasts numbers of P and dS against vectors of dO and Q along their width.
#pragma once

#include "gradient_rows.hpp"
#include "tile.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int CHUNK = 2 * BLOCK;  // keys whose dK and dV stay in the second cache while all rows pass

struct GradientScratch {
  GradientSub sub;
  alignas(64) float p[BLOCK * SUB_ROWS];
  alignas(64) float ds[BLOCK * SUB_ROWS];
  alignas(64) int32_t hidden[BLOCK * SUB_ROWS];
  alignas(64) float keep[BLOCK * SUB_ROWS];
  alignas(64) float bias[BLOCK * SUB_ROWS];
};
struct GradientArrays {
  GradientScratch *fixed;
  float *q_t, *dout_t;     // [D][lanes], [V][lanes]
  float *q, *dout;         // [SUB_ROWS][pitch]
  float *k, *v, *dk, *dv;  // [CHUNK][pitch]
  int64_t key_pitch, value_pitch;
};

// An odd number of cache lines, so that rows do not crowd each other out of the first cache's sets.
static int64_t pitch_of(int64_t width) { return round_up(width, 32) + 16; }

static size_t gradient_bytes(const strobe_attention &call) {
  int64_t floats = (call.D + call.V) * SUB_ROWS + (pitch_of(call.D) + pitch_of(call.V)) * (SUB_ROWS + 2 * CHUNK);
  return sizeof(GradientScratch) + static_cast<size_t>(floats) * sizeof(float);
}
static GradientArrays gradient_arrays(const strobe_attention &call, char *scratch) {
  GradientArrays a;
  a.fixed = reinterpret_cast<GradientScratch *>(scratch);
  a.key_pitch = pitch_of(call.D), a.value_pitch = pitch_of(call.V);
  a.q_t = reinterpret_cast<float *>(a.fixed + 1);
  a.dout_t = a.q_t + call.D * SUB_ROWS;
  a.q = a.dout_t + call.V * SUB_ROWS;
  a.dout = a.q + a.key_pitch * SUB_ROWS;
  a.k = a.dout + a.value_pitch * SUB_ROWS;
  a.v = a.k + a.key_pitch * CHUNK;
  a.dk = a.v + a.value_pitch * CHUNK;
  a.dv = a.dk + a.key_pitch * CHUNK;
  return a;
}

// A share is [rows / SUB_ROWS][D + 1][lanes]: dQᵀ, and below it what the rows give their slopes.
static int64_t share_floats(const strobe_attention &call, int64_t rows) { return round_up(rows, SUB_ROWS) * (call.D + 1); }
static size_t share_bytes(const strobe_attention &call, int64_t rows) {
  return static_cast<size_t>(share_floats(call, rows)) * sizeof(float);
}

// X [rows][pitch] to Xᵀ [width][lanes]; lanes past the last row repeat it, and nothing is taken from them.
static void transpose_rows(const float *x, int64_t pitch, int rows, int lanes, int64_t width, float *to) {
  for (int i = 0; i < lanes; i += W)
    for (int64_t d = 0; d < width; d += W) {
      vec r[W];
      for (int j = 0; j < W; j++) r[j] = load(x + least(i + j, rows - 1) * pitch + d);
      transpose(r);
      for (int64_t j = 0; j < least(W, width - d); j++) store(to + (d + j) * lanes + i, r[j]);
    }
}

// False where the rows see none of the keys key0 … key1 - 1.
static bool load_rows(const GradientPair &pair, int64_t row0, int64_t key0, int64_t key1, GradientArrays &a) {
  const strobe_attention &call = *pair.call;
  const GradientSub &sub = a.fixed->sub;
  if (!load_gradient_sub(pair, row0, SUB_ROWS, key0, key1, a.fixed->sub)) return false;
  RowAt at = row_at(pair.rows, row0);
  for (int i = 0; i < sub.rows; i++, at = next_row(pair.rows, at)) {
    const char *q = query_at(pair.rows, at), *dout = row_of(pair.dout, at);
    widen_rows(&q, call.dtype, 1, call.D, a.q + i * a.key_pitch);
    widen_rows(&dout, call.dtype, 1, call.V, a.dout + i * a.value_pitch);
  }
  transpose_rows(a.q, a.key_pitch, sub.rows, sub.vectors * W, call.D, a.q_t);
  transpose_rows(a.dout, a.value_pitch, sub.rows, sub.vectors * W, call.V, a.dout_t);
  return true;
}

// to[j] += Σ over rows of w[j][row] · x[row], for C vectors of the width. Sums of a sub-block are made apart.
template <int C>
static void add_columns(const float *w, int lanes, int n, const float *x, int64_t pitch, int rows, float *to) {
  for (int j = 0; j < n; j += UNROLL) {
    const float *at[UNROLL];
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++) at[i] = w + least(j + i, n - 1) * lanes;
    vec acc[UNROLL][C];
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++)
      for (int c = 0; c < C; c++) acc[i][c] = set1(0);
    const float *xr = x;
    for (int r = 0; r < rows; r++, xr += pitch) {
      vec part[C];
      for (int c = 0; c < C; c++) part[c] = load(xr + c * W);
#pragma GCC unroll 8
      for (int i = 0; i < UNROLL; i++) {
        vec weight = set1(at[i][r]);
        for (int c = 0; c < C; c++) acc[i][c] = fma(weight, part[c], acc[i][c]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++) {
      if (j + i >= n) break;
      for (int c = 0; c < C; c++) {
        float *p = to + (j + i) * pitch + c * W;
        store(p, add(load(p), acc[i][c]));
      }
    }
  }
}
static void add_rows(const float *w, int lanes, int n, const float *x, int64_t pitch, int rows, int64_t width, float *to) {
  int64_t vectors = (width + W - 1) / W, groups = (vectors + ROW_VECTORS - 1) / ROW_VECTORS;
  for (int64_t g = 0, c = 0; g < groups; g++) {
    int64_t next = vectors * (g + 1) / groups;
    if (next - c == 1) add_columns<1>(w, lanes, n, x + c * W, pitch, rows, to + c * W);
    if constexpr (ROW_VECTORS >= 2)
      if (next - c == 2) add_columns<2>(w, lanes, n, x + c * W, pitch, rows, to + c * W);
    if constexpr (ROW_VECTORS >= 3)
      if (next - c == 3) add_columns<3>(w, lanes, n, x + c * W, pitch, rows, to + c * W);
    c = next;
  }
}

// The three sums where some number is not finite and some row may not see some key: 0 · NaN must not arrive on either side.
static void add_seen(const strobe_attention &call, const GradientArrays &a, const int32_t *hidden, int lanes, int64_t key0, int64_t from,
                     int n, float *share) {
  const GradientSub &sub = a.fixed->sub;
  for (int i = 0; i < sub.rows; i++) {
    for (int64_t j = most(0, sub.lo[i] - from); j < least(n, sub.hi[i] - from); j++) {
      if (hidden && hidden[j * lanes + i]) continue;
      float p = a.fixed->p[j * lanes + i], ds = a.fixed->ds[j * lanes + i];
      int64_t at = from - key0 + j;
      for (int64_t d = 0; d < call.D; d++) {
        share[d * lanes + i] += ds * a.k[at * a.key_pitch + d];
        a.dk[at * a.key_pitch + d] += ds * a.q[i * a.key_pitch + d];
      }
      for (int64_t d = 0; d < call.V; d++) a.dv[at * a.value_pitch + d] += p * a.dout[i * a.value_pitch + d];
    }
  }
}

static TermArrays term_arrays(const GradientArrays &a) { return {a.fixed->hidden, a.fixed->keep, a.fixed->bias}; }

// A block of the chunk that begins at key0: keys from … from + n - 1 with the loaded rows.
template <int R>
static void take_block(const GradientPair &pair, const GradientArrays &a, int64_t key0, int chunk, int64_t from, int n, float *share) {
  const strobe_attention &call = *pair.call;
  GradientSub &sub = a.fixed->sub;
  float *p = a.fixed->p, *ds = a.fixed->ds;
  BlockTerms terms = {nullptr, nullptr, nullptr, share + call.D * R * W, nullptr};
  if (find_terms(pair, sub, from, n, R * W, term_arrays(a), &terms) == Sight::none) return;
  const float *k = a.k + (from - key0) * a.key_pitch, *v = a.v + (from - key0) * a.value_pitch;
  scores<R>(a.q_t, k, a.key_pitch, n, call.D, p);
  scores<R>(a.dout_t, v, a.value_pitch, n, call.V, ds);
  if (call.cap > 0 || call.slopes || call.extras) {
    weigh<R>(sub, call, from, n, p, ds, terms);
  } else {
    weigh<R>(sub, call, from, n, p, ds, nullptr);
  }
  bool partial = from < sub.most_lo || from + n > sub.least_hi || terms.hidden;
  if (partial && sub.finite < 0) {
    sub.finite = all_finite(a.k, a.key_pitch, chunk, call.D) && all_finite(a.q, a.key_pitch, sub.rows, call.D) &&
                 all_finite(a.dout, a.value_pitch, sub.rows, call.V);
  }
  if (partial && !sub.finite) {
    add_seen(call, a, terms.hidden, R * W, key0, from, n, share);
    return;
  }
  vec by[R];
  for (int x = 0; x < R; x++) by[x] = set1(1.0f);
  gather_values<R>(ds, k, a.key_pitch, n, call.D, by, share);
  add_rows(p, R * W, n, a.dout, a.value_pitch, sub.rows, call.V, a.dv + (from - key0) * a.value_pitch);
  add_rows(ds, R * W, n, a.q, a.key_pitch, sub.rows, call.D, a.dk + (from - key0) * a.key_pitch);
}

static void load_keys(const GradientPair &pair, int64_t key0, int n, const GradientArrays &a) {
  const strobe_attention &call = *pair.call;
  const char *k[CHUNK], *v[CHUNK];
  tokens_at(pair.keys, key0, n, k, v);
  for (int j = 0; j < n; j++) {
    widen_rows(k + j, call.dtype, 1, call.D, a.k + j * a.key_pitch);
    widen_rows(v + j, call.dtype, 1, call.V, a.v + j * a.value_pitch);
  }
}

static void take_keys(const GradientPair &pair, int64_t key0, int64_t key1, char *share, char *scratch) {
  const strobe_attention &call = *pair.call;
  GradientArrays a = gradient_arrays(call, scratch);
  memset(share, 0, share_bytes(call, pair.rows.count));
  for (int64_t chunk0 = key0; chunk0 < key1; chunk0 += CHUNK) {
    int n = static_cast<int>(least(CHUNK, key1 - chunk0));
    load_keys(pair, chunk0, n, a);
    memset(a.dk, 0, static_cast<size_t>(CHUNK * (a.key_pitch + a.value_pitch)) * sizeof(float));
    for (int64_t row0 = 0; row0 < pair.rows.count; row0 += SUB_ROWS) {
      if (!load_rows(pair, row0, chunk0, chunk0 + n, a)) continue;
      const GradientSub &sub = a.fixed->sub;
      float *to = reinterpret_cast<float *>(share) + row0 * (call.D + 1);
      for (int64_t k0 = chunk0; k0 < chunk0 + n; k0 += BLOCK) {
        int64_t from = most(k0, sub.least_lo), m = least(least(k0 + BLOCK, chunk0 + n), sub.most_hi) - from;
        if (m <= 0) continue;
        if (sub.vectors == 1) take_block<1>(pair, a, chunk0, n, from, static_cast<int>(m), to);
        if constexpr (ROW_VECTORS >= 2)
          if (sub.vectors == 2) take_block<2>(pair, a, chunk0, n, from, static_cast<int>(m), to);
        if constexpr (ROW_VECTORS >= 3)
          if (sub.vectors == 3) take_block<3>(pair, a, chunk0, n, from, static_cast<int>(m), to);
      }
    }
    for (int j = 0; j < n; j++) {
      if (pair.dk) write_row(pair.dk + (chunk0 + j) * pair.dk_token, call.dtype, a.dk + j * a.key_pitch, call.D, 1.0f);
      if (pair.dv) write_row(pair.dv + (chunk0 + j) * pair.dv_token, call.dtype, a.dv + j * a.value_pitch, call.V, 1.0f);
    }
  }
}

// dQ of rows row0 … row1 - 1, shares added in the order of their keys.
static void sum_shares(const GradientPair &pair, const char *const *shares, int count, int64_t row0, int64_t row1, char *scratch) {
  const strobe_attention &call = *pair.call;
  int64_t D = call.D, pitch = pitch_of(D);
  float *row = gradient_arrays(call, scratch).q;
  RowAt at = row_at(pair.rows, row0);
  for (int64_t sub0 = row0; sub0 < row1; sub0 += SUB_ROWS) {
    int rows = static_cast<int>(least(SUB_ROWS, row1 - sub0)), lanes = (rows + W - 1) / W * W;
    auto summed = [&](int64_t column, int lane) {
      vec total = set1(0);
      for (int s = 0; s < count; s++)
        total = add(total, load(reinterpret_cast<const float *>(shares[s]) + sub0 * (D + 1) + column * lanes + lane));
      return total;
    };
    for (int i = 0; i < rows; i += W) {
      for (int64_t d = 0; d < D; d += W) {
        vec r[W];
        for (int j = 0; j < W; j++) r[j] = summed(least(d + j, D - 1), i);
        transpose(r);
        for (int j = 0; j < W; j++) store(row + j * pitch + d, r[j]);
      }
      alignas(64) float slope[W];
      store(slope, summed(D, i));
      for (int j = 0; j < W && i + j < rows; j++, at = next_row(pair.rows, at)) {
        write_row(row_of(pair.dq, at), call.dtype, row + j * pitch, D, 1.0f);
        if (pair.dslope.at) memcpy(row_of(pair.dslope, at), slope + j, sizeof(float));
      }
    }
  }
}

template <int R>
static void add_bias_block(const GradientPair &pair, const GradientArrays &a, int64_t key0, int64_t from, int n) {
  const strobe_attention &call = *pair.call;
  const GradientSub &sub = a.fixed->sub;
  alignas(64) float dbias[BLOCK * R * W];
  BlockTerms terms = {nullptr, nullptr, nullptr, nullptr, dbias};
  if (find_terms(pair, sub, from, n, R * W, term_arrays(a), &terms) == Sight::none) return;
  scores<R>(a.q_t, a.k + (from - key0) * a.key_pitch, a.key_pitch, n, call.D, a.fixed->p);
  scores<R>(a.dout_t, a.v + (from - key0) * a.value_pitch, a.value_pitch, n, call.V, a.fixed->ds);
  weigh<R>(sub, call, from, n, a.fixed->p, a.fixed->ds, terms);
  const int64_t *step = pair.dbias_strides;
  for (int i = 0; i < sub.rows; i++) {
    double *to = pair.dbias + pair.rows.sequence * step[0] + sub.h[i] * step[1] + sub.t[i] * step[2] + from * step[3];
    for (int j = 0; j < n; j++) to[j * step[3]] += dbias[j * R * W + i];
  }
}

// Scores and dP are made once more for it: who shares a number of the bias is summed by one thread, in order, and that is not
// the thread that has a chunk of keys.
static void add_bias(const GradientPair &whole, int64_t row0, int64_t row1, int64_t key0, int64_t key1, char *scratch) {
  GradientPair pair = whole;
  pair.rows.count = least(row1, whole.rows.count), key1 = least(key1, whole.keys.count);
  GradientArrays a = gradient_arrays(*pair.call, scratch);
  const GradientSub &sub = a.fixed->sub;
  for (int64_t chunk0 = key0; chunk0 < key1; chunk0 += CHUNK) {
    int n = static_cast<int>(least(CHUNK, key1 - chunk0));
    load_keys(pair, chunk0, n, a);
    for (int64_t row = row0; row < pair.rows.count; row += SUB_ROWS) {
      if (!load_rows(pair, row, chunk0, chunk0 + n, a)) continue;
      for (int64_t k0 = chunk0; k0 < chunk0 + n; k0 += BLOCK) {
        int64_t from = most(k0, sub.least_lo), m = least(least(k0 + BLOCK, chunk0 + n), sub.most_hi) - from;
        if (m <= 0) continue;
        if (sub.vectors == 1) add_bias_block<1>(pair, a, chunk0, from, static_cast<int>(m));
        if constexpr (ROW_VECTORS >= 2)
          if (sub.vectors == 2) add_bias_block<2>(pair, a, chunk0, from, static_cast<int>(m));
        if constexpr (ROW_VECTORS >= 3)
          if (sub.vectors == 3) add_bias_block<3>(pair, a, chunk0, from, static_cast<int>(m));
      }
    }
  }
}

static bool takes_gradient(const strobe_attention &) { return true; }

static const BackwardKernel backward_kernel = {SUB_ROWS, CHUNK,     takes_gradient, gradient_bytes, share_bytes,
                                               deltas,   take_keys, sum_shares,     add_bias};

}  // namespace STROBE_ISA
}  // namespace strobe
