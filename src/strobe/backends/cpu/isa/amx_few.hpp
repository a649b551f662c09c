// Few rows of bfloat16 on AMX, neither keys nor values repacked: memory is the limit, so every byte is touched once.
//
// Sᵀ = K·Qᵀ takes 16 keys as they lie for its first operand, up to 16 rows fill the second. O = P·V takes 16 values as they
// lie for its *second* operand, where a dword holds two columns of one key; so the weights go in twice, as (p, 0) for the
// even columns and (0, p) for the odd ones. That is twice the multiplications, and no shuffling of V. More than 16 rows are
// sets that take each block of keys one after the other.
#pragma once

#include "../few.hpp"
#include "amx_pack.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int AMX_FEW_ROWS = 16;          // of a tile
constexpr int MOST_SETS = 4;              // of sixteen rows; for more, packing keys pays
constexpr int GROUP = 16;                 // keys of a tile
constexpr int GROUPS = FEW_KEYS / GROUP;  // of a block
constexpr int AHEAD = 96;                 // keys between what is computed and what is fetched
constexpr int LEAST_AMX_ROWS = 3;         // fewer are faster without tiles

struct AmxFewHead {
  alignas(64) bf16 q[AMX_FEW_ROWS * MAX_WIDTH];   // [chunk of D] tiles of pairs
  alignas(64) float o[AMX_FEW_ROWS * MAX_WIDTH];  // [chunk of V][even, odd columns] tiles
  alignas(64) float l[AMX_FEW_ROWS][GROUP];       // sums by the key's place in its group
  alignas(64) float m[AMX_FEW_ROWS], slope[AMX_FEW_ROWS], position[AMX_FEW_ROWS];
  alignas(64) int32_t lo[AMX_FEW_ROWS], hi[AMX_FEW_ROWS];
  int64_t most_lo, least_hi;
  int rows;
};
struct EvenRows {
  const char *at;
  int64_t step;  // bytes from a row to the next

  const bf16 *row(int64_t j) const { return reinterpret_cast<const bf16 *>(at + j * step); }
};
struct AmxFewBlock {  // of one head
  alignas(64) float s[FEW_KEYS][AMX_FEW_ROWS];
  alignas(64) uint32_t p[GROUPS][2][AMX_FEW_ROWS][GROUP];                         // the last rows of sixteen, if not there, hold anything
  alignas(64) bf16 k_copy[GROUP * MAX_WIDTH], v_copy[GROUPS][GROUP * MAX_WIDTH];  // groups that do not lie evenly
  EvenRows v[GROUPS];
  int64_t k0;
  int head, count, groups;  // keys; tiles of keys
};
struct AmxFewScratch {
  AmxFewBlock blocks[2];
  alignas(64) float row[MAX_WIDTH];
  AmxFewHead heads[MOST_HEADS * MOST_SETS];
};
static size_t amx_few_bytes(const strobe_attention &) {
  return sizeof(AmxFewScratch) > sizeof(FewScratch) ? sizeof(AmxFewScratch) : sizeof(FewScratch);
}

static bool on_tiles(const strobe_attention &call, int64_t rows) {
  bool enough = rows >= LEAST_AMX_ROWS || call.invariant;
  return call.dtype == STROBE_BF16 && call.D % CHUNK == 0 && call.V % CHUNK == 0 && enough && rows <= MOST_SETS * AMX_FEW_ROWS;
}
static bool amx_few_takes(const strobe_attention &call, int64_t rows) {
  return !shaped(call) && (on_tiles(call, rows) || (rows <= FEW_ROWS && !call.invariant));
}

// n tokens of sixteen at one distance: as they lie if they do, else copied, zeros behind the last.
static inline void even_rows(const Keys &keys, int64_t s, int n, int64_t D, int64_t V, bf16 *k_copy, bf16 *v_copy, EvenRows *k,
                             EvenRows *v) {
  const char *ks[GROUP], *vs[GROUP];
  if (run_at(keys, s, &ks[0], &vs[0]) >= GROUP && n == GROUP) {
    *k = {ks[0], keys.k_token}, *v = {vs[0], keys.v_token};
    return;
  }
  tokens_at(keys, s, n, ks, vs);
  auto copy = [&](const char *const *rows, int64_t width, bf16 *to) -> EvenRows {
    for (int j = 0; j < n; j++) memcpy(to + j * width, rows[j], static_cast<size_t>(width) * sizeof(bf16));
    memset(to + n * width, 0, static_cast<size_t>((GROUP - n) * width) * sizeof(bf16));
    return {reinterpret_cast<const char *>(to), width * static_cast<int64_t>(sizeof(bf16))};
  };
  *k = copy(ks, D, k_copy), *v = copy(vs, V, v_copy);
}

