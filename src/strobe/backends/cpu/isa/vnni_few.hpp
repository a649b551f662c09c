// Few rows over keys and values in int8 or int4 by products of bytes (AVX-512 VNNI): nothing is widened to floats.
//
// A row of queries, or of weights, is cut into two digits, x = unit · (256 · high + low), where the greatest x is 32512 units:
// sixteen bits below a row's greatest number, of which bfloat16 has eight and float16 eleven. Digits times int8 are summed
// exactly, in 32 bits.
//
// The instruction multiplies four unsigned bytes with four signed ones and adds them to a lane. Keys and values are the
// unsigned side, k + 128 (int4: k + 8); what that adds, 128 · Σ q, is known without them. Scores: a key's sixteen lanes have
// to be summed, which is done for sixteen keys and rows at a time. Outputs: the four neighbours of a lane have to be four keys
// of one column, so the values of four keys are interleaved in registers, where they are multiplied at once.
#pragma once

#include "../few.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int BYTES = 64;              // of a vector: a chunk of the width
constexpr int MOST_BYTES_WIDTH = 256;  // sums of wider rows may leave 32 bits
constexpr int QUAD = 4;                // keys of a lane, and rows at a time

struct BytesHead {
  alignas(64) int8_t high[FEW_ROWS][MOST_BYTES_WIDTH], low[FEW_ROWS][MOST_BYTES_WIDTH];
  int32_t more[FEW_ROWS];  // what the keys' offset adds to a score, in units
  float unit[FEW_ROWS];
};
struct BytesScratch {
  FewScratch few;
  alignas(64) int8_t high[FEW_ROWS][FEW_KEYS], low[FEW_ROWS][FEW_KEYS];  // of the weights
  int32_t more[FEW_ROWS];                                                // what the values' offset adds to an output, in units
  BytesHead heads[MOST_HEADS];
};

static bool bytes_take(const strobe_attention &call, int64_t rows) {
  auto fits = [&](int64_t width) {  // int4: 32 bytes, or whole vectors of 128 numbers
    return width <= MOST_BYTES_WIDTH && (width == BYTES || width % (call.keys_dtype == STROBE_I4 ? 2 * BYTES : BYTES) == 0);
  };
  return !shaped(call) && !call.invariant && rows <= FEW_ROWS && (call.keys_dtype == STROBE_I8 || call.keys_dtype == STROBE_I4) &&
         call.dtype != STROBE_F32 && fits(call.D) && fits(call.V);
}

// A row's greatest |x| in [from, to), and what to multiply with so that it becomes 32512 units.
struct Unit {
  float size, inverse;
};
static inline __mmask16 between(int j, int64_t from, int64_t to) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(j));
  return _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(from))) &
         _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(to)));
}
static inline Unit unit_of(const float *x, int n, int64_t from, int64_t to) {
  constexpr float GREATEST = 127 * 256, LEAST = 1e-34f;  // a row below LEAST is zero: its inverse would be none
  constexpr uint32_t INFINITE = 0x7f800000;
  __m512i top = _mm512_setzero_si512();  // as bits, of which those of NaN are greatest
  for (int j = 0; j < n; j += W)
    top = _mm512_max_epu32(top, _mm512_maskz_mov_epi32(between(j, from, to), _mm512_castps_si512(abs(load(x + j)))));
  uint32_t bits = _mm512_reduce_max_epu32(top);
  float greatest = from_bits(bits);
  if (greatest < LEAST) return {0, 0};
  if (bits >= INFINITE) return {__builtin_nanf(""), 0};
  return {greatest / GREATEST, GREATEST / greatest};
}

static inline void store_digits(__m512i whole, int8_t *high, int8_t *low) {
  __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
  _mm_store_si128(reinterpret_cast<__m128i *>(high), _mm512_cvtepi32_epi8(upper));
  _mm_store_si128(reinterpret_cast<__m128i *>(low), _mm512_cvtepi32_epi8(_mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 8))));
}

