// No intrinsics: four floats in the compiler's own vector type (g++, clang), on any processor.
#pragma once

#include "../numbers.hpp"

namespace strobe {
namespace STROBE_ISA {

typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));
constexpr int W = 4;
constexpr int REGISTERS = 16;
constexpr int ROW_VECTORS = 1;
constexpr int UNROLL = 8;

static inline vec set1(float x) { return vec{x, x, x, x}; }
static inline vec add(vec a, vec b) { return a + b; }
static inline vec minus(vec a, vec b) { return a - b; }
static inline vec mul(vec a, vec b) { return a * b; }
static inline vec div(vec a, vec b) { return a / b; }
static inline vec fma(vec a, vec b, vec c) { return a * b + c; }
static inline vec fms(vec a, vec b, vec c) { return a * b - c; }
static inline vec max(vec a, vec b) { return a > b ? a : b; }  // b where either is NaN
static inline vec abs(vec a) { return reinterpret_cast<vec>(reinterpret_cast<ivec>(a) & 0x7fffffff); }

static inline vec load(const float *p) {
  vec x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
static inline vec load(const T *p) {
  return vec{widen_one(p[0]), widen_one(p[1]), widen_one(p[2]), widen_one(p[3])};
}
// 8 neighbours: those at even places and those at odd ones.
static inline void load_even_odd(const bf16 *p, vec *even, vec *odd) {
  *even = vec{widen_one(p[0]), widen_one(p[2]), widen_one(p[4]), widen_one(p[6])};
  *odd = vec{widen_one(p[1]), widen_one(p[3]), widen_one(p[5]), widen_one(p[7])};
}
// Widths are multiples of 8, so parts never happen here; the code that asks is shared with wider vectors.
template <class T>
static inline vec load_part(const T *p, int) {
  return load(p);
}
static inline void store(float *p, vec x) { memcpy(p, &x, sizeof x); }
template <class T>
static inline void store(T *p, vec x) {
  for (int i = 0; i < W; i++) narrow_one(p + i, x[i]);
}
template <class T>
static inline void store_part(T *p, vec x, int) {
  store(p, x);
}

static inline vec hide(vec x, const int32_t *lo, const int32_t *hi, int32_t key) {
  ivec l, h;
  memcpy(&l, lo, sizeof l);
  memcpy(&h, hi, sizeof h);
  return ((l <= key) & (h > key)) ? x : set1(MINUS_INFINITY);
}
static inline vec zero_if_minus_infinity(vec x) { return x == set1(MINUS_INFINITY) ? set1(0) : x; }
static inline vec select_less(vec a, vec b, vec yes, vec no) { return a < b ? yes : no; }

static inline vec floor_of(vec x) {  // of numbers that an int32 holds
  vec whole = __builtin_convertvector(__builtin_convertvector(x, ivec), vec);
  return whole > x ? whole - 1.0f : whole;
}
constexpr float LEAST_EXPONENT = -127;  // below it 2^x is flushed to 0 here
static inline vec bounded(vec x) { return x < LEAST_EXPONENT ? set1(LEAST_EXPONENT) : x; }
static inline vec fraction(vec x) { return bounded(x) - floor_of(bounded(x)); }
static inline vec scale_by_floor(vec p, vec x) {  // x at most 127
  constexpr int BIAS = 127, MANTISSA = 23;
  ivec bits = (__builtin_convertvector(floor_of(bounded(x)), ivec) + BIAS) << MANTISSA;
  return p * reinterpret_cast<vec>(bits);
}

static inline float sum(vec x) { return (x[0] + x[1]) + (x[2] + x[3]); }
static inline float greatest(vec x) {
  float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}
static inline void sum4(const vec *x, float *out) {
  for (int i = 0; i < 4; i++) out[i] = sum(x[i]);
}
static inline void transpose(vec *r) {
  vec t[W] = {r[0], r[1], r[2], r[3]};
  for (int i = 0; i < W; i++) r[i] = vec{t[0][i], t[1][i], t[2][i], t[3][i]};
}

}  // namespace STROBE_ISA
}  // namespace strobe
