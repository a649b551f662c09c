// Numbers into AMX tiles: a tile is 16 rows of 32 bf16, and a number with more than 8 bits becomes a sum of bf16 terms.
//
// bfloat16 is one term. float16 (11 bits) is two, exactly: each term holds the next 8 bits. A product of sums is the sum of
// the products whose terms are not both small, so float16 costs three tile products, and still beats FMA, which has a
// sixteenth of the tiles' rate.
#pragma once

#include "../softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int TILE = 512;       // bf16 of a tile: 16 rows of 64 bytes
constexpr int CHUNK = 32;       // bf16 of a tile's row: widths of K·Qᵀ and keys of Vᵀ·P come in chunks of so many
constexpr int AMX_BLOCK = 256;  // keys packed together: with D = 128, 64 KiB of keys and as much of values
constexpr int BLOCK_CHUNKS = AMX_BLOCK / CHUNK;

static inline int terms_of(int dtype) { return dtype == STROBE_BF16 ? 1 : 2; }

// Pairs of terms to multiply, small products first, so that their sum is rounded at its own size.
template <int TERMS>
struct Products;
template <>
struct Products<1> {
  static constexpr int COUNT = 1, A[] = {0}, B[] = {0};
};
template <>
struct Products<2> {
  static constexpr int COUNT = 3, A[] = {1, 0, 0}, B[] = {0, 1, 0};
};

static inline vec top_half(vec x) {  // the first 8 bits of the significand: a bf16 by truncation
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
static inline __m512i bf16_of(vec low, vec high) {  // 32 bf16 from the upper halves of 32 floats
  alignas(64) static constexpr int16_t ODD[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                  33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(_mm512_castps_si512(low), _mm512_load_si512(ODD), _mm512_castps_si512(high));
}

// Up to 32 numbers of a row, zeros behind, as terms.
template <int TERMS>
static inline void load_terms(const char *p, int64_t n, __m512i *terms) {
  __mmask32 there = n >= CHUNK ? ~0u : (1u << n) - 1;
  if constexpr (TERMS == 1) {
    terms[0] = _mm512_maskz_loadu_epi16(there, p);
  } else {
    __m512i x = _mm512_maskz_loadu_epi16(there, p);
    vec low = _mm512_cvtph_ps(_mm512_castsi512_si256(x)), high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1));
    for (int i = 0; i < TERMS; i++) {
      vec a = top_half(low), b = top_half(high);
      terms[i] = bf16_of(a, b);
      low = minus(low, a), high = minus(high, b);
    }
  }
}

static inline int64_t width_chunks(int64_t width) { return (width + CHUNK - 1) / CHUNK; }

// A block: for each term the keys as [16 keys][chunk of D], then for each term the values transposed as
// [chunk of keys][16 of V], then whether all values are finite.
struct BlockShape {
  int64_t k_chunks, v_tiles, k_term, v_term;  // the last two in bf16
  int terms;
};
static inline BlockShape block_shape(const strobe_attention &call) {
  BlockShape b;
  b.terms = terms_of(call.dtype);
  b.k_chunks = width_chunks(call.D), b.v_tiles = 2 * width_chunks(call.V);
  b.k_term = b.k_chunks * (AMX_BLOCK / 16) * TILE, b.v_term = b.v_tiles * BLOCK_CHUNKS * TILE;
  return b;
}
static size_t block_bytes(const strobe_attention &call) {
  BlockShape b = block_shape(call);
  return static_cast<size_t>((b.k_term + b.v_term) * b.terms) * sizeof(bf16) + 64;
}
static inline const bf16 *block_values(const BlockShape &b, const char *block) {
  return reinterpret_cast<const bf16 *>(block) + b.k_term * b.terms;
}
static inline bool block_finite(const BlockShape &b, const char *block) {
  int32_t finite;
  memcpy(&finite, block_values(b, block) + b.v_term * b.terms, sizeof finite);
  return finite;
}

