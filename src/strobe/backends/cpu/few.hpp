// Few rows (decode): lanes are the width, keys and values are read once, in place, in whatever type and layout they lie.
// Reading memory is the cost, so the next block is fetched ahead.
#pragma once

#include <initializer_list>

#include "softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int FEW_ROWS = 8;
constexpr int FEW_KEYS = 64;  // of a block: pointers, scores and 16 KiB of bf16 keys stay in the first cache
// Keys whose values are summed before the sum joins the whole: one long chain of additions would round each at the size of
// the whole, and over 64k keys in float32 err by ten times the plain computation's error.
constexpr int64_t STRETCH_KEYS = 256;

struct FewHead {
  alignas(64) float q[FEW_ROWS * MAX_WIDTH];
  alignas(64) float o[FEW_ROWS * MAX_WIDTH];       // of this stretch of keys
  alignas(64) float before[FEW_ROWS * MAX_WIDTH];  // of the stretches before it
  double l[FEW_ROWS];
  float m[FEW_ROWS], slope[FEW_ROWS], position[FEW_ROWS];
  int64_t lo[FEW_ROWS], hi[FEW_ROWS];
  int rows;
  bool same;  // all rows see the same keys
};
struct FewScratch {
  alignas(64) float s[FEW_ROWS * FEW_KEYS];
  alignas(64) float k_scale[FEW_KEYS], v_scale[FEW_KEYS];                         // of this block
  alignas(64) int8_t k_wide[FEW_KEYS * MAX_WIDTH], v_wide[FEW_KEYS * MAX_WIDTH];  // of int4
  const char *k[FEW_KEYS], *v[FEW_KEYS];
  FewHead heads[MOST_HEADS];
};
[[maybe_unused]] static size_t few_bytes(const strobe_attention &) { return sizeof(FewScratch); }

// Walks the rows of keys, or of values, that will be needed, in the order of memory, and asks for them. A row is one token of
// one head; heads that lie side by side are walked together.
class Fetcher {
 public:
  Fetcher() = default;
  // From `ahead` tokens after the piece's first one, then as many of what is read after the piece; `head` bytes from a head
  // to the next.
  Fetcher(const Piece &piece, bool values, int64_t width_bytes, int64_t ahead, int heads, int64_t head)
      : keys_(piece.keys), then_(piece.then), values_(values), lines_(static_cast<int>((width_bytes + LINE - 1) / LINE)), heads_(heads) {
    token_ = piece.key0 + ahead, end_ = piece.key1;
    then_token_ = piece.then_key0, then_end_ = least(piece.then_key1, then_token_ + ahead);
    step_ = heads == 1 ? (values ? keys_->v_token : keys_->k_token) : head;
    next_run();
  }
  // LINES of a row, if the compiler may know: without a loop's counting.
  template <int LINES>
  inline __attribute__((always_inline)) void rows(int n) {
    for (; n > 0 && left_ > 0; n--) {
#pragma GCC unroll 8
      for (int x = 0; x < (LINES ? LINES : lines_); x++) __builtin_prefetch(at_ + x * LINE, 0, 2);
      at_ += step_;
      if (--left_ == 0) next_run();
    }
  }

 private:
  static constexpr int LINE = 64;

  void next_run() {
    if (token_ >= end_) {
      if (!then_ || then_token_ >= then_end_) return;
      keys_ = then_, token_ = then_token_, end_ = then_end_, then_ = nullptr;
    }
    const char *k, *v;
    int64_t run = least(run_at(*keys_, token_, &k, &v), end_ - token_);
    at_ = values_ ? v : k;
    if (heads_ == 1) {
      token_ += run, left_ = run;
    } else {
      token_++, left_ = heads_;
    }
  }

  const Keys *keys_ = nullptr, *then_ = nullptr;
  const char *at_ = nullptr;
  bool values_ = false;
  int lines_ = 0, heads_ = 1;
  int64_t token_ = 0, end_ = 0, then_token_ = 0, then_end_ = 0, step_ = 0, left_ = 0;
};
struct Fetchers {
  Fetcher k, v;
};
// What lies `ahead` tokens after what these heads read.
static Fetchers fetchers(const Piece *pieces, int heads, int64_t ahead) {
  const Piece &piece = pieces[0];
  int dtype = piece.call->keys_dtype;
  int64_t k_head = heads > 1 ? pieces[1].keys->k - piece.keys->k : 0, v_head = heads > 1 ? pieces[1].keys->v - piece.keys->v : 0;
  return {Fetcher(piece, false, row_bytes(dtype, piece.call->D), ahead, heads, k_head),
          Fetcher(piece, true, row_bytes(dtype, piece.call->V), ahead, heads, v_head)};
}

