// A vector of LANES floats, in the compiler's own words, and its exponential.

#pragma once
#include <cstdint>

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));

inline vec larger(vec a, vec b) { return a > b ? a : b; }

// 2^x: the whole part goes into the exponent's bits, the rest through a polynomial (its error is 2e-8).
inline vec exp2(vec x) {
  x = larger(x, vec{} - 126.0f);
  const vec shifted = x + 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number, which stands in the low bits
  const vec f = x - (shifted - 12582912.0f);
  vec y = f * 1.5403530e-4f + 1.3333558e-3f;
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 2.4022651e-1f;
  y = y * f + 6.9314718e-1f;
  y = y * f + 1.0f;
  return (vec)((bits)y + ((bits)shifted << 23));
}
