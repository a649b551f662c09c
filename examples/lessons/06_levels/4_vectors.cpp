// Level 4. Vectors: a lane is a query, so that max, exp and sums need nothing from their neighbours. Two vectors of queries
// meet four keys in registers: six loads make eight products. Level 5 is this file with more than one thread.

#include <cmath>

#include "threads.hpp"
#include "vectors.hpp"

constexpr int ROWS = 2 * LANES, KEYS = 64;

// rows[n][2] = Σ_i a[i][2] · b(i, n), four n at a time: the product behind the scores, and behind the average of the values
template <class B>
inline void product(int count, const vec (*a)[2], int width, vec (*rows)[2], bool add, B b) {
  for (int n = 0; n < width; n += 4) {
    vec sum[4][2] = {};
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        sum[j][0] += a[i][0] * b(i, n + j);
        sum[j][1] += a[i][1] * b(i, n + j);
      }
    for (int j = 0; j < 4; ++j)
      for (int c = 0; c < 2; ++c) rows[n + j][c] = add ? rows[n + j][c] + sum[j][c] : sum[j][c];
  }
}

static void tile(const float *q, const float *k, const float *v, float *out, int S) {
  vec turned[D][2], o[D][2] = {}, p[KEYS][2], most[2] = {vec{} - INFINITY, vec{} - INFINITY}, total[2] = {};
  const float scale = 1.44269504f / std::sqrt(float(D));  // exp(x) = 2^(x / ln 2)
  for (int d = 0; d < D; ++d)
    for (int t = 0; t < ROWS; ++t) turned[d][t / LANES][t % LANES] = scale * q[t * D + d];
  for (int low = 0; low < S; low += KEYS) {
    product(D, turned, KEYS, p, false, [&](int d, int s) { return k[(low + s) * D + d]; });
    for (int c = 0; c < 2; ++c) {
      vec higher = most[c];
      for (int s = 0; s < KEYS; ++s) higher = larger(higher, p[s][c]);
      const vec shrink = exp2(most[c] - higher);
      most[c] = higher;
      total[c] *= shrink;
      for (int d = 0; d < D; ++d) o[d][c] *= shrink;
      for (int s = 0; s < KEYS; ++s) total[c] += p[s][c] = exp2(p[s][c] - higher);
    }
    product(KEYS, p, D, o, true, [&](int s, int d) { return v[(low + s) * D + d]; });
  }
  for (int d = 0; d < D; ++d)
    for (int t = 0; t < ROWS; ++t) out[t * D + d] = o[d][t / LANES][t % LANES] / total[t / LANES][t % LANES];
}

extern "C" void attend(const float *q, const float *k, const float *v, float *out, int T, int S, int threads) {
  const int tiles = T / ROWS;
  share(tiles, threads, [=](auto next) {
    for (int i = next(); i < tiles; i = next()) tile(q + i * ROWS * D, k, v, out + i * ROWS * D, S);
  });
}
