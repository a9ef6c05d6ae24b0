#pragma once
/// @file
/// Inner loops of products with sparse residuals (packed_residual.hpp), one per instruction set, chosen at run time.

#include "slim/core/scalar.hpp"
#include "slim/simd/levels.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Steps of a slice: 16 columns of 16 bits, then 16 numbers of `format`, one of each for every row. `sums[r]` becomes the sum
/// over the steps of number * x[column], each product fused with its addition, in the order of the steps: the same bits at
/// every level.
using residual_kernel = void (*)(unsigned char const* steps, index_t count, number_format format, float const* x, float* sums);

/// Bytes of a step.
[[nodiscard]] constexpr index_t residual_step_bytes(number_format format) { return 16 * (2 + bit_width(format) / 8); }

namespace scalar {

inline void residual_slice(unsigned char const* steps, index_t count, number_format format, float const* x, float* sums) {
  for (int r = 0; r < 16; ++r) sums[r] = 0.0f;
  for (index_t k = 0; k < count; ++k, steps += residual_step_bytes(format))
    for (int r = 0; r < 16; ++r) {
      std::uint16_t column, half;
      float value;
      std::memcpy(&column, steps + 2 * r, 2);
      if (format == number_format::fp32) {
        std::memcpy(&value, steps + 32 + 4 * r, 4);
      } else {
        std::memcpy(&half, steps + 32 + 2 * r, 2);
        value = format == number_format::fp16 ? static_cast<float>(fp16::from_bits(half))
                                              : static_cast<float>(bf16::from_bits(half));
      }
      sums[r] = std::fma(value, x[column], sums[r]);
    }
}

} // namespace scalar

#if SLIM_SIMD_X86
SLIM_SIMD_BEGIN_AVX2
namespace avx2 {

/// Numbers r .. r + 7 of a step.
inline __attribute__((always_inline)) __m256 residual_numbers(unsigned char const* step, int r, number_format format) {
  if (format == number_format::fp32) return _mm256_loadu_ps(reinterpret_cast<float const*>(step + 32 + 4 * r));
  __m128i const halves = _mm_loadu_si128(reinterpret_cast<__m128i const*>(step + 32 + 2 * r));
  if (format == number_format::fp16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

inline void residual_slice(unsigned char const* steps, index_t count, number_format format, float const* x, float* sums) {
  __m256 const none = _mm256_setzero_ps();
  __m256 low = none, high = none;
  __m256 const all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  index_t const bytes = residual_step_bytes(format);
  for (index_t k = 0; k < count; ++k, steps += bytes) {
    __m256i const at = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(steps)));
    __m256i const more = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(steps + 16)));
    low = _mm256_fmadd_ps(residual_numbers(steps, 0, format), _mm256_mask_i32gather_ps(none, x, at, all, 4), low);
    high = _mm256_fmadd_ps(residual_numbers(steps, 8, format), _mm256_mask_i32gather_ps(none, x, more, all, 4), high);
  }
  _mm256_storeu_ps(sums, low);
  _mm256_storeu_ps(sums + 8, high);
}

} // namespace avx2
SLIM_SIMD_END
#endif

/// The kernel of a level. @throws config_error if the machine lacks the level.
[[nodiscard]] inline residual_kernel residual_kernel_of(simd_level wanted) {
#if SLIM_SIMD_X86
  if (resolve(wanted) >= simd_level::avx2) return avx2::residual_slice;
#else
  (void)resolve(wanted);
#endif
  return scalar::residual_slice;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
