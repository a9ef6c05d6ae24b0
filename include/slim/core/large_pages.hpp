#pragma once
/// @file
/// Memory of large arrays: on huge pages where the system offers them. A fresh array of small pages costs an interrupt for
/// every 4 KiB that is written first, more than the arithmetic of a pass over the weights; and a walk through the page tables
/// for every 4 KiB that is read.

#include "slim/config.hpp"

#include <cstddef>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slim::inline SLIM_ABI {
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

  friend constexpr bool operator==(large_page_allocator const&, large_page_allocator const&) noexcept { return true; }
};

} // namespace slim::inline SLIM_ABI
