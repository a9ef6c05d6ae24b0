#pragma once
/// @file
/// `codebook_grid`: the levels of one table, times a scale per tensor, row or group: NF4, ternary, any table of at most 256
/// levels.

#include "slim/core/finite.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/grids/second_level.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A grid of codebook_codes with one book for the matrix.
struct codebook_grid {
  using codes_type = codebook_codes;

  std::vector<float> levels = nf4_levels(); ///< ascending, 2, 4, 8, ... or 256 of them
  scale_block block = per_group(64);        ///< weights of one row that share a scale
  scale_rule rule = scale_rule::absmax;     ///< absmax: the outermost levels reach all weights
  number_format scale_format = number_format::fp16;
  /// Scales may be negative, and are searched under the weights of the columns with either sign (IQ4_NL), whatever `rule` says.
  bool signed_scales = false;
  int scale_bits = 0;       ///< of the second level of signed scales, with the sign (IQ4_XS: 6); 0: scales are numbers
  index_t super_groups = 0; ///< groups that share a step of the second level

  friend bool operator==(codebook_grid const&, codebook_grid const&) = default;

  /// @throws config_error on levels that do not ascend, scales that several rows share, or a second level of absmax scales.
  [[nodiscard]] codebook_codes empty(index_t rows, index_t cols) const {
    for (std::size_t k = 0; k < levels.size(); ++k)
      if (!detail::is_finite(levels[k]) || (k > 0 && !(levels[k] > levels[k - 1])))
        throw config_error(message("codebook_grid: level ", k, " is ", levels[k], ", levels must ascend"));
    if (block.rows != 1) throw config_error("codebook_grid: scales belong to single rows");
    if ((scale_bits > 0) != (super_groups > 0) || (scale_bits > 0 && !signed_scales))
      throw config_error(message("codebook_grid: scales of ", scale_bits, " bits over ", super_groups,
                                 " groups; a second level is of signed scales"));
    return codebook_codes(rows, cols, levels, block, storage());
  }

  /// @throws shape_error
  void fit(codebook_codes& codes, matrix_view<float const> v, context const& ctx = {}) const { fit_under(codes, v, {}, ctx); }

  /// The same with squared errors of the columns weighted (d_in numbers; none: alike) where scales are signed. @throws
  /// shape_error
  void fit_under(codebook_codes& codes, matrix_view<float const> v, std::span<float const> weights,
                 context const& ctx = {}) const {
    detail::require_shape(codes.rows(), codes.cols(), v.rows(), v.cols(), "codebook_grid::fit");
    check(codes, "codebook_grid::fit");
    if (!weights.empty() && std::ssize(weights) != v.cols())
      throw shape_error(message("codebook_grid::fit_under: ", weights.size(), " weights for ", v.cols(), " columns"));
    if (v.empty()) return;
    index_t const wide = group_cols(codes) * std::max<index_t>(super_groups, 1);
    ctx.parallel_for(v.rows(), grid_lanes, [&](index_t begin, index_t end) {
      std::vector<float> tile(static_cast<std::size_t>(std::min(wide, v.cols()) * grid_lanes));
      for (index_t first = 0; first < v.cols(); first += wide) {
        index_t const width = std::min(wide, v.cols() - first);
        detail::load_tile(v, begin, first, width, tile.data());
        fit_columns(codes, tile.data(), begin, end - begin, first, width, weights.empty() ? nullptr : weights.data() + first,
                    ctx);
      }
    });
  }

  [[nodiscard]] index_t groups(codebook_codes const& codes) const noexcept { return codes.scales.cols(); }
  [[nodiscard]] index_t group_cols(codebook_codes const& codes) const noexcept { return codes.block.cols_of(codes.cols()); }
  /// A group, or a super-block; 0 where a row has one for all columns.
  [[nodiscard]] index_t fit_cols(codebook_codes const& codes) const noexcept {
    index_t const wide = group_cols(codes) * std::max<index_t>(super_groups, 1);
    return wide < codes.cols() ? wide : 0;
  }
  void fit_tile(codebook_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    fit_columns(codes, tile, row, count, first, width, nullptr, ctx);
  }

