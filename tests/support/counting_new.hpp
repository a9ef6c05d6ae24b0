// Replaces operator new and delete of the whole program, so that allocation_watch sees them: include it in one source file of a
// test program.
//
// AddressSanitizer brings its own pairs of allocation functions, which must not be mixed with these. Under it code is watched
// for bad accesses, and without it for the memory it takes: `peak()` is then 0.
#pragma once

#include "support/allocation_watch.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLIM_TEST_UNDER_ASAN
#endif
#endif
#if !defined(SLIM_TEST_UNDER_ASAN) && !defined(__SANITIZE_ADDRESS__)
void* operator new(std::size_t size) { return slim_test::counted_allocation(size); }
void* operator new[](std::size_t size) { return slim_test::counted_allocation(size); }
void* operator new(std::size_t size, std::align_val_t alignment) { // matrices (core/large_pages.hpp)
  return slim_test::counted_allocation(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* at, std::align_val_t) noexcept { slim_test::counted_release(at); }
void operator delete(void* at) noexcept { slim_test::counted_release(at); }
void operator delete[](void* at) noexcept { slim_test::counted_release(at); }
void operator delete(void* at, std::size_t) noexcept { slim_test::counted_release(at); }
void operator delete[](void* at, std::size_t) noexcept { slim_test::counted_release(at); }
#endif
