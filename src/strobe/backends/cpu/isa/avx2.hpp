// AVX2, FMA and F16C: eight floats a vector.
#pragma once

#include <immintrin.h>

#include "../numbers.hpp"

namespace strobe {
namespace STROBE_ISA {

using vec = __m256;
constexpr int W = 8;
constexpr int REGISTERS = 16;
constexpr int ROW_VECTORS = 3;  // 3 × 4 accumulators, 3 loads, 1 broadcast: 16 registers
constexpr int UNROLL = 4;

static inline vec set1(float x) { return _mm256_set1_ps(x); }
static inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec minus(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec fms(vec a, vec b, vec c) { return _mm256_fmsub_ps(a, b, c); }
static inline vec max(vec a, vec b) { return _mm256_max_ps(a, b); }  // b where either is NaN
static inline vec abs(vec a) { return _mm256_andnot_ps(set1(-0.0f), a); }

static inline vec load(const float *p) { return _mm256_loadu_ps(p); }
static inline vec load(const bf16 *p) {
  __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
static inline vec load(const f16 *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
static inline vec load(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
// e4m3, shifted, is an f16 whose exponent is 8 too small.
static inline __m128i eight_bytes(const void *p) { return _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i *>(p))); }
static inline vec load(const e5m2 *p) { return _mm256_cvtph_ps(_mm_slli_epi16(eight_bytes(p), 8)); }
static inline vec load(const e4m3 *p) {
  const __m128i sign = _mm_set1_epi16(static_cast<short>(0x8000)), rest = _mm_set1_epi16(0x3f80), nan = _mm_set1_epi16(0x7e00);
  __m128i wide = _mm_slli_epi16(eight_bytes(p), 7), low = _mm_and_si128(wide, rest);
  __m128i half = _mm_or_si128(_mm_and_si128(_mm_slli_epi16(wide, 1), sign), low);
  half = _mm_blendv_epi8(half, nan, _mm_cmpeq_epi16(low, rest));
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256));
}
// 16 neighbours: those at even places and those at odd ones.
static inline void load_even_odd(const bf16 *p, vec *even, vec *odd) {
  __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  *even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
  *odd = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
// Widths are multiples of 8, so parts never happen here; the code that asks is shared with wider vectors.
template <class T>
static inline vec load_part(const T *p, int) {
  return load(p);
}
static inline void store(float *p, vec x) { _mm256_storeu_ps(p, x); }
static inline void store(bf16 *p, vec x) {  // to nearest even; a NaN stays one
  __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);  // 64-bit quarters 0 and 2
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128(packed));
}
static inline void store(f16 *p, vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
template <class T>
static inline void store_part(T *p, vec x, int) {
  store(p, x);
}

static inline vec hide(vec x, const int32_t *lo, const int32_t *hi, int32_t key) {
  __m256i at = _mm256_set1_epi32(key);
  __m256i early = _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(lo)), at);
  __m256i seen = _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(hi)), at);
  return _mm256_blendv_ps(set1(MINUS_INFINITY), x, _mm256_castsi256_ps(_mm256_andnot_si256(early, seen)));
}
static inline vec zero_if_minus_infinity(vec x) { return _mm256_and_ps(x, _mm256_cmp_ps(x, set1(MINUS_INFINITY), _CMP_NEQ_UQ)); }
static inline vec select_less(vec a, vec b, vec yes, vec no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }

constexpr float LEAST_EXPONENT = -127;                                     // below it 2^x is flushed to 0 here
static inline vec bounded(vec x) { return max(set1(LEAST_EXPONENT), x); }  // in this order a NaN stays
static inline vec fraction(vec x) { return minus(bounded(x), _mm256_floor_ps(bounded(x))); }
static inline vec scale_by_floor(vec p, vec x) {  // x at most 127
  constexpr int BIAS = 127, MANTISSA = 23;
  __m256i n = _mm256_cvtps_epi32(_mm256_floor_ps(bounded(x)));
  return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(BIAS)), MANTISSA)));
}

static inline __m128 half_sum(vec x) { return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)); }
static inline float sum(vec x) {
  __m128 a = half_sum(x);
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
static inline float greatest(vec x) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
static inline void sum4(const vec *x, float *out) {
  __m128 a = half_sum(x[0]), b = half_sum(x[1]), c = half_sum(x[2]), d = half_sum(x[3]);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d)));
}

// 8 × 8: pairs, then quads, then the two 128-bit lanes.
static inline void transpose(vec *r) {
  vec t[8], u[8];
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], _MM_SHUFFLE(1, 0, 1, 0));
    u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], _MM_SHUFFLE(3, 2, 3, 2));
    u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], _MM_SHUFFLE(1, 0, 1, 0));
    u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], _MM_SHUFFLE(3, 2, 3, 2));
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x20);      // the low lanes
    r[4 + i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x31);  // the high lanes
  }
}

}  // namespace STROBE_ISA
}  // namespace strobe
