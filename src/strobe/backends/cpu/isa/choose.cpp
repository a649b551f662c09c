// Which instruction sets run on this machine: what the processor says and, for AMX, what the kernel grants.
#include "../kernels.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#endif

namespace strobe {

extern const InstructionSet scalar_set;
#if defined(__x86_64__)
extern const InstructionSet avx2_set, avx512_set, amx_set;
#elif defined(__aarch64__)
extern const InstructionSet neon_set;
#endif

namespace {

#if defined(__x86_64__)
// Tile registers are too large to be saved for every thread, so Linux wants to be asked for them. Sandboxes may refuse.
bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;  // of leaf 7, edx
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & AMX_BF16) && (d & AMX_TILE) && __builtin_cpu_supports("avx512vnni") && tiles_granted();
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool has_avx2() {
  constexpr unsigned F16C = 1u << 29;  // of leaf 1, ecx; not every compiler's cpu_supports knows the name
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c & F16C);
}
#endif

struct Found {
  bool has[STROBE_NEON + 1] = {};
  int32_t best = STROBE_SCALAR;

  Found() {
    has[STROBE_SCALAR] = true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    has[STROBE_AVX2] = has_avx2();
    has[STROBE_AVX512] = has[STROBE_AVX2] && has_avx512();
    has[STROBE_AMX] = has[STROBE_AVX512] && has_amx();
#elif defined(__aarch64__)
    has[STROBE_NEON] = true;
#endif
    for (int32_t isa = 0; isa <= STROBE_NEON; isa++)
      if (has[isa]) best = isa;
  }
};

const Found &found() {
  static const Found once;
  return once;
}

}  // namespace

const InstructionSet *instruction_set(int32_t isa) {
  if (isa < 0 || isa > STROBE_NEON || !found().has[isa]) return nullptr;
  switch (isa) {
#if defined(__x86_64__)
    case STROBE_AVX2:
      return &avx2_set;
    case STROBE_AVX512:
      return &avx512_set;
    case STROBE_AMX:
      return &amx_set;
#elif defined(__aarch64__)
    case STROBE_NEON:
      return &neon_set;
#endif
    default:
      return &scalar_set;
  }
}

}  // namespace strobe

#ifndef STROBE_SOURCE_HASH
#define STROBE_SOURCE_HASH "unknown"
#endif

extern "C" int32_t strobe_interface(void) { return STROBE_INTERFACE; }
extern "C" const char *strobe_source_hash(void) { return STROBE_SOURCE_HASH; }
extern "C" int32_t strobe_best_isa(void) { return strobe::found().best; }
extern "C" int32_t strobe_has_isa(int32_t isa) { return strobe::instruction_set(isa) != nullptr; }
extern "C" int32_t strobe_has_threads(void) {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}
