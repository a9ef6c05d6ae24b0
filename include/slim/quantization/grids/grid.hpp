#pragma once
/// @file
/// The concept of a grid: all that error feedback and coordinate descent need to know about a set of admissible values. A grid
/// makes codes of one type, fits their scales, says for sixteen rows at a time which values a weight may take, and stores what
/// was chosen.

#include "slim/quantization/quantized_matrix.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// Rows that are rounded together: the lanes of a vector of floats.
inline constexpr index_t grid_lanes = 16;

/// Where a grid writes the values that sixteen rows may take in one group of columns, sixteen numbers each. A uniform grid's
/// values are scale * level + offset for whole levels from `low` to `high`; `inverse` is 1 / scale, 0 where the scale is 0. A
/// grid with a table (level_count() > 0) writes `levels`, [level][lane] in ascending order, and leaves the others alone.
struct lane_group {
  float* scale;
  float* inverse;
  float* low;
  float* high;
  float* offset;
  float* levels;
};

/// Columns are cut into `groups(codes)` groups of `group_cols(codes)`, the last perhaps ragged; inside a group a row has one
/// set of values. Rows are asked for by their first number and a count of at most sixteen; lanes behind the count repeat the
/// last row. W is d_out x d_in, a tile is [column][lane].
///
///  * `empty(rows, cols)`: codes whose scales are not fitted yet.
///  * `fit(codes, V, ctx)`: scales for rounding V (0 where pruned).
///  * `fit_cols(codes)`: columns whose scales are fitted together when error feedback reaches them, whole groups; 0: the grid
///    cannot do that. `fit_tile(codes, tile, row, count, first, width)` does it for columns first .. first + width - 1.
///  * `level_count()`: 0 for a uniform grid, else the number of levels of the table, at most 256.
///  * `load(codes, row, count, group, lanes)`: the values that the rows may take in a group.
///  * `store(codes, i, j, level, kept)`: a level, a whole number (of a table: its position in ascending order), becomes a code.
///  * `level(codes, i, j)`, `value(codes, i, j)`: of a stored code.
///  * `refit(codes, kept, gradient, H, ctx)`: scales move to where ||V - S||_H is smaller, codes as they are; weights outside
///    `kept` (null: none) are 0. It never raises ||V - S||_H beyond rounding. `gradient` is (V - S) H on entry and on return.
///  * optional: `fit_under(codes, V, weights, ctx)`: `fit` with squared errors of the columns weighted, d_in numbers; sweeps
///  call
///    it instead.
///  * optional: `check(codes, who)` throws unless the codes are sound and such as `empty` makes; sweeps call it first.
template <class G>
concept grid = requires(G const& g, typename G::codes_type& codes, typename G::codes_type const& made, mask const* kept,
                        matrix_view<float const> v, matrix_view<float> gradient, float const* tile, lane_group const& lanes,
                        index_t i, context const& ctx) {
  requires quantized_matrix<typename G::codes_type>;
  { g.empty(i, i) } -> std::same_as<typename G::codes_type>;
  g.fit(codes, v, ctx);
  { g.groups(made) } -> std::same_as<index_t>;
  { g.group_cols(made) } -> std::same_as<index_t>;
  { g.fit_cols(made) } -> std::same_as<index_t>;
  g.fit_tile(codes, tile, i, i, i, i, ctx);
  { g.level_count() } -> std::same_as<index_t>;
  g.load(made, i, i, i, lanes);
  g.store(codes, i, i, 0.0f, true);
  { g.level(made, i, i) } -> std::same_as<float>;
  { g.value(made, i, i) } -> std::same_as<float>;
  g.refit(codes, kept, gradient, v, ctx);
  { g.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
