#pragma once
/// @file
/// The two sweeps over a weight matrix that every error-propagating method is made of. Rows of W are independent of each
/// other; columns are visited in order, and what one column loses is made up for by others:
///
///  * `feed_back`: optimal brain surgeon with a Cholesky factor (OBQ, GPTQ, SparseGPT: arXiv 2208.11580, 2210.17323,
///    2301.00774). Column j is rounded or pruned, its error spreads to the columns after it so that the output changes least.
///  * `descend_codes`: coordinate descent on tr((V - S) H (V - S)^T): each code, or each 2:4 group, becomes the exact minimiser
///    with all others fixed.
///
/// Both run on any grid (quantization/grids/grid.hpp). Both work block by block: inside a block sixteen rows run in the lanes
/// of a vector, beyond it one matrix product per block and 96 rows catches up. No task waits for another, so the bits do not
/// depend on the number of threads.

#include "slim/core/scalar.hpp"
#include "slim/joint/sweep_kernels.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/pruning/mask.hpp"

#include <memory>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// Options of `feed_back`.
struct feedback_options {
  /// Columns in the order in which they are visited; empty: as they stand. With a pattern of m, groups of m stay together.
  std::span<index_t const> order = {};
  /// n:m chosen on the way, a group at a time, by what pruning costs beyond rounding; 0:0 takes the mask as it is.
  sparsity_pattern choose = {};
  /// Share of the weights of each row of each block (128 columns) that is pruned on the way; used without a pattern.
  double prune_share = 0.0;
  /// Fits the scales of a group (or super-block) again when the sweep reaches it, to the weights as they are by then.
  bool refit_groups = false;
  /// Weights that are not rounded, such as outliers that are stored apart (SpQR, arXiv 2306.03078): what reaches them from
  /// other columns stays in W, their codes are the nearest. Not together with a choice of pattern or share. Null: none.
  mask const* unrounded = nullptr;
  /// A weight whose rounding would cost more, (w - q)^2 / u_jj^2, becomes an outlier: it is not rounded, and is noted in
  /// `outliers` (all false before). Infinite: none.
  float outlier_threshold = std::numeric_limits<float>::infinity();
  mask* outliers = nullptr;
};

namespace detail {

inline constexpr index_t sweep_rows = 96;
inline constexpr index_t sweep_block = 128;

/// Columns per block: whole groups of m, and whole groups of the scales if they fit.
[[nodiscard]] inline index_t block_width(index_t m, index_t group) {
  index_t width = m > 0 ? (sweep_block + m - 1) / m * m : sweep_block;
  if (group > 0 && group <= 4 * sweep_block)
    while (width % group != 0 && width < 8 * sweep_block) width += m > 0 ? m : 1;
  return width;
}

/// No grid: weights are pruned and not rounded.
struct no_grid {
  struct codes_type {};
  [[nodiscard]] index_t groups(codes_type const&) const noexcept { return 0; }
  [[nodiscard]] index_t group_cols(codes_type const&) const noexcept { return 0; }
  [[nodiscard]] index_t fit_cols(codes_type const&) const noexcept { return 0; }
  [[nodiscard]] index_t level_count() const noexcept { return 0; }
  void fit_tile(codes_type&, float const*, index_t, index_t, index_t, index_t, context const&) const noexcept {}
  void load(codes_type const&, index_t, index_t, index_t, lane_group const&) const noexcept {}
  void store(codes_type&, index_t, index_t, float, bool) const noexcept {}
};

/// @throws shape_error, config_error
inline void check_feedback(matrix_view<float const> w, mask const* kept, feedback_options const& options) {
  auto const fits = [&](mask const* m) { return !m || (m->rows() == w.rows() && m->cols() == w.cols()); };
  if (!fits(kept) || !fits(options.unrounded) || !fits(options.outliers) ||
      (!options.order.empty() && static_cast<index_t>(options.order.size()) != w.cols()))
    throw shape_error(message("feed_back: W is ", w.rows(), " x ", w.cols(), "; a mask or the order is of another shape"));
  auto const [n, m] = options.choose;
  if (m < 0 || m > 64 || n < 0 || n > m) throw config_error(message("feed_back: pattern ", n, ":", m, ", possible is M <= 64"));
  if (!(options.prune_share >= 0.0) || options.prune_share > 1.0)
    throw config_error(message("feed_back: prune_share ", options.prune_share, ", possible are 0 to 1"));
  bool const chooses = m > 0 || options.prune_share > 0.0;
  if (chooses && !kept) throw config_error("feed_back: a pattern is chosen, but no mask is given");
  if (options.unrounded && chooses) throw config_error("feed_back: weights cannot be left unrounded where a pattern is chosen");
  if (!(options.outlier_threshold >= 0.0f))
    throw config_error(message("feed_back: outlier_threshold ", options.outlier_threshold));
}

/// Storage behind a sweep_tile.
class tile_storage {
public:
  explicit tile_storage(index_t cols) : floats_(4, cols * sweep_lanes), kept_(1, cols * sweep_lanes) {}

