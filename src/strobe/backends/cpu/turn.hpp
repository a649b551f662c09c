// Rotary embedding: a key's pairs turned by the angles of its position, then written as its pages want. Bit for bit what the
// reference room's `append` writes.
#pragma once

#include "narrow.hpp"

// Each product is rounded before the sum it goes into. g++ would make one fused operation of a product and a sum, in C++ also
// where the C standard's pragma forbids it, and through intrinsics; clang does not across statements.
#if defined(__GNUC__) && !defined(__clang__)
#define STROBE_ROUNDED_PRODUCTS __attribute__((optimize("fp-contract=off")))
#else
#define STROBE_ROUNDED_PRODUCTS
#endif

namespace strobe {
namespace STROBE_ISA {

STROBE_ROUNDED_PRODUCTS static void turn_halves(float *__restrict a, float *__restrict b, const Angles &by) {
  const float *cos = by.cos, *sin = by.sin;
  for (int64_t c = 0; c < by.pairs; c++) {
    float a_cos = a[c] * cos[c], b_sin = b[c] * sin[c], b_cos = b[c] * cos[c], a_sin = a[c] * sin[c];
    a[c] = a_cos - b_sin;
    b[c] = b_cos + a_sin;
  }
}

STROBE_ROUNDED_PRODUCTS static void turn_neighbours(float *__restrict x, const Angles &by) {
  const float *cos = by.cos, *sin = by.sin;
  for (int64_t c = 0; c < by.pairs; c++) {
    float a = x[2 * c], b = x[2 * c + 1], a_cos = a * cos[c], b_sin = b * sin[c], b_cos = b * cos[c], a_sin = a * sin[c];
    x[2 * c] = a_cos - b_sin;
    x[2 * c + 1] = b_cos + a_sin;
  }
}

static float turn_row(const void *from, int from_dtype, void *to, int to_dtype, int64_t width, const Angles &by) {
  alignas(64) float x[MAX_WIDTH];
  widen_row(x, from_dtype, static_cast<const char *>(from), width);
  by.interleaved ? turn_neighbours(x, by) : turn_halves(x, x + by.pairs, by);
  if (has_scales(to_dtype)) return narrow_wide(x, width, to_dtype, to);
  write_row(to, to_dtype, x, width, 1.0f);
  return 0;
}

}  // namespace STROBE_ISA
}  // namespace strobe