// The order of a row's numbers in chunks: of int4 the even numbers of a vector of pairs are one chunk, the odd ones the next.
template <bool BACK>
static inline void reorder(bool pairs, const float *from, int64_t width, float *to) {
  if (!pairs) {
    memcpy(to, from, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  const int64_t part = least(width, 2 * BYTES), half = part / 2;
  for (int64_t d = 0; d < width; d += part)
    for (int64_t i = 0; i < half; i++)
      for (int64_t odd = 0; odd < 2; odd++) {
        int64_t number = d + 2 * i + odd, chunk = d + odd * half + i;
        to[BACK ? number : chunk] = from[BACK ? chunk : number];
      }
}

static void load_bytes_head(const Piece &piece, const FewHead &head, BytesHead &to) {
  const int D = static_cast<int>(piece.call->D);
  const bool pairs = piece.call->keys_dtype == STROBE_I4;
  for (int r = 0; r < (head.rows + QUAD - 1) / QUAD * QUAD; r++) {
    alignas(64) float q[MOST_BYTES_WIDTH] = {};
    if (r < head.rows) reorder<false>(pairs, head.q + r * MAX_WIDTH, D, q);
    Unit unit = unit_of(q, D, 0, D);
    __m512i sum = _mm512_setzero_si512();
    for (int d = 0; d < D; d += W) {
      __m512i whole = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(unit.inverse != 0 ? 0xffff : 0, load(q + d), set1(unit.inverse)));
      sum = _mm512_add_epi32(sum, whole);
      store_digits(whole, to.high[r] + d, to.low[r] + d);
    }
    to.more[r] = _mm512_reduce_add_epi32(sum) * (pairs ? 8 : 128);
    to.unit[r] = unit.size;
  }
}

// Chunk c of a row as unsigned bytes: int8 + 128, or int4 + 8.
template <bool PAIRS>
static inline __attribute__((always_inline)) __m512i offset_chunk(const char *row, int64_t c, int64_t width) {
  constexpr int FLIP_AND_MASK = 0x28;  // (a ^ b) & c
  const __m512i eight = _mm512_set1_epi8(8), nibble = _mm512_set1_epi8(15);
  if (!PAIRS) return _mm512_xor_si512(_mm512_loadu_si512(row + c * BYTES), _mm512_set1_epi8(-128));
  __m512i x;
  if (width == BYTES) {
    x = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(row)));
    x = _mm512_mask_srli_epi16(x, 0xffff0000, x, 4);
  } else {
    x = _mm512_loadu_si512(row + c / 2 * BYTES);
    if (c % 2) x = _mm512_srli_epi16(x, 4);
  }
  return _mm512_ternarylogic_epi32(x, eight, nibble, FLIP_AND_MASK);
}
// Lane i becomes the sum of a[i]'s lanes.
static inline __attribute__((always_inline)) __m512i sums_of(const __m512i *a) {
  __m512i u[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i *x = a + 4 * i;
    __m512i one = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    __m512i two = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    u[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(one, two), _mm512_unpackhi_epi64(one, two));
  }
  constexpr int FRONT = 0x44, BACK = 0xee, EVEN = 0x88, ODD = 0xdd;
  __m512i one = _mm512_add_epi32(_mm512_shuffle_i32x4(u[0], u[1], FRONT), _mm512_shuffle_i32x4(u[0], u[1], BACK));
  __m512i two = _mm512_add_epi32(_mm512_shuffle_i32x4(u[2], u[3], FRONT), _mm512_shuffle_i32x4(u[2], u[3], BACK));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(one, two, EVEN), _mm512_shuffle_i32x4(one, two, ODD));
}

// s[r][j] of R rows from r0 on and all keys of a block, 16 / R keys at a time. CHUNKS of the width, 0 where only the call knows.
template <bool PAIRS, int R, int CHUNKS, int LINES>
static inline void byte_scores(const BytesHead &own, BytesScratch &f, const FewBlock &b, int r0, int64_t D, Fetcher *next) {
  constexpr int KEYS = 16 / R;
  const int64_t chunks = CHUNKS ? CHUNKS : D / BYTES;
  alignas(64) int32_t more[16];
  alignas(64) float unit[16];
  for (int i = 0; i < 16; i++) more[i] = own.more[r0 + i / KEYS], unit[i] = own.unit[r0 + i / KEYS];
  for (int j0 = 0; j0 < b.count; j0 += KEYS) {
    if (next) next->rows<LINES>(KEYS);
    __m512i all[16];
#pragma GCC unroll 16
    for (int j = 0; j < KEYS; j++) {
      const char *k = f.few.k[j0 + j];
      __m512i high[R], low[R];
      for (int r = 0; r < R; r++) high[r] = low[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int64_t c = 0; c < chunks; c++) {
        __m512i x = offset_chunk<PAIRS>(k, c, D);
        for (int r = 0; r < R; r++) {
          high[r] = _mm512_dpbusd_epi32(high[r], x, _mm512_load_si512(own.high[r0 + r] + c * BYTES));
          low[r] = _mm512_dpbusd_epi32(low[r], x, _mm512_load_si512(own.low[r0 + r] + c * BYTES));
        }
      }
      for (int r = 0; r < R; r++) all[r * KEYS + j] = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
    }
    vec s = mul(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums_of(all), _mm512_load_si512(more))), load(unit));
    alignas(64) float found[16];
    store(found, s);
    for (int r = 0; r < R; r++) memcpy(f.few.s + (r0 + r) * FEW_KEYS + j0, found + r * KEYS, KEYS * sizeof(float));
  }
}

