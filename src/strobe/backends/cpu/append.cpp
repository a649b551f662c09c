// New keys and values go behind the tokens that a sequence had, page by page; keys turned by their positions if asked.
#include "check.hpp"
#include "threads.hpp"

namespace strobe {
namespace {

constexpr int64_t TOKENS_PER_THREAD = 64;  // fewer are not worth waking a thread

// The angles' row of token t (of all, where packed) of sequence b, which stands at place s.
int64_t position(const strobe_append &c, int64_t b, int64_t t, int64_t s) {
  return c.positions ? c.positions[(c.offsets ? 0 : b) * c.positions_stride + t] : s;
}

// All positions have a row of cosines and sines.
int32_t check_positions(strobe_append &c, int64_t b, int64_t count, int64_t before) {
  int64_t t0 = c.offsets ? c.offsets[b] : 0;
  for (int64_t t = 0; t < count; t++) {
    int64_t at = position(c, b, t0 + t, before + t);
    if (at < 0 || at >= c.rows) return fail(c.fault, STROBE_BAD_POSITION, b, t, at);
  }
  return STROBE_OK;
}

int32_t check(strobe_append &c) {
  auto bad = [&](int32_t code, int64_t value) { return fail(c.fault, code, 0, 0, value); };
  if (c.size != sizeof c || c.interface != STROBE_INTERFACE) return STROBE_BAD_STRUCT;
  if (!valid_dtype(c.from_dtype)) return bad(STROBE_BAD_DTYPE, c.from_dtype);
  bool narrow = has_scales(c.to_dtype) && c.to_dtype <= STROBE_I4;
  if (narrow != (c.k_scale != nullptr) || narrow != (c.v_scale != nullptr)) return bad(STROBE_BAD_DTYPE, c.to_dtype);
  if (!narrow && (!valid_dtype(c.to_dtype) || (c.from_dtype != c.to_dtype && c.from_dtype != STROBE_F32)))
    return bad(STROBE_BAD_DTYPE, c.to_dtype);
  if (!valid_width(c.D) || !valid_width(c.V) || c.B < 0 || c.T < 0 || c.G < 1 || c.Z < 1 || c.P < 0) return bad(STROBE_BAD_SHAPE, c.D);
  bool tables = c.cos && c.sin;  // without rows they may be null
  if (c.rotated < 0 || c.rotated > c.D || c.rotated % 2 || (c.rotated && c.rows > 0 && !tables)) return bad(STROBE_BAD_SHAPE, c.rotated);
  if (c.offsets)
    if (int32_t code = check_offsets(c.fault, c.offsets, c.B, c.T, true)) return code;
  for (int64_t b = 0; b < c.B; b++) {
    int64_t after = c.lengths[b], count = c.offsets ? c.offsets[b + 1] - c.offsets[b] : c.T, before = after - count;
    if (count == 0) continue;
    if (before < 0 || after > c.table_width * c.Z) return fail(c.fault, STROBE_BAD_LENGTH, b, 0, after);
    if (int32_t code = check_pages(c.fault, c.table + b * c.table_stride, b, before / c.Z, (after + c.Z - 1) / c.Z, c.P)) return code;
    if (c.rotated)
      if (int32_t code = check_positions(c, b, count, before)) return code;
  }
  return STROBE_OK;
}

// Token t of sequence b, all key heads.
void write(const strobe_append &c, const InstructionSet &set, int64_t b, int64_t t, int64_t count) {
  int64_t from_bytes = dtype_bytes(c.from_dtype), to_bytes = dtype_bytes(c.to_dtype), s = c.lengths[b] - count + t;
  int64_t page = c.table[b * c.table_stride + s / c.Z], token = s % c.Z, batch = c.offsets ? 0 : b;
  if (c.offsets) t += c.offsets[b];
  Angles angles{nullptr, nullptr, c.rotated / 2, c.interleaved != 0};
  if (c.rotated) {
    int64_t row = position(c, b, t, s);
    angles.cos = c.cos + row * c.cos_stride, angles.sin = c.sin + row * c.sin_stride;
  }
  for (int64_t g = 0; g < c.G; g++) {
    auto from = [&](const void *p, const int64_t *strides) {
      return static_cast<const char *>(p) + (batch * strides[0] + t * strides[1] + g * strides[2]) * from_bytes;
    };
    auto to = [&](void *p, const int64_t *strides) {
      return static_cast<char *>(p) + (page * strides[0] + token * strides[1] + g * strides[2]) * to_bytes;
    };
    const char *k = from(c.k, c.k_strides), *v = from(c.v, c.v_strides);
    char *k_to = to(c.k_pages, c.k_pages_strides), *v_to = to(c.v_pages, c.v_pages_strides);
    if (!has_scales(c.to_dtype)) {
      if (c.rotated) {
        set.turn_row(k, c.from_dtype, k_to, c.to_dtype, c.D, angles);
      } else {
        set.copy_row(k, c.from_dtype, k_to, c.to_dtype, c.D);
      }
      set.copy_row(v, c.from_dtype, v_to, c.to_dtype, c.V);
      continue;
    }
    auto scale = [&](float *p, const int64_t *strides) { return p + page * strides[0] + token * strides[1] + g * strides[2]; };
    *scale(c.k_scale, c.k_scale_strides) =
        c.rotated ? set.turn_row(k, c.from_dtype, k_to, c.to_dtype, c.D, angles) : set.narrow_row(k, c.from_dtype, k_to, c.to_dtype, c.D);
    *scale(c.v_scale, c.v_scale_strides) = set.narrow_row(v, c.from_dtype, v_to, c.to_dtype, c.V);
  }
}

}  // namespace
}  // namespace strobe

extern "C" int32_t strobe_append_tokens(strobe_append *call) {
  using namespace strobe;
  strobe_append &c = *call;
  c.fault = {};
  if (int32_t code = check(c)) return code;
  const InstructionSet *set = instruction_set(c.isa);
  if (!set) return fail(c.fault, STROBE_BAD_ISA, 0, 0, c.isa);
  int64_t longest = c.offsets ? 0 : c.T;
  for (int64_t b = 0; c.offsets && b < c.B; b++) longest = most(longest, c.offsets[b + 1] - c.offsets[b]);
  int team = static_cast<int>(least(team_size(c.threads), most(1, c.B * longest / TOKENS_PER_THREAD)));
#pragma omp parallel for num_threads(team) if (team > 1)
  for (int64_t i = 0; i < c.B * longest; i++) {
    int64_t b = i / longest, t = i % longest;
    int64_t count = c.offsets ? c.offsets[b + 1] - c.offsets[b] : c.T;
    if (t < count) write(c, *set, b, t, count);
  }
  return STROBE_OK;
}
