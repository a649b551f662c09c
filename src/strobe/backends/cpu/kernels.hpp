// What passes between the schedule (compiled for any machine) and the kernels (compiled once an instruction set).
// Types are plain data. Functions have internal linkage on purpose: were they shared, the linker could keep the copy
// that was compiled for the widest instruction set and run it on a machine that lacks it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "interface.h"

namespace strobe {

constexpr float LOG2_E = 1.44269504088896340736f;  // kernels work in powers of two: e^x = 2^(x · log2 e)
constexpr float LN_2 = 0.69314718055994530942f;
constexpr int MAX_WIDTH = 576;  // of DeepSeek's latent keys

// The keys of one sequence under one key head; strides in bytes.
struct Keys {
  const char *k, *v;
  int64_t k_token, v_token, k_page, v_page;
  const char *k_scale, *v_scale;  // null: the numbers count as they are
  int64_t k_scale_token, v_scale_token, k_scale_page, v_scale_page;
  const int32_t *table;  // null: the tokens lie one behind the other
  int64_t page_tokens;
  int64_t count;
};

// The queries of one sequence that share a key head. Row r is query r / group of head `head + r % group`; strides in bytes.
struct Rows {
  const char *q;
  char *out;
  char *lse;
  int64_t q_token, q_head, out_token, out_head, lse_token, lse_head;
  int64_t group, count;
  int64_t first;  // position of query 0
  int64_t head;
  const float *slopes;  // of this sequence, or null
  int64_t sequence;
  int64_t prefix;  // keys that every query sees, whatever its position; -1: none
};

// One piece of work: some rows against some keys.
struct Piece {
  const strobe_attention *call;
  const Rows *rows;
  const Keys *keys;
  int64_t row0;
  int row_count;
  int64_t key0, key1;
  const Keys *then;  // what this thread reads next, null where nobody knows
  int64_t then_key0, then_key1;
  float *partial;      // null: write out and lse; else room for row_count × (2 + V): m, l, O
  const char *packed;  // blocks of keys already packed for all tiles, or null
  int64_t packed_block0;
  char *scratch;
};

constexpr int MOST_HEADS = 16;  // key heads that a kernel takes at once

// A kernel takes the same rows and keys of `heads` neighbouring key heads. More than one where their keys lie side by side,
// so that memory is read in its own order.
struct Kernel {
  int tile_rows;   // rows of a tile
  int block_keys;  // work is cut at multiples of so many keys
  size_t (*scratch_bytes)(const strobe_attention &);
  void (*attend)(const Piece *pieces, int heads);
  size_t (*block_bytes)(const strobe_attention &);  // null: nothing to pack
  void (*pack)(const strobe_attention &, const Keys &, int64_t s0, int64_t s1, char *block);
};

struct BackwardKernel;  // gradients.hpp

// The angles of a position, a pair of numbers each: cosines and sines.
struct Angles {
  const float *cos, *sin;
  int64_t pairs;
  bool interleaved;  // pair c is numbers 2c and 2c + 1; else c and c + pairs
};

struct InstructionSet {
  Kernel many, few;  // lanes are rows; lanes are the width
  bool (*few_takes)(const strobe_attention &, int64_t rows);
  bool (*many_takes)(const strobe_attention &);
  void (*merge)(const Piece &, const float *const *partials, int count);  // partials of one piece to out and lse
  void (*merge_states)(const strobe_merge &, int64_t b, int64_t t);
  void (*copy_row)(const void *from, int from_dtype, void *to, int to_dtype, int64_t width);
  float (*narrow_row)(const void *from, int from_dtype, void *to, int to_dtype, int64_t width);  // returns the scale
  // The same, of a key that is turned before; 0 where the numbers are not narrow.
  float (*turn_row)(const void *from, int from_dtype, void *to, int to_dtype, int64_t width, const Angles &);
  void (*arrange_linear)(const strobe_linear_call &, float *to, int64_t stride);
  void (*linear)(const strobe_linear_call &, const float *x, int64_t stride, int64_t n0, int64_t n1);  // columns n0 … n1 of y
  const InstructionSet *below;                                                                         // where `many_takes` says no
  const BackwardKernel *backward;                                                                      // null: the one below
};

const InstructionSet *instruction_set(int32_t isa);  // null: not on this machine

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
static inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
static inline bool has_scales(int dtype) { return dtype >= STROBE_I8; }
static inline int64_t dtype_bytes(int dtype) { return dtype == STROBE_F32 ? 4 : has_scales(dtype) ? 1 : 2; }
static inline int64_t row_bytes(int dtype, int64_t width) { return dtype == STROBE_I4 ? width / 2 : width * dtype_bytes(dtype); }
static inline bool scaled(const strobe_attention &call) { return call.keys_dtype != call.dtype; }

// A row's query and its head within the group; walked along, because divisions would be a tenth of a short tile's time.
struct RowAt {
  int64_t t, h;
};
static inline RowAt row_at(const Rows &rows, int64_t row) { return {row / rows.group, row % rows.group}; }
static inline RowAt next_row(const Rows &rows, RowAt at) { return at.h + 1 < rows.group ? RowAt{at.t, at.h + 1} : RowAt{at.t + 1, 0}; }

// The keys [lo, hi) outside of which a query sees none: causal, window, prefix, lengths. Marks may hide more (marks.hpp).
static inline void visible(const strobe_attention &call, const Rows &rows, int64_t keys, int64_t t, int64_t *lo, int64_t *hi) {
  int64_t position = rows.first + t;
  int64_t end = position + call.after + 1;
  if (rows.prefix >= 0) end = least(end, most(position + 1, rows.prefix));
  *lo = clamp(position - call.before, 0, keys);
  *hi = most(*lo, clamp(end, 0, keys));
}

// How many tokens from s on lie a constant stride apart, and where the first one lies.
static inline int64_t run_at(const Keys &keys, int64_t s, const char **k, const char **v) {
  if (!keys.table) {
    *k = keys.k + s * keys.k_token;
    *v = keys.v + s * keys.v_token;
    return keys.count - s;
  }
  int64_t page = s / keys.page_tokens, token = s % keys.page_tokens, number = keys.table[page];
  *k = keys.k + number * keys.k_page + token * keys.k_token;
  *v = keys.v + number * keys.v_page + token * keys.v_token;
  return least(keys.page_tokens - token, keys.count - s);
}

// Pointers to n tokens from s on; s + n must not pass the count.
static inline void tokens_at(const Keys &keys, int64_t s, int n, const char **k, const char **v) {
  const int64_t k_step = keys.k_token, v_step = keys.v_token;  // the compiler cannot know that k and v are not these
  for (int j = 0; j < n;) {
    const char *kj, *vj;
    int end = j + static_cast<int>(least(run_at(keys, s + j, &kj, &vj), n - j));
    for (; j < end; j++, kj += k_step, vj += v_step) k[j] = kj, v[j] = vj;
  }
}

// The scales of n tokens from s on.
[[maybe_unused]] static void scales_at(const Keys &keys, int64_t s, int n, float *k, float *v) {
  for (int j = 0; j < n;) {
    int64_t at = s + j, page = 0, left = n - j;
    if (keys.table) page = keys.table[at / keys.page_tokens], at %= keys.page_tokens, left = least(left, keys.page_tokens - at);
    const char *kj = keys.k_scale + page * keys.k_scale_page + at * keys.k_scale_token;
    const char *vj = keys.v_scale + page * keys.v_scale_page + at * keys.v_scale_token;
    for (int end = j + static_cast<int>(left); j < end; j++, kj += keys.k_scale_token, vj += keys.v_scale_token) {
      memcpy(k + j, kj, sizeof(float));
      memcpy(v + j, vj, sizeof(float));
    }
  }
}

static inline const char *query_at(const Rows &rows, RowAt at) { return rows.q + at.t * rows.q_token + at.h * rows.q_head; }

}  // namespace strobe
