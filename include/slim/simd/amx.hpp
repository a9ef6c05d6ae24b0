#pragma once
/// @file
/// Whether this process may use Intel's AMX tiles.

#include "slim/config.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Products of 8-bit integers in tiles: the CPU has them, the operating system keeps their registers, and the kernel permits
/// them. The permission is asked for once, for the whole process (arch_prctl, Documentation/arch/x86/xstate.rst of Linux); it
/// makes frames of signals 8 KiB larger.
[[nodiscard]] inline bool may_use_amx() {
#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
  static bool const permitted = [] {
    constexpr unsigned tiles = 1u << 24, int8 = 1u << 25; // EDX of leaf 7
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & tiles) == 0 || (edx & int8) == 0) return false;
    unsigned low = 0, high = 0;
    constexpr unsigned tile_state = 3u << 17; // XTILECFG and XTILEDATA
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & tile_state) != tile_state || !__builtin_cpu_supports("avx512vnni")) return false;
    constexpr long request_permission = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return permitted;
#else
  return false;
#endif
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
