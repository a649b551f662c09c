// A handful of cases through the C interface, against the definition in plain loops of doubles: for machines where Python is
// not at hand, as under qemu. Each instruction set that the machine has takes each case in each dtype.
//
// The promise is that of tests/contract/tolerance.py: the error is at most so many times that of the plain computation,
// which rounds its scores, weights and results to the dtype.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../../src/strobe/backends/cpu/interface.h"

namespace {

constexpr double PROMISED = 2, GRADIENTS = 4;
constexpr double NONE = -std::numeric_limits<double>::infinity();
constexpr int64_t B = 2, Z = 5;
constexpr int DOUBLE = -1;
const char *const DTYPES[] = {"float32", "bfloat16", "float16"}, *const ISAS[] = {"scalar", "avx2", "avx512", "amx", "neon"};

using Doubles = std::vector<double>;
#if defined(__aarch64__)
using Half = __fp16;
#else
using Half = _Float16;
#endif

uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

double rounded(double x, int dtype) {
  if (dtype == DOUBLE || x == NONE) return x;
  if (dtype == STROBE_F16) return static_cast<double>(static_cast<Half>(x));
  uint32_t bits = bits_of(static_cast<float>(x));
  if (dtype == STROBE_BF16) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  return float_of(bits);
}

// Numbers that a dtype holds exactly, and their bytes.
struct Array {
  Doubles x;
  std::vector<char> bytes;
  int dtype;

  Array(int64_t n, int kind) : x(static_cast<size_t>(n)), dtype(kind) {}

