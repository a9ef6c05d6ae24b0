#pragma once
/// @file
/// Innermost loops over the weights of a row: ranges, codes, histogram bins. One set per instruction set, chosen at run time;
/// all give the same bits.

#include "slim/core/scalar.hpp"
#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// The grid of a row: `group` neighbouring columns share a scale.
struct row_grid {
  float const* scales;
  signed char const* zeros; ///< as scales, or null: all 0
  index_t group;
  int lowest, highest; ///< codes
};

/// What maxima are taken of: weights whose bits are masked, then flipped.
struct of_weights {
  unsigned kept, flipped;
};
inline constexpr of_weights magnitudes{0x7fffffffu, 0}, themselves{0xffffffffu, 0}, negatives{0xffffffffu, 0x80000000u};

/// Equal bins around multiples of a width: weight x lies in number `bins` + round(x unit wide), 0 <= number <= 2 bins.
struct bin_grid {
  float largest; ///< what is beyond, and NaN, gets number 2 bins + 1
  float unit;    ///< a power of two that makes tiny weights normal numbers
  float wide;    ///< 2 bins / (largest unit)
  int bins;
};

/// Inner loops of one instruction set; explained in rounding_kernels.inc.
struct rounding_kernels {
  void (*group_maxima)(float const* w, index_t cols, index_t group, of_weights what, float* maxima);
  void (*symmetric_scales)(float* maxima, index_t count, float top, number_format format);
  void (*round_row)(float const* w, index_t cols, row_grid const& grid, signed char* codes);
  void (*bin_numbers)(float const* w, index_t cols, bin_grid const& grid, int* numbers);
  void (*bf16_numbers)(float const* w, index_t cols, float largest, int* numbers);
  void (*count_bins)(float const* w, index_t cols, bin_grid const& grid, unsigned short* counts);
  void (*count_bf16)(float const* w, index_t cols, float largest, unsigned short* counts);
};

#define SLIM_KERNELS rounding
#define SLIM_KERNELS_FILE "slim/quantization/rounding_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
