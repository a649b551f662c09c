// Few rows of bfloat16 on AMX, neither keys nor values repacked: memory is the limit, so every byte is touched once.
//
// Sᵀ = K·Qᵀ takes 16 keys as they lie for its first operand, up to 16 rows fill the second. O = P·V takes 16 values as they
// lie for its *second* operand, where a dword holds two columns of one key; so the weights go in twice, as (p, 0) for the
// even columns and (0, p) for the odd ones. That is twice the multiplications, and no shuffling of V.
#pragma once

#include "../few.hpp"
#include "amx_pack.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int AMX_FEW_ROWS = 16;
constexpr int GROUP = 16;                 // keys of a tile
constexpr int GROUPS = FEW_KEYS / GROUP;  // of a block
constexpr int AHEAD = 96;                 // keys between what is computed and what is fetched
constexpr int LEAST_AMX_ROWS = 2;         // one row is as fast without tiles

struct AmxFewHead {
  alignas(64) bf16 q[AMX_FEW_ROWS * MAX_WIDTH];   // [chunk of D] tiles of pairs
  alignas(64) float o[AMX_FEW_ROWS * MAX_WIDTH];  // [chunk of V][even, odd columns] tiles
  alignas(64) float m[AMX_FEW_ROWS], l[AMX_FEW_ROWS], slope[AMX_FEW_ROWS], position[AMX_FEW_ROWS];
  alignas(64) int32_t lo[AMX_FEW_ROWS], hi[AMX_FEW_ROWS];
  int64_t most_lo, least_hi;
  int rows;
};
struct AmxFewScratch {
  alignas(64) float s[FEW_KEYS][AMX_FEW_ROWS];
  alignas(64) uint32_t p[GROUPS][2][AMX_FEW_ROWS][GROUP];
  alignas(64) bf16 k[GROUP * MAX_WIDTH], v[GROUPS][GROUP * MAX_WIDTH];  // groups that do not lie evenly
  alignas(64) float row[MAX_WIDTH];
  const char *ks[FEW_KEYS], *vs[FEW_KEYS], *next_k[FEW_KEYS], *next_v[FEW_KEYS];
  AmxFewHead heads[MOST_HEADS];
};
static size_t amx_few_bytes(const strobe_attention &) {
  return sizeof(AmxFewScratch) > sizeof(FewScratch) ? sizeof(AmxFewScratch) : sizeof(FewScratch);
}

static bool on_tiles(const strobe_attention &call, int64_t rows) {
  return call.dtype == STROBE_BF16 && call.D % CHUNK == 0 && call.V % CHUNK == 0 && rows >= LEAST_AMX_ROWS && rows <= AMX_FEW_ROWS;
}
static bool amx_few_takes(const strobe_attention &call, int64_t rows) { return rows <= FEW_ROWS || on_tiles(call, rows); }

struct EvenRows {
  const char *at;
  int64_t step;  // bytes from a row to the next
};
// Sixteen rows at one distance: as they lie if they do, else copied, zeros behind the last.
static inline EvenRows even_rows(const char *const *rows, int n, bool even, int64_t step, int64_t width, bf16 *copy) {
  if (even) return {rows[0], step};
  for (int j = 0; j < GROUP; j++) {
    if (j < n) {
      memcpy(copy + j * width, rows[j], static_cast<size_t>(width) * sizeof(bf16));
    } else {
      memset(copy + j * width, 0, static_cast<size_t>(width) * sizeof(bf16));
    }
  }
  return {reinterpret_cast<const char *>(copy), width * static_cast<int64_t>(sizeof(bf16))};
}

