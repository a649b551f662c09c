// Few rows over keys and values in int8 on AMX's integer tiles: nothing is widened, so memory is the only cost.
//
// A row of queries, or of weights, is cut into two digits, x = unit · (256 · high + low), where the greatest x is 32512 units:
// sixteen bits below a row's greatest number, of which bfloat16 has eight and float16 eleven. Digits times int8 are summed
// exactly. The digits of eight rows fill a tile: the high ones first, the low ones behind them.
//
// Sᵀ = K·Qᵀ takes 16 keys as they lie for its first operand. O = P·V needs the four neighbours of a dword to be four keys of
// one column, so 64 keys' values are interleaved, four rows at a time.
#pragma once

#include "../few.hpp"
#include "amx_pack.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int INT8_CHUNK = 64;              // numbers of a tile's row
constexpr int INT8_TILE = 16 * INT8_CHUNK;  // bytes
constexpr int CHUNKS_OF_WIDTH = MAX_WIDTH / INT8_CHUNK;
constexpr int KEY_GROUP = 16;  // keys of a tile of scores

struct Int8Head {
  alignas(64) int8_t q[16 * MAX_WIDTH];  // chunks of the width: [16 dwords][16 digits of rows][4]
  float unit[FEW_ROWS];
};
struct Int8Scratch {
  FewScratch few;
  alignas(64) int8_t k[KEY_GROUP * MAX_WIDTH];           // keys that do not lie evenly
  alignas(64) int8_t p[INT8_TILE];                       // [16 digits of rows][64 keys]
  alignas(64) int8_t v[CHUNKS_OF_WIDTH][4 * INT8_TILE];  // of 64 columns: four tiles [16][16 columns][4 keys]
  alignas(64) int32_t scores[FEW_KEYS / KEY_GROUP][16 * 16], sums[4 * CHUNKS_OF_WIDTH][16 * 16];
  Int8Head heads[MOST_HEADS];
};

static bool int8_takes(const strobe_attention &call, int64_t rows) {
  return !shaped(call) && !call.invariant && rows <= FEW_ROWS && (call.keys_dtype == STROBE_I8 || call.keys_dtype == STROBE_I4) &&
         call.dtype != STROBE_F32 && call.D % INT8_CHUNK == 0 && call.V % INT8_CHUNK == 0;
}

// n numbers, a multiple of 16, as digits; those outside [from, to) count nothing, whatever they are. Returns the unit.
static inline float digits(const float *x, int n, int64_t from, int64_t to, int8_t *high, int8_t *low) {
  constexpr float GREATEST = 127 * 256, LEAST = 1e-34f;  // a row below LEAST is zero: its inverse would be none
  constexpr uint32_t INFINITE = 0x7f800000;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  auto inside = [&](int j) {
    __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(j));
    return _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(from))) &
           _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(to)));
  };
  __m512i top = _mm512_setzero_si512();  // as bits, of which those of NaN are greatest
  for (int j = 0; j < n; j += W) top = _mm512_max_epu32(top, _mm512_maskz_mov_epi32(inside(j), _mm512_castps_si512(abs(load(x + j)))));
  uint32_t bits = _mm512_reduce_max_epu32(top);
  float greatest = from_bits(bits);
  bool none = greatest < LEAST;
  vec by = set1(none || bits >= INFINITE ? 0 : GREATEST / greatest);
  for (int j = 0; j < n; j += W) {
    __m512i whole = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(inside(j), load(x + j), by));
    __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(high + j), _mm512_cvtepi32_epi8(upper));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(low + j), _mm512_cvtepi32_epi8(_mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 8))));
  }
  return none ? 0 : bits >= INFINITE ? __builtin_nanf("") : greatest / GREATEST;
}

// Pairs of int4 in another order: the even numbers, then the odd ones. Queries and results follow it.
static inline void evens_then_odds(const char *pairs, int64_t width, int8_t *to) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i numbers = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  for (int64_t i = 0; i < width / 2; i += 64) {
    __mmask64 here = width / 2 - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (width / 2 - i)) - 1;
    __m512i x = _mm512_maskz_loadu_epi8(here, pairs + i);
    _mm512_mask_storeu_epi8(to + i, here, _mm512_shuffle_epi8(numbers, _mm512_and_si512(x, low)));
    x = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
    _mm512_mask_storeu_epi8(to + width / 2 + i, here, _mm512_shuffle_epi8(numbers, x));
  }
}
// Where number d of a row stands.
static inline int64_t place(const strobe_attention &call, int64_t d, int64_t width) {
  return call.keys_dtype == STROBE_I4 ? d % 2 * (width / 2) + d / 2 : d;
}

