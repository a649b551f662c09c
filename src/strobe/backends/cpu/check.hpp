// What the library believes only after looking: numbers that it would index memory with. The hall has already named the
// caller's mistakes; lengths and page tables are contents of arrays, which only the kernel's side reads.
#pragma once

#include "kernels.hpp"

namespace strobe {

inline int32_t fail(strobe_fault &fault, int32_t code, int64_t sequence, int64_t index, int64_t value) {
  fault = {sequence, index, value};
  return code;
}

inline bool valid_dtype(int32_t dtype) { return dtype == STROBE_F32 || dtype == STROBE_BF16 || dtype == STROBE_F16; }
// Keys and values of the queries' dtype, or narrow ones with their scales.
inline bool valid_keys(const strobe_attention &c) {
  if (c.keys_dtype == c.dtype) return !c.k_scale && !c.v_scale;
  return has_scales(c.keys_dtype) && c.keys_dtype <= STROBE_I4 && c.k_scale && c.v_scale;
}
inline bool valid_width(int64_t width) { return width > 0 && width <= MAX_WIDTH && width % 8 == 0; }

// Offsets climb from 0 or more to at most `tokens`; `all` of the tokens belong to a sequence if their outputs are written.
inline int32_t check_offsets(strobe_fault &fault, const int32_t *offsets, int64_t B, int64_t tokens, bool all) {
  if (offsets[0] < 0 || (all && offsets[0] != 0)) return fail(fault, STROBE_BAD_LENGTH, 0, 0, offsets[0]);
  for (int64_t b = 0; b < B; b++)
    if (offsets[b + 1] < offsets[b] || offsets[b + 1] > tokens) return fail(fault, STROBE_BAD_LENGTH, b, b + 1, offsets[b + 1]);
  if (all && offsets[B] != tokens) return fail(fault, STROBE_BAD_LENGTH, B, B, offsets[B]);
  return STROBE_OK;
}

// Sequence b's pages first … last (exclusive) exist.
inline int32_t check_pages(strobe_fault &fault, const int32_t *row, int64_t b, int64_t first, int64_t last, int64_t P) {
  for (int64_t i = first; i < last; i++)
    if (row[i] < 0 || row[i] >= P) return fail(fault, STROBE_BAD_TABLE, b, i, row[i]);
  return STROBE_OK;
}

}  // namespace strobe
