// Many rows: the online softmax over a tile, lanes are rows, written once over an instruction set.
//
// Scores are kept transposed, S[key][row], so that no step needs a sum across lanes: K·Qᵀ broadcasts numbers of K against
// vectors of Qᵀ, the softmax runs down the keys, and V·P broadcasts numbers of V against vectors of P. A tile is up to SUBS
// sub-blocks of ROW_VECTORS vectors each; they share the keys of a block while these are in cache.
#pragma once

#include "marks.hpp"
#include "softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int SUBS = 8;
constexpr int SUB_ROWS = ROW_VECTORS * W;
constexpr int TILE_ROWS = SUBS * SUB_ROWS;
constexpr int BLOCK = 96;  // keys of a block: 128, 512 bytes apart, would crowd each other out of the first cache's sets

struct Sub {
  float m[SUB_ROWS], l[SUB_ROWS], slope[SUB_ROWS], position[SUB_ROWS];
  int32_t lo[SUB_ROWS], hi[SUB_ROWS], t[SUB_ROWS], h[SUB_ROWS];
  int64_t least_lo, most_lo, least_hi, most_hi;
  int rows, vectors;
};

struct TileScratch {
  Sub subs[SUBS];
  alignas(64) float s[BLOCK * SUB_ROWS];
  alignas(64) float row[W * MAX_WIDTH];
  alignas(64) int32_t hidden[BLOCK * SUB_ROWS];
  alignas(64) float bias[BLOCK * SUB_ROWS];
};
struct TileArrays {
  TileScratch *fixed;
  float *q, *o;  // [SUBS][D or V][SUB_ROWS]
  float *k, *v;  // [BLOCK][D], [BLOCK][V], for keys that must be widened or gathered
};
static size_t tile_bytes(const strobe_attention &call) {
  return sizeof(TileScratch) + static_cast<size_t>((call.D + call.V) * (TILE_ROWS + BLOCK)) * sizeof(float);
}
static TileArrays tile_arrays(const Piece &piece) {
  TileArrays a;
  int64_t D = piece.call->D, V = piece.call->V;
  a.fixed = reinterpret_cast<TileScratch *>(piece.scratch);
  a.q = reinterpret_cast<float *>(a.fixed + 1);
  a.o = a.q + D * TILE_ROWS;
  a.k = a.o + V * TILE_ROWS;
  a.v = a.k + D * BLOCK;
  return a;
}

// Rows of T, any pointers, to floats.
template <class T>
static void widen_rows(const char *const *rows, int n, int64_t width, float *to) {
  for (int j = 0; j < n; j++, to += width) {
    const T *p = reinterpret_cast<const T *>(rows[j]);
    int64_t c = 0;
    for (; c + W <= width; c += W) store(to + c, load(p + c));
    if (c < width) store_part(to + c, load_part(p + c, static_cast<int>(width - c)), static_cast<int>(width - c));
  }
}
template <class T>
static void widen_scaled_rows(const char *const *rows, const float *scales, int n, int64_t width, float *to) {
  for (int j = 0; j < n; j++, to += width) write_row(to, reinterpret_cast<const T *>(rows[j]), width, scales[j]);
}
static inline void widen_rows(const char *const *rows, int dtype, int n, int64_t width, float *to) {
  if (dtype == STROBE_F32) widen_rows<float>(rows, n, width, to);
  if (dtype == STROBE_BF16) widen_rows<bf16>(rows, n, width, to);
  if (dtype == STROBE_F16) widen_rows<f16>(rows, n, width, to);
}
static inline void widen_scaled_rows(const char *const *rows, int dtype, const float *scales, int n, int64_t width, float *to) {
  if (dtype == STROBE_I8) widen_scaled_rows<int8_t>(rows, scales, n, width, to);
  if (dtype == STROBE_E4M3) widen_scaled_rows<e4m3>(rows, scales, n, width, to);
  if (dtype == STROBE_E5M2) widen_scaled_rows<e5m2>(rows, scales, n, width, to);
  for (int j = 0; dtype == STROBE_I4 && j < n; j++, to += width) {
    int8_t wide[MAX_WIDTH];
    unpack_row(rows[j], width, wide);
    write_row(to, wide, width, scales[j]);
  }
}

