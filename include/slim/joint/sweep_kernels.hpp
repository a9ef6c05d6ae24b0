#pragma once
/// @file
/// Innermost loops of joint/row_sweep.hpp, one set per instruction set, chosen at run time.

#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
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
struct scale_lanes {
  float* step;
  float* zero; ///< codes below zero
};

/// Inner loops of one instruction set; explained in sweep_kernels.inc.
struct sweep_kernels {
  void (*feed_errors)(sweep_tile const&, lane_grid const&, float const* u, index_t u_stride, index_t begin, index_t end,
                      index_t block_end, index_t n, index_t m);
  void (*descend)(sweep_tile const&, lane_grid const&, float const* h, index_t h_stride, index_t width, bool pairs);
  void (*search_scales)(float const* x, index_t cols, float const* weight, float const* fractions, index_t count,
                        bool symmetric, float top, scale_lanes const& out);
};

#define SLIM_KERNELS sweep
#define SLIM_KERNELS_FILE "slim/joint/sweep_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
