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
/// Both work block by block: inside a block sixteen rows run in the lanes of a vector, beyond it one matrix product per block
/// and 96 rows catches up. No task waits for another, so the bits do not depend on the number of threads.

#include "slim/joint/sweep_kernels.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <optional>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// How `feed_back` meets a weight matrix.
struct feedback_options {
  /// Columns in the order in which they are visited; empty: as they stand. With a pattern of m, groups of m stay together.
  std::span<index_t const> order = {};
  /// n:m chosen on the way, a group at a time, by what pruning costs beyond rounding; 0:0 takes the mask as it is.
  sparsity_pattern choose = {};
  /// Share of the weights of each row of each block (128 columns) that is pruned on the way; used without a pattern.
  double prune_share = 0.0;
  /// Refits the steps of a group (one row of it) when the sweep reaches it, to the weights as they are by then.
  bool refit_groups = false;
  /// Fractions of the largest weight that a refitted step may reach; see scale_fractions().
  std::span<float const> fractions = {};
  /// Bits of the codes of each group of columns, one number per column of the scales, none above those of the codes; empty:
  /// all as the codes. Steps and zero points must fit them: given so, or refitted on the way.
  std::span<std::uint8_t const> group_bits = {};
  /// Weights that are not rounded, such as outliers that are stored apart (SpQR, arXiv 2306.03078): what reaches them from
  /// other columns stays in W, their codes are the nearest. Not together with a choice of pattern or share. Null: none.
  mask const* unrounded = nullptr;
};