// WIDTH is that of keys and values, 0 where only the call knows; a row of a known one in lines of 64 bytes.
template <int WIDTH, class T>
constexpr int lines() {
  return WIDTH * static_cast<int>(sizeof(T)) / 64;
}

// s[r][j] = q[r] · k[j] for R rows and four keys.
template <int R, int WIDTH, class T>
static inline __attribute__((always_inline)) void scores_few(const float *q, const char *const *k, int64_t any, float *s) {
  const int64_t D = WIDTH ? WIDTH : any;
  constexpr int KEYS = 4;
  const T *at[KEYS];
  vec acc[R][KEYS];
#pragma GCC unroll 4
  for (int j = 0; j < KEYS; j++) {
    at[j] = reinterpret_cast<const T *>(k[j]);
    for (int r = 0; r < R; r++) acc[r][j] = set1(0);
  }
  int64_t d = 0;
#pragma GCC unroll 8
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
template <int R, int C, int LINES, class T>
static inline void values_few(const float *p, const char *const *v, int j0, int j1, int64_t d, float *o, Fetcher *next) {
  vec acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = load(o + r * MAX_WIDTH + d + c * W);
  for (int j = j0; j < j1; j++) {
    if (next) next->rows<LINES>(1);
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
  int64_t k0;
  int count;
};

template <int R, int WIDTH, class T>
static void score_block(const Piece &piece, FewScratch &f, const FewHead &head, const FewBlock &b, int r0, Fetcher &next) {
  const strobe_attention &call = *piece.call;
  for (int j = 0; j < b.count; j += 4) {
    const char *k[4];
    for (int i = 0; i < 4; i++) k[i] = f.k[least(j + i, b.count - 1)];
    if (r0 == 0) next.rows<lines<WIDTH, T>()>(4);
    scores_few<R, WIDTH, T>(head.q + r0 * MAX_WIDTH, k, call.D, f.s + r0 * FEW_KEYS + j);
  }
}

// Scores of row r to weights; keys the row may not see weigh nothing. A key's scale joins its score, a value's its weight.
static void weigh_row(const Piece &piece, const Scoring &how, FewScratch &f, FewHead &head, const FewBlock &b, int r) {
  float *s = f.s + r * FEW_KEYS;
  const bool with_scales = scaled(*piece.call);
  int64_t lo = head.lo[r] - b.k0, hi = head.hi[r] - b.k0;
  if (with_scales)
    for (int j = 0; j < FEW_KEYS; j += W) store(s + j, mul(load(s + j), load(f.k_scale + j)));
  if (!how.folded) {
    for (int j = 0; j < b.count; j += W) {
      alignas(64) float away[W];
      for (int i = 0; i < W; i++) away[i] = head.slope[r] * fabsf(head.position[r] - static_cast<float>(b.k0 + j + i));
      store(s + j, adjust(how, load(s + j), load(away)));
    }
  }
  for (int j = 0; j < lo && j < FEW_KEYS; j++) s[j] = MINUS_INFINITY;
  for (int64_t j = most(0, least(hi, b.count)); j < FEW_KEYS; j++) s[j] = MINUS_INFINITY;
  vec top = set1(MINUS_INFINITY), factor = set1(how.exponent());
  for (int j = 0; j < FEW_KEYS; j += W) top = max(top, load(s + j));
  float m = greatest(top) * how.exponent();
  m = head.m[r] > m ? head.m[r] : m;
  float base = m == MINUS_INFINITY ? 0 : m;
  vec total = set1(0);
  for (int j = 0; j < FEW_KEYS; j += W) {
    vec e = exp2_exact(fms(load(s + j), factor, set1(base)));
    total = add(total, e);
    store(s + j, with_scales ? mul(e, load(f.v_scale + j)) : e);
  }
  if (m > head.m[r] && head.l[r] != 0) {
    float by = exp2f(head.m[r] - base);
    head.l[r] *= by;
    for (float *o : {head.o + r * MAX_WIDTH, head.before + r * MAX_WIDTH})
      for (int64_t c = 0; c < piece.call->V; c += W) store(o + c, mul(load(o + c), set1(by)));
  }
  head.m[r] = m, head.l[r] += sum(total);
}

template <int R, int WIDTH, class T>
static void value_block(const Piece &piece, const FewScratch &f, FewHead &head, int r0, int j0, int j1, Fetcher &next) {
  constexpr int C = R == 4 ? 4 : 8;  // 16 or fewer accumulators beside C values
  const int64_t V = WIDTH ? WIDTH : piece.call->V;
  int64_t d = 0;
  const float *p = f.s + r0 * FEW_KEYS;
  float *o = head.o + r0 * MAX_WIDTH;
  Fetcher *fetch = r0 == 0 ? &next : nullptr;  // during the first pass only
  for (; d + C * W <= V; d += C * W, fetch = nullptr) values_few<R, C, lines<WIDTH, T>(), T>(p, f.v, j0, j1, d, o, fetch);
  for (; d + W <= V; d += W, fetch = nullptr) values_few<R, 1, lines<WIDTH, T>(), T>(p, f.v, j0, j1, d, o, fetch);
  for (int r = 0; d < V && r < R; r++) {
    int left = static_cast<int>(V - d);
    vec acc = load(o + r * MAX_WIDTH + d);
    for (int j = j0; j < j1; j++) acc = fma(set1(p[r * FEW_KEYS + j]), load_part(reinterpret_cast<const T *>(f.v[j]) + d, left), acc);
    store(o + r * MAX_WIDTH + d, acc);
  }
}

static void load_few(const Piece &piece, FewHead &head) {
  const strobe_attention &call = *piece.call;
  head.rows = piece.row_count, head.same = true;
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int r = 0; r < head.rows; r++, at = next_row(*piece.rows, at)) {
    visible(call, *piece.rows, piece.keys->count, at.t, &head.lo[r], &head.hi[r]);
    head.lo[r] = clamp(head.lo[r], piece.key0, piece.key1), head.hi[r] = clamp(head.hi[r], piece.key0, piece.key1);
    head.same = head.same && head.lo[r] == head.lo[0] && head.hi[r] == head.hi[0];
    head.m[r] = MINUS_INFINITY, head.l[r] = 0;
    head.position[r] = static_cast<float>(piece.rows->first + at.t);
    head.slope[r] = piece.rows->slopes ? piece.rows->slopes[piece.rows->head + at.h] * LOG2_E : 0;
    widen_row(head.q + r * MAX_WIDTH, call.dtype, query_at(*piece.rows, at), call.D);
    for (float *o : {head.o + r * MAX_WIDTH, head.before + r * MAX_WIDTH})
      memset(o, 0, static_cast<size_t>(round_up(call.V, W)) * sizeof(float));
  }
}

// Where a block's keys and values lie, and their scales. Pairs of int4 become int8, which stay in the first cache.
static inline void rows_at(const Piece &piece, FewScratch &f, const FewBlock &b) {
  const strobe_attention &call = *piece.call;
  tokens_at(*piece.keys, b.k0, b.count, f.k, f.v);
  if (scaled(call)) scales_at(*piece.keys, b.k0, b.count, f.k_scale, f.v_scale);
  if (call.keys_dtype != STROBE_I4) return;
  auto unpack = [&](const char **rows, int64_t width, int8_t *to) {
    for (int j = 0; j < b.count; j++, to += width) unpack_row(rows[j], width, to), rows[j] = reinterpret_cast<const char *>(to);
  };
  unpack(f.k, call.D, f.k_wide), unpack(f.v, call.V, f.v_wide);
}

// The stretch's sums join those before it.
static void end_stretch(const Piece &piece, FewHead &head) {
  for (int r = 0; r < head.rows; r++) {
    float *o = head.o + r * MAX_WIDTH, *before = head.before + r * MAX_WIDTH;
    for (int64_t c = 0; c < piece.call->V; c += W) store(before + c, add(load(before + c), load(o + c))), store(o + c, set1(0));
  }
}

template <int WIDTH, class T>
static void few_block(const Piece &piece, const Scoring &how, FewScratch &f, FewHead &head, const FewBlock &b, Fetchers &next) {
  int n = head.rows;
  for (int r = 0; r < n;) {
    if (n - r >= 4) {
      score_block<4, WIDTH, T>(piece, f, head, b, r, next.k), r += 4;
    } else if (n - r >= 2) {
      score_block<2, WIDTH, T>(piece, f, head, b, r, next.k), r += 2;
    } else {
      score_block<1, WIDTH, T>(piece, f, head, b, r, next.k), r += 1;
    }
  }
  for (int r = 0; r < n; r++) weigh_row(piece, how, f, head, b, r);
  auto seen = [&](int64_t key) { return static_cast<int>(clamp(key - b.k0, 0, b.count)); };
  if (!head.same) {  // each row its own keys: a value that one row may not see never meets it
    for (int r = 0; r < n; r++) value_block<1, WIDTH, T>(piece, f, head, r, seen(head.lo[r]), seen(head.hi[r]), next.v);
    return;
  }
  int j0 = seen(head.lo[0]), j1 = seen(head.hi[0]);
  for (int r = 0; r < n;) {
    if (n - r >= 4) {
      value_block<4, WIDTH, T>(piece, f, head, r, j0, j1, next.v), r += 4;
    } else if (n - r >= 2) {
      value_block<2, WIDTH, T>(piece, f, head, r, j0, j1, next.v), r += 2;
    } else {
      value_block<1, WIDTH, T>(piece, f, head, r, j0, j1, next.v), r += 1;
    }
  }
}

template <int WIDTH, class T>
static void attend_few(const Piece *pieces, int heads) {
  FewScratch &f = *reinterpret_cast<FewScratch *>(pieces[0].scratch);
  Scoring how = scoring(*pieces[0].call);
  Fetchers next = fetchers(pieces, heads, FEW_KEYS);
  for (int h = 0; h < heads; h++) load_few(pieces[h], f.heads[h]);
  for (int64_t k0 = pieces[0].key0; k0 < pieces[0].key1; k0 += FEW_KEYS) {
    for (int h = 0; h < heads; h++) {
      FewBlock b = {k0, static_cast<int>(least(FEW_KEYS, pieces[h].key1 - k0))};
      rows_at(pieces[h], f, b);
      few_block<WIDTH, T>(pieces[h], how, f, f.heads[h], b, next);
      if ((k0 - pieces[0].key0) % STRETCH_KEYS == STRETCH_KEYS - FEW_KEYS || k0 + FEW_KEYS >= pieces[0].key1)
        end_stretch(pieces[h], f.heads[h]);
    }
  }
  for (int h = 0; h < heads; h++) {
    const FewHead &head = f.heads[h];
    RowAt at = row_at(*pieces[h].rows, pieces[h].row0);
    for (int r = 0; r < head.rows; r++, at = next_row(*pieces[h].rows, at))
      finish_row(pieces[h], r, at, head.m[r], static_cast<float>(head.l[r]), head.before + r * MAX_WIDTH);
  }
}

template <class T>
static void attend_few(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  if (call.D == 128 && call.V == 128) return attend_few<128, T>(pieces, heads);
  if (call.D == 64 && call.V == 64) return attend_few<64, T>(pieces, heads);
  attend_few<0, T>(pieces, heads);
}
static void attend_few(const Piece *pieces, int heads) {
  int dtype = pieces[0].call->keys_dtype;
  if (dtype == STROBE_F32) attend_few<float>(pieces, heads);
  if (dtype == STROBE_BF16) attend_few<bf16>(pieces, heads);
  if (dtype == STROBE_F16) attend_few<f16>(pieces, heads);
  if (dtype == STROBE_I8) attend_few<int8_t>(pieces, heads);
  if (dtype == STROBE_I4) attend_few<0, int8_t>(pieces, heads);
  if (dtype == STROBE_E4M3) attend_few<e4m3>(pieces, heads);
  if (dtype == STROBE_E5M2) attend_few<e5m2>(pieces, heads);
}

[[maybe_unused]] static bool few_takes(const strobe_attention &call, int64_t rows) { return rows <= FEW_ROWS && !shaped(call); }
[[maybe_unused]] static bool many_takes(const strobe_attention &) { return true; }

}  // namespace STROBE_ISA
}  // namespace strobe
