// Many rows on AMX: Sᵀ = K·Qᵀ, so that lanes are rows and K is the first operand as it lies; two weights of neighbouring
// keys side by side are then the second operand of Oᵀ = Vᵀ·P as they come. Vᵀ is packed once for all rows.
// The tile unit and the vector unit work at the same time: while the scores of a sub-block are turned into weights, those of
// the next are made and the values that the one before weighs are gathered.
#pragma once

#include "amx_pack.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int SUB_LANES = 32;  // rows of a sub-block: two vectors, two tiles
constexpr int AMX_SUBS = 8;
constexpr int AMX_ROWS = SUB_LANES * AMX_SUBS;
constexpr float LAZY = 8;  // a sum is rescaled only when the greatest score grew by more than 2^8

struct AmxSub {
  alignas(64) float m[SUB_LANES], l[SUB_LANES], slope[SUB_LANES], position[SUB_LANES];
  alignas(64) int32_t lo[SUB_LANES], hi[SUB_LANES];
  int64_t least_lo, most_lo, least_hi, most_hi;
  int rows;
  bool fresh;  // nothing was gathered yet, and its part of `o` not written
};
struct AmxScratch {
  AmxSub subs[AMX_SUBS];
  alignas(64) float s[2][AMX_BLOCK * SUB_LANES];
  alignas(64) bf16 p[2][2][AMX_BLOCK * SUB_LANES];  // twice up to two terms: [chunk of keys][2 halves of rows] tiles
  alignas(64) float row[16 * MAX_WIDTH];
  alignas(64) float sums[4 * 256];
};
struct AmxArrays {
  AmxScratch *fixed;
  char *block;  // for keys that nobody packed before
  bf16 *q;      // [sub][term][chunk of D][2 halves of rows] tiles
  float *o;     // [sub][16 of V][2 halves of rows] tiles
  int64_t q_sub, q_term, o_sub;
};
static size_t amx_bytes(const strobe_attention &call) {
  int64_t chunks = width_chunks(call.D) * terms_of(call.dtype), tiles = 2 * width_chunks(call.V);
  size_t q = static_cast<size_t>(AMX_SUBS * chunks * 2 * TILE) * sizeof(bf16),
         o = static_cast<size_t>(AMX_SUBS * tiles * TILE) * sizeof(float);
  return sizeof(AmxScratch) + block_bytes(call) + q + o;
}
static AmxArrays amx_arrays(const Piece &piece) {
  const strobe_attention &call = *piece.call;
  AmxArrays a;
  a.q_term = width_chunks(call.D) * 2 * TILE, a.q_sub = a.q_term * terms_of(call.dtype), a.o_sub = 2 * width_chunks(call.V) * TILE;
  a.fixed = reinterpret_cast<AmxScratch *>(piece.scratch);
  a.block = reinterpret_cast<char *>(a.fixed + 1);
  a.q = reinterpret_cast<bf16 *>(a.block + block_bytes(call));
  a.o = reinterpret_cast<float *>(a.q + AMX_SUBS * a.q_sub);
  return a;
}

template <int TERMS>
static void load_amx_sub(const Piece &piece, int64_t row0, int rows, AmxSub &sub, bf16 *q, int64_t q_term) {
  const strobe_attention &call = *piece.call;
  const char *from[SUB_LANES];
  RowAt at = row_at(*piece.rows, row0);
  sub.rows = rows, sub.fresh = true;
  sub.least_lo = sub.least_hi = INT32_MAX;
  sub.most_lo = sub.most_hi = 0;
  for (int i = 0; i < SUB_LANES; i++, at = i < rows ? next_row(*piece.rows, at) : at) {
    int64_t lo, hi;  // lanes past the last row repeat it and are never written out
    visible(call, *piece.rows, piece.keys->count, at.t, &lo, &hi);
    lo = clamp(lo, piece.key0, piece.key1), hi = clamp(hi, piece.key0, piece.key1);
    sub.lo[i] = static_cast<int32_t>(lo), sub.hi[i] = static_cast<int32_t>(hi);
    sub.least_lo = least(sub.least_lo, lo), sub.most_lo = most(sub.most_lo, lo);
    sub.least_hi = least(sub.least_hi, hi), sub.most_hi = most(sub.most_hi, hi);
    sub.m[i] = MINUS_INFINITY, sub.l[i] = 0;
    sub.position[i] = static_cast<float>(piece.rows->first + at.t);
    sub.slope[i] = piece.rows->slopes ? piece.rows->slopes[piece.rows->head + at.h] * LOG2_E : 0;
    from[i] = query_at(*piece.rows, at);
  }
  for (int64_t c = 0; c * CHUNK < call.D; c++) {
    for (int half = 0; half < 2; half++) {
      __m512i pairs[TERMS][16];
      for (int i = 0; i < 16; i++) {
        __m512i terms[TERMS];
        load_terms<TERMS>(from[16 * half + i] + c * CHUNK * 2, call.D - c * CHUNK, terms);
        for (int t = 0; t < TERMS; t++) pairs[t][i] = terms[t];
      }
      for (int t = 0; t < TERMS; t++) {
        transpose(pairs[t]);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(q + t * q_term + (2 * c + half) * TILE + i * CHUNK, pairs[t][i]);
      }
    }
  }
}

