#pragma once
/// @file
/// Memory of large arrays: on huge pages where the system offers them. A fresh array of small pages costs an interrupt for
/// every 4 KiB that is written first, more than the arithmetic of a pass over the weights; and a walk through the page tables
/// for every 4 KiB that is read.

#include "slim/config.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

inline constexpr std::size_t huge_page = std::size_t{1} << 21;

[[nodiscard]] constexpr std::align_val_t array_alignment(std::size_t bytes) noexcept {
  return static_cast<std::align_val_t>(bytes >= 2 * huge_page ? huge_page : 64);
}

/// Uninitialised bytes, on a cache line at least. @throws std::bad_alloc
[[nodiscard]] inline void* allocate_array(std::size_t bytes) {
  void* const memory = ::operator new(bytes, array_alignment(bytes));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= 2 * huge_page) (void)::madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE); // a wish: may fail
#endif
  return memory;
}

inline void release_array(void* memory, std::size_t bytes) noexcept { ::operator delete(memory, array_alignment(bytes)); }

/// Huge pages that arrays share, handed out one behind the other. Whole pages of an array that is given back return to the
/// system at once, so that a small array keeps no large one's memory. Its addresses are free again if it was handed out last,
/// or else when the slab goes.
class page_slab {
public:
  explicit page_slab(std::size_t bytes)
      : size_((bytes + huge_page - 1) / huge_page * huge_page), memory_(static_cast<std::uint8_t*>(allocate_array(size_))) {}
  page_slab(page_slab const&) = delete;
  page_slab& operator=(page_slab const&) = delete;
  ~page_slab() { release_array(memory_, size_); }

  /// Null if there is no room. The next array begins behind these bytes.
  [[nodiscard]] std::uint8_t* take(std::size_t bytes) noexcept {
    std::size_t used = used_.load();
    do
      if (bytes > size_ - used) return nullptr;
    while (!used_.compare_exchange_weak(used, used + bytes));
    return memory_ + used;
  }

  void give_back(std::uint8_t const* array, std::size_t bytes) noexcept {
    auto const begin = static_cast<std::size_t>(array - memory_);
    std::size_t end = begin + bytes;
#if defined(__linux__)
    std::size_t const whole = (begin + huge_page - 1) / huge_page * huge_page, rest = end / huge_page * huge_page;
    if (whole < rest) (void)::madvise(memory_ + whole, rest - whole, MADV_DONTNEED);
#endif
    used_.compare_exchange_strong(end, begin);
  }

private:
  std::size_t size_;
  std::uint8_t* memory_;
  std::atomic<std::size_t> used_{0};
};

[[nodiscard]] inline std::shared_ptr<std::uint8_t[]> own_array(std::size_t bytes) {
  return {static_cast<std::uint8_t*>(allocate_array(bytes)), [bytes](std::uint8_t* p) { release_array(p, bytes); }};
}

/// A slab lives as long as an array in it. @throws std::bad_alloc
[[nodiscard]] inline std::shared_ptr<std::uint8_t[]> array_in_slab(std::size_t bytes) {
  constexpr std::size_t usual = 16 * huge_page;
  static std::mutex one_at_a_time;
  static std::weak_ptr<page_slab> latest;
  std::lock_guard const lock(one_at_a_time);
  std::shared_ptr<page_slab> slab = latest.lock();
  std::uint8_t* memory = slab ? slab->take(bytes) : nullptr;
  if (!memory) {
    latest = slab = std::make_shared<page_slab>(std::max(bytes, usual));
    memory = slab->take(bytes);
  }
  return {memory, [slab, bytes](std::uint8_t* p) { slab->give_back(p, bytes); }};
}

} // namespace detail

/// For standard containers.
template <class T>
struct large_page_allocator {
  using value_type = T;

  large_page_allocator() = default;
  template <class U>
  constexpr large_page_allocator(large_page_allocator<U> const&) noexcept {} // NOLINT: implicit, as allocators must be

  [[nodiscard]] T* allocate(std::size_t count) { return static_cast<T*>(detail::allocate_array(count * sizeof(T))); }
  void deallocate(T* memory, std::size_t count) noexcept { detail::release_array(memory, count * sizeof(T)); }

  /// A container that is told no value leaves numbers as the memory has them, so that who writes all of them pays once.
  template <class U>
  void construct(U* place) noexcept(std::is_nothrow_default_constructible_v<U>) {
    ::new (static_cast<void*>(place)) U;
  }
  template <class U, class... Arguments>
  void construct(U* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) U(std::forward<Arguments>(arguments)...);
  }

  friend constexpr bool operator==(large_page_allocator const&, large_page_allocator const&) noexcept { return true; }
};

} // namespace SLIM_ABI
} // namespace slim