  static Array drawn(int64_t n, int dtype, double times = 1) {
    static uint64_t state = 1;
    Array a(n, dtype);
    for (double &x : a.x) {
      double sum = -6;  // of twelve uniform numbers: normal enough
      for (int i = 0; i < 12; i++)
        state = state * 6364136223846793005u + 1442695040888963407u, sum += static_cast<double>(state >> 11) / 9007199254740992.0;
      x = rounded(sum * times, dtype);
    }
    return a.written();
  }
  Array written() const {
    Array a = *this;
    a.bytes.clear();
    for (double value : x) {
      float number = static_cast<float>(value);
      Half half = static_cast<Half>(value);
      uint16_t top = static_cast<uint16_t>(bits_of(number) >> 16);
      const void *from = dtype == STROBE_F32   ? static_cast<const void *>(&number)
                         : dtype == STROBE_F16 ? static_cast<const void *>(&half)
                                               : &top;
      a.bytes.insert(a.bytes.end(), static_cast<const char *>(from), static_cast<const char *>(from) + (dtype == STROBE_F32 ? 4 : 2));
    }
    return a;
  }
  static Array poisoned(int64_t n, int dtype) {
    Array a(n, dtype);
    std::fill(a.x.begin(), a.x.end(), std::nan(""));
    return a.written();
  }
  Doubles read() const {
    Doubles found;
    size_t step = dtype == STROBE_F32 ? 4 : 2;
    for (size_t at = 0; at < bytes.size(); at += step) {
      float number;
      Half half;
      uint16_t top;
      if (dtype == STROBE_F32) memcpy(&number, &bytes[at], 4);
      if (dtype == STROBE_F16) memcpy(&half, &bytes[at], 2), number = static_cast<float>(half);
      if (dtype == STROBE_BF16) memcpy(&top, &bytes[at], 2), number = float_of(static_cast<uint32_t>(top) << 16);
      found.push_back(number);
    }
    return found;
  }
  char *data() { return bytes.data(); }
};

struct Case {
  const char *name;
  int64_t T, S, H, G, D, V;
  int64_t before = STROBE_UNBOUNDED, after = STROBE_UNBOUNDED;
  double cap = 0;
  bool sink = false, slopes = false, pages = false;
  int64_t rotated = 0;  // numbers of a key that are turned when it is written; interleaved ones at positions of their own
  bool interleaved = false;
};

const Case CASES[] = {
    {"prefill, causal", 70, 90, 4, 2, 64, 64, STROBE_UNBOUNDED, 0},
    {"prefill, full, odd widths", 33, 41, 3, 1, 40, 72},
    {"more queries than keys", 40, 17, 2, 2, 16, 16, STROBE_UNBOUNDED, 0},
    {"window, cap, sink, slopes", 50, 130, 4, 2, 24, 32, 30, 0, 2.5, true, true},
    {"one query", 1, 210, 8, 2, 128, 128},
    {"one query, sink, pages", 1, 77, 4, 1, 72, 40, STROBE_UNBOUNDED, 0, 0, true, false, true},
    {"five queries, pages", 5, 93, 2, 2, 64, 64, STROBE_UNBOUNDED, 0, 0, false, false, true},
    {"prefill, pages", 37, 61, 4, 2, 64, 8, STROBE_UNBOUNDED, 0, 0, false, true, true},
    {"five queries, halves turned, pages", 5, 23, 2, 2, 64, 64, STROBE_UNBOUNDED, 0, 0, false, false, true, 64},
    {"one query, neighbours turned, pages", 1, 31, 4, 1, 72, 40, STROBE_UNBOUNDED, 0, 0, false, false, true, 22, true},
};

struct Truth {
  Doubles out, lse, dq, dk, dv;
};

struct Inputs {
  Array q, k, v, dout, dlse;
  std::vector<float> sink, slopes;
};

// The definition, with its gradient if `backward`; `dtype` is what scores, weights and results are rounded to.
Truth define(const Case &c, const Inputs &in, int dtype, bool backward) {
  const int64_t R = B * c.T * c.H;
  Truth t{Doubles(R * c.V), Doubles(R), Doubles(R * c.D), Doubles(B * c.S * c.G * c.D), Doubles(B * c.S * c.G * c.V)};
  const double scale = static_cast<double>(static_cast<float>(1 / std::sqrt(static_cast<double>(c.D))));
  auto add = [&](double &to, double x) { to = rounded(to + x, dtype == DOUBLE ? DOUBLE : STROBE_F32); };
  for (int64_t row = 0; row < R; row++) {
    const int64_t b = row / (c.T * c.H), at = row / c.H % c.T, h = row % c.H, g = h / (c.H / c.G), position = c.S - c.T + at;
    auto key = [&](int64_t s) { return (b * c.S + s) * c.G + g; };
    const double *q = &in.q.x[row * c.D];
    Doubles score(c.S, NONE), steep(c.S, 1.0);
    double highest = c.sink ? in.sink[h] : NONE, sum = 0;
    for (int64_t s = 0; s < c.S; s++) {
      if (s < position - c.before || s > position + c.after) continue;
      double x = 0;
      for (int64_t d = 0; d < c.D; d++) add(x, q[d] * in.k.x[key(s) * c.D + d]);
      x = rounded(x * scale, dtype);
      if (c.cap > 0) steep[s] = 1 - std::pow(std::tanh(x / c.cap), 2), x = rounded(c.cap * std::tanh(x / c.cap), dtype);
      if (c.slopes) x = rounded(x - in.slopes[h] * static_cast<double>(std::llabs(position - s)), dtype);
      highest = std::max(highest, score[s] = x);
    }
    if (highest == NONE) {
      t.lse[row] = NONE;
      continue;
    }
    for (double x : score) add(sum, std::exp(x - highest));
    if (c.sink) add(sum, std::exp(in.sink[h] - highest));
    t.lse[row] = rounded(highest + std::log(sum), dtype);
    Doubles weight(c.S);
    for (int64_t s = 0; s < c.S; s++) weight[s] = rounded(std::exp(score[s] - highest) / sum, dtype);
    double *out = &t.out[row * c.V], delta = -in.dlse.x[row];
    const double *dout = &in.dout.x[row * c.V];
    for (int64_t d = 0; d < c.V; d++) {
      double x = 0;
      for (int64_t s = 0; s < c.S; s++) add(x, weight[s] * in.v.x[key(s) * c.V + d]);
      out[d] = rounded(x, dtype);
      add(delta, dout[d] * out[d]);
    }
    for (int64_t s = 0; backward && s < c.S; s++) {
      double x = 0;
      for (int64_t d = 0; d < c.V; d++) add(x, dout[d] * in.v.x[key(s) * c.V + d]), add(t.dv[key(s) * c.V + d], weight[s] * dout[d]);
      x = rounded(weight[s] * (x - delta) * steep[s] * scale, dtype);
      for (int64_t d = 0; d < c.D; d++) add(t.dq[row * c.D + d], x * in.k.x[key(s) * c.D + d]), add(t.dk[key(s) * c.D + d], x * q[d]);
    }
  }
  for (Doubles *gradient : {&t.dq, &t.dk, &t.dv})
    for (double &x : *gradient) x = rounded(x, dtype);
  return t;
}

double error(const Doubles &found, const Doubles &truth) {
  double off = 0, size = 0;
  for (size_t i = 0; i < truth.size(); i++) {
    if (truth[i] == NONE && found[i] == NONE) continue;
    off += (found[i] - truth[i]) * (found[i] - truth[i]), size += truth[i] * truth[i];
  }
  return size > 0 ? std::sqrt(off / size) : std::sqrt(off);
}

int checked = 0, wrong = 0;
double nearest = 0;

void hold(const std::string &what, int dtype, double times, const Doubles &found, const Doubles &plain, const Doubles &truth) {
  const double one[] = {1.2e-7, 7.9e-3, 9.8e-4};  // a rounding
  double allowed = std::max(times * error(plain, truth), one[dtype]), off = error(found, truth);
  checked++;
  nearest = std::max(nearest, off / allowed);
  if (off <= allowed) return;  // not so if it is NaN
  printf("wrong: %s: error %.2e, %.2e is promised\n", what.c_str(), off, allowed);
  wrong++;
}

void well(const std::string &what, int32_t code) {
  if (code == STROBE_OK) return;
  printf("refused: %s: code %d\n", what.c_str(), code);
  wrong++;
}

void three(int64_t *strides, int64_t tokens, int64_t heads, int64_t width) {
  strides[0] = tokens * heads * width, strides[1] = heads * width, strides[2] = width;
}

strobe_attention call_of(const Case &c, Inputs &in, int isa, Array &out, std::vector<float> &lse) {
  strobe_attention a{};
  a.size = sizeof a, a.interface = STROBE_INTERFACE, a.isa = isa, a.threads = 2, a.dtype = a.keys_dtype = in.q.dtype,
  a.layout = STROBE_DENSE;
  a.B = B, a.T = c.T, a.S = c.S, a.H = c.H, a.G = c.G, a.D = c.D, a.V = c.V;
  a.q = in.q.data(), a.k = in.k.data(), a.v = in.v.data(), a.out = out.data(), a.lse = lse.data();
  three(a.q_strides, c.T, c.H, c.D), three(a.k_strides, c.S, c.G, c.D), three(a.v_strides, c.S, c.G, c.V);
  three(a.out_strides, c.T, c.H, c.V), three(a.lse_strides, c.T, c.H, 1);
  a.before = c.before, a.after = c.after, a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.D)));
  a.cap = static_cast<float>(c.cap), a.sink = c.sink ? in.sink.data() : nullptr, a.slopes = c.slopes ? in.slopes.data() : nullptr;
  return a;
}