template <int TERMS>
static inline vec weight_of(vec x) {
  return TERMS == 1 ? exp2_quick(x) : exp2_half(x);
}

// Weights of two neighbouring keys, 16 rows, as dwords of bf16: to nearest, or cut into terms.
template <int TERMS>
static inline void store_pair(vec a, vec b, bf16 *p) {
  for (int t = 0; t < TERMS; t++) {
    __m512i ia = _mm512_castps_si512(a), ib = _mm512_castps_si512(b);
    if (t == TERMS - 1) ia = _mm512_add_epi32(ia, _mm512_set1_epi32(0x8000)), ib = _mm512_add_epi32(ib, _mm512_set1_epi32(0x8000));
    constexpr __mmask32 UPPER = 0xaaaaaaaa;
    _mm512_store_si512(p + t * AMX_BLOCK * SUB_LANES, _mm512_mask_blend_epi16(UPPER, _mm512_srli_epi32(ia, 16), ib));
    if (t < TERMS - 1) a = minus(a, top_half(a)), b = minus(b, top_half(b));
  }
}

// Cap, slopes and mask for the chunks [c0, c1) of a block, then the new greatest scores; rescales what was gathered.
struct Bases {
  vec m[2];  // what to subtract in the exponent
  vec factor;
};
static inline Bases prepare(const Scoring &how, AmxSub &sub, float *s, int64_t key0, int c0, int c1, float *o, int64_t tiles) {
  int64_t seen_by_all0 = sub.most_lo - key0, seen_by_all1 = sub.least_hi - key0;
  int a = c0 * CHUNK, e = c1 * CHUNK;
  auto each = [&](int from, int to, bool hidden) {
    for (int j = from; j < to; j++) {
      for (int x = 0; x < SUB_LANES; x += 16) {
        float *p = s + j * SUB_LANES + x;
        vec y = load(p);
        if (!how.folded) {
          vec away = mul(load(sub.slope + x), abs(minus(load(sub.position + x), set1(static_cast<float>(key0 + j)))));
          y = adjust(how, y, away);
        }
        if (hidden) y = hide(y, sub.lo + x, sub.hi + x, static_cast<int32_t>(key0 + j));
        store(p, y);
      }
    }
  };
  int inner0 = static_cast<int>(clamp(seen_by_all0, a, e)), inner1 = static_cast<int>(clamp(seen_by_all1, inner0, e));
  each(a, inner0, true);
  if (!how.folded) each(inner0, inner1, false);
  each(inner1, e, true);

  vec top[4];
  for (auto &x : top) x = set1(MINUS_INFINITY);
  for (int j = a; j < e; j += 2)
    for (int x = 0; x < 4; x++) top[x] = max(top[x], load(s + j * SUB_LANES + 16 * x));
  Bases bases;
  bases.factor = set1(how.exponent());
  bool grew = false;
  vec old[2], now[2];
  for (int x = 0; x < 2; x++) {
    old[x] = load(sub.m + 16 * x);
    vec most_yet = mul(max(top[x], top[x + 2]), bases.factor), enough = add(old[x], set1(LAZY));
    now[x] = select_less(enough, most_yet, most_yet, old[x]);
    grew = grew || any_greater(most_yet, enough);
  }
  for (int x = 0; x < 2; x++) {
    bases.m[x] = zero_if_minus_infinity(now[x]);
    if (!grew) continue;
    vec by = exp2_exact(minus(old[x], bases.m[x]));
    store(sub.m + 16 * x, now[x]);
    store(sub.l + 16 * x, mul(load(sub.l + 16 * x), by));
    for (int64_t t = 0; t < (sub.fresh ? 0 : tiles); t++) {
      float *p = o + t * TILE + x * 256;
      for (int r = 0; r < 16; r++) store(p + 16 * r, mul(load(p + 16 * r), by));
    }
  }
  return bases;
}

