// The number formats, and constants of them. No functions that a linker could share between instruction sets.
#pragma once

#include <stdint.h>
#include <string.h>

namespace strobe {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct e4m3 {  // no infinities; 0x7f is NaN
  uint8_t bits;
};
struct e5m2 {  // the upper half of an f16
  uint8_t bits;
};

constexpr float MINUS_INFINITY = -__builtin_inff();

static inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float widen_one(float x) { return x; }
static inline float widen_one(int8_t x) { return static_cast<float>(x); }
static inline float widen_one(bf16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
static inline float widen_one(f16 x) {
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // inf, NaN
  // Subnormals count 2^-24ths. The others are short of 112 in the exponent (bias 127, not 15). Neither passes through a
  // subnormal float, which kernels flush to zero.
  return from_bits(sign | (rest < 0x400 ? to_bits(static_cast<float>(rest) * 0x1p-24f) : (rest << 13) + (112u << 23)));
}

static inline float widen_one(e5m2 x) { return widen_one(f16{static_cast<uint16_t>(x.bits << 8)}); }
// Shifted, it is an f16 whose exponent is 8 too small.
static inline float widen_one(e4m3 x) {
  if ((x.bits & 0x7f) == 0x7f) return __builtin_nanf("");
  return widen_one(f16{static_cast<uint16_t>((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7)}) * 256;
}
// Pairs of int4, the even number in the low half of a byte.
[[maybe_unused]] static inline void unpack_row(const char *from, int64_t width, int8_t *to) {
  for (int64_t i = 0; i < width / 2; i++) {
    int pair = static_cast<uint8_t>(from[i]);
    to[2 * i] = static_cast<int8_t>(((pair & 15) ^ 8) - 8);
    to[2 * i + 1] = static_cast<int8_t>(((pair >> 4) ^ 8) - 8);
  }
}

static inline void narrow_one(float *p, float x) { *p = x; }
static inline void narrow_one(bf16 *p, float x) {  // to nearest even; a NaN stays one
  uint32_t bits = to_bits(x);
  p->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline void narrow_one(f16 *p, float x) {
  uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  uint32_t half;
  if (rest > 0x7f800000) {
    half = 0x7e00;  // NaN
  } else if (rest >= 0x477ff000) {
    half = 0x7c00;  // 65,520 and more round to infinity
  } else if (rest < 0x38800000) {
    // Below the least normal (2^-14): adding 0.5 leaves the rounded multiples of 2^-24 in the low bits.
    half = to_bits(from_bits(rest) + 0.5f) - 0x3f000000;
  } else {
    half = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
}
// To nearest even, with three and two bits behind the point. Below the least normal, adding a number whose last bit counts as
// the format's least leaves the rounded multiples of that in the low bits.
static inline void narrow_one(e4m3 *p, float x) {
  uint32_t bits = to_bits(x), sign = bits >> 24 & 0x80, rest = bits & 0x7fffffff, narrow;
  if (rest >= 0x43e80000) {
    narrow = 0x7f;  // 464 and more, or NaN
  } else if (rest < 0x3c800000) {
    narrow = to_bits(from_bits(rest) + 16384.0f) - to_bits(16384.0f);
  } else {
    narrow = (rest - (120u << 23) + 0x7ffff + (rest >> 20 & 1)) >> 20;
  }
  p->bits = static_cast<uint8_t>(sign | narrow);
}
static inline void narrow_one(e5m2 *p, float x) {
  uint32_t bits = to_bits(x), sign = bits >> 24 & 0x80, rest = bits & 0x7fffffff, narrow;
  if (rest >= 0x47700000) {
    narrow = rest > 0x7f800000 ? 0x7f : 0x7c;  // 61,440 and more round to infinity
  } else if (rest < 0x38800000) {
    narrow = to_bits(from_bits(rest) + 128.0f) - to_bits(128.0f);
  } else {
    narrow = (rest - (112u << 23) + 0xfffff + (rest >> 21 & 1)) >> 21;
  }
  p->bits = static_cast<uint8_t>(sign | narrow);
}

}  // namespace strobe
