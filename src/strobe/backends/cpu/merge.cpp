// Two states become one: the algebra that splitting keys, cascades and rings stand on.
#include "check.hpp"
#include "threads.hpp"

namespace strobe {
namespace {

constexpr int64_t ROWS_PER_THREAD = 64;  // fewer are not worth waking a thread

}  // namespace
}  // namespace strobe

extern "C" int32_t strobe_merge_states(strobe_merge *call) {
  using namespace strobe;
  strobe_merge &c = *call;
  c.fault = {};
  if (c.size != sizeof c || c.interface != STROBE_INTERFACE) return STROBE_BAD_STRUCT;
  if (!valid_dtype(c.dtype)) return fail(c.fault, STROBE_BAD_DTYPE, 0, 0, c.dtype);
  if (!valid_width(c.V) || c.B < 0 || c.T < 0 || c.H < 0) return fail(c.fault, STROBE_BAD_SHAPE, 0, 0, c.V);
  const InstructionSet *set = instruction_set(c.isa);
  if (!set) return fail(c.fault, STROBE_BAD_ISA, 0, 0, c.isa);
  int team = static_cast<int>(least(team_size(c.threads), most(1, c.B * c.T * c.H / ROWS_PER_THREAD)));
#pragma omp parallel for num_threads(team) if (team > 1)
  for (int64_t i = 0; i < c.B * c.T; i++) set->merge_states(c, i / c.T, i % c.T);
  return STROBE_OK;
}