// Turns the chunks [c0, c1) of scores into weights, a pair of keys at a time, whenever the tile unit is busy: `step` is
// called once a tile product, and the pairs are spread evenly over `steps` of them.
template <int TERMS>
class Exponents {
 public:
  Exponents(const float *s, bf16 *p, const Bases &bases, int c0, int c1, int steps)
      : s_(s), p_(p), bases_(bases), done_(c0 * (CHUNK / 2)), end_(c1 * (CHUNK / 2)) {
    rate_ = steps > 0 ? ((end_ - done_) * ONE + steps - 1) / steps : 0;
    due_ = done_ * ONE;
    for (auto &l : l_) l = set1(0);
  }
  __attribute__((always_inline)) void step() {
    due_ += rate_;
    for (int due = least(due_ / ONE, end_); done_ < due; done_++) pair(done_);
  }
  // What is left; the sums go to `l`, a block's apart: in one long chain they would lose the last digits.
  __attribute__((always_inline)) void finish(float *l) {
    for (; done_ < end_; done_++) pair(done_);
    for (int x = 0; x < 2; x++) store(l + 16 * x, add(load(l + 16 * x), l_[x]));
  }

 private:
  static constexpr int ONE = 1 << 16;

  static int least(int a, int b) { return a < b ? a : b; }
  __attribute__((always_inline)) void pair(int i) {
    const float *at = s_ + i * 2 * SUB_LANES;
    bf16 *to = p_ + (i / 16) * 2 * TILE + (i % 16) * CHUNK;
    for (int x = 0; x < 2; x++) {
      vec a = weight_of<TERMS>(fms(load(at + 16 * x), bases_.factor, bases_.m[x]));
      vec b = weight_of<TERMS>(fms(load(at + SUB_LANES + 16 * x), bases_.factor, bases_.m[x]));
      l_[x] = add(l_[x], add(a, b));
      store_pair<TERMS>(a, b, to + x * TILE);
    }
  }

  const float *s_;
  bf16 *p_;
  Bases bases_;
  int done_, end_, due_, rate_;
  vec l_[2];
};

// Scores of 32 keys and 32 rows. CHUNKS of the width, 0 where only the call knows; `step` is called after each product.
template <int TERMS, int CHUNKS, class Step>
static inline __attribute__((always_inline)) void score_chunk(const bf16 *k, int64_t k_term, const bf16 *q, int64_t q_term, int any,
                                                              float *s, Step step) {
  using P = Products<TERMS>;
  const int chunks = CHUNKS ? CHUNKS : any;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < P::COUNT; i++) {
    const bf16 *k0 = k + P::A[i] * k_term, *k1 = k0 + chunks * TILE, *qi = q + P::B[i] * q_term;
#pragma GCC unroll 4
    for (int c = 0; c < chunks; c++) {
      _tile_loadd(4, k0 + c * TILE, 64);
      _tile_loadd(6, qi + c * 2 * TILE, 64);
      _tile_dpbf16ps(0, 4, 6);
      step();
      _tile_loadd(7, qi + c * 2 * TILE + TILE, 64);
      _tile_dpbf16ps(1, 4, 7);
      step();
      _tile_loadd(5, k1 + c * TILE, 64);
      _tile_dpbf16ps(2, 5, 6);
      step();
      _tile_dpbf16ps(3, 5, 7);
      step();
    }
  }
  _tile_stored(0, s, 2 * 64);
  _tile_stored(1, s + 16, 2 * 64);
  _tile_stored(2, s + 16 * SUB_LANES, 2 * 64);
  _tile_stored(3, s + 16 * SUB_LANES + 16, 2 * 64);
}

