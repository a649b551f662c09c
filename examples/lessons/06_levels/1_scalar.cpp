// Level 1. The formula as it is read: a query at a time, a number at a time.

#include <cmath>
#include <vector>

extern "C" void attend(const float *q, const float *k, const float *v, float *out, int T, int S, int) {
  std::vector<float> p(S);
  for (int t = 0; t < T; ++t) {
    float top = -INFINITY, total = 0;
    for (int s = 0; s < S; ++s) {
      p[s] = 0;
      for (int d = 0; d < D; ++d) p[s] += q[t * D + d] * k[s * D + d];
      p[s] /= std::sqrt(float(D));
      top = std::fmax(top, p[s]);
    }
    for (int s = 0; s < S; ++s) total += p[s] = std::exp(p[s] - top);
    for (int d = 0; d < D; ++d) {
      float sum = 0;  // down a column of v: every step is another cache line
      for (int s = 0; s < S; ++s) sum += p[s] * v[s * D + d];
      out[t * D + d] = sum / total;
    }
  }
}
