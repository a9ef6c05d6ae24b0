#pragma once
/// @file
/// Which ARM machines have the dot product instructions that kernels use, and the region they are compiled in; see
/// simd/levels.hpp for the rules of such regions.

#include "slim/config.hpp"

#if defined(__aarch64__) && defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 16)
/// Kernels for 64-bit ARM can be compiled. Before version 16, clang has their intrinsics only if flags ask for them.
#define SLIM_SIMD_ARM 1
#else
#define SLIM_SIMD_ARM 0
#endif

#if SLIM_SIMD_ARM
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#define SLIM_SIMD_BEGIN_NEON_DOT _Pragma("clang attribute push(__attribute__((target(\"dotprod\"))), apply_to = function)")
#define SLIM_SIMD_END _Pragma("clang attribute pop")
#else
#define SLIM_SIMD_BEGIN_NEON_DOT _Pragma("GCC push_options") _Pragma("GCC target(\"arch=armv8.2-a+dotprod\")")
#define SLIM_SIMD_END _Pragma("GCC pop_options")
#endif
#endif

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Asked of the operating system; false where nobody answers.
[[nodiscard]] inline bool has_dot_product() {
#if SLIM_SIMD_ARM && defined(__linux__)
  constexpr unsigned long asimddp = 1ul << 20; // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & asimddp) != 0;
#elif SLIM_SIMD_ARM && defined(__APPLE__)
  return true; // every 64-bit ARM Mac
#else
  return false;
#endif
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
