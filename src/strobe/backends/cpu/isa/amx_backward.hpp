// The backward pass on AMX: all five products on tiles, sums in float32. Lanes are rows, as everywhere, so K, V, P and dS
// are first operands as they lie, and weights of two neighbouring keys side by side are the second operand of dQᵀ += Kᵀ dSᵀ.
// What has to be turned is turned once: a chunk of keys for all rows, a group of rows for a chunk.
//
//   Sᵀ = K Qᵀ    dPᵀ = V dOᵀ    dV += Pᵀ dO    dK += dSᵀ Q    dQᵀ += Kᵀ dSᵀ
//
// P and dS are cut into as many terms as the numbers of the call. In bfloat16 that is one: they are rounded to 8 bits, as
// the plain computation rounds them.
#pragma once

#include "../gradient_rows.hpp"
#include "amx_pack.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int UNIT = 32;                 // keys and rows of a pair of products: two tiles by two
constexpr int GRADIENT_KEYS = 4 * UNIT;  // work is cut at multiples of so many keys
constexpr int CHUNK_UNITS = 8;           // units of keys of a chunk: it stays in the second cache with its sums
template <int TERMS>
constexpr int GROUP_UNITS = TERMS == 1 ? 8 : 2;  // units of rows that pass while a chunk's sums are loaded once

struct TileFixed {
  GradientSub subs[GROUP_UNITS<1>];
  alignas(64) float p[UNIT * UNIT], ds[UNIT * UNIT], keep[UNIT * UNIT], sums[8 * 256], row[16 * MAX_WIDTH];
  alignas(64) int32_t hidden[UNIT * UNIT];
};
// Queries with keys, or incoming gradients with values.
struct TileSide {
  int64_t width, chunks, tiles;  // 32 and 16 numbers of the width
  bf16 *keys;                    // [term][unit of keys][2 halves][chunk]
  bf16 *lanes;                   // [unit of rows][term][chunk][2 halves]
  bf16 *pairs;                   // [unit of rows][term][tile]: two neighbouring rows side by side
  float *sums;                   // [unit of keys][2 halves][tile]: the keys' gradients
  int64_t keys_term, row_term, row_unit;
};
struct TileGradients {
  TileFixed *fixed;
  TileSide q, dout;
  bf16 *across;    // Kᵀ, [term][unit of keys][tile]
  bf16 *p, *ds;    // [term][unit of keys][unit of rows][2 halves of keys]
  bf16 *ds_pairs;  // [term][unit of rows][unit of keys][2 halves of rows]: two neighbouring keys side by side
  int64_t weights_term;
  size_t bytes;
};

template <int TERMS>
static TileGradients tile_gradients(const strobe_attention &call, char *scratch) {
  TileGradients a;
  size_t used = 0;
  auto take = [&](auto *&to, int64_t count) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(reinterpret_cast<uintptr_t>(scratch) + used);
    used += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof *to), 64));
  };
  constexpr int64_t KEYS = CHUNK_UNITS, ROWS = GROUP_UNITS<TERMS>;
  take(a.fixed, 1);
  auto side = [&](TileSide &s, int64_t width) {
    s.width = width, s.chunks = width_chunks(width), s.tiles = 2 * s.chunks;
    s.keys_term = KEYS * s.tiles * TILE, s.row_term = s.tiles * TILE, s.row_unit = TERMS * s.row_term;
    take(s.keys, TERMS * s.keys_term);
    take(s.lanes, ROWS * s.row_unit);
    take(s.pairs, ROWS * s.row_unit);
    take(s.sums, KEYS * 2 * s.tiles * 256);
  };
  side(a.q, call.D);
  side(a.dout, call.V);
  a.weights_term = KEYS * ROWS * 2 * TILE;
  take(a.across, TERMS * a.q.keys_term);
  for (bf16 **to : {&a.p, &a.ds, &a.ds_pairs}) take(*to, TERMS * a.weights_term);
  a.bytes = used;
  return a;
}
static size_t tile_gradient_bytes(const strobe_attention &call) {
  return call.dtype == STROBE_BF16 ? tile_gradients<1>(call, nullptr).bytes : tile_gradients<2>(call, nullptr).bytes;
}

// A share is [unit of rows][tile of D][2 halves of rows] tiles of dQᵀ, and below each unit what its rows give their slopes.
static int64_t unit_share(const strobe_attention &call) { return 2 * width_chunks(call.D) * 2 * 256 + UNIT; }
static size_t tile_share_bytes(const strobe_attention &call, int64_t rows) {
  return static_cast<size_t>((rows + UNIT - 1) / UNIT * unit_share(call)) * sizeof(float);
}