namespace detail {

inline constexpr index_t sweep_rows = 96;
inline constexpr index_t sweep_block = 128;

/// Columns per block: whole groups of m, and whole groups of the scales if they fit.
[[nodiscard]] inline index_t block_width(index_t m, index_t group, index_t cols) {
  index_t width = m > 0 ? (sweep_block + m - 1) / m * m : sweep_block;
  if (group > 0 && group <= 2 * sweep_block && group < cols)
    while (width % group != 0 && width < 8 * sweep_block) width += m > 0 ? m : 1;
  return width;
}

/// Bits of groups and weights left out. @throws shape_error, config_error
inline void check_exceptions(matrix_view<float const> w, integer_codes const* codes, feedback_options const& options) {
  if (!options.group_bits.empty()) {
    if (!codes || static_cast<index_t>(options.group_bits.size()) != codes->scales.cols())
      throw shape_error(message("feed_back: bits for ", options.group_bits.size(), " groups of columns, there are ",
                                codes ? codes->scales.cols() : 0));
    for (int const bits : options.group_bits)
      if (bits < 1 || bits > codes->bits)
        throw config_error(message("feed_back: a group of ", bits, " bits, possible are 1 to ", codes->bits));
  }
  if (!options.unrounded) return;
  if (options.unrounded->rows() != w.rows() || options.unrounded->cols() != w.cols())
    throw shape_error(message("feed_back: W is ", w.rows(), " x ", w.cols(), ", the mask of unrounded weights ",
                              options.unrounded->rows(), " x ", options.unrounded->cols()));
  if (options.choose.m > 0 || options.prune_share > 0.0)
    throw config_error("feed_back: weights cannot be left unrounded where a pattern is chosen");
}

/// @throws shape_error, config_error
inline void check_feedback(matrix_view<float const> w, integer_codes const* codes, mask const* kept,
                           feedback_options const& options) {
  if ((codes && (codes->rows() != w.rows() || codes->cols() != w.cols())) ||
      (kept && (kept->rows() != w.rows() || kept->cols() != w.cols())) ||
      (!options.order.empty() && static_cast<index_t>(options.order.size()) != w.cols()))
    throw shape_error(message("feed_back: W is ", w.rows(), " x ", w.cols(), "; codes, mask or order are of another shape"));
  auto const [n, m] = options.choose;
  if (m < 0 || m > 64 || n < 0 || n > m) throw config_error(message("feed_back: pattern ", n, ":", m, ", possible is M <= 64"));
  if (!(options.prune_share >= 0.0) || options.prune_share > 1.0)
    throw config_error(message("feed_back: prune_share ", options.prune_share, ", possible are 0 to 1"));
  if ((m > 0 || options.prune_share > 0.0) && !kept) throw config_error("feed_back: a pattern is chosen, but no mask is given");
  check_exceptions(w, codes, options);
  if (!options.refit_groups) return;
  if (!codes || !options.order.empty() || options.fractions.empty() || codes->block.rows_of(w.rows()) != 1)
    throw config_error("feed_back: steps are refitted for codes with scales per row, visited in order, from given fractions");
  index_t const group = codes->block.cols_of(w.cols());
  if (group < w.cols() && block_width(m, group, w.cols()) % group != 0)
    throw config_error(message("feed_back: groups of ", group, " cannot be refitted on the way, at most 256 can"));
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

/// Bits of the codes of group g of the columns.
[[nodiscard]] inline int bits_of(integer_codes const& codes, std::span<std::uint8_t const> group_bits, index_t g) {
  return group_bits.empty() ? codes.bits : group_bits[static_cast<std::size_t>(g)];
}

/// Steps and bounds of sixteen rows of integer_codes.
class grid_storage {
public:
  grid_storage(integer_codes const* codes, index_t cols, std::span<std::uint8_t const> group_bits = {})
      : codes_(codes), group_bits_(group_bits), group_of_(static_cast<std::size_t>(cols)),
        grid_(4, codes ? codes->scales.cols() * sweep_lanes : 0) {}

  void load(index_t first_row, index_t count) {
    if (!codes_) return;
    for (index_t g = 0; g < codes_->scales.cols(); ++g) load_group(first_row, count, g);
  }

  void load_group(index_t first_row, index_t count, index_t g) {
    index_t const tall = codes_->block.rows_of(codes_->rows());
    int const spread = 1 << (bits_of(*codes_, group_bits_, g) - 1);
    for (index_t lane = 0; lane < sweep_lanes; ++lane) {
      index_t const at = g * sweep_lanes + lane;
      index_t const b = (first_row + std::min(lane, count - 1)) / tall;
      float const step = codes_->scales(b, g);
      int const zero = codes_->zeros.empty() ? 0 : codes_->zeros(b, g);
      grid_(0, at) = step;
      grid_(1, at) = step > 0.0f ? 1.0f / step : 0.0f;
      grid_(2, at) = static_cast<float>(-spread - zero);
      grid_(3, at) = static_cast<float>(spread - 1 - zero);
    }
  }

  /// For the columns that stand at first .. first + width - 1 of the order.
  [[nodiscard]] lane_grid columns(std::span<index_t const> order, index_t first, index_t width) {
    if (!codes_) return {nullptr, nullptr, nullptr, nullptr, nullptr};
    index_t const wide = codes_->block.cols_of(codes_->cols());
    for (index_t j = 0; j < width; ++j)
      group_of_[static_cast<std::size_t>(j)] = (order.empty() ? first + j : order[static_cast<std::size_t>(first + j)]) / wide;
    return {grid_.row(0), grid_.row(1), grid_.row(2), grid_.row(3), group_of_.data()};
  }

private:
  integer_codes const* codes_;
  std::span<std::uint8_t const> group_bits_;
  std::vector<index_t> group_of_;
  matrix<float> grid_;
};

/// Prunes the lowest gains of every lane of a block; ties prune the higher column.
inline void choose_share(sweep_tile const& t, lane_grid const& grid, matrix_view<float const> u, index_t width, double share) {
  auto const pruned = static_cast<index_t>(share * static_cast<double>(width));
  std::vector<std::pair<float, index_t>> gains(static_cast<std::size_t>(width));
  for (index_t lane = 0; lane < sweep_lanes; ++lane) {
    for (index_t j = 0; j < width; ++j) {
      float const x = t.weight[j * sweep_lanes + lane];
      float energy = x * x;
      if (grid.step) {
        index_t const at = grid.group_of[j] * sweep_lanes + lane;
        float const bounded = std::min(std::max(x * grid.inverse[at], grid.low[at]), grid.high[at]);
        float const error = x - static_cast<float>(round_to_int(bounded)) * grid.step[at];
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

/// `feed_back` on rows [begin, end).
class feedback_task {
public:
  feedback_task(matrix_view<float> w, matrix_view<float const> u, integer_codes* codes, mask* kept,
                feedback_options const& options, context const& ctx)
      : w_(w), u_(u), codes_(codes), kept_(kept), options_(options), kernels_(sweep_kernels_of(ctx.simd)),
        inner_(ctx.inside_task()) {}

  void run(index_t begin, index_t end) const {
    index_t const n = w_.cols(), rows = end - begin;
    index_t const group = codes_ && codes_->scales.cols() > 1 ? codes_->block.cols_of(n) : 0;
    index_t const wide = block_width(options_.choose.m, group, n);
    matrix<float> now(rows, n), errors(rows, std::min(wide, n));
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < n; ++j) now(i, j) = w_(begin + i, column(j));
    tile_storage storage(std::min(wide, n));
    grid_storage grids(codes_, std::min(wide, n), options_.group_bits);
    for (index_t first = 0; first < n; first += wide) {
      index_t const width = std::min(wide, n - first), rest = n - first - width;
      for (index_t i = 0; i < rows; i += sweep_lanes)
        run_tile(storage.tile(), grids, now, errors, begin, i, std::min(sweep_lanes, rows - i), first, width);
      gemm_into(errors.view().block(0, 0, rows, width), u_.block(first, first + width, width, rest),
                now.view().block(0, first + width, rows, rest), destination::subtract, inner_);
    }
  }

private:
  [[nodiscard]] index_t column(index_t j) const {
    return options_.order.empty() ? j : options_.order[static_cast<std::size_t>(j)];
  }

  void run_tile(sweep_tile const& t, grid_storage& grids, matrix<float> const& now, matrix<float>& errors, index_t begin,
                index_t i, index_t count, index_t first, index_t width) const {
    for (index_t j = 0; j < width; ++j)
      for (index_t lane = 0; lane < sweep_lanes; ++lane) {
        index_t const at = j * sweep_lanes + lane;
        t.weight[at] = lane < count ? now(i + lane, first + j) : 0.0f;
        t.kept[at] = lane < count ? state_of(begin + i + lane, column(first + j)) : -1;
      }
    grids.load(begin + i, count);
    lane_grid const grid = grids.columns(options_.order, first, width);
    auto const u = u_.block(first, first, width, width);
    if (options_.prune_share > 0.0) choose_share(t, grid, u, width, options_.prune_share);
    if (refits_inside()) {
      index_t const group = codes_->block.cols_of(w_.cols());
      for (index_t j = 0; j < width; j += group) {
        index_t const last = std::min(width, j + group);
        refit(t, begin + i, count, j, last - j, (first + j) / group);
        grids.load_group(begin + i, count, (first + j) / group);
        kernels_.feed_errors(t, grid, u.data(), u.row_stride(), j, last, width, options_.choose.n, options_.choose.m);
      }
    } else {
      kernels_.feed_errors(t, grid, u.data(), u.row_stride(), 0, width, width, options_.choose.n, options_.choose.m);
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

  [[nodiscard]] bool refits_inside() const {
    return options_.refit_groups && codes_->scales.cols() > 1; // a row's only group was fitted before
  }

  void refit(sweep_tile const& t, index_t row, index_t count, index_t j, index_t width, index_t group) const {
    float step[sweep_lanes], zero[sweep_lanes];
    bool const symmetric = codes_->zeros.empty();
    int const spread = 1 << (bits_of(*codes_, options_.group_bits, group) - 1);
    auto const top = static_cast<float>(symmetric ? spread - 1 : 2 * spread - 1);
    kernels_.search_scales(t.weight + j * sweep_lanes, width, nullptr, options_.fractions.data(),
                           static_cast<index_t>(options_.fractions.size()), symmetric, top, {step, zero});
    for (index_t lane = 0; lane < count; ++lane) {
      codes_->scales(row + lane, group) = stored_scale(codes_->scale_format, step[lane]);
      if (!symmetric) codes_->zeros(row + lane, group) = static_cast<std::int8_t>(static_cast<int>(zero[lane]) - spread);
    }
  }

  void keep_result(sweep_tile const& t, index_t at, index_t row, index_t col) const {
    w_(row, col) = t.value[at];
    bool const kept = t.kept[at] != 0;
    if (kept_) kept_->keep(row, col, kept);
    if (!codes_) return;
    int const zero = codes_->zero_at(row, col);
    codes_->codes(row, col) = static_cast<std::int8_t>(kept ? static_cast<int>(t.level[at]) + zero : zero);
  }

  matrix_view<float> w_;
  matrix_view<float const> u_;
  integer_codes* codes_;
  mask* kept_;
  feedback_options const& options_;
  sweep_kernels const& kernels_;
  context inner_;
};

/// `descend_codes` on rows [begin, end).
class descent_task {
public:
  descent_task(matrix_view<float> gradient, matrix_view<float const> h, integer_codes& codes, mask* kept, bool pairs,
               context const& ctx)
      : gradient_(gradient), h_(h), codes_(codes), kept_(kept), pairs_(pairs), kernels_(sweep_kernels_of(ctx.simd)),
        inner_(ctx.inside_task()) {}

  void run(index_t begin, index_t end) const {
    index_t const n = h_.rows(), rows = end - begin;
    index_t const wide = std::min(sweep_block, n);
    matrix<float> changes(rows, wide);
    tile_storage storage(wide);
    grid_storage grids(&codes_, wide);
    for (index_t first = 0; first < n; first += wide) {
      index_t const width = std::min(wide, n - first), next = first + width;
      for (index_t i = 0; i < rows; i += sweep_lanes)
        run_tile(storage.tile(), grids, changes, begin, i, std::min(sweep_lanes, rows - i), first, width);
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
  void run_tile(sweep_tile const& t, grid_storage& grids, matrix<float>& changes, index_t begin, index_t i, index_t count,
                index_t first, index_t width) const {
    for (index_t j = 0; j < width; ++j)
      for (index_t lane = 0; lane < sweep_lanes; ++lane) {
        index_t const at = j * sweep_lanes + lane, row = begin + i + std::min(lane, count - 1), col = first + j;
        t.weight[at] = gradient_(row, col);
        t.value[at] = codes_.value(row, col);
        t.level[at] = static_cast<float>(codes_.codes(row, col) - codes_.zero_at(row, col));
        t.kept[at] = kept_ && !kept_->kept(row, col) ? 0 : -1;
        t.error[at] = 0.0f;
        if (t.kept[at] == 0) t.value[at] = t.level[at] = 0.0f;
      }
    grids.load(begin + i, count);
    auto const h = h_.block(first, first, width, width);
    kernels_.descend(t, grids.columns({}, first, width), h.data(), h.row_stride(), width, pairs_);
    for (index_t lane = 0; lane < count; ++lane)
      for (index_t j = 0; j < width; ++j) {
        index_t const at = j * sweep_lanes + lane, row = begin + i + lane, col = first + j;
        changes(i + lane, j) = t.error[at];
        gradient_(row, col) = t.weight[at];
        bool const kept = t.kept[at] != 0;
        if (kept_) kept_->keep(row, col, kept);
        int const zero = codes_.zero_at(row, col);
        codes_.codes(row, col) = static_cast<std::int8_t>(kept ? static_cast<int>(t.level[at]) + zero : zero);
      }
  }

  matrix_view<float> gradient_;
  matrix_view<float const> h_;
  integer_codes& codes_;
  mask* kept_;
  bool pairs_;
  sweep_kernels const& kernels_;
  context inner_;
};

} // namespace detail

/// Rounds (`codes` not null) and prunes (`kept` not null) W (d_out x d_in) in place, column by column, spreading errors with
/// `u`, upper triangular with H^-1 = U^T U in the order of the columns (joint/feedback_factor.hpp). The grids are those of
/// `codes`; codes and mask are written. d_out d_in^2 / 2 multiply-adds. @throws shape_error if extents disagree; config_error
/// if the options ask for what cannot be done.
inline void feed_back(matrix_view<float> w, matrix_view<float const> u, integer_codes* codes, mask* kept,
                      feedback_options const& options = {}, context const& ctx = {}) {
  if (u.rows() != w.cols() || u.cols() != w.cols())
    throw shape_error(message("feed_back: W has ", w.cols(), " columns, the factor is ", u.rows(), " x ", u.cols()));
  detail::check_feedback(w, codes, kept, options);
  if (w.empty()) return;
  detail::feedback_task const task(w, u, codes, kept, options, ctx);
  ctx.parallel_for(w.rows(), detail::sweep_rows, [&](index_t begin, index_t end) { task.run(begin, end); });
}

/// One sweep of coordinate descent on ||V - S||_H, S = mask .* codes: over codes, or over whole groups where the mask promises
/// 2:4 (its six patterns). Codes whose weight is pruned stay pruned otherwise. `gradient` is (V - S) H on entry and on return,
/// to float rounding. The diagonal of H must be positive. d_out d_in^2 multiply-adds. @throws shape_error
inline void descend_codes(matrix_view<float> gradient, matrix_view<float const> h, integer_codes& codes, mask* kept,
                          context const& ctx = {}) {
  if (h.rows() != codes.cols() || h.cols() != codes.cols() || gradient.rows() != codes.rows() ||
      gradient.cols() != codes.cols())
    throw shape_error(message("descend_codes: codes are ", codes.rows(), " x ", codes.cols(), ", H is ", h.rows(), " x ",
                              h.cols(), ", the gradient ", gradient.rows(), " x ", gradient.cols()));
  if (codes.codes.empty()) return;
  bool const pairs = kept && kept->pattern() == sparsity_pattern{2, 4};
  detail::descent_task const task(gradient, h, codes, kept, pairs, ctx);
  ctx.parallel_for(codes.rows(), detail::sweep_rows, [&](index_t begin, index_t end) { task.run(begin, end); });
}

} // namespace SLIM_ABI
} // namespace slim
