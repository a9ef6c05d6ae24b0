#pragma once
/// @file
/// `super_block_grid`: groups with a scale and a real offset, which may themselves be small codes with scales of a super-block:
/// GGUF's K-quants (6-bit scales and minima of 8 groups of 32 columns) and SpQR (arXiv 2306.03078: 3-bit scales and zeros over
/// 16 rows).

#include "slim/core/finite.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A grid of integer_codes with real offsets. The value of level q = 0 .. 2^bits - 1 is scale * q + offset; the range of a
/// group is extended to hold 0, so offsets are not positive. A group of 1 bit has mean - a and mean + a instead, a the mean of
/// |w - mean| (SliM-LLM, arXiv 2405.14917).
///
/// **Numerics** Scales and offsets are fitted as float by a search over fractions of the range, then the second level, if there
/// is one, is fitted to them (largest entry / largest code, as ggml does), then weights are rounded to what is stored.
struct super_block_grid {
  using codes_type = integer_codes;

  int bits = 4; ///< 1 to 8
  index_t group = 32;
  /// A second level, or numbers of the format ({.bits = 0}); where both have one, over the same blocks.
  scale_storage scales = {.format = number_format::fp16, .bits = 6, .block = {.rows = 1, .cols = 8}};
  scale_storage offsets = {.format = number_format::fp16, .bits = 6, .block = {.rows = 1, .cols = 8}};
  scale_rule rule = scale_rule::least_error;
  std::vector<std::uint8_t> group_bits = {}; ///< bits of each group of columns, at most `bits`; empty: all have `bits`

  friend bool operator==(super_block_grid const&, super_block_grid const&) = default;

  /// @throws config_error on bits, groups or blocks that cannot be, or scales and offsets of different super-blocks.
  [[nodiscard]] integer_codes empty(index_t rows, index_t cols) const {
    if (group < 1 || (scales.bits > 0 && offsets.bits > 0 && scales.block != offsets.block))
      throw config_error(message("super_block_grid: groups of ", group, ", ", slim::describe(scales),
                                 ", offsets: ", slim::describe(offsets),
                                 "; needed are groups, and second levels over the same "
                                 "blocks"));
    integer_codes codes(rows, cols, bits, per_group(group), scales);
    codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), offsets);
    codes.group_bits = group_bits;
    if (rows > 0 && cols > 0) codes.check("super_block_grid");
    return codes;
  }

  /// @throws shape_error
  void fit(integer_codes& codes, matrix_view<float const> v, context const& ctx = {}) const {
    detail::require_shape(codes.rows(), codes.cols(), v.rows(), v.cols(), "super_block_grid::fit");
    check(codes, "super_block_grid::fit");
    if (v.empty()) return;
    index_t const wide = group_cols(codes);
    auto const fractions = scale_fractions(rule, false);
    ctx.parallel_for(v.rows(), grid_lanes, [&](index_t begin, index_t end) {
      std::vector<float> tile(static_cast<std::size_t>(wide * grid_lanes));
      for (index_t g = 0; g < codes.scales.cols(); ++g) {
        index_t const first = g * wide, width = std::min(wide, v.cols() - first);
        detail::load_tile(v, begin, first, width, tile.data());
        fit_group(codes, tile.data(), begin, end - begin, g, width, fractions, ctx);
      }
    });
    codes.scales.store(true);
    codes.offsets.store(false);
  }

  [[nodiscard]] index_t groups(integer_codes const& codes) const noexcept { return codes.scales.cols(); }
  [[nodiscard]] index_t group_cols(integer_codes const& codes) const noexcept { return codes.block.cols_of(codes.cols()); }
  /// A super-block: its groups are fitted together, because they share the second level. 0 where sixteen rows do not hold whole
  /// super-blocks.
  [[nodiscard]] index_t fit_cols(integer_codes const& codes) const noexcept {
    index_t const tall = second_level().rows_of(codes.rows());
    bool const whole = grid_lanes % tall == 0 || codes.rows() <= grid_lanes;
    return whole ? group_cols(codes) * second_level().cols_of(codes.scales.cols()) : 0;
  }
  void fit_tile(integer_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    auto const fractions = scale_fractions(rule, false);
    index_t const wide = group_cols(codes), first_group = first / wide;
    index_t g = first_group;
    for (index_t j = 0; j < width; j += wide, ++g)
      fit_group(codes, tile + j * grid_lanes, row, count, g, std::min(wide, width - j), fractions, ctx);
    codes.scales.store(row, row + count, first_group, g, true);
    codes.offsets.store(row, row + count, first_group, g, false);
  }

  [[nodiscard]] index_t level_count() const noexcept { return 0; }
  void load(integer_codes const& codes, index_t row, index_t count, index_t g, lane_group const& lanes) const noexcept {
    detail::integer_levels::load(codes, row, count, g, lanes);
  }
  void store(integer_codes& codes, index_t i, index_t j, float level, bool kept) const noexcept {
    detail::integer_levels::store(codes, i, j, level, kept);
  }
  [[nodiscard]] float level(integer_codes const& codes, index_t i, index_t j) const noexcept {
    return detail::integer_levels::level(codes, i, j);
  }
  [[nodiscard]] float value(integer_codes const& codes, index_t i, index_t j) const noexcept { return codes.value(i, j); }

  /// The steps of the second level (without one the numbers) move to where ||V - S||_H is least, those of the scales, then
  /// those of the offsets; the codes of both levels stay. @throws shape_error
  void refit(integer_codes& codes, mask const* kept, matrix_view<float> gradient, matrix_view<float const> h,
             context const& ctx = {}) const {
    check(codes, "super_block_grid::refit");
    detail::check_refit(codes.rows(), codes.cols(), gradient, h);
    auto const here = [&](index_t i, index_t j) { return !kept || kept->kept(i, j); };
    auto const refit_table = [&](scale_table& table, auto const& factor) {
      bool const second = table.has_second_level();
      index_t const tall = second ? second_level().rows_of(codes.scales.rows()) : 1,
                    wide = second ? group_cols(codes) * second_level().cols_of(codes.scales.cols()) : group_cols(codes);
      detail::refit_parameters(
          tall, wide, gradient, h,
          [&](index_t i, index_t j) {
            float const code = second ? static_cast<float>(table.codes()(i, j / group_cols(codes))) : 1.0f;
            return here(i, j) ? code * factor(i, j) : 0.0f;
          },
          [&](index_t b, index_t g, double curvature, double slope) {
            if (!(curvature > 0.0)) return 0.0;
            float const step = second ? table.steps()(b, g) : table(b, g);
            float const moved =
                detail::stored_number(table.format(), static_cast<float>(static_cast<double>(step) + slope / curvature));
            double const by = static_cast<double>(moved) - static_cast<double>(step);
            bool const same_sign = moved * step > 0.0f; // a scale stays positive, an offset keeps 0 in the range
            if (!same_sign || !detail::is_finite(moved) || !detail::lowers_error(curvature, slope, by)) return 0.0;
            if (second)
              table.set_step(b, g, moved);
            else
              table(b, g) = moved;
            return by;
          },
          ctx);
    };
    refit_table(codes.scales, [&](index_t i, index_t j) { return level(codes, i, j); });
    refit_table(codes.offsets, [](index_t, index_t) { return 1.0f; });
  }

  [[nodiscard]] std::string describe() const {
    return message(bits, " bit ", slim::describe(per_group(group)), " with offsets, ", slim::describe(scales),
                   group_bits.empty() ? "" : ", bits by group", rule == scale_rule::absmax ? ", absmax scales" : "");
  }

  /// What takes codes of this grid calls it first. @throws as integer_codes::check; config_error on codes that `empty` does not
  /// make
  void check(integer_codes const& codes, std::string_view who) const {
    codes.check(who);
    if (codes.bits != bits || codes.block != per_group(group) || codes.group_bits != group_bits ||
        codes.scales.stored() != scales || codes.offsets.rows() != codes.scales.rows() ||
        codes.offsets.cols() != codes.scales.cols() || codes.offsets.stored() != offsets)
      throw config_error(message(who, ": codes of another grid; this one is ", describe()));
  }

