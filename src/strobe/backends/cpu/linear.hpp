// A linear layer for a few rows: y = x Wᵀ. The weights are read once, in place, in the order of memory, and that is the
// cost; so they are fetched ahead, widened in registers and used by several rows of x at once.
// Every number of y is one chain of additions that neither the other rows, nor the other weights, nor the threads change:
// a token gets the same bits alone and in a batch.
#pragma once

#include <type_traits>

#include "kernels.hpp"

namespace strobe {
namespace STROBE_ISA {

constexpr int LINEAR_ROWS = REGISTERS / 8;  // of x at once: with four weights each, half of the registers are sums
constexpr int LINEAR_WEIGHTS = 4;           // rows of W at once
// Steps whose sum is made before it joins the whole: a longer chain of additions would round each at the size of the whole.
constexpr int STRETCH_STEPS = 64;

// Two vectors of neighbours; of bfloat16 weights the even and the odd ones, which is a shift and a mask in place of a
// shuffle. The rows of x are arranged alike, once a call.
template <bool EVEN_ODD, class T>
static inline void load_two(const T *p, vec *a, vec *b) {
  if constexpr (EVEN_ODD) {
    load_even_odd(p, a, b);
  } else {
    *a = load(p), *b = load(p + W);
  }
}
// What is left of a row, with zeros behind it.
template <bool EVEN_ODD, class T>
static inline void load_two_part(const T *p, int64_t n, vec *a, vec *b) {
  T padded[2 * W] = {};
  memcpy(padded, p, static_cast<size_t>(n) * sizeof(T));
  load_two<EVEN_ODD>(padded, a, b);
}

template <class X, bool EVEN_ODD>
static void arrange_rows(const strobe_linear_call &call, float *to, int64_t stride) {
  for (int64_t m = 0; m < call.M; m++, to += stride) {
    const X *from = static_cast<const X *>(call.x) + m * call.x_stride;
    for (int64_t k = 0; k < call.K; k += 2 * W) {
      vec a, b;
      k + 2 * W <= call.K ? load_two<EVEN_ODD>(from + k, &a, &b) : load_two_part<EVEN_ODD>(from + k, call.K - k, &a, &b);
      store(to + k, a), store(to + k + W, b);
    }
  }
}

// The rows of x as float32, `stride` apart, in the order in which weights are loaded.
static void arrange_linear(const strobe_linear_call &call, float *to, int64_t stride) {
  bool even_odd = call.weights_dtype == STROBE_BF16;
  if (call.dtype == STROBE_F32) arrange_rows<float, false>(call, to, stride);
  if (call.dtype == STROBE_F16) arrange_rows<f16, false>(call, to, stride);
  if (call.dtype == STROBE_BF16 && even_odd) arrange_rows<bf16, true>(call, to, stride);
  if (call.dtype == STROBE_BF16 && !even_odd) arrange_rows<bf16, false>(call, to, stride);
}

// sums[r][c] = x[r] · w[c] for R rows and four weights. `ahead` is what will be needed next, as much as is read here.
template <int R, bool FETCH, class T>
static inline __attribute__((always_inline)) void products(const float *x, int64_t stride, const T *const *w, int64_t K, const char *ahead,
                                                           float (*sums)[LINEAR_WEIGHTS]) {
  constexpr bool EVEN_ODD = std::is_same_v<T, bf16>;
  constexpr int STEP = 2 * W, BYTES = LINEAR_WEIGHTS * STEP * static_cast<int>(sizeof(T)), LINE = 64;
  vec acc[R][LINEAR_WEIGHTS], whole[R][LINEAR_WEIGHTS];
  auto use = [&](int c, vec a, vec b, int64_t k) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      acc[r][c] = fma(a, load(x + r * stride + k), acc[r][c]);
      acc[r][c] = fma(b, load(x + r * stride + k + W), acc[r][c]);
    }
  };
  for (int r = 0; r < R; r++)
    for (int c = 0; c < LINEAR_WEIGHTS; c++) whole[r][c] = set1(0);
  for (int64_t k = 0; k < K;) {
    for (int r = 0; r < R; r++)
      for (int c = 0; c < LINEAR_WEIGHTS; c++) acc[r][c] = set1(0);
    int64_t stop = least(k + STRETCH_STEPS * STEP, K);
    for (; k + STEP <= stop; k += STEP) {
      if (FETCH) {
#pragma GCC unroll 8
        for (int line = 0; line < BYTES; line += LINE) __builtin_prefetch(ahead + line, 0, 2);
        ahead += BYTES;
      }
#pragma GCC unroll 4
      for (int c = 0; c < LINEAR_WEIGHTS; c++) {
        vec a, b;
        load_two<EVEN_ODD>(w[c] + k, &a, &b);
        use(c, a, b, k);
      }
    }
    if (k < stop) {
      for (int c = 0; c < LINEAR_WEIGHTS; c++) {
        vec a, b;
        load_two_part<EVEN_ODD>(w[c] + k, stop - k, &a, &b);
        use(c, a, b, k);
      }
      k = stop;
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < LINEAR_WEIGHTS; c++) whole[r][c] = add(whole[r][c], acc[r][c]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) sum4(whole[r], sums[r]);
}

template <class X>
static inline void finish_linear(const strobe_linear_call &call, int64_t m, int64_t n, int count, const float *sums) {
  X *y = static_cast<X *>(call.y) + m * call.N + n;
  for (int c = 0; c < LINEAR_WEIGHTS && c < count; c++) {
    float sum = call.scales ? sums[c] * call.scales[n + c] : sums[c];
    narrow_one(y + c, call.bias ? sum + widen_one(static_cast<const X *>(call.bias)[n + c]) : sum);
  }
}

template <int R, bool FETCH, class T>
static void block_linear(const strobe_linear_call &call, const float *x, int64_t stride, int64_t m, int64_t n) {
  float sums[R][LINEAR_WEIGHTS];
  const T *w[LINEAR_WEIGHTS], *weights = static_cast<const T *>(call.weights);
  for (int c = 0; c < LINEAR_WEIGHTS; c++) w[c] = weights + least(n + c, call.N - 1) * call.K;
  products<R, FETCH>(x + m * stride, stride, w, call.K, reinterpret_cast<const char *>(weights + (n + LINEAR_WEIGHTS) * call.K), sums);
  int count = static_cast<int>(least(LINEAR_WEIGHTS, call.N - n));
  for (int r = 0; r < R; r++) {
    if (call.dtype == STROBE_F32) finish_linear<float>(call, m + r, n, count, sums[r]);
    if (call.dtype == STROBE_BF16) finish_linear<bf16>(call, m + r, n, count, sums[r]);
    if (call.dtype == STROBE_F16) finish_linear<f16>(call, m + r, n, count, sums[r]);
  }
}

template <int R, class T>
static void block_linear(const strobe_linear_call &call, const float *x, int64_t stride, int64_t m, int64_t n) {
  m == 0 ? block_linear<R, true, T>(call, x, stride, m, n) : block_linear<R, false, T>(call, x, stride, m, n);
}

template <class T>
static void linear(const strobe_linear_call &call, const float *x, int64_t stride, int64_t n0, int64_t n1) {
  for (int64_t n = n0; n < n1; n += LINEAR_WEIGHTS) {
    int64_t m = 0;
    for (; m + LINEAR_ROWS <= call.M; m += LINEAR_ROWS) block_linear<LINEAR_ROWS, T>(call, x, stride, m, n);
    int64_t left = call.M - m;
    if (left == 3) block_linear<3, T>(call, x, stride, m, n);
    if (left == 2) block_linear<2, T>(call, x, stride, m, n);
    if (left == 1) block_linear<1, T>(call, x, stride, m, n);
  }
}

// Columns n0 … n1 of y, from arranged rows of x.
static void linear(const strobe_linear_call &call, const float *x, int64_t stride, int64_t n0, int64_t n1) {
  if (call.weights_dtype == STROBE_F32) linear<float>(call, x, stride, n0, n1);
  if (call.weights_dtype == STROBE_BF16) linear<bf16>(call, x, stride, n0, n1);
  if (call.weights_dtype == STROBE_F16) linear<f16>(call, x, stride, n0, n1);
  if (call.weights_dtype == STROBE_I8) linear<int8_t>(call, x, stride, n0, n1);
}

}  // namespace STROBE_ISA
}  // namespace strobe
