#include <math.h>

#include <type_traits>

#define STROBE_ISA scalar
#include "scalar.hpp"
// After the instruction set, whose vectors they are written over.
#include "../backward.hpp"
#include "../few.hpp"
#include "../linear.hpp"
#include "../narrow.hpp"
#include "../tile.hpp"
#include "../turn.hpp"

namespace strobe {
extern const InstructionSet scalar_set = {{scalar::TILE_ROWS, scalar::BLOCK, scalar::tile_bytes, scalar::attend_many, nullptr, nullptr},
                                          {scalar::FEW_ROWS, scalar::FEW_KEYS, scalar::few_bytes, scalar::attend_few, nullptr, nullptr},
                                          scalar::few_takes,
                                          scalar::many_takes,
                                          scalar::merge_partials,
                                          scalar::merge_states,
                                          scalar::copy_row,
                                          scalar::narrow_row,
                                          scalar::turn_row,
                                          scalar::arrange_linear,
                                          scalar::linear,
                                          nullptr,
                                          &scalar::backward_kernel};
}  // namespace strobe