// Qᵀ [D][rows]; lanes past the last row repeat it and are never written out.
static void load_sub(const Piece &piece, int64_t row0, int rows, float *wide, Sub &sub, float *q) {
  const strobe_attention &call = *piece.call;
  sub.rows = rows;
  sub.vectors = (rows + W - 1) / W;
  int pitch = sub.vectors * W;
  sub.least_lo = sub.least_hi = INT32_MAX;
  sub.most_lo = sub.most_hi = 0;
  RowAt at = row_at(*piece.rows, row0);
  for (int i = 0; i < pitch; i++, at = i < rows ? next_row(*piece.rows, at) : at) {
    int64_t lo, hi;
    visible(call, *piece.rows, piece.keys->count, at.t, &lo, &hi);
    lo = clamp(lo, piece.key0, piece.key1), hi = clamp(hi, piece.key0, piece.key1);
    sub.lo[i] = static_cast<int32_t>(lo), sub.hi[i] = static_cast<int32_t>(hi);
    sub.least_lo = least(sub.least_lo, lo), sub.most_lo = most(sub.most_lo, lo);
    sub.least_hi = least(sub.least_hi, hi), sub.most_hi = most(sub.most_hi, hi);
    sub.m[i] = MINUS_INFINITY, sub.l[i] = 0;
    sub.t[i] = static_cast<int32_t>(at.t), sub.h[i] = static_cast<int32_t>(piece.rows->head + at.h);
    sub.position[i] = static_cast<float>(piece.rows->first + at.t);
    sub.slope[i] = piece.rows->slopes ? piece.rows->slopes[piece.rows->head + at.h] * LOG2_E : 0;
    const char *p = query_at(*piece.rows, at);
    if (i % W == 0 && i) wide -= call.D * W;
    widen_rows(&p, call.dtype, 1, call.D, wide);
    wide += call.D;
    if (i % W != W - 1) continue;
    const float *from = wide - call.D * W;
    for (int64_t d = 0; d < call.D; d += W) {
      vec r[W];
      int columns = static_cast<int>(least(W, call.D - d));
      for (int j = 0; j < W; j++) r[j] = columns == W ? load(from + j * call.D + d) : load_part(from + j * call.D + d, columns);
      transpose(r);
      for (int j = 0; j < columns; j++) store(q + (d + j) * pitch + i - (W - 1), r[j]);
    }
  }
}

