// A linear layer for a few rows, its weights shared evenly by the threads.
#include "check.hpp"
#include "threads.hpp"

namespace strobe {
namespace {

constexpr int64_t MOST_ROWS = 16;
constexpr int64_t CUT = 4;                               // weights that a kernel takes at once
constexpr int64_t BYTES_PER_THREAD = int64_t{64} << 10;  // fewer are not worth waking a thread
constexpr int64_t PADDED = 32;                           // floats: the most that a kernel loads at once

int32_t check(strobe_linear_call &c) {
  auto bad = [&](int32_t code, int64_t value) { return fail(c.fault, code, 0, 0, value); };
  if (c.size != sizeof c || c.interface != STROBE_INTERFACE) return STROBE_BAD_STRUCT;
  if (!valid_dtype(c.dtype)) return bad(STROBE_BAD_DTYPE, c.dtype);
  bool scaled = c.weights_dtype == STROBE_I8;
  if (scaled != (c.scales != nullptr) || (!scaled && c.weights_dtype != c.dtype)) return bad(STROBE_BAD_DTYPE, c.weights_dtype);
  if (c.M < 1 || c.M > MOST_ROWS) return bad(STROBE_BAD_SHAPE, c.M);
  if (c.N < 0 || c.K < 0) return bad(STROBE_BAD_SHAPE, c.N);
  return STROBE_OK;
}

}  // namespace
}  // namespace strobe

extern "C" int32_t strobe_linear(strobe_linear_call *call) {
  using namespace strobe;
  strobe_linear_call &c = *call;
  c.fault = {};
  if (int32_t code = check(c)) return code;
  const InstructionSet *set = instruction_set(c.isa);
  if (!set) return fail(c.fault, STROBE_BAD_ISA, 0, 0, c.isa);
  int64_t stride = round_up(c.K, PADDED), bytes = c.N * c.K * dtype_bytes(c.weights_dtype);
  float *x = reinterpret_cast<float *>(shared_scratch().reserve(static_cast<size_t>(c.M * stride) * sizeof(float)));
  if (!x) return STROBE_NO_MEMORY;
  set->arrange_linear(c, x, stride);
  int team = static_cast<int>(least(team_size(c.threads), most(1, bytes / BYTES_PER_THREAD)));
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int part = 0; part < team; part++) {
    FlushSubnormals flush;
    int64_t cuts = (c.N + CUT - 1) / CUT;
    set->linear(c, x, stride, cuts * part / team * CUT, least(c.N, cuts * (part + 1) / team * CUT));
  }
  return STROBE_OK;
}