static void load_digits(const Piece &piece, const FewHead &head, Int8Head &to) {
  const int D = static_cast<int>(piece.call->D);
  alignas(64) int8_t rows[2 * FEW_ROWS][MAX_WIDTH] = {};
  for (int r = 0; r < head.rows; r++) {
    alignas(64) float q[MAX_WIDTH];
    for (int d = 0; d < D; d++) q[place(*piece.call, d, D)] = head.q[r * MAX_WIDTH + d];
    to.unit[r] = digits(q, D, 0, D, rows[r], rows[FEW_ROWS + r]);
  }
  for (int d = 0; d < D; d += INT8_CHUNK) {
    __m512i dwords[16];
    for (int i = 0; i < 16; i++) dwords[i] = _mm512_loadu_si512(rows[i] + d);
    transpose(dwords);
    for (int i = 0; i < 16; i++) _mm512_store_si512(to.q + d * 16 + i * INT8_CHUNK, dwords[i]);
  }
}

static inline vec whole_of(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

// Where a block lies; int4 is unpacked.
static inline void find_rows(const Piece &piece, Int8Scratch &f, const FewBlock &b) {
  const strobe_attention &call = *piece.call;
  tokens_at(*piece.keys, b.k0, b.count, f.few.k, f.few.v);
  if (call.keys_dtype != STROBE_I4) return;
  for (int j = 0; j < b.count; j++) {
    int8_t *k = f.few.k_wide + j * call.D, *v = f.few.v_wide + j * call.V;
    evens_then_odds(f.few.k[j], call.D, k), evens_then_odds(f.few.v[j], call.V, v);
    f.few.k[j] = reinterpret_cast<const char *>(k), f.few.v[j] = reinterpret_cast<const char *>(v);
  }
}

template <int WIDTH, int LINES>
static inline void multiply_keys(const Piece &piece, Int8Scratch &f, const Int8Head &own, const FewBlock &b, Fetcher &next) {
  const int D = WIDTH ? WIDTH : static_cast<int>(piece.call->D);
  const bool unpacked = piece.call->keys_dtype == STROBE_I4;  // rows lie evenly then, behind the last whatever was there
  for (int j0 = 0; j0 < b.count; j0 += KEY_GROUP) {
    const char *k = f.few.k[j0], *v;
    int64_t step = unpacked ? D : piece.keys->k_token;
    if (!unpacked && (b.count - j0 < KEY_GROUP || run_at(*piece.keys, b.k0 + j0, &k, &v) < KEY_GROUP)) {
      for (int j = 0; j < KEY_GROUP; j++) memcpy(f.k + j * D, f.few.k[least(j0 + j, b.count - 1)], static_cast<size_t>(D));
      k = reinterpret_cast<const char *>(f.k), step = D;
    }
    _tile_zero(0);
    for (int d = 0; d < D; d += INT8_CHUNK) {
      next.rows<LINES>(WIDTH ? KEY_GROUP * INT8_CHUNK / WIDTH : d ? 0 : KEY_GROUP);
      _tile_loadd(2, k + d, step);
      _tile_loadd(4, own.q + d * 16, INT8_CHUNK);
      _tile_dpbssd(0, 2, 4);
    }
    _tile_stored(0, f.scores[j0 / KEY_GROUP], 64);
  }
}

static inline void read_scores(Int8Scratch &f, const FewHead &head, const Int8Head &own, const FewBlock &b) {
  for (int j0 = 0; j0 < b.count; j0 += KEY_GROUP) {
    vec s[16];
    for (int j = 0; j < KEY_GROUP; j++) s[j] = whole_of(f.scores[j0 / KEY_GROUP] + j * 16);
    transpose(s);
    for (int r = 0; r < head.rows; r++) store(f.few.s + r * FEW_KEYS + j0, mul(set1(own.unit[r]), fma(s[r], set1(256), s[FEW_ROWS + r])));
  }
}

// Values of 64 keys and 64 columns as four tiles; dword 4 L + e of a row of tile u is column 16 L + 4 u + e.
template <int WIDTH, int LINES>
static inline void interleave(const char *const *v, int64_t d, int8_t *to, Fetcher *next) {
  for (int i = 0; i < 16; i++, v += 4, to += INT8_CHUNK) {
    if (next) next->rows<LINES>(4);
    __m512i a = _mm512_loadu_si512(v[0] + d), b = _mm512_loadu_si512(v[1] + d);
    __m512i c = _mm512_loadu_si512(v[2] + d), e = _mm512_loadu_si512(v[3] + d);
    __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
    __m512i ce0 = _mm512_unpacklo_epi8(c, e), ce1 = _mm512_unpackhi_epi8(c, e);
    _mm512_store_si512(to, _mm512_unpacklo_epi16(ab0, ce0));
    _mm512_store_si512(to + INT8_TILE, _mm512_unpackhi_epi16(ab0, ce0));
    _mm512_store_si512(to + 2 * INT8_TILE, _mm512_unpacklo_epi16(ab1, ce1));
    _mm512_store_si512(to + 3 * INT8_TILE, _mm512_unpackhi_epi16(ab1, ce1));
  }
}

// All of a block's values.
template <int WIDTH, int LINES>
static inline void interleave_values(const Piece &piece, Int8Scratch &f, const FewBlock &b, Fetcher &next) {
  const int64_t V = WIDTH ? WIDTH : piece.call->V;
  for (int j = b.count; j < FEW_KEYS; j++) f.few.v[j] = f.few.v[b.count - 1];
  for (int64_t d = 0; d < V; d += INT8_CHUNK) interleave<WIDTH, LINES>(f.few.v, d, f.v[d / INT8_CHUNK], d ? nullptr : &next);
}

static inline void read_weights(Int8Scratch &f, FewHead &head, const FewBlock &b, float *unit) {
  for (int r = 0; r < head.rows; r++)
    unit[r] =
        digits(f.few.s + r * FEW_KEYS, FEW_KEYS, head.lo[r] - b.k0, head.hi[r] - b.k0, f.p + r * FEW_KEYS, f.p + (FEW_ROWS + r) * FEW_KEYS);
}

static inline void multiply_values(Int8Scratch &f, int chunks) {
  _tile_loadd(4, f.p, INT8_CHUNK);
  for (int x = 0; x < chunks; x++) {
    const int8_t *v = f.v[x];
    int32_t (*sums)[16 * 16] = f.sums + 4 * x;
    _tile_zero(0);
    _tile_loadd(5, v, INT8_CHUNK);
    _tile_dpbssd(0, 4, 5);
    _tile_stored(0, sums[0], 64);
    _tile_zero(1);
    _tile_loadd(6, v + INT8_TILE, INT8_CHUNK);
    _tile_dpbssd(1, 4, 6);
    _tile_stored(1, sums[1], 64);
    _tile_zero(2);
    _tile_loadd(5, v + 2 * INT8_TILE, INT8_CHUNK);
    _tile_dpbssd(2, 4, 5);
    _tile_stored(2, sums[2], 64);
    _tile_zero(3);
    _tile_loadd(6, v + 3 * INT8_TILE, INT8_CHUNK);
    _tile_dpbssd(3, 4, 6);
    _tile_stored(3, sums[3], 64);
  }
}

// o[r] += Σ p[r][j] v[j], columns in the order of the tiles.
static inline void gather_sums(const Int8Scratch &f, FewHead &head, const float *unit, int chunks) {
  for (int r = 0; r < head.rows; r++) {
    float *o = head.o + r * MAX_WIDTH;
    for (int u = 0; u < 4 * chunks; u++) {
      vec sum = fma(whole_of(f.sums[u] + r * 16), set1(256), whole_of(f.sums[u] + (FEW_ROWS + r) * 16));
      store(o + u * W, fma(set1(unit[r]), sum, load(o + u * W)));
    }
  }
}

static void finish_int8(const Piece &piece, const FewHead &head) {
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int r = 0; r < head.rows; r++, at = next_row(*piece.rows, at)) {
    alignas(64) float row[MAX_WIDTH];
    const float *from = head.before + r * MAX_WIDTH;
    for (int64_t d = 0; d < piece.call->V; d += INT8_CHUNK)
      for (int u = 0; u < 4; u++)
        for (int lane = 0; lane < 4; lane++) memcpy(row + d + 16 * lane + 4 * u, from + d + 16 * u + 4 * lane, 4 * sizeof(float));
    alignas(64) float ordered[MAX_WIDTH];
    for (int64_t d = 0; d < piece.call->V; d++) ordered[d] = row[place(*piece.call, d, piece.call->V)];
    finish_row(piece, r, at, head.m[r], static_cast<float>(head.l[r]), ordered);
  }
}

