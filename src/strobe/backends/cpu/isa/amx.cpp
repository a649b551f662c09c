#if defined(__x86_64__)
// g++ 12 warns of its own _mm512_undefined_epi32.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,amx-tile,amx-bf16")
#define STROBE_ISA amx
#include "avx512.hpp"
// After the instruction set, whose vectors they are written over.
#include "../linear.hpp"
#include "amx.hpp"
#include "amx_backward.hpp"
#include "amx_few.hpp"

namespace strobe {
extern const InstructionSet avx512_set;

extern const InstructionSet amx_set = {
    {amx::AMX_ROWS, amx::AMX_BLOCK, amx::amx_bytes, amx::attend_amx, amx::block_bytes, amx::pack},
    {amx::MOST_SETS * amx::AMX_FEW_ROWS, amx::FEW_KEYS, amx::amx_few_bytes, amx::attend_amx_few, nullptr, nullptr},
    amx::amx_few_takes,
    amx::amx_many_takes,
    amx::merge_partials,
    amx::merge_states,
    amx::copy_row,
    amx::arrange_linear,
    amx::linear,
    &avx512_set,
    &amx::tile_backward_kernel};
}  // namespace strobe
#endif