static inline __m512i pair_up(__m256i x, __m256i y) {  // dwords (x, y)
  return _mm512_or_si512(_mm512_cvtepu16_epi32(x), _mm512_slli_epi32(_mm512_cvtepu16_epi32(y), 16));
}
// 32 rows, of which n are there, as the second operand of products over the width (`lanes`) and over rows (`pairs`: two
// neighbouring rows side by side). True if all numbers are finite.
template <int TERMS>
static bool pack_rows(const char *const *rows, int n, const TileSide &side, int unit) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 odd_ones = 0;
  for (int64_t c = 0; c < side.chunks; c++) {
    __m512i terms[UNIT][TERMS];
    for (int i = 0; i < UNIT; i++) {
      for (auto &x : terms[i]) x = _mm512_setzero_si512();
      if (i < n) load_terms<TERMS>(rows[i] + c * CHUNK * 2, side.width - c * CHUNK, terms[i]);
      odd_ones |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(terms[i][0], exponent), exponent);
    }
    for (int t = 0; t < TERMS; t++) {
      int64_t at = unit * side.row_unit + t * side.row_term + 2 * c * TILE;
      for (int half = 0; half < 2; half++) {
        __m512i turned[16];
        for (int i = 0; i < 16; i++) turned[i] = terms[16 * half + i][t];
        transpose(turned);
        for (int i = 0; i < 16; i++) _mm512_store_si512(side.lanes + at + half * TILE + i * CHUNK, turned[i]);
      }
      for (int i = 0; i < UNIT / 2; i++) {
        __m512i x = terms[2 * i][t], y = terms[2 * i + 1][t];
        _mm512_store_si512(side.pairs + at + i * CHUNK, pair_up(_mm512_castsi512_si256(x), _mm512_castsi512_si256(y)));
        _mm512_store_si512(side.pairs + at + TILE + i * CHUNK, pair_up(_mm512_extracti64x4_epi64(x, 1), _mm512_extracti64x4_epi64(y, 1)));
      }
    }
  }
  return odd_ones == 0;
}

// Keys of a chunk. Those past the last are zeros. True if all numbers of K are finite.
template <int TERMS>
static bool load_chunk(const GradientPair &pair, int64_t key0, int n, TileGradients &a) {
  constexpr int MOST = CHUNK_UNITS * UNIT;
  const char *k[MOST], *v[MOST];
  int padded = static_cast<int>(round_up(n, UNIT));
  tokens_at(pair.keys, key0, n, k, v);
  for (int j = n; j < padded; j++) k[j] = v[j] = nullptr;
  BlockShape shape = {};
  shape.k_chunks = a.q.chunks, shape.k_term = a.q.keys_term, shape.v_tiles = a.q.tiles, shape.v_term = a.q.keys_term;
  pack_keys<TERMS>(shape, k, padded, a.q.width, a.q.keys);
  bool finite = pack_values<TERMS>(shape, k, padded, a.q.width, a.across);
  shape.k_chunks = a.dout.chunks, shape.k_term = a.dout.keys_term;
  pack_keys<TERMS>(shape, v, padded, a.dout.width, a.dout.keys);
  for (TileSide *side : {&a.q, &a.dout}) memset(side->sums, 0, static_cast<size_t>(padded / UNIT * 2 * side->tiles * 256) * sizeof(float));
  return finite;
}

// A unit of rows for a chunk of keys; false where they see none of it.
template <int TERMS>
static bool load_unit(const GradientPair &pair, int64_t row0, int64_t key0, int64_t key1, TileGradients &a, int unit) {
  GradientSub &sub = a.fixed->subs[unit];
  if (row0 >= pair.rows.count || !load_gradient_sub(pair, row0, UNIT, key0, key1, sub)) return false;
  const char *q[UNIT], *dout[UNIT];
  RowAt at = row_at(pair.rows, row0);
  for (int i = 0; i < sub.rows; i++, at = next_row(pair.rows, at)) q[i] = query_at(pair.rows, at), dout[i] = row_of(pair.dout, at);
  bool finite = pack_rows<TERMS>(q, sub.rows, a.q, unit);
  sub.finite = pack_rows<TERMS>(dout, sub.rows, a.dout, unit) && finite;
  return true;
}