static void load_amx_few(const Piece &piece, int first_row, AmxFewHead &f) {
  const strobe_attention &call = *piece.call;
  f.rows = static_cast<int>(least(AMX_FEW_ROWS, piece.row_count - first_row));
  f.most_lo = 0, f.least_hi = INT32_MAX;
  const char *from[AMX_FEW_ROWS];
  RowAt at = row_at(*piece.rows, piece.row0 + first_row);
  for (int i = 0; i < AMX_FEW_ROWS; i++, at = i < f.rows ? next_row(*piece.rows, at) : at) {
    int64_t lo, hi;
    visible(call, *piece.rows, piece.keys->count, at.t, &lo, &hi);
    lo = clamp(lo, piece.key0, piece.key1), hi = clamp(hi, piece.key0, piece.key1);
    f.lo[i] = static_cast<int32_t>(lo), f.hi[i] = static_cast<int32_t>(hi);
    f.most_lo = most(f.most_lo, lo), f.least_hi = least(f.least_hi, hi);
    f.m[i] = MINUS_INFINITY;
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
  memset(f.l, 0, sizeof f.l);
}

// Scores of one group of keys with up to four tiles of Q resident in 4 … 7. Tiles are named by literals, so a macro.
#define STROBE_RESIDENT_STEP(sum, c, k, q)     \
  if (chunks > c) {                            \
    next.rows<CHUNKS>(share);                  \
    _tile_loadd(k, ks.at + (c) * 64, ks.step); \
    _tile_dpbf16ps(sum, k, q);                 \
  }
#define STROBE_RESIDENT_PRODUCTS(sum, s) \
  _tile_zero(sum);                       \
  STROBE_RESIDENT_STEP(sum, 0, 2, 4)     \
  STROBE_RESIDENT_STEP(sum, 1, 3, 5)     \
  STROBE_RESIDENT_STEP(sum, 2, 2, 6)     \
  STROBE_RESIDENT_STEP(sum, 3, 3, 7)     \
  _tile_stored(sum, s, 64);

static inline void load_resident_queries(const bf16 *q, int chunks) {
  _tile_loadd(4, q, 64);
  if (chunks > 1) _tile_loadd(5, q + TILE, 64);
  if (chunks > 2) _tile_loadd(6, q + 2 * TILE, 64);
  if (chunks > 3) _tile_loadd(7, q + 3 * TILE, 64);
}

// CHUNKS of the width, 0 where only the call knows: a constant leaves no branches between the tiles. `step` is called after
// each group of keys.
template <int CHUNKS, class Step>
static inline __attribute__((always_inline)) void score_groups(const Piece &piece, const AmxFewHead &head, AmxFewBlock &b, Fetcher &next,
                                                               Step step) {
  const strobe_attention &call = *piece.call;
  const int chunks = CHUNKS ? CHUNKS : static_cast<int>(call.D / CHUNK);
  const bool resident = chunks <= 4;
  const int share = (GROUP + chunks - 1) / chunks;  // rows to fetch before each tile
  if (resident) load_resident_queries(head.q, chunks);
  for (int g = 0; g < b.groups; g++) {
    int j0 = g * GROUP, n = static_cast<int>(least(GROUP, b.count - j0));
    EvenRows ks;
    even_rows(*piece.keys, b.k0 + j0, n, call.D, call.V, b.k_copy, b.v_copy[g], &ks, &b.v[g]);
    if (resident) {  // neighbouring groups take turns with two sums, so that one does not wait for the other's store
      if (g % 2 == 0) {
        STROBE_RESIDENT_PRODUCTS(0, b.s[j0])
      } else {
        STROBE_RESIDENT_PRODUCTS(1, b.s[j0])
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      for (int c = 0; c < chunks; c += 2) {  // two sums, so that one multiplication does not wait for the other
        next.rows<CHUNKS>(2 * share);
        _tile_loadd(2, ks.at + c * 64, ks.step);
        _tile_loadd(4, head.q + c * TILE, 64);
        _tile_dpbf16ps(0, 2, 4);
        if (c + 1 == chunks) break;
        _tile_loadd(3, ks.at + c * 64 + 64, ks.step);
        _tile_loadd(5, head.q + c * TILE + TILE, 64);
        _tile_dpbf16ps(1, 3, 5);
      }
      alignas(64) float odd[GROUP][AMX_FEW_ROWS];
      _tile_stored(0, b.s[j0], 64);
      _tile_stored(1, odd, 64);
      for (int j = 0; j < GROUP; j++) store(b.s[j0 + j], add(load(b.s[j0 + j]), load(odd[j])));
    }
    step();
  }
}
#undef STROBE_RESIDENT_PRODUCTS
#undef STROBE_RESIDENT_STEP

// Four neighbouring columns of a tile of scores [16 keys][16 rows], each as one vector. Masked loads set the keys' quarters
// side by side, which spares half of the shuffles of a whole transposition, and all of the rows that are not there.
static inline void four_rows(const float *s, vec *rows) {
  auto quarter = [&](int j) {  // keys j, j + 4, j + 8, j + 12
    vec x = _mm512_castps128_ps512(_mm_load_ps(s + j * AMX_FEW_ROWS));
    x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_load_ps(s + (j + 4) * AMX_FEW_ROWS));
    x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_load_ps(s + (j + 8) * AMX_FEW_ROWS));
    return _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_load_ps(s + (j + 12) * AMX_FEW_ROWS));
  };
  vec a = quarter(0), b = quarter(1), c = quarter(2), d = quarter(3);
  __m512d ab0 = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab1 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  __m512d cd0 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd1 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  rows[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
  rows[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
  rows[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
  rows[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
}

// Cap, slopes and mask, then the greatest scores. Where these grew much, what the head gathered must be rescaled.
static inline bool find_greatest(const Scoring &how, const AmxFewHead &head, AmxFewBlock &b, vec *now) {
  int keys = b.groups * GROUP;
  bool partial = b.k0 < head.most_lo || b.k0 + keys > head.least_hi;
  if (partial || !how.folded) {
    for (int j = 0; j < keys; j++) {
      vec y = load(b.s[j]);
      if (!how.folded) y = adjust(how, y, mul(load(head.slope), abs(minus(load(head.position), set1(static_cast<float>(b.k0 + j))))));
      if (partial) y = hide(y, head.lo, head.hi, static_cast<int32_t>(b.k0 + j));
      store(b.s[j], y);
    }
  }
  vec top[4], m = load(head.m);
  for (int x = 0; x < 4; x++) top[x] = load(b.s[x]);
  for (int j = 4; j < keys; j += 4)
    for (int x = 0; x < 4; x++) top[x] = max(top[x], load(b.s[j + x]));
  constexpr float LAZY_FEW = 8;  // a row is rescaled only when its greatest score grew by more than 2^8
  vec most_yet = mul(max(max(top[0], top[1]), max(top[2], top[3])), set1(how.exponent())), enough = add(m, set1(LAZY_FEW));
  *now = select_less(enough, most_yet, most_yet, m);
  return any_greater(most_yet, enough);
}

static void rescale(int64_t V, AmxFewHead &head, vec now) {
  alignas(64) float by[AMX_FEW_ROWS];
  store(by, exp2_exact(minus(load(head.m), zero_if_minus_infinity(now))));
  store(head.m, now);
  for (int r = 0; r < head.rows; r++) {
    store(head.l[r], mul(load(head.l[r]), set1(by[r])));
    for (int64_t t = 0; t < V / 16; t++) store(head.o + t * 256 + r * 16, mul(load(head.o + t * 256 + r * 16), set1(by[r])));
  }
}

// Scores to weights, in units of sixteen keys and four rows, so that they can be spread between tile products.
class Weights {
 public:
  Weights(const Scoring &how, AmxFewHead &head, AmxFewBlock &b)
      : head_(head), block_(b), factor_(set1(how.exponent())), quads_((head.rows + 3) / 4), units_(quads_ * b.groups) {
    store(base_, zero_if_minus_infinity(load(head.m)));
  }
  // Step `i` of `steps`.
  inline __attribute__((always_inline)) void step(int i, int steps) {
    for (int due = units_ * i / steps; done_ < due; done_++) unit(done_ / quads_, done_ % quads_ * 4);
  }

 private:
  inline __attribute__((always_inline)) void unit(int g, int r0) {
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    vec w[4];
    four_rows(block_.s[g * GROUP] + r0, w);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      w[i] = exp2_quick(fms(w[i], factor_, set1(base_[r0 + i])));
      store(head_.l[r0 + i], add(load(head_.l[r0 + i]), w[i]));
      __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(w[i]), half);
      _mm512_store_si512(block_.p[g][0][r0 + i], _mm512_srli_epi32(rounded, 16));
      _mm512_store_si512(block_.p[g][1][r0 + i], _mm512_and_si512(rounded, upper));
    }
  }

  AmxFewHead &head_;
  AmxFewBlock &block_;
  alignas(64) float base_[AMX_FEW_ROWS];
  vec factor_;
  int quads_, units_, done_ = 0;
};

template <int CHUNKS, class Step>
static inline __attribute__((always_inline)) void gather_groups(const Piece &piece, AmxFewHead &head, const AmxFewBlock &b, Fetcher &next,
                                                                Step step) {
  const int chunks = CHUNKS ? CHUNKS : static_cast<int>(piece.call->V / CHUNK);
  const int share = (GROUP + chunks - 1) / chunks;  // rows to fetch before each tile
  for (int c = 0; c < chunks; c += 2) {
    float *o = head.o + c * TILE;
    bool two = c + 1 < chunks;
    _tile_loadd(0, o, 64);
    _tile_loadd(1, o + 256, 64);
    if (two) {
      _tile_loadd(2, o + 512, 64);
      _tile_loadd(3, o + 768, 64);
    }
    for (int g = 0; g < b.groups; g++) {
      _tile_loadd(4, b.p[g][0], 64);
      _tile_loadd(5, b.p[g][1], 64);
      next.rows<CHUNKS>(share);
      _tile_loadd(6, b.v[g].at + c * 64, b.v[g].step);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if (two) {
        next.rows<CHUNKS>(share);
        _tile_loadd(7, b.v[g].at + c * 64 + 64, b.v[g].step);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      step();
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
static void gather_seen_groups(const Piece &piece, AmxFewHead &head, const AmxFewBlock &b) {
  for (int r = 0; r < head.rows; r++) {
    for (int64_t d = 0; d < piece.call->V; d++) {
      float *o = head.o + (d / CHUNK) * TILE + (d % 2) * 256 + r * 16 + (d % CHUNK) / 2;
      for (int64_t j = most(0, head.lo[r] - b.k0); j < least(b.count, head.hi[r] - b.k0); j++)
        *o += from_bits(b.p[j / GROUP][1][r][j % GROUP]) * widen_one(b.v[j / GROUP].row(j % GROUP)[d]);
    }
  }
}

static bool finite_values(const AmxFewBlock &b, int64_t V) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 ones = 0;
  for (int j = 0; j < b.count; j++)
    for (int64_t c = 0; c < V; c += CHUNK)
      ones |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(b.v[j / GROUP].row(j % GROUP) + c), exponent), exponent);
  return ones == 0;
}

static void finish_amx_few(const Piece &piece, int first_row, const AmxFewHead &head, float *row) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  RowAt at = row_at(*piece.rows, piece.row0 + first_row);
  for (int r = 0; r < head.rows; r++, at = next_row(*piece.rows, at)) {
    for (int64_t c = 0; c < piece.call->V / CHUNK; c++) {
      vec even = load(head.o + c * TILE + r * 16), odd = load(head.o + c * TILE + 256 + r * 16);
      store(row + c * CHUNK, _mm512_permutex2var_ps(even, low, odd));
      store(row + c * CHUNK + 16, _mm512_permutex2var_ps(even, high, odd));
    }
    finish_row(piece, first_row + r, at, head.m[r], sum(load(head.l[r])), row);
  }
}

// A head's block goes through three stages: scores, weights, gathering. Three blocks are under way at once, one in each, so
// that the tile unit, the vector unit and memory all have work; what is fetched is spread over all of it. Sets of rows are
// heads with the same keys, which only the first fetches.
template <int CHUNKS>
static void attend_amx_few_of(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  TileScope tiles;
  AmxFewScratch &f = *reinterpret_cast<AmxFewScratch *>(pieces[0].scratch);
  Scoring how = scoring(call);
  Fetchers next = fetchers(pieces, heads, heads == 1 ? AHEAD : FEW_KEYS), nothing_more;
  const int sets = (pieces[0].row_count + AMX_FEW_ROWS - 1) / AMX_FEW_ROWS, all = heads * sets;
  for (int i = 0; i < all; i++) load_amx_few(pieces[i / sets], i % sets * AMX_FEW_ROWS, f.heads[i]);
  int64_t key0 = pieces[0].key0, items = (pieces[0].key1 - key0 + FEW_KEYS - 1) / FEW_KEYS * all;
  auto piece = [&](const AmxFewBlock &b) -> const Piece & { return pieces[b.head / sets]; };
  auto fetch = [&](const AmxFewBlock &b) -> Fetchers & { return b.head % sets == 0 ? next : nothing_more; };
  auto begin = [&](AmxFewBlock &b, int64_t item) {
    b.head = static_cast<int>(item % all), b.k0 = key0 + item / all * FEW_KEYS;
    b.count = static_cast<int>(least(FEW_KEYS, piece(b).key1 - b.k0)), b.groups = (b.count + GROUP - 1) / GROUP;
  };
  auto nothing = [] {};
  auto gather = [&](const AmxFewBlock &b, auto step) __attribute__((always_inline)) {
    AmxFewHead &head = f.heads[b.head];
    bool differ = b.k0 < head.most_lo || b.k0 + b.count > head.least_hi;
    if (differ && !finite_values(b, call.V)) {
      gather_seen_groups(piece(b), head, b);
    } else {
      gather_groups<CHUNKS>(piece(b), head, b, fetch(b).v, step);
    }
  };
  auto score = [&](AmxFewBlock &b, auto step)
                   __attribute__((always_inline)) { score_groups<CHUNKS>(piece(b), f.heads[b.head], b, fetch(b).k, step); };
  if (items > 0) begin(f.blocks[0], 0), score(f.blocks[0], nothing);
  for (int64_t item = 0; item < items; item++) {
    AmxFewBlock &now = f.blocks[item % 2], &other = f.blocks[(item + 1) % 2];
    AmxFewHead &head = f.heads[now.head];
    vec greatest_scores;
    bool waiting = item > 0;
    if (find_greatest(how, head, now, &greatest_scores)) {
      if (waiting) gather(other, nothing);  // by the old measure
      waiting = false;
      rescale(call.V, head, greatest_scores);
    }
    Weights weights(how, head, now);
    int steps = (waiting ? GROUPS * static_cast<int>(width_chunks(call.V) + 1) / 2 : 0) + (item + 1 < items ? GROUPS : 0), i = 0;
    auto step = [&]() __attribute__((always_inline)) { weights.step(++i, steps); };
    if (waiting) gather(other, step);
    if (item + 1 < items) begin(other, item + 1), score(other, step);
    weights.step(1, 1);
  }
  if (items > 0) gather(f.blocks[(items - 1) % 2], nothing);
  for (int i = 0; i < all; i++) finish_amx_few(pieces[i / sets], i % sets * AMX_FEW_ROWS, f.heads[i], f.row);
}

static void attend_amx_few(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  if (!on_tiles(call, pieces[0].row_count)) return attend_few(pieces, heads);
  if (call.D == 4 * CHUNK && call.V == 4 * CHUNK) return attend_amx_few_of<4>(pieces, heads);
  if (call.D == 2 * CHUNK && call.V == 2 * CHUNK) return attend_amx_few_of<2>(pieces, heads);
  attend_amx_few_of<0>(pieces, heads);
}

}  // namespace STROBE_ISA
}  // namespace strobe