int32_t run(strobe_attention &a) { return a.T * a.H / a.G <= 8 ? strobe_decode(&a) : strobe_forward(&a); }

// Cosines and sines of every position, and positions in an order of their own.
struct Rotary {
  std::vector<float> cos, sin;
  std::vector<int32_t> positions;

  explicit Rotary(const Case &c) {
    for (int64_t p = 0; p < c.S; p++)
      for (int64_t pair = 0; pair < c.rotated / 2; pair++) {
        double angle = static_cast<double>(p) * std::pow(10.0, -0.2 * static_cast<double>(pair));
        cos.push_back(static_cast<float>(std::cos(angle))), sin.push_back(static_cast<float>(std::sin(angle)));
      }
    for (int64_t i = 0; i < B * c.S; i++) positions.push_back(static_cast<int32_t>(c.interleaved ? i * 7 % c.S : i % c.S));
  }
  void asked_of(strobe_append &a, const Case &c) {
    a.cos = cos.data(), a.sin = sin.data(), a.cos_stride = a.sin_stride = c.rotated / 2, a.rows = c.S;
    a.rotated = c.rotated, a.interleaved = c.interleaved;
    if (c.interleaved) a.positions = positions.data(), a.positions_stride = c.S;
  }
  // The definition, each product and sum rounded to float32.
  void turn(const Case &c, Doubles &k) const {
    const int64_t pairs = c.rotated / 2;
    for (int64_t token = 0; token < B * c.S; token++)
      for (int64_t g = 0; g < c.G; g++)
        for (int64_t pair = 0; pair < pairs; pair++) {
          double *head = &k[(token * c.G + g) * c.D], *i = head + (c.interleaved ? 2 * pair : pair), *j = i + (c.interleaved ? 1 : pairs);
          double x = cos[positions[token] * pairs + pair], y = sin[positions[token] * pairs + pair], a = *i, b = *j;
          *i = rounded(rounded(a * x, STROBE_F32) - rounded(b * y, STROBE_F32), STROBE_F32);
          *j = rounded(rounded(b * x, STROBE_F32) + rounded(a * y, STROBE_F32), STROBE_F32);
        }
  }
};