// Tiles of an operand: `step` to the next of the sum, `side` to the neighbour, `term` to the next term.
struct Operand {
  const bf16 *at;
  int64_t step, side, term;
};
// The product of two operands by two, `steps` tiles long, on top of what lies at `to` (or, if fresh, in its place): floats in
// rows of `pitch`; the neighbour of the first operand lies `below`, that of the second `right`.
struct Place {
  float *at;
  int64_t pitch, below, right;
};
static inline __attribute__((always_inline)) void multiply(const Operand &a, const Operand &b, int64_t steps, bool fresh, const Place &to) {
  float *lower = to.at + to.below;
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, to.at, to.pitch * 4);
    _tile_loadd(1, to.at + to.right, to.pitch * 4);
    _tile_loadd(2, lower, to.pitch * 4);
    _tile_loadd(3, lower + to.right, to.pitch * 4);
  }
  const bf16 *x = a.at, *y = b.at;
  for (int64_t s = 0; s < steps; s++, x += a.step, y += b.step) {
    _tile_loadd(4, x, 64);
    _tile_loadd(6, y, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, y + b.side, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + a.side, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, to.at, to.pitch * 4);
  _tile_stored(1, to.at + to.right, to.pitch * 4);
  _tile_stored(2, lower, to.pitch * 4);
  _tile_stored(3, lower + to.right, to.pitch * 4);
}

// The same of two terms. Products of first terms are summed in tiles 0 and 1, those with a second one in 2 and 3, so that
// these are rounded at their own size.
static inline __attribute__((always_inline)) void multiply_terms(const Operand &a, const Operand &b, int64_t steps, bool fresh,
                                                                 const Place &to, float *sums) {
  for (int half = 0; half < 2; half++) {
    const bf16 *x = a.at + half * a.side, *y = b.at;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; s++, x += a.step, y += b.step) {
      _tile_loadd(5, x, 64);
      _tile_loadd(6, y, 64);
      _tile_dpbf16ps(0, 5, 6);
      _tile_loadd(7, y + b.side, 64);
      _tile_dpbf16ps(1, 5, 7);
      _tile_loadd(4, x + a.term, 64);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 7);
      _tile_loadd(6, y + b.term, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, y + b.term + b.side, 64);
      _tile_dpbf16ps(3, 5, 7);
    }
    float *at = sums + half * 4 * 256;
    _tile_stored(2, at + 2 * 256, 64);
    _tile_stored(3, at + 3 * 256, 64);
    _tile_stored(0, at, 64);
    _tile_stored(1, at + 256, 64);
  }
  for (int t = 0; t < 4; t++) {
    float *at = to.at + t / 2 * to.below + t % 2 * to.right;
    const float *from = sums + t / 2 * 4 * 256 + t % 2 * 256;
    for (int r = 0; r < 16; r++) {
      vec sum = add(load(from + r * 16), load(from + 2 * 256 + r * 16));
      store(at + r * to.pitch, fresh ? sum : add(load(at + r * to.pitch), sum));
    }
  }
}
template <int TERMS>
static inline void multiply(const Operand &a, const Operand &b, int64_t steps, bool fresh, const Place &to, TileFixed &f) {
  if constexpr (TERMS == 1) {
    multiply(a, b, steps, fresh, to);
  } else {
    multiply_terms(a, b, steps, fresh, to, f.sums);
  }
}

// Weights of two neighbouring keys, 16 rows, as dwords.
static inline __m512i side_by_side(vec a, vec b) {
  constexpr __mmask32 UPPER = 0xaaaaaaaa;
  return _mm512_mask_blend_epi16(UPPER, _mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b));
}
static inline vec to_nearest_half(vec x) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)));
}
// Weights [32 keys][32 rows] to the tiles that multiply rows, and where there is `pairs` to those that multiply keys.
template <int TERMS, bool PAIRS>
static inline void cut_weights(const float *from, bf16 *to, bf16 *pairs, int64_t term) {
  for (int j = 0; j < UNIT; j += 2) {
    vec x[4];  // two halves of rows of key j, then of key j + 1
    for (int i = 0; i < 4; i++) x[i] = load(from + j * UNIT + i * 16);
    for (int t = 0; t < TERMS; t++) {
      vec y[4];
      for (int i = 0; i < 4; i++) y[i] = t == TERMS - 1 ? to_nearest_half(x[i]) : x[i];
      bf16 *at = to + t * term + (j / 16) * TILE + (j % 16) * CHUNK;
      _mm512_store_si512(at, bf16_of(y[0], y[1]));
      _mm512_store_si512(at + CHUNK, bf16_of(y[2], y[3]));
      if constexpr (PAIRS)
        for (int half = 0; half < 2; half++)
          _mm512_store_si512(pairs + t * term + half * TILE + j / 2 * CHUNK, side_by_side(y[half], y[2 + half]));
      if (t < TERMS - 1)
        for (auto &one : x) one = minus(one, top_half(one));
    }
  }
}

