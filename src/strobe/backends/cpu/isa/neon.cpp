#if defined(__aarch64__)
#include <math.h>

#include <type_traits>

#define STROBE_ISA neon
#include "neon.hpp"
// After the instruction set, whose vectors they are written over.
#include "../backward.hpp"
#include "../few.hpp"
#include "../linear.hpp"
#include "../narrow.hpp"
#include "../tile.hpp"
#include "../turn.hpp"

namespace strobe {
extern const InstructionSet neon_set = {{neon::TILE_ROWS, neon::BLOCK, neon::tile_bytes, neon::attend_many, nullptr, nullptr},
                                        {neon::FEW_ROWS, neon::FEW_KEYS, neon::few_bytes, neon::attend_few, nullptr, nullptr},
                                        neon::few_takes,
                                        neon::many_takes,
                                        neon::merge_partials,
                                        neon::merge_states,
                                        neon::copy_row,
                                        neon::narrow_row,
                                        neon::turn_row,
                                        neon::arrange_linear,
                                        neon::linear,
                                        nullptr,
                                        &neon::backward_kernel};
}  // namespace strobe
#endif
