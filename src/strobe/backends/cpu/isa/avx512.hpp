// AVX-512 (F, BW, DQ, VL): sixteen floats a vector. Everything tile.hpp and few.hpp ask of an instruction set.
#pragma once

#include <immintrin.h>

#include "../numbers.hpp"

namespace strobe {
namespace STROBE_ISA {

using vec = __m512;
constexpr int W = 16;
constexpr int REGISTERS = 32;
constexpr int ROW_VECTORS = 3;  // 3 × 8 accumulators, 3 loads: 27 of 32 registers
constexpr int UNROLL = 8;       // keys (of K·Qᵀ) or columns (of V·P) at once

static inline vec set1(float x) { return _mm512_set1_ps(x); }
static inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec minus(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec fms(vec a, vec b, vec c) { return _mm512_fmsub_ps(a, b, c); }
static inline vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec abs(vec a) { return _mm512_abs_ps(a); }

static inline vec load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec widen(__m256i x, bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline vec widen(__m256i x, f16) { return _mm512_cvtph_ps(x); }
template <class T>
static inline vec load(const T *p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), T{});
}
static inline vec load(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
// 32 neighbours: those at even places and those at odd ones.
static inline void load_even_odd(const bf16 *p, vec *even, vec *odd) {
  __m512i x = _mm512_loadu_si512(p);
  *even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
  *odd = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
static inline vec load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p); }
template <class T>
static inline vec load_part(const T *p, int n) {
  return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p), T{});
}

static inline vec load_part(const int8_t *p, int n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p)));
}
// e4m3, shifted, is an f16 whose exponent is 8 too small.
static inline vec widen(__m128i x, e5m2) { return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(x), 8)); }
static inline vec widen(__m128i x, e4m3) {
  const __m256i sign = _mm256_set1_epi16(static_cast<short>(0x8000)), rest = _mm256_set1_epi16(0x3f80), nan = _mm256_set1_epi16(0x7e00);
  __m256i wide = _mm256_slli_epi16(_mm256_cvtepu8_epi16(x), 7);
  __m256i half = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(wide, 1), sign), _mm256_and_si256(wide, rest));
  half = _mm256_mask_mov_epi16(half, _mm256_cmpeq_epi16_mask(_mm256_and_si256(wide, rest), rest), nan);
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
}
static inline vec load(const e4m3 *p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)), e4m3{}); }
static inline vec load(const e5m2 *p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)), e5m2{}); }
static inline vec load_part(const e4m3 *p, int n) { return widen(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p), e4m3{}); }
static inline vec load_part(const e5m2 *p, int n) { return widen(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p), e5m2{}); }

static inline __m256i narrow(vec x, f16) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline __m256i narrow(vec x, bf16) {  // to nearest even; a NaN stays one
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  return _mm512_cvtepi32_epi16(rounded);
}
static inline void store(float *p, vec x) { _mm512_storeu_ps(p, x); }
template <class T>
static inline void store(T *p, vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), narrow(x, T{}));
}
static inline void store_part(float *p, vec x, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), x); }
template <class T>
static inline void store_part(T *p, vec x, int n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), narrow(x, T{}));
}

// -inf in lanes whose interval [lo, hi) does not hold the key.
static inline vec hide(vec x, const int32_t *lo, const int32_t *hi, int32_t key) {
  __m512i at = _mm512_set1_epi32(key);
  __mmask16 seen = _mm512_cmple_epi32_mask(_mm512_loadu_si512(lo), at) & _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(hi), at);
  return _mm512_mask_mov_ps(set1(MINUS_INFINITY), seen, x);
}
static inline vec zero_if_minus_infinity(vec x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(MINUS_INFINITY), _CMP_NEQ_UQ), x); }
static inline vec select_less(vec a, vec b, vec yes, vec no) { return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes); }
static inline bool any_greater(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }

// x - floor(x), and p · 2^floor(x): what exp2 is made of.
static inline vec fraction(vec x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF); }
static inline vec scale_by_floor(vec p, vec x) { return _mm512_scalef_ps(p, x); }

static inline float sum(vec x) { return _mm512_reduce_add_ps(x); }
static inline float greatest(vec x) { return _mm512_reduce_max_ps(x); }

// The sums of four vectors. Neighbours are interleaved and added, so each step does the work for all.
static inline vec sum_pairs(vec a, vec b) { return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); }
static inline void sum4(const vec *x, float *out) {
  __m512d ab = _mm512_castps_pd(sum_pairs(x[0], x[1])), cd = _mm512_castps_pd(sum_pairs(x[2], x[3]));
  vec all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

// 16 × 16 dwords: pairs, then quads, then the four 128-bit lanes twice.
static inline void transpose(__m512i *r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  constexpr int EVEN = 0x88, ODD = 0xdd;  // lanes 0 and 2, lanes 1 and 3, of each source
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], EVEN);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], ODD);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], EVEN);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], ODD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], EVEN);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], ODD);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], EVEN);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], ODD);
  }
}
static inline void transpose(vec *r) {
  __m512i bits[16];
  for (int i = 0; i < 16; i++) bits[i] = _mm512_castps_si512(r[i]);
  transpose(bits);
  for (int i = 0; i < 16; i++) r[i] = _mm512_castsi512_ps(bits[i]);
}

}  // namespace STROBE_ISA
}  // namespace strobe