struct Units {
  int first, end;
};
// The units of keys that some row of a unit of rows sees.
static Units units_of(const GradientSub &sub, int64_t key0) {
  if (sub.least_lo >= sub.most_hi) return {0, 0};
  return {static_cast<int>((sub.least_lo - key0) / UNIT), static_cast<int>((sub.most_hi - key0 + UNIT - 1) / UNIT)};
}

// Weights of a unit of rows and a unit of keys. True if some row does not see some key.
template <int TERMS>
static bool weigh_unit(const GradientPair &pair, TileGradients &a, int64_t key0, int n, int rows, int keys, float *slopes) {
  TileFixed &f = *a.fixed;
  const GradientSub &sub = f.subs[rows];
  int64_t from = key0 + keys * UNIT;
  bf16 *p = a.p + (keys * GROUP_UNITS<TERMS> + rows) * 2 * TILE, *ds = a.ds + (keys * GROUP_UNITS<TERMS> + rows) * 2 * TILE;
  bf16 *ds_pairs = a.ds_pairs + (rows * CHUNK_UNITS + keys) * 2 * TILE;
  BlockTerms terms = {nullptr, nullptr, nullptr, slopes, nullptr};
  int there = static_cast<int>(least(UNIT, n - keys * UNIT));
  if (find_terms(pair, sub, from, there, UNIT, {f.hidden, f.keep, nullptr}, &terms) == Sight::none) {
    for (int t = 0; t < TERMS; t++)
      for (bf16 *to : {p, ds, ds_pairs}) memset(to + t * a.weights_term, 0, 2 * TILE * sizeof(bf16));
    return true;
  }
  auto product = [&](const TileSide &side, float *to) {
    multiply<TERMS>({side.keys + keys * side.tiles * TILE, TILE, side.chunks * TILE, side.keys_term},
                    {side.lanes + rows * side.row_unit, 2 * TILE, TILE, side.row_term}, side.chunks, true, {to, UNIT, 16 * UNIT, 16}, f);
  };
  product(a.q, f.p);
  product(a.dout, f.ds);
  const strobe_attention &call = *pair.call;
  if (call.cap > 0 || call.slopes || call.extras) {
    weigh<2>(sub, call, from, UNIT, f.p, f.ds, terms);
  } else {
    weigh<2>(sub, call, from, UNIT, f.p, f.ds, nullptr);
  }
  cut_weights<TERMS, false>(f.p, p, nullptr, a.weights_term);
  cut_weights<TERMS, true>(f.ds, ds, ds_pairs, a.weights_term);
  return from < sub.most_lo || from + UNIT > sub.least_hi || terms.hidden;
}

template <int TERMS>
static void add_unit_rows(TileGradients &a, int count, const Units *seen, int keys) {
  int first = 0, end = count;  // bounds of rows only grow, so those that see a unit of keys are neighbours
  while (first < end && (keys < seen[first].first || keys >= seen[first].end)) first++;
  while (end > first && (keys < seen[end - 1].first || keys >= seen[end - 1].end)) end--;
  if (first == end) return;
  auto side = [&](const TileSide &s, const bf16 *weights) {
    Operand w = {weights + (keys * GROUP_UNITS<TERMS> + first) * 2 * TILE, 2 * TILE, TILE, a.weights_term};
    for (int64_t t = 0; t < s.tiles; t += 2)
      multiply<TERMS>(w, {s.pairs + first * s.row_unit + t * TILE, s.row_unit, TILE, s.row_term}, end - first, false,
                      {s.sums + (keys * 2 * s.tiles + t) * 256, 16, s.tiles * 256, 256}, *a.fixed);
  };
  side(a.dout, a.p);
  side(a.q, a.ds);
}
template <int TERMS>
static void add_unit_keys(TileGradients &a, Units seen, int rows, float *share) {
  Operand weights = {a.ds_pairs + (rows * CHUNK_UNITS + seen.first) * 2 * TILE, 2 * TILE, TILE, a.weights_term};
  for (int64_t t = 0; t < a.q.tiles; t += 2)
    multiply<TERMS>({a.across + (seen.first * a.q.tiles + t) * TILE, a.q.tiles * TILE, TILE, a.q.keys_term}, weights, seen.end - seen.first,
                    false, {share + t * 512, 16, 512, 256}, *a.fixed);
}