static void load_amx_few(const Piece &piece, AmxFewHead &f) {
  const strobe_attention &call = *piece.call;
  f.rows = piece.row_count;
  f.most_lo = 0, f.least_hi = INT32_MAX;
  const char *from[AMX_FEW_ROWS];
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int i = 0; i < AMX_FEW_ROWS; i++, at = i < f.rows ? next_row(*piece.rows, at) : at) {
    int64_t lo, hi;
    visible(call, *piece.rows, piece.keys->count, at.t, &lo, &hi);
    lo = clamp(lo, piece.key0, piece.key1), hi = clamp(hi, piece.key0, piece.key1);
    f.lo[i] = static_cast<int32_t>(lo), f.hi[i] = static_cast<int32_t>(hi);
    f.most_lo = most(f.most_lo, lo), f.least_hi = least(f.least_hi, hi);
    f.m[i] = MINUS_INFINITY, f.l[i] = 0;
    f.position[i] = static_cast<float>(piece.rows->first + at.t);
    f.slope[i] = piece.rows->slopes ? piece.rows->slopes[piece.rows->head + at.h] * LOG2_E : 0;
    from[i] = query_at(*piece.rows, at);
  }
  for (int64_t c = 0; c * CHUNK < call.D; c++) {
    __m512i pairs[16];
    for (int i = 0; i < 16; i++) pairs[i] = _mm512_loadu_si512(from[i] + c * 64);
    transpose(pairs);
    for (int i = 0; i < 16; i++) _mm512_store_si512(f.q + c * TILE + i * CHUNK, pairs[i]);
  }
  memset(f.o, 0, static_cast<size_t>(AMX_FEW_ROWS * call.V) * sizeof(float));
}

static inline void fetch_rows(const char *const *rows, int from, int to, int count, int64_t bytes) {
  for (int j = from; j < to && j < count; j++) fetch_row(rows[j], bytes);
}

struct AmxFewBlock {
  int64_t k0;
  int count, groups, ahead;  // keys; tiles of keys; keys to fetch
  EvenRows v[GROUPS];
};

// Scores of one group of keys with up to four tiles of Q resident in 4 … 7. Tiles are named by literals, so a macro.
#define STROBE_RESIDENT_PRODUCTS(sum, ks, chunks, s) \
  _tile_zero(sum);                                   \
  _tile_loadd(2, ks.at, ks.step);                    \
  _tile_dpbf16ps(sum, 2, 4);                         \
  if (chunks > 1) {                                  \
    _tile_loadd(3, ks.at + 64, ks.step);             \
    _tile_dpbf16ps(sum, 3, 5);                       \
  }                                                  \
  if (chunks > 2) {                                  \
    _tile_loadd(2, ks.at + 128, ks.step);            \
    _tile_dpbf16ps(sum, 2, 6);                       \
  }                                                  \
  if (chunks > 3) {                                  \
    _tile_loadd(3, ks.at + 192, ks.step);            \
    _tile_dpbf16ps(sum, 3, 7);                       \
  }                                                  \
  _tile_stored(sum, s, 64);

static inline void load_resident_queries(const bf16 *q, int chunks) {
  _tile_loadd(4, q, 64);
  if (chunks > 1) _tile_loadd(5, q + TILE, 64);
  if (chunks > 2) _tile_loadd(6, q + 2 * TILE, 64);
  if (chunks > 3) _tile_loadd(7, q + 3 * TILE, 64);
}

static void score_groups(const Piece &piece, AmxFewScratch &f, const AmxFewHead &head, AmxFewBlock &b) {
  const strobe_attention &call = *piece.call;
  int chunks = static_cast<int>(call.D / CHUNK);
  bool resident = chunks <= 4;
  if (resident) load_resident_queries(head.q, chunks);
  for (int g = 0; g < b.groups; g++) {
    int j0 = g * GROUP, n = static_cast<int>(least(GROUP, b.count - j0));
    const char *k, *v;
    bool even = n == GROUP && run_at(*piece.keys, b.k0 + j0, &k, &v) >= GROUP;
    EvenRows ks = even_rows(f.ks + j0, n, even, piece.keys->k_token, call.D, f.k);
    b.v[g] = even_rows(f.vs + j0, n, even, piece.keys->v_token, call.V, f.v[g]);
    fetch_rows(f.next_k, j0, j0 + GROUP / 2, b.ahead, call.D * 2);
    if (resident) {  // neighbouring groups take turns with two sums, so that one does not wait for the other's store
      if (g % 2 == 0) {
        STROBE_RESIDENT_PRODUCTS(0, ks, chunks, f.s[j0])
      } else {
        STROBE_RESIDENT_PRODUCTS(1, ks, chunks, f.s[j0])
      }
      continue;
    }
    _tile_zero(0);
    _tile_zero(1);
    for (int c = 0; c < chunks; c += 2) {  // two sums, so that one multiplication does not wait for the other
      _tile_loadd(2, ks.at + c * 64, ks.step);
      _tile_loadd(4, head.q + c * TILE, 64);
      _tile_dpbf16ps(0, 2, 4);
      if (c + 1 == chunks) break;
      _tile_loadd(3, ks.at + c * 64 + 64, ks.step);
      _tile_loadd(5, head.q + c * TILE + TILE, 64);
      _tile_dpbf16ps(1, 3, 5);
    }
    alignas(64) float odd[GROUP][AMX_FEW_ROWS];
    _tile_stored(0, f.s[j0], 64);
    _tile_stored(1, odd, 64);
    for (int j = 0; j < GROUP; j++) store(f.s[j0 + j], add(load(f.s[j0 + j]), load(odd[j])));
  }
}
#undef STROBE_RESIDENT_PRODUCTS