  [[nodiscard]] sweep_tile tile() noexcept {
    return {floats_.row(0), floats_.row(1), floats_.row(2), floats_.row(3), kept_.data()};
  }

private:
  matrix<float> floats_;
  matrix<int> kept_;
};

/// The values that sixteen rows of codes may take.
template <class Grid>
class lane_storage {
public:
  using codes_type = typename Grid::codes_type;

  lane_storage(Grid const* grid, codes_type const* codes, index_t cols)
      : grid_(grid), codes_(codes), group_of_(static_cast<std::size_t>(cols)) {
    if (!grid) return;
    index_t const groups = grid->groups(*codes);
    if (grid->level_count() > 0)
      levels_ = matrix<float>(groups, grid->level_count() * sweep_lanes);
    else
      uniform_ = matrix<float>(5, groups * sweep_lanes);
  }

  /// The groups of the columns that stand at first .. first + width - 1 of the order, for `count` rows from first_row on.
  [[nodiscard]] lane_grid columns(index_t first_row, index_t count, std::span<index_t const> order, index_t first,
                                  index_t width) {
    if (!grid_) return {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, nullptr};
    index_t const wide = grid_->group_cols(*codes_);
    for (index_t j = 0; j < width; ++j)
      group_of_[static_cast<std::size_t>(j)] = (order.empty() ? first + j : order[static_cast<std::size_t>(first + j)]) / wide;
    if (order.empty())
      for (index_t g = first / wide; g * wide < first + width; ++g) load_group(first_row, count, g);
    else
      for (index_t g = 0; g < grid_->groups(*codes_); ++g) load_group(first_row, count, g);
    return {pointer(0),           pointer(1),      pointer(2),
            pointer(3),           pointer(4),      levels_.empty() ? nullptr : levels_.data(),
            grid_->level_count(), group_of_.data()};
  }

  void load_group(index_t first_row, index_t count, index_t g) {
    index_t const at = g * sweep_lanes;
    lane_group const lanes = levels_.empty() ? lane_group{uniform_.row(0) + at, uniform_.row(1) + at, uniform_.row(2) + at,
                                                          uniform_.row(3) + at, uniform_.row(4) + at, nullptr}
                                             : lane_group{nullptr, nullptr, nullptr, nullptr, nullptr, levels_.row(g)};
    grid_->load(*codes_, first_row, count, g, lanes);
  }

private:
  [[nodiscard]] float const* pointer(index_t row) const noexcept { return uniform_.empty() ? nullptr : uniform_.row(row); }

  Grid const* grid_;
  codes_type const* codes_;
  std::vector<index_t> group_of_;
  matrix<float> uniform_, levels_;
};

/// What is left of x when it becomes the nearest value of a lane: the rounding that choose_share counts.
[[nodiscard]] inline float rounding_error(lane_grid const& grid, index_t column, index_t lane, float x) {
  if (!grid.group_of) return 0.0f;
  if (grid.levels) {
    float const* const levels = grid.levels + grid.group_of[column] * grid.level_count * sweep_lanes + lane;
    float least = x - levels[0];
    for (index_t k = 1; k < grid.level_count; ++k)
      if (float const error = x - levels[k * sweep_lanes]; std::abs(error) < std::abs(least)) least = error;
    return least;
  }
  index_t const at = grid.group_of[column] * sweep_lanes + lane;
  float const rest = x - grid.offset[at];
  float const bounded = std::min(std::max(rest * grid.inverse[at], grid.low[at]), grid.high[at]);
  return rest - static_cast<float>(round_to_int(bounded)) * grid.scale[at];
}

/// Prunes the lowest gains of every lane of a block; ties prune the higher column.
inline void choose_share(sweep_tile const& t, lane_grid const& grid, matrix_view<float const> u, index_t width, double share) {
  auto const pruned = static_cast<index_t>(share * static_cast<double>(width));
  std::vector<std::pair<float, index_t>> gains(static_cast<std::size_t>(width));
  for (index_t lane = 0; lane < sweep_lanes; ++lane) {
    for (index_t j = 0; j < width; ++j) {
      float const x = t.weight[j * sweep_lanes + lane];
      float energy = x * x;
      if (grid.group_of) {
        float const error = rounding_error(grid, j, lane, x);
        energy -= error * error;
      }
      float const gain = energy / (u(j, j) * u(j, j));
      gains[static_cast<std::size_t>(j)] = {gain == gain ? gain : -3e38f, -j};
    }
    std::nth_element(gains.begin(), gains.begin() + pruned, gains.end());
    for (index_t k = 0; k < width; ++k)
      t.kept[-gains[static_cast<std::size_t>(k)].second * sweep_lanes + lane] = k < pruned ? 0 : -1;
  }
}

/// `feed_back` on rows [begin, end); `grid` and `codes` are null where weights are only pruned.
template <class Grid>
class feedback_task {
public:
  using codes_type = typename Grid::codes_type;

