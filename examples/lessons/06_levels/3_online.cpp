// Level 3. Online softmax (lessons 1 and 2): scores are used as soon as they are there, and forgotten. What is held does
// not grow with S any more, and never leaves the nearest cache.

#include <cmath>

constexpr int ROWS = 32, KEYS = 64;

extern "C" void attend(const float *q, const float *k, const float *v, float *out, int T, int S, int) {
  for (int top = 0; top < T; top += ROWS) {
    float most[ROWS], total[ROWS] = {}, o[ROWS][D] = {};
    for (float &m : most) m = -INFINITY;
    for (int low = 0; low < S; low += KEYS)
      for (int t = 0; t < ROWS; ++t) {
        float p[KEYS], higher = most[t];
        for (int s = 0; s < KEYS; s += 4) {
          float sum[4] = {};
          for (int d = 0; d < D; ++d)
            for (int i = 0; i < 4; ++i) sum[i] += q[(top + t) * D + d] * k[(low + s + i) * D + d];
          for (int i = 0; i < 4; ++i) {
            p[s + i] = sum[i] / std::sqrt(float(D));
            higher = std::fmax(higher, p[s + i]);
          }
        }
        const float shrink = std::exp(most[t] - higher);  // what was summed is relative to the old maximum
        most[t] = higher;
        total[t] *= shrink;
        for (float &x : o[t]) x *= shrink;
        for (int s = 0; s < KEYS; ++s) {
          const float weight = std::exp(p[s] - higher);
          total[t] += weight;
          for (int d = 0; d < D; ++d) o[t][d] += weight * v[(low + s) * D + d];
        }
      }
    for (int t = 0; t < ROWS; ++t)
      for (int d = 0; d < D; ++d) out[(top + t) * D + d] = o[t][d] / total[t];
  }
}
