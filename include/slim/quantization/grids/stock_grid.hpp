#pragma once
/// @file
/// `stock_grid`: evenly spaced levels as the block types of ggml hold them, with scales searched under weights. Two kinds:
/// scales of either sign without a minimum (Q4_0, Q5_0, Q8_0; Q3_K, Q6_K), scales with a minimum (Q4_1, Q5_1; Q2_K, Q4_K,
/// Q5_K), each as fp16 numbers or as small integers times the fp16 numbers of a super-block. Source of the types: ggml
/// `src/ggml-common.h`. Without a super-block the first kind is GPTQ's symmetric grid of any group with a searched scale.

#include "slim/core/finite.hpp"
#include "slim/quantization/grids/second_level.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A grid of integer_codes, with signed scales or with real offsets.
///
/// **Numerics** For each group the weighted error is minimised over candidates of the scale, each with its best scale (and
/// minimum) by least squares; then, with a second level, over seven steps and the integers next to the quotient, weights
/// rounded anew for each. float. A group whose weights are all 0 has scale 0.
struct stock_grid {
  using codes_type = integer_codes;

  int bits = 4;                      ///< 2 to 8
  scale_block block = per_group(32); ///< weights of one row that share a scale
  bool minima = false;               ///< scale * q + minimum, q from 0; else a scale of either sign
  bool positive_minima = false;      ///< minima may be above 0; not with a second level
  int scale_bits = 0;                ///< of the second level, without the sign; 0: scales are numbers
  index_t super_groups = 0;          ///< groups that share a step of the second level
  number_format scale_format = number_format::fp16;

  friend bool operator==(stock_grid const&, stock_grid const&) = default;