  feedback_task(matrix_view<float> w, matrix_view<float const> u, Grid const* grid, codes_type* codes, mask* kept,
                feedback_options const& options, context const& ctx)
      : w_(w), u_(u), grid_(grid), codes_(codes), kept_(kept), options_(options), kernels_(sweep_kernels_of(ctx.simd)),
        inner_(ctx.inside_task()) {
    if (grid) fit_cols_ = grid->fit_cols(*codes);
    index_t const group = !grid || grid->groups(*codes) < 2 ? 0 : fit_cols_ > 0 ? fit_cols_ : grid->group_cols(*codes);
    index_t const width = block_width(options.choose.m, group);
    holds_whole_fits_ = fit_cols_ == 0 || width % fit_cols_ == 0 || width >= w.cols();
    wide_ = std::min(width, std::max<index_t>(w.cols(), 1));
  }

  /// Whether scales can be fitted again on the way. @throws config_error
  void check_refit() const {
    if (!options_.refit_groups) return;
    if (!grid_ || !options_.order.empty())
      throw config_error("feed_back: scales are fitted again where there is a grid, and columns are visited in order");
    if (grid_->groups(*codes_) < 2) return; // a row's only group was fitted before
    if (fit_cols_ == 0) throw config_error("feed_back: this grid cannot fit its scales on the way");
    if (!holds_whole_fits_)
      throw config_error(
          message("feed_back: groups of ", fit_cols_, " cannot be fitted on the way, at most ", 4 * sweep_block, " can"));
  }

  void run(index_t begin, index_t end) const {
    index_t const n = w_.cols(), rows = end - begin;
    matrix<float> now(rows, n), errors(rows, wide_);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < n; ++j) now(i, j) = w_(begin + i, column(j));
    tile_storage storage(wide_);
    lane_storage<Grid> lanes(grid_, codes_, wide_);
    for (index_t first = 0; first < n; first += wide_) {
      index_t const width = std::min(wide_, n - first), rest = n - first - width;
      for (index_t i = 0; i < rows; i += sweep_lanes)
        run_tile(storage.tile(), lanes, now, errors, begin, i, std::min(sweep_lanes, rows - i), first, width);
      gemm_into(errors.view().block(0, 0, rows, width), u_.block(first, first + width, width, rest),
                now.view().block(0, first + width, rows, rest), destination::subtract, inner_);
    }
  }

private:
  [[nodiscard]] index_t column(index_t j) const {
    return options_.order.empty() ? j : options_.order[static_cast<std::size_t>(j)];
  }

  void run_tile(sweep_tile const& t, lane_storage<Grid>& lanes, matrix<float> const& now, matrix<float>& errors, index_t begin,
                index_t i, index_t count, index_t first, index_t width) const {
    for (index_t j = 0; j < width; ++j)
      for (index_t lane = 0; lane < sweep_lanes; ++lane) {
        index_t const at = j * sweep_lanes + lane;
        t.weight[at] = lane < count ? now(i + lane, first + j) : 0.0f;
        t.kept[at] = lane < count ? state_of(begin + i + lane, column(first + j)) : -1;
      }
    lane_grid const grid = lanes.columns(begin + i, count, options_.order, first, width);
    auto const u = u_.block(first, first, width, width);
    if (options_.prune_share > 0.0) choose_share(t, grid, u, width, options_.prune_share);
    feedback_choice const choice{options_.choose.n, options_.choose.m, std::min(options_.outlier_threshold, 3e38f)};
    index_t const piece = options_.refit_groups && grid_ && grid_->groups(*codes_) > 1 ? fit_cols_ : width;
    for (index_t j = 0; j < width; j += piece) {
      index_t const last = std::min(width, j + piece);
      if (piece != width || options_.refit_groups) refit(t, lanes, begin + i, count, first, j, last);
      kernels_.feed_errors(t, grid, u.data(), u.row_stride(), j, last, width, choice);
    }
    for (index_t lane = 0; lane < count; ++lane)
      for (index_t j = 0; j < width; ++j) {
        errors(i + lane, j) = t.error[j * sweep_lanes + lane];
        keep_result(t, j * sweep_lanes + lane, begin + i + lane, column(first + j));
      }
  }