template <int TERMS>
static void pack_keys(const BlockShape &shape, const char *const *rows, int n, int64_t D, bf16 *to) {
  for (int j = 0; j < n; j++) {
    for (int64_t c = 0; c < shape.k_chunks; c++) {
      __m512i terms[TERMS];
      if (rows[j]) {
        load_terms<TERMS>(rows[j] + c * CHUNK * 2, D - c * CHUNK, terms);
      } else {
        for (auto &term : terms) term = _mm512_setzero_si512();
      }
      bf16 *at = to + ((j / 16) * shape.k_chunks + c) * TILE + (j % 16) * CHUNK;
      for (int i = 0; i < TERMS; i++) _mm512_storeu_si512(at + i * shape.k_term, terms[i]);
    }
  }
}

// True if all are finite. Pairs of keys interleave within quarters of a vector, so the columns of `low` and `high` are those of
// every other four, and each goes where it belongs when it is stored.
template <int TERMS>
static bool pack_values(const BlockShape &shape, const char *const *rows, int n, int64_t V, bf16 *to) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __m512i greatest_exponent = _mm512_setzero_si512();
  for (int chunk = 0; chunk < n / CHUNK; chunk++) {
    for (int64_t c = 0; c < shape.v_tiles / 2; c++) {
      __m512i low[TERMS][16], high[TERMS][16];  // 16 pairs of keys
      for (int i = 0; i < 16; i++) {
        __m512i a[2][TERMS];
        for (int k = 0; k < 2; k++) {
          const char *row = rows[chunk * CHUNK + 2 * i + k];
          if (row) {
            load_terms<TERMS>(row + c * CHUNK * 2, V - c * CHUNK, a[k]);
          } else {
            for (auto &term : a[k]) term = _mm512_setzero_si512();
          }
          greatest_exponent = _mm512_max_epu16(greatest_exponent, _mm512_and_si512(a[k][0], exponent));
        }
        for (int t = 0; t < TERMS; t++)
          low[t][i] = _mm512_unpacklo_epi16(a[0][t], a[1][t]), high[t][i] = _mm512_unpackhi_epi16(a[0][t], a[1][t]);
      }
      for (int t = 0; t < TERMS; t++) {
        bf16 *at = to + t * shape.v_term + (chunk * shape.v_tiles + 2 * c) * TILE;
        transpose(low[t]);
        transpose(high[t]);
        for (int i = 0; i < 16; i++) {
          bf16 *column = at + i / 8 * TILE + (i / 4 % 2 * 8 + i % 4) * CHUNK;
          _mm512_storeu_si512(column, low[t][i]);
          _mm512_storeu_si512(column + 4 * CHUNK, high[t][i]);
        }
      }
    }
  }
  return _mm512_cmpeq_epi16_mask(greatest_exponent, exponent) == 0;
}

template <int TERMS>
static void pack_block(const strobe_attention &call, const Keys &keys, int64_t s0, int64_t s1, char *block) {
  BlockShape shape = block_shape(call);
  const char *k[AMX_BLOCK], *v[AMX_BLOCK];
  int n = static_cast<int>(s1 - s0), padded = static_cast<int>(round_up(n, CHUNK));
  tokens_at(keys, s0, n, k, v);
  for (int j = n; j < padded; j++) k[j] = v[j] = nullptr;
  bf16 *ks = reinterpret_cast<bf16 *>(block), *vs = ks + shape.k_term * TERMS;
  pack_keys<TERMS>(shape, k, padded, call.D, ks);
  int32_t finite = pack_values<TERMS>(shape, v, padded, call.V, vs);
  memcpy(vs + shape.v_term * TERMS, &finite, sizeof finite);
}
static void pack(const strobe_attention &call, const Keys &keys, int64_t s0, int64_t s1, char *block) {
  if (call.dtype == STROBE_BF16) pack_block<1>(call, keys, s0, s1, block);
  if (call.dtype == STROBE_F16) pack_block<2>(call, keys, s0, s1, block);
}

// Eight tiles of 16 × 64 bytes, for the life of the scope. The barrier is for g++ 12, which thinks that the instruction
// reads only the first bytes of the configuration and leaves the others unwritten.
class TileScope {
 public:
  TileScope() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes[16];
      uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope &) = delete;
  TileScope &operator=(const TileScope &) = delete;
};

}  // namespace STROBE_ISA
}  // namespace strobe
