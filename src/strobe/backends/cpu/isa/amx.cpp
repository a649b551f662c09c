#if defined(__x86_64__)
// g++ 12 warns of its own _mm512_undefined_epi32.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,avx512vnni,amx-tile,amx-bf16")
#define STROBE_ISA amx
#include "avx512.hpp"
// After the instruction set, whose vectors they are written over.
#include "../linear.hpp"
#include "../narrow.hpp"
#include "../turn.hpp"
#include "amx.hpp"
#include "amx_backward.hpp"
#include "amx_few.hpp"
#include "vnni_few.hpp"

namespace strobe {
extern const InstructionSet avx512_set;

// Tiles of bfloat16 read keys as they lie; those with scales are for products of bytes, or for the set below.
static bool amx_takes_few(const strobe_attention &call, int64_t rows) {
  return scaled(call) ? amx::bytes_take(call, rows) : amx::amx_few_takes(call, rows);
}
static bool amx_takes_many(const strobe_attention &call) { return !scaled(call) && amx::amx_many_takes(call); }
static void amx_attend_few(const Piece *pieces, int heads) {
  scaled(*pieces[0].call) ? amx::attend_bytes(pieces, heads) : amx::attend_amx_few(pieces, heads);
}
static size_t amx_few_bytes(const strobe_attention &call) { return scaled(call) ? sizeof(amx::BytesScratch) : amx::amx_few_bytes(call); }

extern const InstructionSet amx_set = {{amx::AMX_ROWS, amx::AMX_BLOCK, amx::amx_bytes, amx::attend_amx, amx::block_bytes, amx::pack},
                                       {amx::MOST_SETS * amx::AMX_FEW_ROWS, amx::FEW_KEYS, amx_few_bytes, amx_attend_few, nullptr, nullptr},
                                       amx_takes_few,
                                       amx_takes_many,
                                       amx::merge_partials,
                                       amx::merge_states,
                                       amx::copy_row,
                                       amx::narrow_row,
                                       amx::turn_row,
                                       amx::arrange_linear,
                                       amx::linear,
                                       &avx512_set,
                                       &amx::tile_backward_kernel};
}  // namespace strobe
#endif
