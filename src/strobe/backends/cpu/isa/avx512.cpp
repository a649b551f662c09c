#if defined(__x86_64__)
// g++ 12 warns of its own _mm512_undefined_epi32.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#define STROBE_ISA avx512
#include "avx512.hpp"
// After the instruction set, whose vectors they are written over.
#include "../backward.hpp"
#include "../few.hpp"
#include "../linear.hpp"
#include "../narrow.hpp"
#include "../tile.hpp"
#include "../turn.hpp"

namespace strobe {
extern const InstructionSet avx512_set = {{avx512::TILE_ROWS, avx512::BLOCK, avx512::tile_bytes, avx512::attend_many, nullptr, nullptr},
                                          {avx512::FEW_ROWS, avx512::FEW_KEYS, avx512::few_bytes, avx512::attend_few, nullptr, nullptr},
                                          avx512::few_takes,
                                          avx512::many_takes,
                                          avx512::merge_partials,
                                          avx512::merge_states,
                                          avx512::copy_row,
                                          avx512::narrow_row,
                                          avx512::turn_row,
                                          avx512::arrange_linear,
                                          avx512::linear,
                                          nullptr,
                                          &avx512::backward_kernel};
}  // namespace strobe
#endif
