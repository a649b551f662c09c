// The backward pass: what passes between its schedule (backward.cpp) and its kernels, one an instruction set.
#pragma once

#include "kernels.hpp"

namespace strobe {

// An array that lies as the queries do, at a sequence and a key head; bytes from a query and from a head to the next.
struct QuerySide {
  char *at;  // null: there is none
  int64_t token, head;
};
static inline char *row_of(const QuerySide &side, RowAt at) { return side.at + at.t * side.token + at.h * side.head; }

// A sequence and a key head: its queries and keys, and where their gradients lie.
struct GradientPair {
  const strobe_attention *call;
  Rows rows;
  Keys keys;
  QuerySide dout, dlse, dq, delta, dslope;
  char *dk, *dv;  // null: not asked for
  int64_t dk_token, dv_token;
  double *dbias;  // null, or all of it
  const int64_t *dbias_strides;
};

// Three steps, and one for a bias. All rows have their delta before any keys are taken; all keys that a row sees are taken
// before its dQ is summed. A share is what some keys add to dQ of all rows; its layout is the kernel's own.
struct BackwardKernel {
  int rows, keys;  // shares are cut at multiples of so many rows, keys at multiples of so many keys
  bool (*takes)(const strobe_attention &);
  size_t (*scratch_bytes)(const strobe_attention &);
  size_t (*share_bytes)(const strobe_attention &, int64_t rows);
  void (*deltas)(const GradientPair &, int64_t row0, int64_t row1);
  void (*take_keys)(const GradientPair &, int64_t key0, int64_t key1, char *share, char *scratch);
  void (*sum_shares)(const GradientPair &, const char *const *shares, int count, int64_t row0, int64_t row1, char *scratch);
  // Adds what these rows and keys give the bias; null in a kernel that takes no calls with a bias.
  void (*add_bias)(const GradientPair &, int64_t row0, int64_t row1, int64_t key0, int64_t key1, char *scratch);
};

}  // namespace strobe