private:
  /// Groups that share a second level.
  [[nodiscard]] scale_block second_level() const noexcept {
    return scales.bits > 0 ? scales.block : offsets.bits > 0 ? offsets.block : scale_block{.rows = 1, .cols = 1};
  }

  void fit_group(integer_codes& codes, float const* tile, index_t row, index_t count, index_t g, index_t width,
                 std::span<float const> fractions, context const& ctx) const {
    float scale[grid_lanes], offset[grid_lanes];
    if (codes.bits_of(g) == 1)
      fit_signs(tile, width, scale, offset);
    else
      detail::grid_kernels_of(ctx.simd).search_offsets(tile, width,
                                                       {fractions.data(), static_cast<index_t>(fractions.size()), nullptr},
                                                       static_cast<float>((1 << codes.bits_of(g)) - 1), scale, offset);
    for (index_t lane = 0; lane < count; ++lane) {
      codes.scales(row + lane, g) = detail::stored_divisor(number_format::fp32, scale[lane]);
      codes.offsets(row + lane, g) = offset[lane];
    }
  }

  /// Two levels, mean - a and mean + a.
  static void fit_signs(float const* tile, index_t width, float* scale, float* offset) noexcept {
    for (index_t lane = 0; lane < grid_lanes; ++lane) {
      double mean = 0, spread = 0;
      for (index_t j = 0; j < width; ++j) mean += static_cast<double>(tile[j * grid_lanes + lane]) / static_cast<double>(width);
      for (index_t j = 0; j < width; ++j)
        spread += std::abs(static_cast<double>(tile[j * grid_lanes + lane]) - mean) / static_cast<double>(width);
      scale[lane] = static_cast<float>(2 * spread);
      offset[lane] = static_cast<float>(mean - spread);
    }
  }
};

static_assert(grid<super_block_grid>);

/// The grid of GGUF's Q4_K (or, with 5 bits, Q5_K): groups of 32, 6-bit scales and minima over 8 groups, fp16 steps.
[[nodiscard]] inline super_block_grid k_quant_grid(int bits = 4) { return {.bits = bits}; }

/// SpQR's grid as its code has it (arXiv 2306.03078): groups of 16, 3-bit scales and offsets over 16 rows of one group, so that
/// a tile of 16 x 16 weights has four numbers of 16 bits: bits + 6 / 16 + 64 / 256 bits per weight.
[[nodiscard]] inline super_block_grid spqr_tiles(int bits = 3) {
  scale_storage const second{.format = number_format::fp16, .bits = 3, .block = {.rows = 16, .cols = 1}, .shifted = true};
  return {.bits = bits, .group = 16, .scales = second, .offsets = second};
}

/// The same with a second level over 16 groups: groups of 16, 3-bit scales and offsets over 16 rows x 16 groups, shifted.
[[nodiscard]] inline super_block_grid spqr_grid(int bits = 3) {
  scale_storage const second{.format = number_format::fp16, .bits = 3, .block = {.rows = 16, .cols = 16}, .shifted = true};
  return {.bits = bits, .group = 16, .scales = second, .offsets = second};
}

} // namespace SLIM_ABI
} // namespace slim