static void widen_row(const char *from, int dtype, int64_t width, float *to) {
  for (int64_t d = 0; d < width; d++) {
    to[d] = dtype == STROBE_BF16 ? widen_one(reinterpret_cast<const bf16 *>(from)[d]) : widen_one(reinterpret_cast<const f16 *>(from)[d]);
  }
}
// The three sums where some number is not finite and some row may not see some key: 0 · NaN must not arrive on either side.
template <int TERMS>
static void add_seen_unit(const GradientPair &pair, TileGradients &a, int64_t key0, int n, int rows, int keys, int64_t row0, float *share) {
  const GradientSub &sub = a.fixed->subs[rows];
  const strobe_attention &call = *pair.call;
  int64_t from = key0 + keys * UNIT;
  int there = static_cast<int>(least(UNIT, n - keys * UNIT));
  BlockTerms terms = {};
  if (find_terms(pair, sub, from, there, UNIT, {a.fixed->hidden, a.fixed->keep, nullptr}, &terms) == Sight::none) return;
  alignas(64) float q[MAX_WIDTH], dout[MAX_WIDTH], k[MAX_WIDTH];
  RowAt at = row_at(pair.rows, row0);
  for (int i = 0; i < sub.rows; i++, at = next_row(pair.rows, at)) {
    const char *q_at = query_at(pair.rows, at), *dout_at = row_of(pair.dout, at), *k_at, *v_at;
    widen_row(q_at, call.dtype, call.D, q);
    widen_row(dout_at, call.dtype, call.V, dout);
    for (int j = static_cast<int>(most(0, sub.lo[i] - from)); j < least(there, sub.hi[i] - from); j++) {
      if (terms.hidden && terms.hidden[j * UNIT + i]) continue;
      run_at(pair.keys, from + j, &k_at, &v_at);
      widen_row(k_at, call.dtype, call.D, k);
      float p = 0, ds = 0;
      int64_t cell = (keys * GROUP_UNITS<TERMS> + rows) * 2 * TILE + (j / 16) * TILE + (j % 16) * CHUNK + i;
      for (int t = 0; t < TERMS; t++) p += widen_one(a.p[t * a.weights_term + cell]), ds += widen_one(a.ds[t * a.weights_term + cell]);
      auto key_cell = [&](const TileSide &s, int64_t d) -> float & {
        return s.sums[((keys * 2 + j / 16) * s.tiles + d / 16) * 256 + (j % 16) * 16 + d % 16];
      };
      for (int64_t d = 0; d < call.D; d++) {
        share[(d / 16) * 512 + (i / 16) * 256 + (d % 16) * 16 + i % 16] += ds * k[d];
        key_cell(a.q, d) += ds * q[d];
      }
      for (int64_t d = 0; d < call.V; d++) key_cell(a.dout, d) += p * dout[d];
    }
  }
}

// Up to 128 rows from row0 on with the chunk of n keys at key0.
template <int TERMS>
static void take_rows(const GradientPair &pair, TileGradients &a, int64_t row0, int64_t key0, int n, bool keys_finite, float *shares) {
  int64_t unit = unit_share(*pair.call);
  Units seen[GROUP_UNITS<TERMS>] = {};
  bool any = false, finite = keys_finite, partial = false;
  for (int r = 0; r < GROUP_UNITS<TERMS>; r++) {
    if (!load_unit<TERMS>(pair, row0 + r * UNIT, key0, key0 + n, a, r)) continue;
    seen[r] = units_of(a.fixed->subs[r], key0);
    any = any || seen[r].first < seen[r].end, finite = finite && a.fixed->subs[r].finite;
  }
  if (!any) return;
  for (int r = 0; r < GROUP_UNITS<TERMS>; r++)
    for (int k = seen[r].first; k < seen[r].end; k++)
      partial = weigh_unit<TERMS>(pair, a, key0, n, r, k, shares + (r + 1) * unit - UNIT) || partial;
  if (partial && !finite) {
    for (int r = 0; r < GROUP_UNITS<TERMS>; r++)
      for (int k = seen[r].first; k < seen[r].end; k++) add_seen_unit<TERMS>(pair, a, key0, n, r, k, row0 + r * UNIT, shares + r * unit);
    return;
  }
  for (int k = 0; k * UNIT < n; k++) add_unit_rows<TERMS>(a, GROUP_UNITS<TERMS>, seen, k);
  for (int r = 0; r < GROUP_UNITS<TERMS>; r++)
    if (seen[r].first < seen[r].end) add_unit_keys<TERMS>(a, seen[r], r, shares + r * unit);
}