static void weigh_groups(const Piece &piece, const Scoring &how, AmxFewScratch &f, AmxFewHead &head, const AmxFewBlock &b) {
  int keys = b.groups * GROUP;
  bool partial = b.k0 < head.most_lo || b.k0 + keys > head.least_hi;
  if (partial || !how.folded) {
    for (int j = 0; j < keys; j++) {
      vec y = load(f.s[j]);
      if (!how.folded) y = adjust(how, y, mul(load(head.slope), abs(minus(load(head.position), set1(static_cast<float>(b.k0 + j))))));
      if (partial) y = hide(y, head.lo, head.hi, static_cast<int32_t>(b.k0 + j));
      store(f.s[j], y);
    }
  }
  vec top0 = set1(MINUS_INFINITY), top1 = top0, factor = set1(how.exponent()), m = load(head.m), l = load(head.l);
  for (int j = 0; j < keys; j += 2) top0 = max(top0, load(f.s[j])), top1 = max(top1, load(f.s[j + 1]));
  vec now = max(m, mul(max(top0, top1), factor));
  constexpr float LAZY_FEW = 8;  // rescaled only when the greatest score grew by more than 2^8
  if (any_greater(now, add(m, set1(LAZY_FEW)))) {
    vec by = exp2_exact(minus(m, zero_if_minus_infinity(now)));
    l = mul(l, by), m = now;
    alignas(64) float each[AMX_FEW_ROWS];
    store(each, by);
    for (int64_t t = 0; t < piece.call->V / 16; t++)
      for (int r = 0; r < head.rows; r++) store(head.o + t * 256 + r * 16, mul(load(head.o + t * 256 + r * 16), set1(each[r])));
  }
  vec base = zero_if_minus_infinity(m), sum0 = set1(0), sum1 = sum0;
  for (int g = 0; g < b.groups; g++) {
    __m512i w[GROUP];
    for (int j = 0; j < GROUP; j += 2) {
      const float *s = f.s[g * GROUP + j];
      vec x = exp2_quick(fms(load(s), factor, base)), y = exp2_quick(fms(load(s + AMX_FEW_ROWS), factor, base));
      fetch_rows(f.next_k, g * GROUP + (GROUP + j) / 2, g * GROUP + (GROUP + j) / 2 + 1, b.ahead, piece.call->D * 2);
      sum0 = add(sum0, x), sum1 = add(sum1, y);
      w[j] = _mm512_castps_si512(x), w[j + 1] = _mm512_castps_si512(y);
    }
    transpose(w);
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    for (int r = 0; r < GROUP; r++) {
      __m512i rounded = _mm512_add_epi32(w[r], half);
      _mm512_store_si512(f.p[g][0][r], _mm512_srli_epi32(rounded, 16));
      _mm512_store_si512(f.p[g][1][r], _mm512_and_si512(rounded, upper));
    }
  }
  store(head.m, m);
  store(head.l, add(l, add(sum0, sum1)));
}

