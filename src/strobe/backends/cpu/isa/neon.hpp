// NEON of 64-bit ARM: four floats a vector.
#pragma once

#include <arm_neon.h>

#include "../numbers.hpp"

namespace strobe {
namespace STROBE_ISA {

using vec = float32x4_t;
constexpr int W = 4;
constexpr int REGISTERS = 32;
constexpr int ROW_VECTORS = 3;  // 3 × 8 accumulators, 3 loads, 1 broadcast: 28 of 32 registers
constexpr int UNROLL = 8;

static inline vec set1(float x) { return vdupq_n_f32(x); }
static inline vec add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec minus(vec a, vec b) { return vsubq_f32(a, b); }
static inline vec mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec div(vec a, vec b) { return vdivq_f32(a, b); }
static inline vec fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec fms(vec a, vec b, vec c) { return vnegq_f32(vfmsq_f32(c, a, b)); }
static inline vec max(vec a, vec b) { return vmaxq_f32(a, b); }
static inline vec abs(vec a) { return vabsq_f32(a); }

static inline vec load(const float *p) { return vld1q_f32(p); }
static inline vec load(const bf16 *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16)); }
static inline vec load(const f16 *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))); }
static inline vec load(const int8_t *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  int16x8_t x = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
}
static inline vec load(const e5m2 *p) { return vec{widen_one(p[0]), widen_one(p[1]), widen_one(p[2]), widen_one(p[3])}; }
static inline vec load(const e4m3 *p) { return vec{widen_one(p[0]), widen_one(p[1]), widen_one(p[2]), widen_one(p[3])}; }
// 8 neighbours: those at even places and those at odd ones.
static inline void load_even_odd(const bf16 *p, vec *even, vec *odd) {
  uint32x4_t x = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
  *even = vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
  *odd = vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000)));
}
// Widths are multiples of 8, so parts never happen here; the code that asks is shared with wider vectors.
template <class T>
static inline vec load_part(const T *p, int) {
  return load(p);
}
static inline void store(float *p, vec x) { vst1q_f32(p, x); }
static inline void store(bf16 *p, vec x) {  // to nearest even; a NaN stays one
  uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  rounded = vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc00000));
  vst1_u16(&p->bits, vshrn_n_u32(rounded, 16));
}
static inline void store(f16 *p, vec x) { vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
template <class T>
static inline void store_part(T *p, vec x, int) {
  store(p, x);
}

static inline vec hide(vec x, const int32_t *lo, const int32_t *hi, int32_t key) {
  int32x4_t at = vdupq_n_s32(key);
  uint32x4_t seen = vandq_u32(vcleq_s32(vld1q_s32(lo), at), vcgtq_s32(vld1q_s32(hi), at));
  return vbslq_f32(seen, x, set1(MINUS_INFINITY));
}
static inline vec zero_if_minus_infinity(vec x) { return vbslq_f32(vceqq_f32(x, set1(MINUS_INFINITY)), set1(0), x); }
static inline vec select_less(vec a, vec b, vec yes, vec no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }

constexpr float LEAST_EXPONENT = -127;                                     // below it 2^x is flushed to 0 here
static inline vec bounded(vec x) { return max(set1(LEAST_EXPONENT), x); }  // a NaN stays
static inline vec fraction(vec x) { return minus(bounded(x), vrndmq_f32(bounded(x))); }
static inline vec scale_by_floor(vec p, vec x) {  // x at most 127
  constexpr int BIAS = 127, MANTISSA = 23;
  int32x4_t n = vcvtmq_s32_f32(bounded(x));
  return mul(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(BIAS)), MANTISSA)));
}

static inline float sum(vec x) { return vaddvq_f32(x); }
static inline float greatest(vec x) { return vmaxvq_f32(x); }
static inline void sum4(const vec *x, float *out) { vst1q_f32(out, vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]))); }
static inline void transpose(vec *r) {
  float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
  r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

}  // namespace STROBE_ISA
}  // namespace strobe