// The weights' digits; those outside what the row sees count nothing, whatever they are.
static inline void byte_weights(BytesScratch &f, const FewHead &head, const FewBlock &b, int offset, float *unit) {
  for (int r = 0; r < head.rows; r++) {
    const float *x = f.few.s + r * FEW_KEYS;
    const int64_t from = head.lo[r] - b.k0, to = head.hi[r] - b.k0;
    Unit of = unit_of(x, FEW_KEYS, from, to);
    __m512i sum = _mm512_setzero_si512();
    for (int j = 0; j < FEW_KEYS; j += W) {
      __m512i whole = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(of.inverse != 0 ? between(j, from, to) : 0, load(x + j), set1(of.inverse)));
      sum = _mm512_add_epi32(sum, whole);
      store_digits(whole, f.high[r] + j, f.low[r] + j);
    }
    f.more[r] = _mm512_reduce_add_epi32(sum) * offset, unit[r] = of.size;
  }
}

// o[r] += Σ p[r][j] v[j] for R rows from r0 on: of each chunk the columns whose bytes the lower unpacking brings together, then
// the others. Lane 4 L + e of vector u is column 16 L + 4 u + e of the chunk.
template <bool PAIRS, int R, int LINES>
static inline void byte_values(const BytesScratch &f, FewHead &head, const float *unit, int r0, int64_t V, Fetcher *next) {
  for (int64_t c = 0; c < V / BYTES; c++) {
    auto half = [&](auto upper) __attribute__((always_inline)) {
      constexpr bool UPPER = decltype(upper)::value;
      __m512i high[R][2], low[R][2];
      for (int r = 0; r < R; r++) high[r][0] = high[r][1] = low[r][0] = low[r][1] = _mm512_setzero_si512();
      for (int j = 0; j < FEW_KEYS; j += QUAD) {
        if (next && c == 0 && !UPPER) next->rows<LINES>(QUAD);
        __m512i row[QUAD];
        for (int i = 0; i < QUAD; i++) row[i] = offset_chunk<PAIRS>(f.few.v[j + i], c, V);
        __m512i one = UPPER ? _mm512_unpackhi_epi8(row[0], row[1]) : _mm512_unpacklo_epi8(row[0], row[1]);
        __m512i two = UPPER ? _mm512_unpackhi_epi8(row[2], row[3]) : _mm512_unpacklo_epi8(row[2], row[3]);
        __m512i v[2] = {_mm512_unpacklo_epi16(one, two), _mm512_unpackhi_epi16(one, two)};
        for (int r = 0; r < R; r++) {
          int32_t quads[2];
          memcpy(&quads[0], f.high[r0 + r] + j, QUAD), memcpy(&quads[1], f.low[r0 + r] + j, QUAD);
          for (int x = 0; x < 2; x++) {
            high[r][x] = _mm512_dpbusd_epi32(high[r][x], v[x], _mm512_set1_epi32(quads[0]));
            low[r][x] = _mm512_dpbusd_epi32(low[r][x], v[x], _mm512_set1_epi32(quads[1]));
          }
        }
      }
      for (int r = 0; r < R; r++) {
        for (int x = 0; x < 2; x++) {
          float *o = head.o + (r0 + r) * MAX_WIDTH + c * BYTES + (2 * UPPER + x) * W;
          __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r][x], 8), low[r][x]);
          sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(f.more[r0 + r]));
          store(o, fma(set1(unit[r0 + r]), _mm512_cvtepi32_ps(sum), load(o)));
        }
      }
    };
    half(std::false_type{});
    half(std::true_type{});
  }
}