static void gather_groups(const Piece &piece, const AmxFewScratch &f, AmxFewHead &head, const AmxFewBlock &b) {
  int chunks = static_cast<int>(piece.call->V / CHUNK), steps = (chunks + 1) / 2 * b.groups, step = 0;
  int share = (FEW_KEYS + steps - 1) / steps;  // rows to fetch a step
  for (int c = 0; c < chunks; c += 2) {
    float *o = head.o + c * TILE;
    bool two = c + 1 < chunks;
    _tile_loadd(0, o, 64);
    _tile_loadd(1, o + 256, 64);
    if (two) {
      _tile_loadd(2, o + 512, 64);
      _tile_loadd(3, o + 768, 64);
    }
    for (int g = 0; g < b.groups; g++, step++) {
      _tile_loadd(4, f.p[g][0], 64);
      _tile_loadd(5, f.p[g][1], 64);
      fetch_rows(f.next_v, step * share, (step + 1) * share, b.ahead, piece.call->V * 2);
      _tile_loadd(6, b.v[g].at + c * 64, b.v[g].step);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if (two) {
        _tile_loadd(7, b.v[g].at + c * 64 + 64, b.v[g].step);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, o, 64);
    _tile_stored(1, o + 256, 64);
    if (two) {
      _tile_stored(2, o + 512, 64);
      _tile_stored(3, o + 768, 64);
    }
  }
}

// The same where some value is not finite and some row may not see it: 0 · NaN must not reach that row.
static void gather_seen_groups(const Piece &piece, const AmxFewScratch &f, AmxFewHead &head, const AmxFewBlock &b) {
  for (int r = 0; r < head.rows; r++) {
    for (int64_t d = 0; d < piece.call->V; d++) {
      float *o = head.o + (d / CHUNK) * TILE + (d % 2) * 256 + r * 16 + (d % CHUNK) / 2;
      for (int64_t j = most(0, head.lo[r] - b.k0); j < least(b.count, head.hi[r] - b.k0); j++)
        *o += from_bits(f.p[j / GROUP][1][r][j % GROUP]) * widen_one(reinterpret_cast<const bf16 *>(f.vs[j])[d]);
    }
  }
}

static bool finite_values(const char *const *rows, int n, int64_t V) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 ones = 0;
  for (int j = 0; j < n; j++)
    for (int64_t c = 0; c < V; c += CHUNK)
      ones |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(rows[j] + c * 2), exponent), exponent);
  return ones == 0;
}

static void finish_amx_few(const Piece &piece, const AmxFewHead &head, float *row) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int r = 0; r < head.rows; r++, at = next_row(*piece.rows, at)) {
    for (int64_t c = 0; c < piece.call->V / CHUNK; c++) {
      vec even = load(head.o + c * TILE + r * 16), odd = load(head.o + c * TILE + 256 + r * 16);
      store(row + c * CHUNK, _mm512_permutex2var_ps(even, low, odd));
      store(row + c * CHUNK + 16, _mm512_permutex2var_ps(even, high, odd));
    }
    finish_row(piece, r, at, head.m[r], head.l[r], row);
  }
}

static void attend_amx_few(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  if (!on_tiles(call, pieces[0].row_count)) return attend_few(pieces, heads);
  TileScope tiles;
  AmxFewScratch &f = *reinterpret_cast<AmxFewScratch *>(pieces[0].scratch);
  Scoring how = scoring(call);
  for (int h = 0; h < heads; h++) load_amx_few(pieces[h], f.heads[h]);
  for (int64_t k0 = pieces[0].key0; k0 < pieces[0].key1; k0 += FEW_KEYS) {
    for (int h = 0; h < heads; h++) {
      const Piece &piece = pieces[h];
      AmxFewHead &head = f.heads[h];
      AmxFewBlock b;
      b.k0 = k0, b.count = static_cast<int>(least(FEW_KEYS, piece.key1 - k0)), b.groups = (b.count + GROUP - 1) / GROUP;
      b.ahead = rows_ahead(pieces, heads, h, k0, heads == 1 ? AHEAD : FEW_KEYS, f.next_k, f.next_v);
      tokens_at(*piece.keys, k0, b.count, f.ks, f.vs);
      score_groups(piece, f, head, b);
      weigh_groups(piece, how, f, head, b);
      bool differ = k0 < head.most_lo || k0 + b.count > head.least_hi;
      if (differ && !finite_values(f.vs, b.count, call.V)) {
        gather_seen_groups(piece, f, head, b);
      } else {
        gather_groups(piece, f, head, b);
      }
    }
  }
  for (int h = 0; h < heads; h++) finish_amx_few(pieces[h], f.heads[h], f.row);
}

}  // namespace STROBE_ISA
}  // namespace strobe
