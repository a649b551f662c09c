// Level 5. Tiles of queries need nothing from each other: every thread takes the next one that nobody has.

#pragma once
#include <atomic>
#include <thread>
#include <vector>

// work(next) in each of `threads` threads; next() is the number of a tile, `tiles` or more when none is left.
template <class Work>
inline void share(int tiles, int threads, Work work) {
  std::atomic<int> taken{0};
  const auto next = [&] { return taken.fetch_add(1); };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && i < tiles; ++i) others.emplace_back([&] { work(next); });
  work(next);
  for (std::thread &other : others) other.join();
}
