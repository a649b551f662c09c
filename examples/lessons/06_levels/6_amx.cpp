// Level 6. AMX: one instruction multiplies a tile of 16 × 32 bfloat16 numbers with one of 32 × 16 and adds up in float32.
// Lanes are queries as before. Of the right factor two neighbouring rows lie interleaved, as pairs.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

constexpr int ROWS = 16, KEYS = 32;  // tiles 0 and 1: scores; 2 … 5: out, turned; 6 and 7: what is multiplied
static_assert(D == 64 && LANES == 16);

static uint16_t narrow(float x) {  // to bfloat16: the upper half, rounded
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
static bits pairs(vec low, vec high) { return (((bits)low + 0x8000) >> 16) | (((bits)high + 0x8000) & 0xffff0000u); }

// What was written has to be in memory before a tile is loaded from it; the compiler does not see that one is.
static void settle(const void *written) { asm volatile("" ::"r"(written) : "memory"); }

static void tile(const float *q, const uint16_t *k, const uint16_t *v, float *out, int S) {  // v is turned: [D, S]
  alignas(64) vec p[KEYS], o[D] = {}, most = vec{} - INFINITY, total = {};
  alignas(64) uint16_t turned[D / 2][ROWS][2];
  alignas(64) bits weights[KEYS / 2];
  const float scale = 1.44269504f / std::sqrt(float(D));
  for (int d = 0; d < D; ++d)
    for (int t = 0; t < ROWS; ++t) turned[d / 2][t][d % 2] = narrow(scale * q[t * D + d]);
  settle(turned);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int low = 0; low < S; low += KEYS) {
    _tile_zero(0);
    _tile_zero(1);
    for (int d = 0; d < D; d += 32) {  // 16 keys × 32 numbers, 32 numbers × 16 queries
      _tile_loadd(7, turned[d / 2], 64);
      _tile_loadd(6, k + low * D + d, 2 * D);
      _tile_dpbf16ps(0, 6, 7);
      _tile_loadd(6, k + (low + 16) * D + d, 2 * D);
      _tile_dpbf16ps(1, 6, 7);
    }
    _tile_stored(0, p, 64);
    _tile_stored(1, p + 16, 64);
    vec higher = most;
    for (const vec &x : p) higher = larger(higher, x);
    bool rose = false;
    for (int t = 0; t < ROWS; ++t) rose |= higher[t] > most[t];
    if (rose) {  // seldom after the first keys; only then does out leave its tiles
      const vec shrink = exp2(most - higher);
      most = higher, total *= shrink;
      _tile_stored(2, o, 64);
      _tile_stored(3, o + 16, 64);
      _tile_stored(4, o + 32, 64);
      _tile_stored(5, o + 48, 64);
      for (vec &x : o) x *= shrink;
      settle(o);
      _tile_loadd(2, o, 64);
      _tile_loadd(3, o + 16, 64);
      _tile_loadd(4, o + 32, 64);
      _tile_loadd(5, o + 48, 64);
    }
    for (int s = 0; s < KEYS; s += 2) {
      const vec a = exp2(p[s] - most), b = exp2(p[s + 1] - most);
      total += a + b;
      weights[s / 2] = pairs(a, b);
    }
    settle(weights);
    _tile_loadd(7, weights, 64);  // 32 keys × 16 queries; v: 16 numbers × 32 keys
    _tile_loadd(6, v + low, 2 * S);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(6, v + 16 * S + low, 2 * S);
    _tile_dpbf16ps(3, 6, 7);
    _tile_loadd(6, v + 32 * S + low, 2 * S);
    _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(6, v + 48 * S + low, 2 * S);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_stored(2, o, 64);
  _tile_stored(3, o + 16, 64);
  _tile_stored(4, o + 32, 64);
  _tile_stored(5, o + 48, 64);
  for (int d = 0; d < D; ++d)
    for (int t = 0; t < ROWS; ++t) out[t * D + d] = o[d][t] / total[t];
}

extern "C" void attend(const float *q, const float *k, const float *v, float *out, int T, int S, int threads) {
  syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM: Linux gives a process its tiles when asked
  std::vector<uint16_t> narrow_k(S * D), turned_v(S * D);
  for (int i = 0; i < S * D; ++i) narrow_k[i] = narrow(k[i]);
  for (int d = 0; d < D; ++d)
    for (int s = 0; s < S; ++s) turned_v[d * S + s] = narrow(v[s * D + d]);
  const int tiles = T / ROWS;
  share(tiles, threads, [&](auto next) {
    alignas(64) unsigned char shape[64] = {1};  // eight tiles of 16 rows of 64 bytes
    for (int i = 0; i < 8; ++i) shape[16 + 2 * i] = 64, shape[48 + i] = 16;
    settle(shape);
    _tile_loadconfig(shape);
    for (int i = next(); i < tiles; i = next()) tile(q + i * ROWS * D, narrow_k.data(), turned_v.data(), out + i * ROWS * D, S);
    _tile_release();
  });
}
