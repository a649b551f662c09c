// Few rows (decode): lanes are the width, keys and values are read once, in place, in whatever type and layout they lie.
// Reading memory is the cost, so the next block is fetched ahead.
#pragma once

#include "softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int FEW_ROWS = 8;
constexpr int FEW_KEYS = 64;  // of a block: pointers, scores and 16 KiB of bf16 keys stay in the first cache

struct FewScratch {
  alignas(64) float q[FEW_ROWS * MAX_WIDTH];
  alignas(64) float o[FEW_ROWS * MAX_WIDTH];
  alignas(64) float s[FEW_ROWS * FEW_KEYS];
  float m[FEW_ROWS], l[FEW_ROWS], slope[FEW_ROWS], position[FEW_ROWS];
  int64_t lo[FEW_ROWS], hi[FEW_ROWS];
  const char *k[2][FEW_KEYS], *v[2][FEW_KEYS];
};
[[maybe_unused]] static size_t few_bytes(const strobe_attention &) { return sizeof(FewScratch); }

static inline void fetch_row(const char *p, int64_t bytes) {
  constexpr int64_t LINE = 64;
  for (int64_t x = 0; x < bytes; x += LINE) __builtin_prefetch(p + x, 0, 2);
}

// s[r][j] = q[r] · k[j] for R rows and four keys.
template <int R, class T>
static inline void scores_few(const float *q, const char *const *k, int64_t D, float *s) {
  constexpr int KEYS = 4;
  const T *at[KEYS];
  vec acc[R][KEYS];
#pragma GCC unroll 4
  for (int j = 0; j < KEYS; j++) {
    at[j] = reinterpret_cast<const T *>(k[j]);
    for (int r = 0; r < R; r++) acc[r][j] = set1(0);
  }
  int64_t d = 0;
  for (; d + W <= D; d += W) {
    vec kd[KEYS];
    for (int j = 0; j < KEYS; j++) kd[j] = load(at[j] + d);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      vec qd = load(q + r * MAX_WIDTH + d);
      for (int j = 0; j < KEYS; j++) acc[r][j] = fma(kd[j], qd, acc[r][j]);
    }
  }
  if (d < D) {
    int left = static_cast<int>(D - d);
    for (int r = 0; r < R; r++) {
      vec qd = load_part(q + r * MAX_WIDTH + d, left);
      for (int j = 0; j < KEYS; j++) acc[r][j] = fma(load_part(at[j] + d, left), qd, acc[r][j]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) sum4(acc[r], s + r * FEW_KEYS);
}

// o[r] += Σ p[r][j] v[j] over C vectors of the width.
template <int R, int C, class T>
static inline void values_few(const float *p, const char *const *v, int j0, int j1, int64_t d, float *o) {
  vec acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = load(o + r * MAX_WIDTH + d + c * W);
  for (int j = j0; j < j1; j++) {
    const T *at = reinterpret_cast<const T *>(v[j]) + d;
    vec x[C];
    for (int c = 0; c < C; c++) x[c] = load(at + c * W);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      vec pj = set1(p[r * FEW_KEYS + j]);
      for (int c = 0; c < C; c++) acc[r][c] = fma(pj, x[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(o + r * MAX_WIDTH + d + c * W, acc[r][c]);
}

struct FewBlock {
  const char *const *k, *const *v, *const *next_k, *const *next_v;
  int64_t k0;
  int count, next_count;
};

template <int R, class T>
static void score_block(const Piece &piece, FewScratch &f, const FewBlock &b, int r0) {
  const strobe_attention &call = *piece.call;
  int64_t bytes = call.D * static_cast<int64_t>(sizeof(T));
  for (int j = 0; j < b.count; j += 4) {
    const char *k[4];
    for (int i = 0; i < 4; i++) k[i] = b.k[least(j + i, b.count - 1)];
    if (r0 == 0)
      for (int i = j; i < j + 4 && i < b.next_count; i++) fetch_row(b.next_k[i], bytes);
    scores_few<R, T>(f.q + r0 * MAX_WIDTH, k, call.D, f.s + r0 * FEW_KEYS + j);
  }
}

// Scores of row r to weights; keys the row may not see weigh nothing.
static void weigh_row(const Piece &piece, const Scoring &how, FewScratch &f, const FewBlock &b, int r) {
  float *s = f.s + r * FEW_KEYS;
  int64_t lo = f.lo[r] - b.k0, hi = f.hi[r] - b.k0;
  if (!how.folded) {
    for (int j = 0; j < b.count; j += W) {
      alignas(64) float away[W];
      for (int i = 0; i < W; i++) away[i] = f.slope[r] * fabsf(f.position[r] - static_cast<float>(b.k0 + j + i));
      store(s + j, adjust(how, load(s + j), load(away)));
    }
  }
  for (int j = 0; j < lo && j < FEW_KEYS; j++) s[j] = MINUS_INFINITY;
  for (int64_t j = most(0, least(hi, b.count)); j < FEW_KEYS; j++) s[j] = MINUS_INFINITY;
  vec top = set1(MINUS_INFINITY), factor = set1(how.exponent());
  for (int j = 0; j < FEW_KEYS; j += W) top = max(top, load(s + j));
  float m = greatest(top) * how.exponent();
  m = f.m[r] > m ? f.m[r] : m;
  float base = m == MINUS_INFINITY ? 0 : m;
  vec total = set1(0);
  for (int j = 0; j < FEW_KEYS; j += W) {
    vec e = exp2_exact(fms(load(s + j), factor, set1(base)));
    total = add(total, e);
    store(s + j, e);
  }
  float l = sum(total);
  if (m > f.m[r] && f.l[r] != 0) {
    float by = exp2f(f.m[r] - base);
    f.l[r] *= by;
    float *o = f.o + r * MAX_WIDTH;
    for (int64_t c = 0; c < piece.call->V; c += W) store(o + c, mul(load(o + c), set1(by)));
  }
  f.m[r] = m, f.l[r] += l;
}

template <int R, class T>
static void value_block(const Piece &piece, FewScratch &f, const FewBlock &b, int r0, int j0, int j1) {
  constexpr int C = R == 4 ? 4 : 8;  // 16 or fewer accumulators beside C values
  int64_t V = piece.call->V, d = 0;
  const float *p = f.s + r0 * FEW_KEYS;
  float *o = f.o + r0 * MAX_WIDTH;
  for (; d + C * W <= V; d += C * W) values_few<R, C, T>(p, b.v, j0, j1, d, o);
  for (; d + W <= V; d += W) values_few<R, 1, T>(p, b.v, j0, j1, d, o);
  for (int r = 0; d < V && r < R; r++) {
    int left = static_cast<int>(V - d);
    vec acc = load(o + r * MAX_WIDTH + d);
    for (int j = j0; j < j1; j++) acc = fma(set1(p[r * FEW_KEYS + j]), load_part(reinterpret_cast<const T *>(b.v[j]) + d, left), acc);
    store(o + r * MAX_WIDTH + d, acc);
  }
}

template <class T>
static void attend_few(const Piece &piece) {
  const strobe_attention &call = *piece.call;
  FewScratch &f = *reinterpret_cast<FewScratch *>(piece.scratch);
  Scoring how = scoring(call);
  int n = piece.row_count;
  bool same = true;  // do all rows see the same keys?
  for (int r = 0; r < n; r++) {
    int64_t row = piece.row0 + r;
    visible(call, *piece.rows, piece.keys->count, row, &f.lo[r], &f.hi[r]);
    f.lo[r] = clamp(f.lo[r], piece.key0, piece.key1), f.hi[r] = clamp(f.hi[r], piece.key0, piece.key1);
    same = same && f.lo[r] == f.lo[0] && f.hi[r] == f.hi[0];
    f.m[r] = MINUS_INFINITY, f.l[r] = 0;
    f.position[r] = static_cast<float>(piece.rows->first + row / piece.rows->group);
    f.slope[r] = piece.rows->slopes ? piece.rows->slopes[piece.rows->head + row % piece.rows->group] * LOG2_E : 0;
    write_row(f.q + r * MAX_WIDTH, reinterpret_cast<const T *>(query_at(*piece.rows, row)), call.D, 1.0f);
    memset(f.o + r * MAX_WIDTH, 0, static_cast<size_t>(call.V) * sizeof(float));
  }
  auto pointers = [&](int64_t k0, int which) {
    int count = static_cast<int>(clamp(piece.key1 - k0, 0, FEW_KEYS));
    tokens_at(*piece.keys, k0, count, f.k[which], f.v[which]);
    return count;
  };
  int which = 0, count = pointers(piece.key0, 0);
  for (int64_t k0 = piece.key0; k0 < piece.key1; k0 += FEW_KEYS, which ^= 1) {
    int next = pointers(k0 + FEW_KEYS, which ^ 1);
    FewBlock b = {f.k[which], f.v[which], f.k[which ^ 1], f.v[which ^ 1], k0, count, next};
    count = next;
    for (int r = 0; r < n;) {
      if (n - r >= 4)
        score_block<4, T>(piece, f, b, r), r += 4;
      else if (n - r >= 2)
        score_block<2, T>(piece, f, b, r), r += 2;
      else
        score_block<1, T>(piece, f, b, r), r += 1;
    }
    for (int j = 0; j < next; j++) fetch_row(b.next_v[j], call.V * static_cast<int64_t>(sizeof(T)));
    for (int r = 0; r < n; r++) weigh_row(piece, how, f, b, r);
    if (same) {
      int j0 = static_cast<int>(most(0, f.lo[0] - k0)), j1 = static_cast<int>(clamp(f.hi[0] - k0, 0, b.count));
      for (int r = 0; r < n;) {
        if (n - r >= 4)
          value_block<4, T>(piece, f, b, r, j0, j1), r += 4;
        else if (n - r >= 2)
          value_block<2, T>(piece, f, b, r, j0, j1), r += 2;
        else
          value_block<1, T>(piece, f, b, r, j0, j1), r += 1;
      }
    } else {  // each row its own keys: a value that one row may not see never meets it
      for (int r = 0; r < n; r++)
        value_block<1, T>(piece, f, b, r, static_cast<int>(clamp(f.lo[r] - k0, 0, b.count)),
                          static_cast<int>(clamp(f.hi[r] - k0, 0, b.count)));
    }
  }
  for (int r = 0; r < n; r++) finish_row(piece, r, f.m[r], f.l[r], f.o + r * MAX_WIDTH);
}

static void attend_few(const Piece &piece) {
  if (piece.call->dtype == STROBE_F32) attend_few<float>(piece);
  if (piece.call->dtype == STROBE_BF16) attend_few<bf16>(piece);
  if (piece.call->dtype == STROBE_F16) attend_few<f16>(piece);
}

[[maybe_unused]] static bool few_takes(const strobe_attention &, int64_t rows) { return rows <= FEW_ROWS; }
static bool many_takes(const strobe_attention &) { return true; }

}  // namespace STROBE_ISA
}  // namespace strobe