// Oᵀ += Vᵀ·P over the chunks [c0, c1). With several terms the sum of a block is made apart, small products first.
template <int TERMS, int CHUNKS, class Step>
static inline __attribute__((always_inline)) void gather_tiles(const BlockShape &shape, const bf16 *v, const bf16 *p, int c0, int c1,
                                                               bool fresh, float *o, float *sums, Step step) {
  using P = Products<TERMS>;
  const int64_t v_tiles = CHUNKS ? 2 * CHUNKS : shape.v_tiles;
  for (int64_t t = 0; t < v_tiles; t += 2) {
    float *to = o + t * TILE;
    if (TERMS == 1 && !fresh) {
      _tile_loadd(0, to, 64);
      _tile_loadd(1, to + 256, 64);
      _tile_loadd(2, to + 512, 64);
      _tile_loadd(3, to + 768, 64);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int i = 0; i < P::COUNT; i++) {
      const bf16 *vi = v + P::A[i] * shape.v_term + t * TILE, *pi = p + P::B[i] * AMX_BLOCK * SUB_LANES;
      for (int c = c0; c < c1; c++) {
        _tile_loadd(4, vi + c * v_tiles * TILE, 64);
        _tile_loadd(6, pi + c * 2 * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        step();
        _tile_loadd(7, pi + c * 2 * TILE + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        step();
        _tile_loadd(5, vi + c * v_tiles * TILE + TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        step();
        _tile_dpbf16ps(3, 5, 7);
        step();
      }
    }
    float *into = TERMS == 1 || fresh ? to : sums;
    _tile_stored(0, into, 64);
    _tile_stored(1, into + 256, 64);
    _tile_stored(2, into + 512, 64);
    _tile_stored(3, into + 768, 64);
    if (TERMS > 1 && !fresh)
      for (int i = 0; i < 4 * 256; i += 16) store(to + i, add(load(to + i), load(sums + i)));
  }
}

// The same where some value is not finite and some row may not see it: 0 · NaN must not reach that row.
template <int TERMS>
static void gather_seen(const BlockShape &shape, const AmxSub &sub, const bf16 *v, const bf16 *p, int64_t key0, int c0, int c1, float *o) {
  for (int row = 0; row < SUB_LANES; row++) {
    int from = static_cast<int>(most(c0 * CHUNK, sub.lo[row] - key0)), to = static_cast<int>(least(c1 * CHUNK, sub.hi[row] - key0));
    for (int64_t d = 0; d < shape.v_tiles * 16; d++) {
      float *sum = o + (d / 16) * TILE + (row / 16) * 256 + (d % 16) * 16 + row % 16;
      for (int j = from; j < to; j++) {
        float weight = 0, value = 0;
        for (int t = 0; t < TERMS; t++) {
          weight += widen_one(
              p[t * AMX_BLOCK * SUB_LANES + ((j / CHUNK) * 2 + row / 16) * TILE + (j % CHUNK / 2) * CHUNK + row % 16 * 2 + j % 2]);
          value += widen_one(v[t * shape.v_term + ((j / CHUNK) * shape.v_tiles + d / 16) * TILE + (d % 16) * CHUNK + j % CHUNK]);
        }
        *sum += weight * value;
      }
    }
  }
}

// Two columns side by side: dwords of (a, b) in a narrow type, to nearest even; a NaN stays one.
static inline __m512i upper_half(vec x) {
  __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
}
static inline __m512i narrow_pair(vec a, vec b, bf16) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(upper_half(a), 16), upper_half(b));
}
static inline __m512i narrow_pair(vec a, vec b, f16) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(a, f16{})), _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(b, f16{})), 16));
}