// The keys in pages of NaN, written there by the library, the last page of each sequence first.
struct Pages {
  std::vector<int32_t> table, lengths;
  Array k, v;
  int dtype;
  std::vector<float> k_scale, v_scale;

  Pages(const Case &c, Inputs &in, int isa, const std::string &name, int kept)
      : lengths(B, static_cast<int32_t>(c.S)),
        k(Array::poisoned(count(c) * Z * c.G * c.D, in.k.dtype)),
        v(Array::poisoned(count(c) * Z * c.G * c.V, in.k.dtype)),
        dtype(kept) {
    if (dtype != in.k.dtype) k_scale.assign(count(c) * Z * c.G, std::nanf("")), v_scale = k_scale;
    for (int64_t i = count(c); i-- > 0;) table.push_back(static_cast<int32_t>(i));
    strobe_append a{};
    a.size = sizeof a, a.interface = STROBE_INTERFACE, a.isa = isa, a.threads = 2, a.from_dtype = in.k.dtype, a.to_dtype = dtype;
    a.B = B, a.T = c.S, a.G = c.G, a.D = c.D, a.V = c.V, a.k = in.k.data(), a.v = in.v.data(), a.k_pages = k.data(), a.v_pages = v.data();
    three(a.k_strides, c.S, c.G, c.D), three(a.v_strides, c.S, c.G, c.V);
    three(a.k_pages_strides, Z, c.G, stored(c.D)), three(a.v_pages_strides, Z, c.G, stored(c.V));
    a.table = table.data(), a.lengths = lengths.data(), a.table_stride = a.table_width = count(c) / B, a.P = count(c), a.Z = Z;
    scaled_by(a);
    Rotary rotary(c);
    if (c.rotated) rotary.asked_of(a, c);
    well(name + ", append", strobe_append_tokens(&a));
    rotary.turn(c, in.k.x);
  }
  int64_t stored(int64_t width) const { return dtype == STROBE_I4 ? width / 2 : width; }
  template <class Call>
  void scaled_by(Call &a) {
    if (k_scale.empty()) return;
    a.k_scale = k_scale.data(), a.v_scale = v_scale.data();
    three(a.k_scale_strides, Z, a.G, 1), three(a.v_scale_strides, Z, a.G, 1);
  }
  // The row of the pages that holds row `row` of [B, S, G].
  int64_t place(int64_t row, int64_t S, int64_t G) const {
    int64_t s = row / G % S, page = table[row / G / S * (static_cast<int64_t>(table.size()) / B) + s / Z];
    return (page * Z + s % Z) * G + row % G;
  }
  // Turned keys are the definition's bits, rounded once more to the dtype.
  void turned(Array &x, const Case &c, const std::string &what) const {
    const Doubles found = k.read();
    int64_t others = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(x.x.size()); i++) {
      x.x[i] = rounded(x.x[i], dtype);
      others += found[place(i / c.D, c.S, c.G) * c.D + i % c.D] != x.x[i];
    }
    checked++;
    if (others) printf("wrong: %s: %lld numbers of other bits\n", what.c_str(), static_cast<long long>(others)), wrong++;
  }
  // What narrow pages hold in place of the given rows [B, S, G, width]: no number is further off than half a step.
  void kept(Array &x, Array &pages, const std::vector<float> &scale, int64_t S, int64_t G, int64_t width, const std::string &what) {
    double worst = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(x.x.size()); i++) {
      int64_t at = place(i / width, S, G), number = at * width + i % width;
      int value = dtype == STROBE_I8 ? static_cast<int8_t>(pages.bytes[number]) : pages.bytes[number / 2] >> (number % 2 * 4) & 15;
      double kept = scale[at] * (dtype == STROBE_I4 && value > 7 ? value - 16 : value);
      worst = std::max(worst, std::fabs(kept - x.x[i]) / scale[at]);
      x.x[i] = kept;
    }
    checked++;
    if (!(worst <= 0.5001)) printf("wrong: %s: %.3f steps off\n", what.c_str(), worst), wrong++;
  }
  static int64_t count(const Case &c) { return B * ((c.S + Z - 1) / Z); }
  void read_by(strobe_attention &a) {
    three(a.k_strides, Z, a.G, stored(a.D)), three(a.v_strides, Z, a.G, stored(a.V));
    scaled_by(a), a.keys_dtype = dtype;
    a.layout = STROBE_PAGED, a.k = k.data(), a.v = v.data(), a.table = table.data(), a.lengths = lengths.data();
    a.P = static_cast<int64_t>(table.size()), a.table_stride = a.table_width = a.P / B, a.Z = Z;
  }
};