// S[j] = k[j] · Qᵀ. Keys past n repeat the last. The sum over the width is made of sums of STRETCH products: one long chain
// of additions would round each at the size of the whole, and scores of 1e4 would show it.
template <int R>
static void scores(const float *q, const float *k, int64_t stride, int n, int64_t D, float *s) {
  constexpr int64_t STRETCH = 32;
  for (int j = 0; j < n; j += UNROLL) {
    const float *at[UNROLL];
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++) at[i] = k + least(j + i, n - 1) * stride;
    for (int64_t d0 = 0; d0 < D; d0 += STRETCH) {
      vec acc[UNROLL][R];
#pragma GCC unroll 8
      for (int i = 0; i < UNROLL; i++)
        for (int x = 0; x < R; x++) acc[i][x] = set1(0);
      const float *qs = q + d0 * R * W;
      for (int64_t d = d0, d1 = least(D, d0 + STRETCH); d < d1; d++, qs += R * W) {
        vec qd[R];
        for (int x = 0; x < R; x++) qd[x] = load(qs + x * W);
#pragma GCC unroll 8
        for (int i = 0; i < UNROLL; i++) {
          vec kd = set1(at[i][d]);
          for (int x = 0; x < R; x++) acc[i][x] = fma(kd, qd[x], acc[i][x]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < UNROLL; i++)
        for (int x = 0; x < R; x++) {
          float *to = s + (j + i) * R * W + x * W;
          store(to, d0 == 0 ? acc[i][x] : add(load(to), acc[i][x]));
        }
    }
  }
}

// What shapes a block's scores beside the products; null where nothing does.
struct Shaping {
  const int32_t *hidden;  // [keys][lanes], by marks
  const float *bias;
};

// Cap, slopes, bias and mask, for keys k0 … k0 + n - 1.
template <int R>
static void adjust_scores(const Sub &sub, const Scoring &how, const Shaping &by, int64_t k0, int n, float *s) {
  bool partial = k0 < sub.most_lo || k0 + n > sub.least_hi;
  if (how.folded && !partial && !by.hidden) return;
  for (int j = 0; j < n; j++) {
    float key = static_cast<float>(k0 + j);
    for (int x = 0; x < R; x++) {
      float *p = s + j * R * W + x * W;
      vec y = load(p);
      if (!how.folded) y = adjust(how, y, mul(load(sub.slope + x * W), abs(minus(load(sub.position + x * W), set1(key)))));
      int at = (j * R + x) * W;
      if (by.bias) y = add(y, load(by.bias + at));
      if (partial) y = hide(y, sub.lo + x * W, sub.hi + x * W, static_cast<int32_t>(k0 + j));
      if (by.hidden) y = hide(y, by.hidden + at, sub.hi + x * W, static_cast<int32_t>(k0 + j));
      store(p, y);
    }
  }
}

// Scores to weights in place; what was gathered before must be multiplied by `by`.
template <int R>
static void weights(Sub &sub, float exponent, float *s, int n, vec *by) {
  vec top[R], total[R], base[R], factor = set1(exponent);
  for (int x = 0; x < R; x++) top[x] = set1(MINUS_INFINITY);
  for (int j = 0; j < n; j++)
    for (int x = 0; x < R; x++) top[x] = max(top[x], load(s + (j * R + x) * W));
  for (int x = 0; x < R; x++) {
    top[x] = max(load(sub.m + x * W), mul(top[x], factor));
    base[x] = zero_if_minus_infinity(top[x]);  // no key seen yet: any base will do, but -inf - -inf would not
    by[x] = exp2_exact(minus(load(sub.m + x * W), base[x]));
    total[x] = set1(0);
    store(sub.m + x * W, top[x]);
  }
  for (int j = 0; j < n; j++) {
    for (int x = 0; x < R; x++) {
      float *p = s + (j * R + x) * W;
      vec e = exp2_exact(fms(load(p), factor, base[x]));
      total[x] = add(total[x], e);
      store(p, e);
    }
  }
  for (int x = 0; x < R; x++) store(sub.l + x * W, fma(load(sub.l + x * W), by[x], total[x]));
}

// Oᵀ = by · Oᵀ + Vᵀ P. A block's sum is made apart: added one by one to the whole, each would be rounded at its size.
template <int R>
static void gather_values(const float *p, const float *v, int64_t stride, int n, int64_t V, const vec *by, float *o) {
  for (int64_t d = 0; d < V; d += UNROLL) {
    vec acc[UNROLL][R];
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++)
      for (int x = 0; x < R; x++) acc[i][x] = set1(0);
    const float *vd = v + d, *pd = p;
    for (int j = 0; j < n; j++, vd += stride, pd += R * W) {
      vec pj[R];
      for (int x = 0; x < R; x++) pj[x] = load(pd + x * W);
#pragma GCC unroll 8
      for (int i = 0; i < UNROLL; i++) {
        vec vi = set1(vd[i]);
        for (int x = 0; x < R; x++) acc[i][x] = fma(vi, pj[x], acc[i][x]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < UNROLL; i++)
      for (int x = 0; x < R; x++) {
        float *to = o + ((d + i) * R + x) * W;
        store(to, fma(load(to), by[x], acc[i][x]));
      }
  }
}

// The same where some value is not finite and some row may not see it: 0 · NaN must not reach that row.
template <int R>
static void gather_seen_values(const Sub &sub, const int32_t *hidden, const float *p, const float *v, int64_t stride, int64_t k0, int n,
                               int64_t V, const vec *by, float *o) {
  alignas(64) float scale[R * W];
  for (int x = 0; x < R; x++) store(scale + x * W, by[x]);
  for (int i = 0; i < R * W; i++) {
    for (int64_t d = 0; d < V; d++) {
      float *to = o + d * R * W + i;
      *to *= scale[i];
      for (int64_t j = most(0, sub.lo[i] - k0); j < least(n, sub.hi[i] - k0); j++)
        if (!hidden || !hidden[j * R * W + i]) *to += p[j * R * W + i] * v[j * stride + d];
    }
  }
}

static bool all_finite(const float *v, int64_t stride, int n, int64_t V) {
  vec zeros = set1(0);  // x · 0 is 0, or NaN for inf and NaN
  for (int j = 0; j < n; j++) {
    int64_t c = 0;
    for (; c + W <= V; c += W) zeros = fma(load(v + j * stride + c), set1(0), zeros);
    if (c < V) zeros = fma(load_part(v + j * stride + c, static_cast<int>(V - c)), set1(0), zeros);
  }
  return sum(zeros) == 0;
}

struct KeyBlock {
  const float *k, *v;
  int64_t k_stride, v_stride, key0;
  int count;
  int finite;  // of the values, 0 or 1; -1: nobody has looked
};

template <int R>
static void attend_sub(const Piece &piece, const Scoring &how, TileScratch &f, Sub &sub, KeyBlock &block, int64_t a, int64_t e,
                       const float *q, float *o) {
  const strobe_attention &call = *piece.call;
  int n = static_cast<int>(e - a);
  float *s = f.s;
  Stretch stretch = {piece.rows->sequence, a, n, R * W, sub.t, sub.h};
  Shaping shaping = {};
  if (call.extras && call.extras->mark_count > 0) {
    Sight sight = look(*call.extras, stretch, piece.rows->first, f.hidden);
    if (sight == Sight::none) return;
    if (sight == Sight::some) shaping.hidden = f.hidden;
  }
  if (call.extras && call.extras->bias) read_bias(*call.extras, stretch, LOG2_E, f.bias), shaping.bias = f.bias;
  const float *k = block.k + (a - block.key0) * block.k_stride, *v = block.v + (a - block.key0) * block.v_stride;
  scores<R>(q, k, block.k_stride, n, call.D, s);
  adjust_scores<R>(sub, how, shaping, a, n, s);
  vec by[R];
  weights<R>(sub, how.exponent(), s, n, by);
  if (call.extras && call.extras->drop_below > 0) drop(*call.extras, stretch, s);
  bool partial = a < sub.most_lo || e > sub.least_hi || shaping.hidden;
  if (partial && block.finite < 0) block.finite = all_finite(block.v, block.v_stride, block.count, call.V);
  if (partial && !block.finite) {
    gather_seen_values<R>(sub, shaping.hidden, s, v, block.v_stride, a, n, call.V, by, o);
  } else {
    gather_values<R>(s, v, block.v_stride, n, call.V, by, o);
  }
}

// Oᵀ back to rows.
static void finish_sub(const Piece &piece, int first_row, const Sub &sub, const float *o, float *row) {
  int64_t V = piece.call->V;
  int pitch = sub.vectors * W;
  RowAt at = row_at(*piece.rows, piece.row0 + first_row);
  for (int i = 0; i < sub.rows; i += W) {
    for (int64_t d = 0; d < V; d += W) {
      vec r[W];
      for (int j = 0; j < W; j++) r[j] = load(o + (least(d + j, V - 1)) * pitch + i);
      transpose(r);
      for (int j = 0; j < W; j++) store(row + j * MAX_WIDTH + d, r[j]);
    }
    for (int j = 0; j < W && i + j < sub.rows; j++, at = next_row(*piece.rows, at))
      finish_row(piece, first_row + i + j, at, sub.m[i + j], sub.l[i + j], row + j * MAX_WIDTH);
  }
}

static void attend_many(const Piece *pieces, int) {
  const Piece &piece = pieces[0];
  const strobe_attention &call = *piece.call;
  TileArrays a = tile_arrays(piece);
  Scoring how = scoring(call);
  int subs = 0;
  for (int i = 0; i < piece.row_count; i += SUB_ROWS, subs++) {
    Sub &sub = a.fixed->subs[subs];
    load_sub(piece, piece.row0 + i, static_cast<int>(least(SUB_ROWS, piece.row_count - i)), a.fixed->row, sub,
             a.q + subs * SUB_ROWS * call.D);
    memset(a.o + subs * SUB_ROWS * call.V, 0, static_cast<size_t>(SUB_ROWS * call.V) * sizeof(float));
  }
  for (int64_t k0 = piece.key0; k0 < piece.key1; k0 += BLOCK) {
    int n = static_cast<int>(least(BLOCK, piece.key1 - k0));
    const char *k, *v;
    KeyBlock block;
    block.key0 = k0, block.count = n, block.finite = -1;
    bool direct = call.keys_dtype == STROBE_F32 && run_at(*piece.keys, k0, &k, &v) >= n;
    if (direct) {
      block.k = reinterpret_cast<const float *>(k), block.v = reinterpret_cast<const float *>(v);
      block.k_stride = piece.keys->k_token / 4, block.v_stride = piece.keys->v_token / 4;
    } else {
      const char *ks[BLOCK], *vs[BLOCK];
      tokens_at(*piece.keys, k0, n, ks, vs);
      if (scaled(call)) {
        float k_scale[BLOCK], v_scale[BLOCK];
        scales_at(*piece.keys, k0, n, k_scale, v_scale);
        widen_scaled_rows(ks, call.keys_dtype, k_scale, n, call.D, a.k);
        widen_scaled_rows(vs, call.keys_dtype, v_scale, n, call.V, a.v);
      } else {
        widen_rows(ks, call.dtype, n, call.D, a.k);
        widen_rows(vs, call.dtype, n, call.V, a.v);
      }
      block.k = a.k, block.v = a.v, block.k_stride = call.D, block.v_stride = call.V;
    }
    for (int i = 0; i < subs; i++) {
      Sub &sub = a.fixed->subs[i];
      int64_t from = most(k0, sub.least_lo), to = least(k0 + n, sub.most_hi);
      if (from >= to) continue;
      const float *q = a.q + i * SUB_ROWS * call.D;
      float *o = a.o + i * SUB_ROWS * call.V;
      if (sub.vectors == 1) attend_sub<1>(piece, how, *a.fixed, sub, block, from, to, q, o);
      if constexpr (ROW_VECTORS >= 2)
        if (sub.vectors == 2) attend_sub<2>(piece, how, *a.fixed, sub, block, from, to, q, o);
      if constexpr (ROW_VECTORS >= 3)
        if (sub.vectors == 3) attend_sub<3>(piece, how, *a.fixed, sub, block, from, to, q, o);
    }
  }
  for (int i = 0; i < subs; i++) finish_sub(piece, i * SUB_ROWS, a.fixed->subs[i], a.o + i * SUB_ROWS * call.V, a.fixed->row);
}

}  // namespace STROBE_ISA
}  // namespace strobe
