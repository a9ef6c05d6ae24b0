#pragma once
/// @file
/// Inner loops of products with float inputs, one set per instruction set.

#include "slim/kernels/r16.hpp"
#include "slim/linalg/simd.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// Inner loops of one instruction set; explained in exact_kernels.inc. A block has 16 rows.
struct exact_kernels {
  void (*decode_dense)(r16_kind kind, unsigned char const* stage, float const* scales, float const* zeros, float const* book,
                       float (*w)[16]);
  void (*decode_sparse)(unsigned char const* stage, unsigned first, float const* scales, float const* book, float (*w)[16],
                        unsigned (*columns)[16]);
  void (*dense_product)(float const (*w)[16], index_t cols, index_t tokens, float const* const* x, float (*y)[16]);
  void (*sparse_product)(float const (*w)[16], unsigned const (*columns)[16], index_t slots, index_t tokens, float const* x,
                         index_t x_stride, float* y, index_t y_stride);
};

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
[[nodiscard]] inline exact_kernels const& exact_kernels_of(simd_level wanted) {
#if SLIM_SIMD_X86
  switch (resolve(wanted)) {
  case simd_level::avx512: return avx512::exact::kernels;
  case simd_level::avx2: return avx2::exact::kernels;
  default: break;
  }
#else
  (void)resolve(wanted);
#endif
  return scalar::exact::kernels;
}

} // namespace detail
} // namespace slim::inline SLIM_ABI
