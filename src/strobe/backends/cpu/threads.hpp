// Threads, their floating-point mode, and memory that outlives a call. The team is torch's: both use the one libgomp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace strobe {

// Subnormal results cost hundreds of cycles each, and a peaked softmax makes many: they are flushed to zero while a
// kernel runs, and the caller's mode is restored.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(read()) { write(saved_ | FLUSH); }
  ~FlushSubnormals() { write(saved_); }
  FlushSubnormals(const FlushSubnormals &) = delete;
  FlushSubnormals &operator=(const FlushSubnormals &) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t FLUSH = 0x8040;  // FTZ (bit 15) and DAZ (bit 6) of MXCSR
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
  static constexpr uint64_t FLUSH = uint64_t{1} << 24;  // FZ of FPCR
  static uint64_t read() {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  static constexpr uint64_t FLUSH = 0;
  static uint64_t read() { return 0; }
  static void write(uint64_t) {}
#endif
  uint64_t saved_;
};

// Aligned memory of the calling thread, kept between calls (fresh pages cost more than a short decode) up to a limit.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  char *reserve(size_t bytes);  // null when there is no memory; forgets what was there before
  void trim();                  // gives back what is too large to keep

 private:
  char *data_ = nullptr;
  size_t bytes_ = 0;
};

// One for a thread's own tile, one for what the thread that called shares with its team.
Scratch &thread_scratch();
Scratch &shared_scratch();

// 1 in a forked child: libgomp's threads stayed in the parent, and waiting for them would be forever.
int team_size(int threads);

// Hands out 0 … count - 1, each once, to whoever asks.
class Counter {
 public:
  explicit Counter(int64_t count) : count_(count) {}
  bool take(int64_t *index) {
    *index = next_.fetch_add(1, std::memory_order_relaxed);
    return *index < count_;
  }

 private:
  std::atomic<int64_t> next_{0};
  int64_t count_;
};

}  // namespace strobe
