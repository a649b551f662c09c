#include "threads.hpp"

#include <cstdlib>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace strobe {
namespace {

constexpr size_t LINE = 64;                // bytes of a cache line, and of the widest vector
constexpr size_t PAGE = 4096;              // sizes are rounded to whole pages
constexpr size_t KEPT = size_t{64} << 20;  // what a thread may keep between calls

std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
#endif

}  // namespace

Scratch::~Scratch() { std::free(data_); }

char *Scratch::reserve(size_t bytes) {
  static_assert(PAGE % LINE == 0, "a page is whole lines");
  if (!data_ || bytes > bytes_) {
    std::free(data_);
    bytes_ = bytes == 0 ? PAGE : (bytes + PAGE - 1) / PAGE * PAGE;
    data_ = static_cast<char *>(std::aligned_alloc(PAGE, bytes_));
    if (!data_) bytes_ = 0;
  }
#if defined(__SANITIZE_ADDRESS__)  // what lies beyond the bytes asked for is nobody's, though it is kept
  if (data_) ASAN_UNPOISON_MEMORY_REGION(data_, bytes_);
  if (data_) ASAN_POISON_MEMORY_REGION(data_ + bytes, bytes_ - bytes);
#endif
  return data_;
}

void Scratch::trim() {
  if (bytes_ <= KEPT) return;
  std::free(data_);
  data_ = nullptr;
  bytes_ = 0;
}

Scratch &thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

Scratch &shared_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

int team_size(int threads) { return forked.load(std::memory_order_relaxed) || threads < 1 ? 1 : threads; }

}  // namespace strobe