  /// As sweep_tile has it.
  [[nodiscard]] int state_of(index_t row, index_t col) const {
    if (kept_ && !kept_->kept(row, col)) return 0;
    return options_.unrounded && options_.unrounded->kept(row, col) ? 1 : -1;
  }

  /// Scales of columns first + j .. first + last - 1 fitted to the weights as they are now.
  void refit(sweep_tile const& t, lane_storage<Grid>& lanes, index_t row, index_t count, index_t first, index_t j,
             index_t last) const {
    if (!options_.refit_groups || grid_->groups(*codes_) < 2) return;
    grid_->fit_tile(*codes_, t.weight + j * sweep_lanes, row, count, first + j, last - j, inner_);
    index_t const wide = grid_->group_cols(*codes_);
    for (index_t g = (first + j) / wide; g * wide < first + last; ++g) lanes.load_group(row, count, g);
  }

  void keep_result(sweep_tile const& t, index_t at, index_t row, index_t col) const {
    w_(row, col) = t.value[at];
    bool const kept = t.kept[at] != 0;
    if (kept_) kept_->keep(row, col, kept);
    if (options_.outliers && t.kept[at] > 0) options_.outliers->keep(row, col);
    if (grid_) grid_->store(*codes_, row, col, t.level[at], kept);
  }

  matrix_view<float> w_;
  matrix_view<float const> u_;
  Grid const* grid_;
  codes_type* codes_;
  mask* kept_;
  feedback_options const& options_;
  sweep_kernels const& kernels_;
  context inner_;
  index_t fit_cols_ = 0;         ///< columns that are fitted together
  bool holds_whole_fits_ = true; ///< a block is made of those as a whole
  index_t wide_;                 ///< columns of a block
};

/// `descend_codes` on rows [begin, end).
template <class Grid>
class descent_task {
public:
  using codes_type = typename Grid::codes_type;

  descent_task(matrix_view<float> gradient, matrix_view<float const> h, Grid const& grid, codes_type& codes, mask* kept,
               bool pairs, context const& ctx)
      : gradient_(gradient), h_(h), grid_(grid), codes_(codes), kept_(kept), pairs_(pairs),
        kernels_(sweep_kernels_of(ctx.simd)), inner_(ctx.inside_task()) {}

  void run(index_t begin, index_t end) const {
    index_t const n = h_.rows(), rows = end - begin;
    index_t const wide = std::min(sweep_block, n);
    matrix<float> changes(rows, wide);
    tile_storage storage(wide);
    lane_storage<Grid> lanes(std::addressof(grid_), &codes_, wide);
    for (index_t first = 0; first < n; first += wide) {
      index_t const width = std::min(wide, n - first), next = first + width;
      for (index_t i = 0; i < rows; i += sweep_lanes)
        run_tile(storage.tile(), lanes, changes, begin, i, std::min(sweep_lanes, rows - i), first, width);
      auto const moved = changes.view().block(0, 0, rows, width);
      auto const catch_up = [&](index_t from, index_t count) {
        gemm_into(moved, h_.block(first, from, width, count), gradient_.block(begin, from, rows, count), destination::subtract,
                  inner_);
      };
      catch_up(0, first);
      catch_up(next, n - next);
    }
  }

private:
  void run_tile(sweep_tile const& t, lane_storage<Grid>& lanes, matrix<float>& changes, index_t begin, index_t i, index_t count,
                index_t first, index_t width) const {
    for (index_t j = 0; j < width; ++j)
      for (index_t lane = 0; lane < sweep_lanes; ++lane) {
        index_t const at = j * sweep_lanes + lane, row = begin + i + std::min(lane, count - 1), col = first + j;
        t.weight[at] = gradient_(row, col);
        t.value[at] = grid_.value(codes_, row, col);
        t.level[at] = grid_.level(codes_, row, col);
        t.kept[at] = kept_ && !kept_->kept(row, col) ? 0 : -1;
        t.error[at] = 0.0f;
        if (t.kept[at] == 0) t.value[at] = t.level[at] = 0.0f;
      }
    auto const h = h_.block(first, first, width, width);
    kernels_.descend(t, lanes.columns(begin + i, count, {}, first, width), h.data(), h.row_stride(), width, pairs_);
    for (index_t lane = 0; lane < count; ++lane)
      for (index_t j = 0; j < width; ++j) {
        index_t const at = j * sweep_lanes + lane, row = begin + i + lane, col = first + j;
        changes(i + lane, j) = t.error[at];
        gradient_(row, col) = t.weight[at];
        bool const kept = t.kept[at] != 0;
        if (kept_) kept_->keep(row, col, kept);
        grid_.store(codes_, row, col, t.level[at], kept);
      }
  }

