// How much memory a piece of code takes at its peak. One source file of the test program includes counting_new.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <malloc.h>
#include <new>

namespace slim_test {

/// Bytes that operator new has given out and not got back, and the most there ever were.
inline std::atomic<std::size_t> live_bytes = 0;
inline std::atomic<std::size_t> peak_bytes = 0;

/// Peak of the memory taken since it was made. One at a time.
class allocation_watch {
public:
  allocation_watch() : before_(live_bytes) { peak_bytes = before_; }
  [[nodiscard]] std::size_t peak() const { return peak_bytes - before_; }

private:
  std::size_t before_;
};

/// `alignment`: a power of two, or 0 for what malloc gives.
[[maybe_unused]] inline void* counted_allocation(std::size_t size, std::size_t alignment = 0) {
  std::size_t const wanted = std::max<std::size_t>(size, 1);
  void* const at =
      alignment == 0 ? std::malloc(wanted) : std::aligned_alloc(alignment, (wanted + alignment - 1) / alignment * alignment);
  if (!at) throw std::bad_alloc();
  std::size_t const now = live_bytes += ::malloc_usable_size(at);
  for (std::size_t peak = peak_bytes; peak < now && !peak_bytes.compare_exchange_weak(peak, now);) {
  }
  return at;
}

[[maybe_unused]] inline void counted_release(void* at) noexcept {
  if (at) live_bytes -= ::malloc_usable_size(at);
  std::free(at);
}

} // namespace slim_test
