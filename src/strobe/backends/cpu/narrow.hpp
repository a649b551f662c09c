// Numbers of a row to narrow ones with one scale: nearest even of x / scale, where scale is max|x| over the greatest narrow
// number, and zero where that would be subnormal. Bit for bit what the reference room's `append` writes.
#pragma once

#include <type_traits>

#include "softmax.hpp"

namespace strobe {
namespace STROBE_ISA {

// Bits of the greatest |x|: as integers they are ordered as the numbers are, and NaN is greatest.
static inline float greatest_of(const float *x, int64_t width) {
  uint32_t top = 0;
  for (int64_t i = 0; i < width; i++) {
    uint32_t bits = to_bits(x[i]) & 0x7fffffff;
    top = bits > top ? bits : top;
  }
  return from_bits(top);
}

static inline void whole_steps(const float *x, int64_t width, float scale, int8_t *to) {
  constexpr uint32_t INFINITE = 0x7f800000;
  if ((to_bits(scale) & INFINITE) == INFINITE) {  // whatever it is multiplied with: not finite
    memset(to, 0, static_cast<size_t>(width));
    return;
  }
  for (int64_t i = 0; i < width; i++) to[i] = static_cast<int8_t>(__builtin_rintf(x[i] / scale));
}

// Returns the scale.
static inline float narrow_wide(const float *x, int64_t width, int to_dtype, void *to) {
  constexpr float GREATEST_E4M3 = 448, GREATEST_E5M2 = 57344;
  float greatest = greatest_of(x, width);
  auto over = [&](float most) {
    constexpr float LEAST_NORMAL = 0x1p-126f;
    float scale = greatest / most;
    return scale < LEAST_NORMAL ? 0 : scale;
  };
  if (to_dtype == STROBE_I8) {
    float scale = over(127);
    whole_steps(x, width, scale == 0 ? 1 : scale, static_cast<int8_t *>(to));
    return scale;
  }
  if (to_dtype == STROBE_I4) {
    float scale = over(7);
    int8_t steps[MAX_WIDTH];
    whole_steps(x, width, scale == 0 ? 1 : scale, steps);
    uint8_t *pairs = static_cast<uint8_t *>(to);
    for (int64_t i = 0; i < width / 2; i++) pairs[i] = static_cast<uint8_t>((steps[2 * i] & 15) | (steps[2 * i + 1] & 15) << 4);
    return scale;
  }
  auto floats = [&](auto *p, float most) {
    float scale = over(most), by = scale == 0 ? 1 : scale;
    for (int64_t i = 0; i < width; i++) narrow_one(p + i, x[i] / by);
    return scale;
  };
  return to_dtype == STROBE_E4M3 ? floats(static_cast<e4m3 *>(to), GREATEST_E4M3) : floats(static_cast<e5m2 *>(to), GREATEST_E5M2);
}

static float narrow_row(const void *from, int from_dtype, void *to, int to_dtype, int64_t width) {
  alignas(64) float x[MAX_WIDTH];
  widen_row(x, from_dtype, static_cast<const char *>(from), width);
  return narrow_wide(x, width, to_dtype, to);
}

}  // namespace STROBE_ISA
}  // namespace strobe