// The rows' outputs. Their sums divide them while lanes are still rows, and neighbouring columns travel as one dword.
template <class T>
static void write_amx_half(const Piece &piece, const RowAt *at, int rows, const float *by, const float *o) {
  int64_t V = piece.call->V;
  vec factor = load(by);
  __mmask16 seen = _mm512_cmp_ps_mask(factor, set1(0), _CMP_NLT_UQ);
  for (int64_t c = 0; c * CHUNK < V; c++) {
    __m512i pairs[16];
    for (int i = 0; i < 16; i++) {
      const float *column = o + (2 * c + i / 8) * TILE + i % 8 * 32;
      pairs[i] = narrow_pair(_mm512_maskz_mul_ps(seen, load(column), factor), _mm512_maskz_mul_ps(seen, load(column + 16), factor), T{});
    }
    transpose(pairs);
    __mmask32 there = V - c * CHUNK >= CHUNK ? ~0u : (1u << (V - c * CHUNK)) - 1;
    for (int i = 0; i < rows; i++) _mm512_mask_storeu_epi16(out_at(*piece.rows, at[i]) + c * CHUNK * 2, there, pairs[i]);
  }
}

// The same for rows that other keys wait for, as floats.
static void leave_amx_half(const Piece &piece, const RowAt *at, int rows, int first_row, const float *m, const float *l, const float *o,
                           float *row) {
  for (int64_t t = 0; t * 16 < piece.call->V; t++) {
    vec r[16];
    for (int i = 0; i < 16; i++) r[i] = load(o + t * TILE + i * 16);
    transpose(r);
    for (int i = 0; i < 16; i++) store(row + i * MAX_WIDTH + t * 16, r[i]);
  }
  for (int i = 0; i < rows; i++) finish_row(piece, first_row + i, at[i], m[i], l[i], row + i * MAX_WIDTH);
}

static void finish_amx_sub(const Piece &piece, int first_row, const AmxSub &sub, const float *o, float *row) {
  RowAt next = row_at(*piece.rows, piece.row0 + first_row), at[16];
  for (int r0 = 0; r0 < sub.rows; r0 += 16, o += 256) {
    int rows = static_cast<int>(least(16, sub.rows - r0));
    for (int i = 0; i < rows; i++, next = next_row(*piece.rows, next)) at[i] = next;
    if (piece.partial) {
      leave_amx_half(piece, at, rows, first_row + r0, sub.m + r0, sub.l + r0, o, row);
      continue;
    }
    alignas(64) float by[16];
    for (int i = 0; i < 16; i++) by[i] = i < rows ? close_row(piece, at[i], sub.m[r0 + i], sub.l[r0 + i]) : -1;
    if (piece.call->dtype == STROBE_BF16) write_amx_half<bf16>(piece, at, rows, by, o);
    if (piece.call->dtype == STROBE_F16) write_amx_half<f16>(piece, at, rows, by, o);
  }
}