  [[nodiscard]] index_t level_count() const noexcept { return static_cast<index_t>(levels.size()); }
  void load(codebook_codes const& codes, index_t row, index_t count, index_t g, lane_group const& lanes) const noexcept {
    for (index_t lane = 0; lane < grid_lanes; ++lane) {
      float const scale = codes.scales(row + std::min(lane, count - 1), g);
      for (index_t k = 0; k < level_count(); ++k)
        lanes.levels[k * grid_lanes + lane] = scale * levels[static_cast<std::size_t>(ascending(scale, k))];
    }
  }
  /// The code of a pruned weight is the level nearest to 0.
  void store(codebook_codes& codes, index_t i, index_t j, float level, bool kept) const noexcept {
    codes.codes(i, j) =
        static_cast<std::uint8_t>(kept ? ascending(codes.scale_at(i, j), static_cast<index_t>(level)) : nearest_to_zero());
  }
  [[nodiscard]] float level(codebook_codes const& codes, index_t i, index_t j) const noexcept {
    return static_cast<float>(ascending(codes.scale_at(i, j), codes.codes(i, j)));
  }
  [[nodiscard]] float value(codebook_codes const& codes, index_t i, index_t j) const noexcept { return codes.value(i, j); }

  /// Moves every scale to where ||V - S||_H is least with the levels as they are; with a second level the integers, then the
  /// steps. @throws shape_error
  void refit(codebook_codes& codes, mask const* kept, matrix_view<float> gradient, matrix_view<float const> h,
             context const& ctx = {}) const {
    check(codes, "codebook_grid::refit");
    detail::check_refit(codes.rows(), codes.cols(), gradient, h);
    auto const here = [&](index_t i, index_t j) { return !kept || kept->kept(i, j); };
    auto const level_here = [&](index_t i, index_t j) { return here(i, j) ? codes.level_at(i, j) : 0.0f; };
    if (scale_bits > 0) return detail::refit_second_level(codes.scales, group_cols(codes), gradient, h, level_here, ctx);
    detail::refit_parameters(
        1, group_cols(codes), gradient, h, level_here,
        [&](index_t b, index_t g, double curvature, double slope) {
          if (!(curvature > 0.0)) return 0.0;
          float& scale = codes.scales(b, g);
          float const moved =
              detail::stored_number(codes.scales.format(), static_cast<float>(static_cast<double>(scale) + slope / curvature));
          double const by = static_cast<double>(moved) - static_cast<double>(scale);
          bool const same_sign = scale < 0.0f ? moved < 0.0f : moved > 0.0f; // levels keep their order
          if (!same_sign || !detail::is_finite(moved) || !detail::lowers_error(curvature, slope, by)) return 0.0;
          scale = moved;
          return by;
        },
        ctx);
  }

  [[nodiscard]] std::string describe() const {
    return message(
        "table of ", levels.size(), " levels ", slim::describe(block),
        signed_scales                ? ", signed scales"
        : rule == scale_rule::absmax ? ", absmax scales"
                                     : "",
        scale_bits > 0 ? message(" in ", scale_bits, " bits over ", super_groups, " groups") : "",
        scale_format == number_format::fp32 ? "" : message(", ", name_of(scale_format), scale_bits > 0 ? " steps" : " scales"));
  }

  /// What takes codes of this grid calls it first. @throws as codebook_codes::check; config_error on codes that `empty` does
  /// not make
  void check(codebook_codes const& codes, std::string_view who) const {
    codes.check(who);
    bool const own = codes.dim == 1 && codes.books.rows() <= 1 && codes.block == block && codes.scales.stored() == storage() &&
                     (codes.scales.empty() == (codes.rows() == 0 || codes.cols() == 0)) &&
                     (codes.books.empty() ||
                      std::equal(levels.begin(), levels.end(), codes.books.data(), codes.books.data() + codes.books.size()));
    if (!own) throw config_error(message(who, ": codes of another grid; this one is ", describe()));
  }

private:
  using row_numbers = detail::row_numbers;

  [[nodiscard]] scale_storage storage() const noexcept {
    if (scale_bits == 0) return {.format = scale_format};
    return {.format = scale_format, .bits = scale_bits, .block = {.rows = 1, .cols = super_groups}, .centered = true};
  }