Doubles wide(const std::vector<float> &x) { return Doubles(x.begin(), x.end()); }

void gradients(const Case &c, Inputs &in, const strobe_attention &forward, const std::string &name, const Truth &plain,
               const Truth &truth) {
  Array dq = Array::poisoned(static_cast<int64_t>(in.q.x.size()), in.q.dtype),
        dk = Array::poisoned(static_cast<int64_t>(in.k.x.size()), in.q.dtype);
  Array dv = Array::poisoned(static_cast<int64_t>(in.v.x.size()), in.q.dtype);
  std::vector<float> delta(truth.lse.size()), dlse(in.dlse.x.begin(), in.dlse.x.end()), dslope(truth.lse.size());
  strobe_gradients a{};
  a.size = sizeof a, a.interface = STROBE_INTERFACE, a.forward = &forward, a.dout = in.dout.data(), a.dlse = dlse.data();
  a.dq = dq.data(), a.dk = dk.data(), a.dv = dv.data(), a.delta = delta.data(), a.dslope = c.slopes ? dslope.data() : nullptr;
  three(a.dout_strides, c.T, c.H, c.V), three(a.dlse_strides, c.T, c.H, 1), three(a.row_strides, c.T, c.H, 1);
  three(a.dq_strides, c.T, c.H, c.D), three(a.dk_strides, c.S, c.G, c.D), three(a.dv_strides, c.S, c.G, c.V);
  well(name + ", backward", strobe_backward(&a));
  hold(name + ", dq", in.q.dtype, GRADIENTS, dq.read(), plain.dq, truth.dq);
  hold(name + ", dk", in.q.dtype, GRADIENTS, dk.read(), plain.dk, truth.dk);
  hold(name + ", dv", in.q.dtype, GRADIENTS, dv.read(), plain.dv, truth.dv);
}

// The two halves of the keys, merged, are the whole.
void halves(const Case &c, const strobe_attention &whole, const std::string &name, const Truth &plain, const Truth &truth) {
  const int64_t rows = static_cast<int64_t>(truth.lse.size()), bytes = whole.dtype == STROBE_F32 ? 4 : 2, half = c.S / 2;
  Array out[3] = {Array::poisoned(rows * c.V, whole.dtype), Array::poisoned(rows * c.V, whole.dtype),
                  Array::poisoned(rows * c.V, whole.dtype)};
  std::vector<float> lse[3] = {std::vector<float>(rows), std::vector<float>(rows), std::vector<float>(rows)};
  for (int64_t i = 0; i < 2; i++) {
    strobe_attention a = whole;
    a.S = i == 0 ? half : c.S - half, a.out = out[i].data(), a.lse = lse[i].data();
    a.k = static_cast<const char *>(whole.k) + i * half * c.G * c.D * bytes,
    a.v = static_cast<const char *>(whole.v) + i * half * c.G * c.V * bytes;
    a.place_all = 1, a.first_all = c.S - c.T - i * half;
    if (i == 1) a.sink = nullptr;  // it counts once
    well(name + ", half", run(a));
  }
  strobe_merge m{};
  m.size = sizeof m, m.interface = STROBE_INTERFACE, m.isa = whole.isa, m.threads = 2, m.dtype = whole.dtype;
  m.B = B, m.T = c.T, m.H = c.H, m.V = c.V, m.out_a = out[0].data(), m.out_b = out[1].data(), m.out = out[2].data();
  m.lse_a = lse[0].data(), m.lse_b = lse[1].data(), m.lse = lse[2].data();
  for (int64_t *strides : {m.out_a_strides, m.out_b_strides, m.out_strides}) three(strides, c.T, c.H, c.V);
  for (int64_t *strides : {m.lse_a_strides, m.lse_b_strides, m.lse_strides}) three(strides, c.T, c.H, 1);
  well(name + ", merge", strobe_merge_states(&m));
  hold(name + ", merged", whole.dtype, PROMISED, out[2].read(), plain.out, truth.out);
  hold(name + ", merged lse", whole.dtype, PROMISED, wide(lse[2]), plain.lse, truth.lse);
}

