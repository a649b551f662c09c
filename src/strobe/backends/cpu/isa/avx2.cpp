#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#pragma GCC target("avx2,fma,f16c")
#define STROBE_ISA avx2
#include "avx2.hpp"
// After the instruction set, whose vectors they are written over.
#include "../backward.hpp"
#include "../few.hpp"
#include "../linear.hpp"
#include "../narrow.hpp"
#include "../tile.hpp"
#include "../turn.hpp"

namespace strobe {
extern const InstructionSet avx2_set = {{avx2::TILE_ROWS, avx2::BLOCK, avx2::tile_bytes, avx2::attend_many, nullptr, nullptr},
                                        {avx2::FEW_ROWS, avx2::FEW_KEYS, avx2::few_bytes, avx2::attend_few, nullptr, nullptr},
                                        avx2::few_takes,
                                        avx2::many_takes,
                                        avx2::merge_partials,
                                        avx2::merge_states,
                                        avx2::copy_row,
                                        avx2::narrow_row,
                                        avx2::turn_row,
                                        avx2::arrange_linear,
                                        avx2::linear,
                                        nullptr,
                                        &avx2::backward_kernel};
}  // namespace strobe
#endif
