#pragma once
/// @file
/// Inner loop of products with float inputs, one per instruction set.

#include "slim/kernels/r16.hpp"
#include "slim/linalg/simd.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// y[t][0 .. 15] += the product of a decoded block [column][row] with x[t][0 .. cols).
using exact_kernel = void (*)(float const (*w)[r16_rows], index_t cols, index_t tokens, float const* const* x, float* const* y);

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace scalar {
namespace exact {
#include "slim/kernels/cpu/exact_kernels.inc"
}
} // namespace scalar

#if SLIM_SIMD_X86
SLIM_SIMD_BEGIN_AVX2
namespace avx2 {
namespace exact {
#include "slim/kernels/cpu/exact_kernels.inc"
}
} // namespace avx2
SLIM_SIMD_END
SLIM_SIMD_BEGIN_AVX512
namespace avx512 {
namespace exact {
#include "slim/kernels/cpu/exact_kernels.inc"
}
} // namespace avx512
SLIM_SIMD_END
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// @throws config_error if the machine lacks the level.
[[nodiscard]] inline exact_kernel exact_kernel_of(simd_level wanted) {
#if SLIM_SIMD_X86
  switch (resolve(wanted)) {
  case simd_level::avx512: return avx512::exact::exact_block;
  case simd_level::avx2: return avx2::exact::exact_block;
  default: break;
  }
#else
  (void)resolve(wanted);
#endif
  return scalar::exact::exact_block;
}

} // namespace detail
} // namespace slim::inline SLIM_ABI
