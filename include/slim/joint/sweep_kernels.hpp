#pragma once
/// @file
/// Innermost loops of joint/row_sweep.hpp, one set per instruction set, chosen at run time.

#include "slim/quantization/grids/grid.hpp"
#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Rows of W that one vector holds.
inline constexpr index_t sweep_lanes = grid_lanes;

/// Sixteen rows of a block of columns, [column][lane] each.
struct sweep_tile {
  float* weight; ///< error feedback: weights as they are now; descent: gradient (V - S) H
  float* value;  ///< what stands for the weight
  float* level;  ///< of the grid, a whole number: see `grid`
  float* error;  ///< error feedback: error / pivot; descent: sum of changes
  int* kept;     ///< -1 on the grid, 0 pruned, 1 kept as it is
};

/// The values that sixteen rows may take, [group][lane] each as in `lane_group`; all null: no grid. `group_of[j]` is the group
/// of the tile's column j. With a table, `levels` is [group][level][lane]; without, null.
struct lane_grid {
  float const* scale;
  float const* inverse;
  float const* low;
  float const* high;
  float const* offset;
  float const* levels;
  index_t level_count; ///< of a table; 0 without
  index_t const* group_of;
};

/// What error feedback chooses on its way through a block.
struct feedback_choice {
  index_t n = 0, m = 0;            ///< n:m pattern, a group at a time; 0:0 none
  float outlier_threshold = 3e38f; ///< a weight whose error / pivot, squared, is larger is kept as it is
};

/// Inner loops of one instruction set; explained in sweep_kernels.inc.
struct sweep_kernels {
  void (*feed_errors)(sweep_tile const&, lane_grid const&, float const* u, index_t u_stride, index_t begin, index_t end,
                      index_t block_end, feedback_choice const&);
  void (*descend)(sweep_tile const&, lane_grid const&, float const* h, index_t h_stride, index_t width, bool pairs);
};

#define SLIM_KERNELS sweep
#define SLIM_KERNELS_FILE "slim/joint/sweep_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