template <int TERMS, int CHUNKS>
static void attend_block(const Piece &piece, const AmxArrays &a, const BlockShape &shape, const Scoring &how, const char *block,
                         int64_t key0, int subs) {
  const bf16 *k = reinterpret_cast<const bf16 *>(block), *v = block_values(shape, block);
  int64_t end = least(key0 + AMX_BLOCK, piece.key1);
  int chunks = static_cast<int>(shape.k_chunks);
  struct Range {
    int c0, c1;
  };
  auto range = [&](int i) -> Range {  // the chunks that some row of sub-block i sees
    if (i >= subs) return {0, 0};
    const AmxSub &sub = a.fixed->subs[i];
    int64_t from = most(sub.least_lo, key0), to = least(sub.most_hi, end);
    if (from >= to) return {0, 0};
    return {static_cast<int>((from - key0) / CHUNK), static_cast<int>((to - key0 + CHUNK - 1) / CHUNK)};
  };
  auto nothing = [] {};
  auto score = [&](int i, Range r, float *s, auto step) __attribute__((always_inline)) {
    for (int c = r.c0; c < r.c1; c++)
      score_chunk<TERMS, CHUNKS>(k + c * 2 * chunks * TILE, shape.k_term, a.q + i * a.q_sub, a.q_term, chunks, s + c * CHUNK * SUB_LANES,
                                 step);
  };
  auto gather = [&](int i, Range r, const bf16 *p, auto step) __attribute__((always_inline)) {
    if (r.c0 == r.c1) return;
    AmxSub &sub = a.fixed->subs[i];
    float *o = a.o + i * a.o_sub;
    bool partial = key0 + r.c0 * CHUNK < sub.most_lo || key0 + r.c1 * CHUNK > sub.least_hi;
    if (partial && !block_finite(shape, block)) {
      if (sub.fresh) memset(o, 0, static_cast<size_t>(a.o_sub) * sizeof(float));
      gather_seen<TERMS>(shape, sub, v, p, key0, r.c0, r.c1, o);
    } else {
      gather_tiles<TERMS, CHUNKS>(shape, v, p, r.c0, r.c1, sub.fresh, o, a.fixed->sums, step);
    }
    sub.fresh = false;
  };
  const int score_steps = 4 * Products<TERMS>::COUNT * chunks, gather_steps = 2 * Products<TERMS>::COUNT * static_cast<int>(shape.v_tiles);
  Range before = {0, 0}, now = range(0);
  score(0, now, a.fixed->s[0], nothing);
  for (int i = 0; i < subs; i++) {
    AmxSub &sub = a.fixed->subs[i];
    Range next = range(i + 1);
    float *s = a.fixed->s[i % 2], *s_next = a.fixed->s[1 - i % 2];
    bf16 *p = a.fixed->p[i % 2][0], *p_before = a.fixed->p[1 - i % 2][0];
    if (now.c0 < now.c1) {
      Bases bases = prepare(how, sub, s, key0, now.c0, now.c1, a.o + i * a.o_sub, shape.v_tiles);
      Exponents<TERMS> exponents(s, p, bases, now.c0, now.c1, (before.c1 - before.c0) * gather_steps + (next.c1 - next.c0) * score_steps);
      auto step = [&]() __attribute__((always_inline)) { exponents.step(); };
      gather(i - 1, before, p_before, step);
      score(i + 1, next, s_next, step);
      exponents.finish(sub.l);
    } else {
      gather(i - 1, before, p_before, nothing);
      score(i + 1, next, s_next, nothing);
    }
    before = now, now = next;
  }
  gather(subs - 1, before, a.fixed->p[(subs - 1) % 2][0], nothing);
}

template <int TERMS, int CHUNKS>
static void attend_tiles(const Piece &piece) {
  const strobe_attention &call = *piece.call;
  TileScope tiles;
  AmxArrays a = amx_arrays(piece);
  BlockShape shape = block_shape(call);
  Scoring how = scoring(call);
  int subs = 0;
  for (int i = 0; i < piece.row_count; i += SUB_LANES, subs++)
    load_amx_sub<TERMS>(piece, piece.row0 + i, static_cast<int>(least(SUB_LANES, piece.row_count - i)), a.fixed->subs[subs],
                        a.q + subs * a.q_sub, a.q_term);
  for (int64_t i = piece.key0 / AMX_BLOCK; i * AMX_BLOCK < piece.key1; i++) {
    int64_t key0 = i * AMX_BLOCK;
    const char *block = piece.packed + (i - piece.packed_block0) * static_cast<int64_t>(block_bytes(call));
    if (!piece.packed) pack_block<TERMS>(call, *piece.keys, key0, least(piece.keys->count, key0 + AMX_BLOCK), a.block), block = a.block;
    attend_block<TERMS, CHUNKS>(piece, a, shape, how, block, key0, subs);
  }
  for (int i = 0; i < subs; i++) finish_amx_sub(piece, i * SUB_LANES, a.fixed->subs[i], a.o + i * a.o_sub, a.fixed->row);
}

static void attend_amx(const Piece *pieces, int) {
  const strobe_attention &call = *pieces[0].call;
  if (call.dtype == STROBE_F16) return attend_tiles<2, 0>(pieces[0]);
  if (call.D == 4 * CHUNK && call.V == 4 * CHUNK) return attend_tiles<1, 4>(pieces[0]);
  if (call.D == 2 * CHUNK && call.V == 2 * CHUNK) return attend_tiles<1, 2>(pieces[0]);
  attend_tiles<1, 0>(pieces[0]);
}
// Float32 would be six tile products of three terms: up to 1.7 times as fast as AVX-512 where a core has its tile unit for
// itself, and down to 0.7 where it shares it (docs/log.md). It takes AVX-512.
static bool amx_many_takes(const strobe_attention &call) { return call.dtype != STROBE_F32 && !shaped(call); }

}  // namespace STROBE_ISA
}  // namespace strobe