  matrix_view<float> gradient_;
  matrix_view<float const> h_;
  Grid const& grid_;
  codes_type& codes_;
  mask* kept_;
  bool pairs_;
  sweep_kernels const& kernels_;
  context inner_;
};

template <class Grid>
void feed_back(matrix_view<float> w, matrix_view<float const> u, Grid const* grid, typename Grid::codes_type* codes, mask* kept,
               feedback_options const& options, context const& ctx) {
  if (u.rows() != w.cols() || u.cols() != w.cols())
    throw shape_error(message("feed_back: W has ", w.cols(), " columns, the factor is ", u.rows(), " x ", u.cols()));
  check_feedback(w, kept, options);
  feedback_task<Grid> const task(w, u, grid, codes, kept, options, ctx);
  task.check_refit();
  if (w.empty()) return;
  ctx.parallel_for(w.rows(), sweep_rows, [&](index_t begin, index_t end) { task.run(begin, end); });
}

} // namespace detail

/// Rounds W (d_out x d_in) in place to the grid of `codes`, whose scales are fitted, column by column, spreading errors with
/// `u`, upper triangular with H^-1 = U^T U in the order of the columns (linalg/feedback_factor.hpp). Codes are written; `kept`,
/// unless null, is the mask that holds, and is written where the options choose it. d_out d_in^2 / 2 multiply-adds. @throws
/// shape_error if extents disagree; config_error if the options ask for what cannot be done.
template <grid Grid>
void feed_back(matrix_view<float> w, matrix_view<float const> u, Grid const& on, typename Grid::codes_type& codes, mask* kept,
               feedback_options const& options = {}, context const& ctx = {}) {
  if (codes.rows() != w.rows() || codes.cols() != w.cols())
    throw shape_error(
        message("feed_back: W is ", w.rows(), " x ", w.cols(), ", codes are ", codes.rows(), " x ", codes.cols()));
  if constexpr (requires { on.check(codes, "feed_back"); }) on.check(codes, "feed_back");
  detail::feed_back(w, u, std::addressof(on), &codes, kept, options, ctx);
}

/// The same without a grid: weights are pruned, and not rounded.
inline void feed_back(matrix_view<float> w, matrix_view<float const> u, mask& kept, feedback_options const& options = {},
                      context const& ctx = {}) {
  detail::feed_back<detail::no_grid>(w, u, nullptr, nullptr, &kept, options, ctx);
}

/// One sweep of coordinate descent on ||V - S||_H, S = mask .* codes: over codes, or over whole groups where the mask promises
/// 2:4 (its six patterns). Codes whose weight is pruned stay pruned otherwise. `gradient` is (V - S) H on entry and on return,
/// to float rounding. The diagonal of H must be positive. d_out d_in^2 multiply-adds. @throws shape_error
template <grid Grid>
void descend_codes(matrix_view<float> gradient, matrix_view<float const> h, Grid const& on, typename Grid::codes_type& codes,
                   mask* kept, context const& ctx = {}) {
  if (h.rows() != codes.cols() || h.cols() != codes.cols() || gradient.rows() != codes.rows() ||
      gradient.cols() != codes.cols() || (kept && (kept->rows() != codes.rows() || kept->cols() != codes.cols())))
    throw shape_error(message("descend_codes: codes are ", codes.rows(), " x ", codes.cols(), ", H is ", h.rows(), " x ",
                              h.cols(), ", the gradient ", gradient.rows(), " x ", gradient.cols(), "; or the mask differs"));
  if constexpr (requires { on.check(codes, "descend_codes"); }) on.check(codes, "descend_codes");
  if (gradient.empty()) return;
  bool const pairs = kept && kept->pattern() == sparsity_pattern{2, 4};
  detail::descent_task<Grid> const task(gradient, h, on, codes, kept, pairs, ctx);
  ctx.parallel_for(codes.rows(), detail::sweep_rows, [&](index_t begin, index_t end) { task.run(begin, end); });
}

} // namespace SLIM_ABI
} // namespace slim