  /// Scales of one group or super-block of sixteen rows.
  void fit_columns(codebook_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                   float const* weights, context const& ctx) const {
    auto const& kernels = detail::grid_kernels_of(ctx.simd);
    index_t const wide = group_cols(codes), first_group = first / wide, groups = detail::blocks_of(width, wide);
    std::vector<row_numbers> scales(static_cast<std::size_t>(groups));
    for (std::size_t g = 0; g < scales.size(); ++g) {
      index_t const from = static_cast<index_t>(g) * wide, cols = std::min(wide, width - from);
      float const* const x = tile + from * grid_lanes;
      if (signed_scales)
        kernels.fit_signed_table(x, cols, weights ? weights + from : nullptr, levels.data(), level_count(), scales[g].data());
      else
        fit_positive(x, cols, scales[g].data(), kernels);
    }
    if (scale_bits > 0) {
      auto const error_of = [&](std::size_t g, row_numbers const& scale) {
        index_t const from = static_cast<index_t>(g) * wide;
        row_numbers error;
        kernels.table_error(tile + from * grid_lanes, std::min(wide, width - from), weights ? weights + from : nullptr,
                            levels.data(), level_count(), scale.data(), error.data());
        return error;
      };
      return fit_second_level(codes, row, count, first_group, scales, error_of);
    }
    for (index_t lane = 0; lane < count; ++lane)
      for (std::size_t g = 0; g < scales.size(); ++g)
        codes.scales(row + lane, first_group + static_cast<index_t>(g)) =
            detail::stored_number(codes.scales.format(), scales[g][static_cast<std::size_t>(lane)]);
  }

  void fit_positive(float const* x, index_t cols, float* scale, detail::grid_kernels const& kernels) const {
    auto const fractions = scale_fractions(rule, true);
    std::vector<float> table(levels.size() * static_cast<std::size_t>(grid_lanes));
    spread_levels(table.data());
    kernels.search_table_scales(x, cols, {fractions.data(), static_cast<index_t>(fractions.size()), nullptr}, table.data(),
                                level_count(), scale);
  }

  /// The step and integers of least error for the scales of a super-block. Steps of either sign send the scale farthest from 0
  /// to one of the outer integers.
  template <class ErrorOf>
  void fit_second_level(codebook_codes& codes, index_t row, index_t count, index_t first_group,
                        std::vector<row_numbers> const& scales, ErrorOf const& error_of) const {
    row_numbers farthest = {};
    for (row_numbers const& group : scales)
      for (std::size_t l = 0; l < farthest.size(); ++l)
        if (std::abs(group[l]) > std::abs(farthest[l])) farthest[l] = group[l];
    auto const range = detail::range_of(storage());
    constexpr int steps = 7, middle = steps / 2; // of each sign
    auto const step_of = [&](int k, std::size_t l) {
      float const end = k < steps ? range.high : range.low, by = static_cast<float>(k % steps - middle);
      float const code = end + (k < steps ? by : -by);
      return detail::stored_number(scale_format, farthest[l] / (std::abs(code) < 1.0f ? std::copysign(1.0f, code) : code));
    };
    auto best = detail::choose_step(2 * steps, step_of, scales, range, error_of);
    constexpr int rounds = 2; // a neighbour of a neighbour may be better
    for (int k = 0; k < rounds; ++k)
      for (std::size_t g = 0; g < scales.size(); ++g) {
        row_numbers const code = best.codes[g];
        row_numbers least = error_of(g, detail::scaled(best.step, code));
        for (int const by : {-1, 1}) {
          row_numbers const other = range.moved(code, by), error = error_of(g, detail::scaled(best.step, other));
          for (std::size_t l = 0; l < error.size(); ++l) {
            if (!(error[l] < least[l])) continue;
            least[l] = error[l];
            best.codes[g][l] = other[l];
          }
        }
      }
    for (index_t lane = 0; lane < count; ++lane) {
      auto const l = static_cast<std::size_t>(lane);
      codes.scales.set_step(row + lane, first_group / super_groups, best.step[l]);
      for (std::size_t g = 0; g < scales.size(); ++g)
        codes.scales.set_code(row + lane, first_group + static_cast<index_t>(g),
                              static_cast<int>(best.codes[g][l]) + codes.scales.stored().zero_code());
    }
  }

  /// The place of a level among the values of a scale in ascending order, and back.
  [[nodiscard]] index_t ascending(float scale, index_t level) const noexcept {
    return scale < 0.0f ? level_count() - 1 - level : level;
  }

  void spread_levels(float* table) const noexcept {
    for (std::size_t k = 0; k < levels.size(); ++k)
      std::fill_n(table + static_cast<index_t>(k) * grid_lanes, grid_lanes, levels[k]);
  }
  [[nodiscard]] index_t nearest_to_zero() const noexcept {
    auto const nearest =
        std::min_element(levels.begin(), levels.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
    return nearest - levels.begin();
  }
};

static_assert(grid<codebook_grid>);

} // namespace SLIM_ABI
} // namespace slim
