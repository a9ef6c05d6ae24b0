#pragma once
/// @file
/// Innermost loops of packing codes into stages of 16 rows x 32 columns (r16.hpp), one set per instruction set, chosen
/// at run time.

#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Columns that `join_pairs` takes at a time.
inline constexpr index_t pair_cols = 64;

/// Inner loops of one instruction set; explained in packing_kernels.inc.
struct packing_kernels {
  bool (*halves_of)(float const* v, index_t count, unsigned short* out);
  void (*pack_dense)(int bits, signed char const* const* rows, index_t stages, unsigned char* out);
  bool (*join_pairs)(signed char const* codes, unsigned char const* kept, index_t cols, unsigned char* pairs);
  void (*join_gathered)(signed char const* codes, unsigned char const* places, index_t count, unsigned char* pairs);
  void (*pack_pairs)(unsigned char const* const* rows, index_t stages, unsigned char* out);
};

#define SLIM_KERNELS packing
#define SLIM_KERNELS_FILE "slim/kernels/cpu/packing_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