static void finish_bytes(const Piece &piece, const FewHead &head) {
  const int64_t V = piece.call->V;
  RowAt at = row_at(*piece.rows, piece.row0);
  for (int r = 0; r < head.rows; r++, at = next_row(*piece.rows, at)) {
    alignas(64) float row[MOST_BYTES_WIDTH], ordered[MOST_BYTES_WIDTH];
    const float *from = head.before + r * MAX_WIDTH;
    for (int64_t d = 0; d < V; d += BYTES)
      for (int u = 0; u < 4; u++)
        for (int lane = 0; lane < 4; lane++) memcpy(row + d + 16 * lane + 4 * u, from + d + 16 * u + 4 * lane, 4 * sizeof(float));
    reorder<true>(piece.call->keys_dtype == STROBE_I4, row, V, ordered);
    finish_row(piece, r, at, head.m[r], static_cast<float>(head.l[r]), ordered);
  }
}

// CHUNKS of D and LINES of a row are 0 where only the call knows.
template <bool PAIRS, int CHUNKS, int LINES>
static void attend_bytes_of(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  BytesScratch &f = *reinterpret_cast<BytesScratch *>(pieces[0].scratch);
  Scoring how = scoring(call);
  Fetchers next = fetchers(pieces, heads, FEW_KEYS);
  for (int h = 0; h < heads; h++) load_few(pieces[h], f.few.heads[h]), load_bytes_head(pieces[h], f.few.heads[h], f.heads[h]);
  for (int64_t k0 = pieces[0].key0; k0 < pieces[0].key1; k0 += FEW_KEYS) {
    FewBlock b{k0, static_cast<int>(least(FEW_KEYS, pieces[0].key1 - k0))};
    for (int h = 0; h < heads; h++) {
      const Piece &piece = pieces[h];
      FewHead &head = f.few.heads[h];
      const int n = head.rows;
      tokens_at(*piece.keys, b.k0, b.count, f.few.k, f.few.v);
      scales_at(*piece.keys, b.k0, b.count, f.few.k_scale, f.few.v_scale);
      for (int j = b.count; j < FEW_KEYS; j++) f.few.k[j] = f.few.k[b.count - 1], f.few.v[j] = f.few.v[b.count - 1];
      for (int r = 0; r < n;) {
        Fetcher *fetch = r == 0 ? &next.k : nullptr;  // during the first pass only
        if (n - r > 2) {
          byte_scores<PAIRS, 4, CHUNKS, LINES>(f.heads[h], f, b, r, call.D, fetch), r += 4;
        } else if (n - r > 1) {
          byte_scores<PAIRS, 2, CHUNKS, LINES>(f.heads[h], f, b, r, call.D, fetch), r += 2;
        } else {
          byte_scores<PAIRS, 1, CHUNKS, LINES>(f.heads[h], f, b, r, call.D, fetch), r += 1;
        }
      }
      for (int r = 0; r < n; r++) weigh_row(piece, how, f.few, head, b, r);
      float unit[FEW_ROWS] = {};
      byte_weights(f, head, b, PAIRS ? 8 : 128, unit);
      for (int r = 0; r < n;) {
        Fetcher *fetch = r == 0 ? &next.v : nullptr;
        if (n - r > 2) {
          byte_values<PAIRS, 4, LINES>(f, head, unit, r, call.V, fetch), r += 4;
        } else if (n - r > 1) {
          byte_values<PAIRS, 2, LINES>(f, head, unit, r, call.V, fetch), r += 2;
        } else {
          byte_values<PAIRS, 1, LINES>(f, head, unit, r, call.V, fetch), r += 1;
        }
      }
      if ((k0 - pieces[0].key0) % STRETCH_KEYS == STRETCH_KEYS - FEW_KEYS || k0 + FEW_KEYS >= piece.key1) end_stretch(piece, head);
    }
  }
  for (int h = 0; h < heads; h++) finish_bytes(pieces[h], f.few.heads[h]);
}

static void attend_bytes(const Piece *pieces, int heads) {
  const strobe_attention &call = *pieces[0].call;
  const bool pairs = call.keys_dtype == STROBE_I4;
  if (call.D == 128 && call.V == 128)
    return pairs ? attend_bytes_of<true, 2, 1>(pieces, heads) : attend_bytes_of<false, 2, 2>(pieces, heads);
  if (call.D == 64 && call.V == 64) return pairs ? attend_bytes_of<true, 1, 1>(pieces, heads) : attend_bytes_of<false, 1, 1>(pieces, heads);
  return pairs ? attend_bytes_of<true, 0, 0>(pieces, heads) : attend_bytes_of<false, 0, 0>(pieces, heads);
}

}  // namespace STROBE_ISA
}  // namespace strobe