// WIDTH and LINES (of a row) are 0 where only the call knows. What was just stored is not at hand for a tile, nor what a tile
// has just stored for a vector; so a block's keys are multiplied between the weights and the values of the block before it.
template <int WIDTH, int LINES>
static void attend_int8_of(const Piece *pieces, int heads) {
  TileScope tiles;
  Int8Scratch &f = *reinterpret_cast<Int8Scratch *>(pieces[0].scratch);
  Scoring how = scoring(*pieces[0].call);
  Fetchers next = fetchers(pieces, heads, FEW_KEYS);
  memset(f.p, 0, sizeof f.p);
  for (int h = 0; h < heads; h++) load_few(pieces[h], f.few.heads[h]), load_digits(pieces[h], f.few.heads[h], f.heads[h]);
  const int chunks = static_cast<int>((WIDTH ? WIDTH : pieces[0].call->V) / INT8_CHUNK);
  const int64_t key0 = pieces[0].key0, items = (pieces[0].key1 - key0 + FEW_KEYS - 1) / FEW_KEYS * heads;
  auto block = [&](int64_t item) {
    int64_t k0 = key0 + item / heads * FEW_KEYS;
    return FewBlock{k0, static_cast<int>(least(FEW_KEYS, pieces[0].key1 - k0))};
  };
  auto begin = [&](int64_t item) __attribute__((always_inline)) {
    const Piece &piece = pieces[item % heads];
    FewBlock b = block(item);
    scales_at(*piece.keys, b.k0, b.count, f.few.k_scale, f.few.v_scale);
    multiply_keys<WIDTH, LINES>(piece, f, f.heads[item % heads], b, next.k);
  };
  if (items > 0) find_rows(pieces[0], f, block(0)), begin(0), interleave_values<WIDTH, LINES>(pieces[0], f, block(0), next.v);
  for (int64_t item = 0; item < items; item++) {
    const Piece &piece = pieces[item % heads];
    FewHead &head = f.few.heads[item % heads];
    FewBlock b = block(item);
    float unit[FEW_ROWS];
    if (item + 1 < items) find_rows(pieces[(item + 1) % heads], f, block(item + 1));
    read_scores(f, head, f.heads[item % heads], b);
    for (int r = 0; r < head.rows; r++) weigh_row(piece, how, f.few, head, b, r);
    read_weights(f, head, b, unit);
    if (item + 1 < items) begin(item + 1);
    multiply_values(f, chunks);
    if (item + 1 < items) interleave_values<WIDTH, LINES>(pieces[(item + 1) % heads], f, block(item + 1), next.v);
    gather_sums(f, head, unit, chunks);
    if ((b.k0 - key0) % STRETCH_KEYS == STRETCH_KEYS - FEW_KEYS || b.k0 + FEW_KEYS >= piece.key1) end_stretch(piece, head);
  }
  for (int h = 0; h < heads; h++) finish_int8(pieces[h], f.few.heads[h]);
}

static void attend_int8(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  const bool pairs = call.keys_dtype == STROBE_I4;
  if (call.D == 128 && call.V == 128) return pairs ? attend_int8_of<128, 1>(pieces, heads) : attend_int8_of<128, 2>(pieces, heads);
  if (call.D == 64 && call.V == 64) return attend_int8_of<64, 1>(pieces, heads);
  attend_int8_of<0, 0>(pieces, heads);
}

}  // namespace STROBE_ISA
}  // namespace strobe