  /// @throws config_error on bits or blocks that cannot be.
  [[nodiscard]] integer_codes empty(index_t rows, index_t cols) const {
    bool const two_levels = scale_bits > 0;
    if (bits < 2 || block.rows != 1 || two_levels != (super_groups > 0) || (positive_minima && (!minima || two_levels)))
      throw config_error(message("stock_grid: ", bits, " bits, scales ", slim::describe(block), ", ", scale_bits, " bits over ",
                                 super_groups,
                                 " groups; needed are 2 to 8 bits, scales of single rows, and "
                                 "minima of one sign over super-blocks"));
    integer_codes codes(rows, cols, bits, block, storage());
    if (minima) {
      codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), storage());
    } else {
      codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
      codes.signed_scales = true;
    }
    if (rows > 0 && cols > 0) codes.check("stock_grid");
    return codes;
  }

  /// @throws shape_error
  void fit(integer_codes& codes, matrix_view<float const> v, context const& ctx = {}) const { fit_under(codes, v, {}, ctx); }

  /// The same with squared errors of the columns weighted (d_in positive numbers; none: alike). @throws shape_error
  void fit_under(integer_codes& codes, matrix_view<float const> v, std::span<float const> weights,
                 context const& ctx = {}) const {
    detail::require_shape(codes.rows(), codes.cols(), v.rows(), v.cols(), "stock_grid::fit");
    check(codes, "stock_grid::fit");
    if (!weights.empty() && std::ssize(weights) != v.cols())
      throw shape_error(message("stock_grid::fit_under: ", weights.size(), " weights for ", v.cols(), " columns"));
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

  [[nodiscard]] index_t groups(integer_codes const& codes) const noexcept { return codes.scales.cols(); }
  [[nodiscard]] index_t group_cols(integer_codes const& codes) const noexcept { return codes.block.cols_of(codes.cols()); }
  /// A group, or a super-block; 0 where a row has one for all columns.
  [[nodiscard]] index_t fit_cols(integer_codes const& codes) const noexcept {
    index_t const wide = group_cols(codes) * std::max<index_t>(super_groups, 1);
    return wide < codes.cols() ? wide : 0;
  }
  void fit_tile(integer_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    fit_columns(codes, tile, row, count, first, width, nullptr, ctx);
  }

  [[nodiscard]] index_t level_count() const noexcept { return 0; }
  void load(integer_codes const& codes, index_t row, index_t count, index_t group, lane_group const& lanes) const noexcept {
    detail::integer_levels::load(codes, row, count, group, lanes);
  }
  void store(integer_codes& codes, index_t i, index_t j, float level, bool kept) const noexcept {
    detail::integer_levels::store(codes, i, j, level, kept);
  }
  [[nodiscard]] float level(integer_codes const& codes, index_t i, index_t j) const noexcept {
    return detail::integer_levels::level(codes, i, j);
  }
  [[nodiscard]] float value(integer_codes const& codes, index_t i, index_t j) const noexcept { return codes.value(i, j); }

  /// One pass over all that is stored of scales, then of minima: the integers of the second level, each moved to the best one
  /// with all others fixed, then its steps; or the numbers. Signs and levels stay. @throws shape_error
  void refit(integer_codes& codes, mask const* kept, matrix_view<float> gradient, matrix_view<float const> h,
             context const& ctx = {}) const {
    check(codes, "stock_grid::refit");
    detail::check_refit(codes.rows(), codes.cols(), gradient, h);
    auto const level_here = [&](index_t i, index_t j) { return kept && !kept->kept(i, j) ? 0.0f : level(codes, i, j); };
    auto const one_here = [&](index_t i, index_t j) { return kept && !kept->kept(i, j) ? 0.0f : 1.0f; };
    refit_table(codes, codes.scales, level_here, gradient, h, ctx);
    if (minima) refit_table(codes, codes.offsets, one_here, gradient, h, ctx);
  }

  [[nodiscard]] std::string describe() const {
    std::string const stored =
        scale_bits > 0 ? message(", ", scale_bits + (minima ? 0 : 1), " bits over ", super_groups, " groups") : "";
    return message(bits, " bit ", slim::describe(block), minima ? " with minima" : " with signed scales", stored, ", ",
                   name_of(scale_format), scale_bits > 0 ? " steps" : "");
  }

  /// What takes codes of this grid calls it first. @throws as integer_codes::check; config_error on codes that `empty` does not
  /// make
  void check(integer_codes const& codes, std::string_view who) const {
    codes.check(who);
    bool const empty_table = codes.scales.empty();
    if (codes.bits != bits || codes.block != block || !codes.group_bits.empty() || codes.scales.stored() != storage() ||
        (!empty_table && (codes.signed_scales == minima || codes.offsets.empty() == minima)) ||
        (minima && codes.offsets.stored() != storage()))
      throw config_error(message(who, ": codes of another grid; this one is ", describe()));
  }

private:
  using row_numbers = detail::row_numbers;

  [[nodiscard]] scale_storage storage() const noexcept {
    if (scale_bits == 0) return {.format = scale_format};
    return {.format = scale_format, .bits = scale_bits, .block = {.rows = 1, .cols = super_groups}};
  }

  /// Scales of one group or super-block of sixteen rows.
  void fit_columns(integer_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                   float const* weights, context const& ctx) const {
    auto const& kernels = detail::grid_kernels_of(ctx.simd);
    index_t const wide = group_cols(codes), first_group = first / wide, groups = detail::blocks_of(width, wide);
    std::vector<row_numbers> scales(static_cast<std::size_t>(groups)), offsets(scales.size());
    auto const at = [](index_t g) { return static_cast<std::size_t>(g); };
    auto const group_of = [&](index_t g) {
      return group_view{tile + g * wide * grid_lanes, std::min(wide, width - g * wide), weights ? weights + g * wide : nullptr};
    };
    for (index_t g = 0; g < groups; ++g) {
      auto const [x, cols, w] = group_of(g);
      if (minima)
        kernels.fit_affine(x, cols, w, static_cast<float>((1 << bits) - 1), positive_minima, scales[at(g)].data(),
                           offsets[at(g)].data());
      else
        kernels.fit_signed(x, cols, w, static_cast<float>(codes.lowest()), static_cast<float>(codes.highest()),
                           scales[at(g)].data());
    }
    if (scale_bits > 0) return fit_second_level(codes, row, count, first_group, scales, offsets, group_of, kernels);
    for (index_t g = 0; g < groups; ++g)
      for (index_t lane = 0; lane < count; ++lane) {
        float const scale = scales[at(g)][at(lane)];
        codes.scales(row + lane, first_group + g) = detail::stored_divisor(scale_format, std::abs(scale));
        if (minima)
          codes.offsets(row + lane, first_group + g) = detail::stored_number(scale_format, offsets[at(g)][at(lane)]);
        else
          codes.zeros(row + lane, first_group + g) = scale < 0.0f ? -1 : 0;
      }
  }

  /// A group of a tile.
  struct group_view {
    float const* x;
    index_t cols;
    float const* weights;
  };

  /// What the second level of a super-block says.
  struct chosen_level {
    detail::chosen_step scale, offset;
  };

  /// The steps and integers of least error for the scales and minima of a super-block.
  template <class GroupOf>
  void fit_second_level(integer_codes& codes, index_t row, index_t count, index_t first_group,
                        std::vector<row_numbers> const& scales, std::vector<row_numbers> const& offsets,
                        GroupOf const& group_of, detail::grid_kernels const& kernels) const {
    std::size_t const groups = scales.size();
    std::vector<row_numbers> low(groups), high(groups), magnitude(groups), depth(groups);
    row_numbers largest = {}, deepest = {};
    for (std::size_t g = 0; g < groups; ++g)
      for (std::size_t l = 0; l < largest.size(); ++l) {
        bool const mirrored = !minima && scales[g][l] < 0.0f;
        low[g][l] = minima ? 0.0f : static_cast<float>(codes.lowest() + (mirrored ? 1 : 0));
        high[g][l] = static_cast<float>(minima ? (1 << bits) - 1 : codes.highest() + (mirrored ? 1 : 0));
        magnitude[g][l] = std::abs(scales[g][l]);
        largest[l] = std::max(largest[l], magnitude[g][l]);
        depth[g][l] = std::abs(offsets[g][l]);
        deepest[l] = std::max(deepest[l], -offsets[g][l]);
      }
    auto const error_of = [&](std::size_t g, row_numbers const& scale, row_numbers const& offset) {
      auto const [x, cols, weights] = group_of(static_cast<index_t>(g));
      row_numbers error;
      kernels.rounding_error(x, cols, weights, scale.data(), offset.data(), low[g].data(), high[g].data(), error.data());
      return error;
    };
    detail::integer_range const range = detail::range_of(storage());
    // Steps that send the largest number to the codes top - 3 .. top + 3.
    constexpr int steps = 7, middle = steps / 2;
    auto const reaching = [&](row_numbers const& farthest) {
      return [&](int k, std::size_t l) {
        return detail::stored_scale(scale_format, farthest[l] / std::max(range.high + static_cast<float>(k - middle), 1.0f));
      };
    };
    chosen_level best;
    best.scale = detail::choose_step(steps, reaching(largest), magnitude, range,
                                     [&](std::size_t g, row_numbers const& scale) { return error_of(g, scale, offsets[g]); });
    best.offset.codes = std::vector<row_numbers>(groups);
    if (minima)
      best.offset = detail::choose_step(steps, reaching(deepest), depth, range, [&](std::size_t g, row_numbers const& by) {
        return error_of(g, detail::scaled(best.scale.step, best.scale.codes[g]), detail::negated(by));
      });
    constexpr int rounds = 2; // a neighbour of a neighbour may be better
    for (int k = 0; k < rounds; ++k)
      for (std::size_t g = 0; g < groups; ++g) choose_integers(best, g, range, error_of);
    store_second_level(codes, row, count, first_group, best, scales);
  }

  /// The integers of a group, or their neighbours where those lose less.
  template <class ErrorOf>
  void choose_integers(chosen_level& best, std::size_t g, detail::integer_range range, ErrorOf const& error_of) const {
    auto const error_with = [&](row_numbers const& scale, row_numbers const& offset) {
      return error_of(g, detail::scaled(best.scale.step, scale), detail::negated(detail::scaled(best.offset.step, offset)));
    };
    row_numbers const scale = best.scale.codes[g], offset = best.offset.codes[g];
    row_numbers least = error_with(scale, offset);
    for (int s = -1; s <= 1; ++s)
      for (int m = minima ? -1 : 0; m <= (minima ? 1 : 0); ++m) {
        if (s == 0 && m == 0) continue;
        row_numbers const other_scale = range.moved(scale, s), other_offset = range.moved(offset, m);
        row_numbers const error = error_with(other_scale, other_offset);
        for (std::size_t l = 0; l < error.size(); ++l) {
          if (!(error[l] < least[l])) continue;
          least[l] = error[l];
          best.scale.codes[g][l] = other_scale[l];
          best.offset.codes[g][l] = other_offset[l];
        }
      }
  }

  void store_second_level(integer_codes& codes, index_t row, index_t count, index_t first_group, chosen_level const& best,
                          std::vector<row_numbers> const& scales) const {
    index_t const super = first_group / super_groups;
    for (index_t lane = 0; lane < count; ++lane) {
      auto const l = static_cast<std::size_t>(lane);
      codes.scales.set_step(row + lane, super, best.scale.step[l]);
      if (minima) codes.offsets.set_step(row + lane, super, -best.offset.step[l]);
      for (std::size_t g = 0; g < scales.size(); ++g) {
        index_t const group = first_group + static_cast<index_t>(g);
        codes.scales.set_code(row + lane, group, static_cast<int>(best.scale.codes[g][l]));
        if (minima)
          codes.offsets.set_code(row + lane, group, static_cast<int>(best.offset.codes[g][l]));
        else
          codes.zeros(row + lane, group) = scales[g][l] < 0.0f ? -1 : 0;
      }
    }
  }

  /// Scales (`basis` the levels) or minima (ones) of `table`: integers, then steps; or numbers.
  template <class Basis>
  void refit_table(integer_codes& codes, scale_table& table, Basis const& basis, matrix_view<float> gradient,
                   matrix_view<float const> h, context const& ctx) const {
    bool const is_scale = &table == &codes.scales;
    index_t const wide = group_cols(codes);
    if (scale_bits > 0) return detail::refit_second_level(table, wide, gradient, h, basis, ctx);
    detail::refit_parameters(
        1, wide, gradient, h, basis,
        [&](index_t i, index_t g, double curvature, double slope) {
          float& number = table(i, g);
          if (!(curvature > 0.0)) return 0.0;
          auto const wanted = static_cast<float>(static_cast<double>(number) + slope / curvature);
          float const to =
              is_scale ? detail::stored_divisor(scale_format, wanted) : detail::stored_number(scale_format, wanted);
          bool const allowed = is_scale ? to > 0.0f : positive_minima || to <= 0.0f;
          double const by = static_cast<double>(to) - static_cast<double>(number);
          if (!allowed || !detail::is_finite(to) || !detail::lowers_error(curvature, slope, by)) return 0.0;
          number = to;
          return by;
        },
        ctx);
  }
};

static_assert(grid<stock_grid>);

} // namespace SLIM_ABI
} // namespace slim
