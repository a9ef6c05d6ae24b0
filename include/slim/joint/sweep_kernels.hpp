#pragma once
/// @file
/// Innermost loops of joint/row_sweep.hpp, one set per instruction set, chosen at run time.

#include "slim/linalg/simd.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// Rows of W that one vector holds.
inline constexpr index_t sweep_lanes = 16;

/// Sixteen rows of a block of columns, [column][lane] each.
struct sweep_tile {
  float* weight; ///< error feedback: weights as they are now; descent: gradient (V - S) H
  float* value;  ///< what stands for the weight
  float* level;  ///< value / step, a whole number
  float* error;  ///< error feedback: error / pivot; descent: sum of changes
  int* kept;     ///< -1 on the grid, 0 pruned, 1 kept as it is
};

/// Steps and bounds of the codes, [group][lane] each; `step` null: no grid. `group_of[j]` is the group of the tile's column j.
struct lane_grid {
  float const* step;
  float const* inverse; ///< 1 / step, 0 where the step is 0
  float const* low;
  float const* high;
  index_t const* group_of;
};

/// What a step search writes, 16 numbers each.
struct step_lanes {
  float* step;
  float* zero; ///< codes below zero
};

/// Inner loops of one instruction set; explained in sweep_kernels.inc.
struct sweep_kernels {
  void (*feed_errors)(sweep_tile const&, lane_grid const&, float const* u, index_t u_stride, index_t begin, index_t end,
                      index_t block_end, index_t n, index_t m);
  void (*descend)(sweep_tile const&, lane_grid const&, float const* h, index_t h_stride, index_t width, bool pairs);
  void (*search_steps)(float const* x, index_t cols, float const* weight, float const* fractions, index_t count, bool symmetric,
                       float top, step_lanes const& out);
};

// Wide vectors cross no function boundary by value, but compilers without the registers warn about them all the same.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace scalar {
namespace sweep {
#include "slim/joint/sweep_kernels.inc"
}
} // namespace scalar

#if SLIM_SIMD_X86
SLIM_SIMD_BEGIN_AVX2
namespace avx2 {
namespace sweep {
#include "slim/joint/sweep_kernels.inc"
}
} // namespace avx2
SLIM_SIMD_END
SLIM_SIMD_BEGIN_AVX512
namespace avx512 {
namespace sweep {
#include "slim/joint/sweep_kernels.inc"
}
} // namespace avx512
SLIM_SIMD_END
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// The inner loops of a level. @throws config_error if the machine lacks it.
[[nodiscard]] inline sweep_kernels const& sweep_kernels_of(simd_level wanted) {
#if SLIM_SIMD_X86
  switch (resolve(wanted)) {
  case simd_level::avx512: return avx512::sweep::kernels;
  case simd_level::avx2: return avx2::sweep::kernels;
  default: break;
  }
#else
  (void)resolve(wanted);
#endif
  return scalar::sweep::kernels;
}

} // namespace detail
} // namespace slim::inline SLIM_ABI