void attention(const Case &c, int isa, int dtype, int kept) {
  const std::string name = std::string(ISAS[isa]) + " " + DTYPES[dtype] + " " + c.name +
                           (kept == STROBE_I8   ? " of int8"
                            : kept == STROBE_I4 ? " of int4"
                                                : "");
  const int64_t R = B * c.T * c.H;
  Inputs in{Array::drawn(R * c.D, dtype),
            Array::drawn(B * c.S * c.G * c.D, dtype),
            Array::drawn(B * c.S * c.G * c.V, dtype),
            Array::drawn(R * c.V, dtype),
            Array::drawn(R, STROBE_F32),
            {},
            {}};
  for (int64_t h = 0; h < c.H; h++) in.sink.push_back(0.5f * static_cast<float>(h)), in.slopes.push_back(0.25f / static_cast<float>(h + 1));
  Array out = Array::poisoned(R * c.V, dtype);
  std::vector<float> lse(R, std::nanf(""));
  strobe_attention a = call_of(c, in, isa, out, lse);
  if (c.pages) {
    Pages pages(c, in, isa, name, kept);
    pages.read_by(a);
    well(name, run(a));
    if (kept != dtype) {
      pages.kept(in.k, pages.k, pages.k_scale, c.S, c.G, c.D, name + ", keys");
      pages.kept(in.v, pages.v, pages.v_scale, c.S, c.G, c.V, name + ", values");
    } else if (c.rotated) {
      pages.turned(in.k, c, name + ", keys");
    }
  }
  const Truth truth = define(c, in, DOUBLE, !c.pages), plain = define(c, in, dtype, !c.pages);
  if (!c.pages) {
    well(name, run(a));
    gradients(c, in, a, name, plain, truth);
    halves(c, a, name, plain, truth);
  }
  hold(name + ", out", dtype, PROMISED, out.read(), plain.out, truth.out);
  hold(name + ", lse", dtype, PROMISED, wide(lse), plain.lse, truth.lse);
}

void linear(int isa, int dtype, bool int8, int64_t M) {
  const int64_t N = 45, K = 77;
  const std::string name =
      std::string(ISAS[isa]) + " " + DTYPES[dtype] + (int8 ? " linear, int8, rows " : " linear, rows ") + std::to_string(M);
  Array x = Array::drawn(M * K, dtype), w = Array::drawn(N * K, dtype), bias = Array::drawn(N, dtype), y = Array::poisoned(M * N, dtype);
  std::vector<int8_t> narrow;
  std::vector<float> scales(N, 0.01f);
  if (int8)
    for (double &value : w.x) narrow.push_back(static_cast<int8_t>(value * 30)), value = narrow.back() * static_cast<double>(scales[0]);
  strobe_linear_call a{};
  a.size = sizeof a, a.interface = STROBE_INTERFACE, a.isa = isa, a.threads = 2, a.dtype = dtype,
  a.weights_dtype = int8 ? STROBE_I8 : dtype;
  a.M = M, a.N = N, a.K = K, a.x_stride = K, a.x = x.data(), a.weights = int8 ? static_cast<void *>(narrow.data()) : w.data();
  a.scales = int8 ? scales.data() : nullptr, a.bias = bias.data(), a.y = y.data();
  well(name, strobe_linear(&a));
  Doubles truth, plain;
  for (int64_t i = 0; i < M * N; i++) {
    double exact = bias.x[i % N], coarse = 0;
    for (int64_t k = 0; k < K; k++) {
      double weight = w.x[i % N * K + k];
      exact += x.x[i / N * K + k] * weight, coarse = rounded(coarse + x.x[i / N * K + k] * rounded(weight, dtype), STROBE_F32);
    }
    truth.push_back(exact), plain.push_back(rounded(coarse + bias.x[i % N], dtype));
  }
  hold(name, dtype, PROMISED, y.read(), plain, truth);
}

}  // namespace

int main() {
  std::string sets;
  for (int isa = STROBE_SCALAR; isa <= STROBE_NEON; isa++) {
    if (!strobe_has_isa(isa)) continue;
    sets += std::string(sets.empty() ? "" : ", ") + ISAS[isa];
    for (int dtype : {STROBE_F32, STROBE_BF16, STROBE_F16}) {
      for (const Case &c : CASES)
        for (int kept : {dtype, static_cast<int>(STROBE_I8), static_cast<int>(STROBE_I4)})
          if (kept == dtype || c.pages) attention(c, isa, dtype, kept);
      for (int64_t M : {1, 3, 8, 16})
        for (bool int8 : {false, true}) linear(isa, dtype, int8, M);
    }
  }
  printf("%d results on %s, %d wrong, the nearest at %.2f of its promise\n", checked, sets.c_str(), wrong, nearest);
  return wrong > 0;
}
