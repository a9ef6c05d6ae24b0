#pragma once
/// @file
/// The levels (instruction sets) that kernels are written for. Kernels of all levels are compiled, whatever flags the user's
/// compiler gets, and chosen at run time. `context.simd` forces a level; tests run every level the machine has.

#include "slim/core/context.hpp"
#include "slim/simd/amx.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
/// Kernels for x86-64 can be compiled: GCC and Clang take target pragmas. @see SLIM_SIMD_BEGIN_AVX2
#define SLIM_SIMD_X86 1
#else
#define SLIM_SIMD_X86 0
#endif

// A region between BEGIN and END is compiled for the named instruction set. Inside: intrinsics and raw pointers only, in a
// namespace named after the set. A function of std:: or Eigen instantiated there could be linked into other code.
#if SLIM_SIMD_X86
#include <immintrin.h>
#if defined(__clang__)
#define SLIM_SIMD_BEGIN_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c\"))), apply_to = function)")
#define SLIM_SIMD_BEGIN_AVX512                                                                                                 \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512vl,avx512bw,avx512dq,avx2,fma\"))), apply_to = function)")
#define SLIM_SIMD_BEGIN_AVX512_VNNI                                                                                            \
  _Pragma(                                                                                                                     \
      "clang attribute push(__attribute__((target(\"avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c\"))), apply_to = function)")
#define SLIM_SIMD_BEGIN_AVX512_BF16                                                                                            \
  _Pragma(                                                                                                                     \
      "clang attribute push(__attribute__((target(\"avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma\"))), apply_to = function)")
#define SLIM_SIMD_END _Pragma("clang attribute pop")
#else
#define SLIM_SIMD_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c\")")
#define SLIM_SIMD_BEGIN_AVX512                                                                                                 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512vl,avx512bw,avx512dq,avx2,fma\")")
#define SLIM_SIMD_BEGIN_AVX512_VNNI                                                                                            \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c\")")
#define SLIM_SIMD_BEGIN_AVX512_BF16                                                                                            \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma\")")
#define SLIM_SIMD_END _Pragma("GCC pop_options")
#endif
#endif

namespace slim {
inline namespace SLIM_ABI {

/// The best level this machine runs. Asked of the CPU (and the operating system's support of the registers) once.
[[nodiscard]] inline simd_level best_simd_level() {
#if SLIM_SIMD_X86
  static simd_level const best = [] {
    bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool const avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    return avx2 && avx512 ? simd_level::avx512 : avx2 ? simd_level::avx2 : simd_level::scalar;
  }();
  return best;
#else
  return simd_level::scalar;
#endif
}

/// `automatic` becomes the best level, `amx` the one whose loops run beside tiles, avx512; any other is returned as it is.
/// @throws config_error if the machine lacks it.
[[nodiscard]] inline simd_level resolve(simd_level wanted) {
  simd_level const best = best_simd_level();
  if (wanted == simd_level::automatic) return best;
  if (wanted == simd_level::amx) {
    if (!detail::may_use_amx())
      throw config_error("simd_level amx is forced, but this machine has no AMX tiles of 8-bit integers, or its kernel does "
                         "not permit them");
    return simd_level::avx512;
  }
  if (wanted > best)
    throw config_error(message("simd_level ", static_cast<int>(wanted), " is forced, but this machine's best is ",
                               static_cast<int>(best), " (1 scalar, 2 avx2, 3 avx512)"));
  return wanted;
}

namespace detail {

/// The object of a level, out of one for each level (or of the scalar one alone, where there are no others).
/// @throws config_error if the machine lacks the level.
template <class T, class... Wider>
[[nodiscard]] T const& of_level(simd_level wanted, T const& scalar, Wider const&... wider) {
  constexpr int wider_levels = static_cast<int>(simd_level::avx512) - static_cast<int>(simd_level::scalar);
  static_assert(sizeof...(Wider) == 0 || sizeof...(Wider) == wider_levels, "scalar alone, or one for each level");
  T const* const all[] = {&scalar, &wider...};
  simd_level const level = resolve(wanted);
  return sizeof...(Wider) == 0 ? scalar : *all[static_cast<int>(level) - static_cast<int>(simd_level::scalar)];
}

} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
