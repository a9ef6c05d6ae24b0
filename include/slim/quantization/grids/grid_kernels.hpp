#pragma once
/// @file
/// Searches for scales of sixteen rows at a time, one set per instruction set, chosen at run time; explained in
/// grid_kernels.inc.

#include "slim/quantization/grids/grid.hpp"
#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Candidates of a search: fractions of the scale that clips nothing, and weights of the columns' squared errors (null: 1
/// each).
struct scale_candidates {
  float const* fractions;
  index_t count;
  float const* weights;
};

/// Per lane, the scale (and zero point or offset) of least squared error; `x` is [column][lane], results are 16 numbers each.
struct grid_kernels {
  /// Uniform grids, symmetric or with a zero point (codes below zero).
  void (*search_scales)(float const* x, index_t cols, scale_candidates const& with, bool symmetric, float top, float* scale,
                        float* zero);
  /// Uniform grids with a real offset; levels are 0 .. top.
  void (*search_offsets)(float const* x, index_t cols, scale_candidates const& with, float top, float* scale, float* offset);
  /// Tables of `count` ascending levels, [level][lane].
  void (*search_table_scales)(float const* x, index_t cols, scale_candidates const& with, float const* levels, index_t count,
                              float* scale);
  /// Levels low .. high times a scale of either sign. Squared errors are times `weights` (null: 1 each), as below.
  void (*fit_signed)(float const* x, index_t cols, float const* weights, float low, float high, float* scale);
  /// The same for `count` ascending levels of both signs, one number each.
  void (*fit_signed_table)(float const* x, index_t cols, float const* weights, float const* levels, index_t count,
                           float* scale);
  /// Levels 0 .. top times a scale, plus an offset that may be positive only if `free`.
  void (*fit_affine)(float const* x, index_t cols, float const* weights, float top, bool free, float* scale, float* offset);
  /// Per lane, the error of scale * level + offset, level from low[lane] to high[lane].
  void (*rounding_error)(float const* x, index_t cols, float const* weights, float const* scale, float const* offset,
                         float const* low, float const* high, float* error);
  /// The same of scale * level, `count` ascending levels, a scale of either sign.
  void (*table_error)(float const* x, index_t cols, float const* weights, float const* levels, index_t count,
                      float const* scale, float* error);
};

#define SLIM_KERNELS grid
#define SLIM_KERNELS_FILE "slim/quantization/grids/grid_kernels.inc"
#include "slim/simd/for_each_level.inc"

/// `tile` becomes columns first .. first + width - 1 of rows begin .. begin + 15 of V, [column][lane]; 0 behind the last row.
inline void load_tile(matrix_view<float const> v, index_t begin, index_t first, index_t width, float* tile) {
  for (index_t j = 0; j < width; ++j)
    for (index_t lane = 0; lane < grid_lanes; ++lane)
      tile[j * grid_lanes + lane] = begin + lane < v.rows() ? v(begin + lane, first + j) : 0.0f;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