template <int TERMS>
static void take_keys_of(const GradientPair &pair, int64_t key0, int64_t key1, char *share, char *scratch) {
  TileScope tiles;
  const strobe_attention &call = *pair.call;
  TileGradients a = tile_gradients<TERMS>(call, scratch);
  memset(share, 0, tile_share_bytes(call, pair.rows.count));
  constexpr int64_t KEYS = CHUNK_UNITS * UNIT;
  for (int64_t chunk0 = key0; chunk0 < key1; chunk0 += KEYS) {
    int n = static_cast<int>(least(KEYS, key1 - chunk0));
    bool finite = load_chunk<TERMS>(pair, chunk0, n, a);
    for (int64_t row0 = 0; row0 < pair.rows.count; row0 += GROUP_UNITS<TERMS> * UNIT)
      take_rows<TERMS>(pair, a, row0, chunk0, n, finite, reinterpret_cast<float *>(share) + row0 / UNIT * unit_share(call));
    for (int j = 0; j < n; j++) {
      auto write = [&](const TileSide &side, char *to) {
        const float *from = side.sums + (j / 16) * side.tiles * 256 + (j % 16) * 16;
        for (int64_t t = 0; t < side.tiles; t++) store(a.fixed->row + t * 16, load(from + t * 256));
        write_row(to, call.dtype, a.fixed->row, side.width, 1.0f);
      };
      if (pair.dk) write(a.q, pair.dk + (chunk0 + j) * pair.dk_token);
      if (pair.dv) write(a.dout, pair.dv + (chunk0 + j) * pair.dv_token);
    }
  }
}
static void take_keys_on_tiles(const GradientPair &pair, int64_t key0, int64_t key1, char *share, char *scratch) {
  if (pair.call->dtype == STROBE_BF16) return take_keys_of<1>(pair, key0, key1, share, scratch);
  take_keys_of<2>(pair, key0, key1, share, scratch);
}

// dQ of rows row0 … row1 - 1, shares added in the order of their keys.
static void sum_tile_shares(const GradientPair &pair, const char *const *shares, int count, int64_t row0, int64_t row1, char *scratch) {
  const strobe_attention &call = *pair.call;
  int64_t D = call.D, unit = unit_share(call);
  float *row = reinterpret_cast<TileFixed *>(scratch)->row;
  RowAt at = row_at(pair.rows, row0);
  for (int64_t first = row0; first < row1; first += 16) {
    auto summed = [&](int64_t cell) {
      vec total = set1(0);
      for (int s = 0; s < count; s++) total = add(total, load(reinterpret_cast<const float *>(shares[s]) + first / UNIT * unit + cell));
      return total;
    };
    int64_t half = first % UNIT / 16;
    for (int64_t t = 0; t * 16 < D; t++) {
      vec r[16];
      for (int i = 0; i < 16; i++) r[i] = summed(t * 512 + half * 256 + i * 16);
      transpose(r);
      for (int i = 0; i < 16; i++) store(row + i * MAX_WIDTH + t * 16, r[i]);
    }
    alignas(64) float slope[16];
    store(slope, summed(unit - UNIT + half * 16));
    for (int i = 0; i < 16 && first + i < row1; i++, at = next_row(pair.rows, at)) {
      write_row(row_of(pair.dq, at), call.dtype, row + i * MAX_WIDTH, D, 1.0f);
      if (pair.dslope.at) memcpy(row_of(pair.dslope, at), slope + i, sizeof(float));
    }
  }
}

// Float32 would be six tile products of three terms: up to 1.3 times as fast as AVX-512, and down to 0.7 (docs/log.md). A
// bias has its gradient where the vectors are.
static bool tiles_take_gradient(const strobe_attention &call) { return call.dtype != STROBE_F32 && !(call.extras && call.extras->bias); }

static const BackwardKernel tile_backward_kernel = {
    UNIT, GRADIENT_KEYS, tiles_take_gradient, tile_gradient_bytes, tile_share_bytes, deltas, take_keys_on_tiles, sum_tile_shares, nullptr};

}  // namespace STROBE_ISA
}  // namespace strobe
