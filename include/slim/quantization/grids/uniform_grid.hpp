#pragma once
/// @file
/// `uniform_grid`: whole multiples of a scale, symmetric or with an integer zero point, per tensor, row, group or block: the
/// grid of GPTQ, AWQ, SLiM and most formats.

#include "slim/core/finite.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/grids/grid_kernels.hpp"
#include "slim/quantization/grids/refit.hpp"
#include "slim/quantization/slim_quantizer.hpp"

#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// How a grid's scales are chosen before weights are rounded.
enum class scale_rule {
  least_error,    ///< least squared error of rounding
  absmax,         ///< nothing is clipped
  full_range,     ///< 2 max|w| / (2^bits - 1), GPTQ's: a symmetric grid uses all its levels; with zero points as absmax
  weighted_error, ///< as least_error, with the columns weighted where a solver says how (`fit_under`)
};

/// Fractions of the scale that clips nothing which a search tries: 48 of them, 0.15 to 1 in equal ratios, for symmetric grids;
/// 26 from 0.5 to 1 for grids with a zero point; 1 alone for absmax, and for full_range, whose scale is a little smaller.
[[nodiscard]] inline std::span<float const> scale_fractions(scale_rule rule, bool symmetric) {
  static std::vector<float> const ratios = [] {
    std::vector<float> all;
    for (int k = 0; k < 48; ++k) all.push_back(static_cast<float>(0.15 * std::pow(1 / 0.15, k / 47.0)));
    return all;
  }();
  static std::vector<float> const steps = [] {
    std::vector<float> all;
    for (int k = 0; k < 26; ++k) all.push_back(static_cast<float>(0.5 + 0.5 * k / 25.0));
    return all;
  }();
  static float const whole = 1.0f;
  if (rule == scale_rule::absmax || rule == scale_rule::full_range) return {&whole, 1};
  return symmetric ? ratios : steps;
}

namespace detail {

/// Levels of integer codes as every grid of them has them: the code counted from the zero point.
struct integer_levels {
  static void store(integer_codes& codes, index_t i, index_t j, float level, bool kept) noexcept {
    int const zero = codes.zero_at(i, j);
    codes.codes(i, j) = static_cast<std::int8_t>(kept ? static_cast<int>(level) + zero : zero);
  }
  [[nodiscard]] static float level(integer_codes const& codes, index_t i, index_t j) noexcept {
    return static_cast<float>(codes.codes(i, j) - codes.zero_at(i, j));
  }
  static void load(integer_codes const& codes, index_t row, index_t count, index_t group, lane_group const& lanes) noexcept {
    index_t const tall = codes.block.rows_of(codes.rows());
    int const lowest = codes.lowest_of(group), highest = codes.highest_of(group);
    for (index_t lane = 0; lane < grid_lanes; ++lane) {
      index_t const b = (row + std::min(lane, count - 1)) / tall;
      float const scale = codes.scales(b, group);
      int const zero = !codes.offsets.empty() ? lowest : codes.zeros.empty() ? 0 : codes.zeros(b, group);
      lanes.scale[lane] = scale;
      lanes.inverse[lane] = scale > 0.0f ? 1.0f / scale : 0.0f;
      lanes.low[lane] = static_cast<float>(lowest - zero);
      lanes.high[lane] = static_cast<float>(highest - zero);
      lanes.offset[lane] = codes.offsets.empty() ? 0.0f : codes.offsets(b, group);
    }
  }
};

} // namespace detail

/// A grid of integer_codes with scales of numbers.
struct uniform_grid {
  using codes_type = integer_codes;

  int bits = 4; ///< 2 to 8, or 1 with zero points
  scale_block block = per_tensor;
  bool symmetric = true;                     ///< false: a zero point per scale
  scale_rule rule = scale_rule::least_error; ///< absmax whatever it says for zero points shared by several rows
  number_format scale_format = number_format::fp16;
  int scale_digits =
      0; ///< significant bits of a scale, at most those of its format; 0: all (MLX needs scale * zero point in fp16)
  std::vector<std::uint8_t> group_bits = {}; ///< bits of each group of columns, at most `bits`; empty: all have `bits`

  friend bool operator==(uniform_grid const&, uniform_grid const&) = default;

  /// @throws config_error on bits, blocks or bits of groups that cannot be.
  [[nodiscard]] integer_codes empty(index_t rows, index_t cols) const {
    if (symmetric && (bits == 1 || std::ranges::find(group_bits, 1) != group_bits.end()))
      throw config_error("uniform_grid: 1 bit needs zero points");
    if (scale_digits < 0 || scale_digits > 24)
      throw config_error(message("uniform_grid: scales of ", scale_digits, " significant bits, possible are 1 to 24"));
    integer_codes codes(rows, cols, bits, block, scale_format);
    if (!symmetric) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
    codes.group_bits = group_bits;
    if (rows > 0 && cols > 0) codes.check("uniform_grid");
    return codes;
  }

  /// A search over fractions of the largest weight for per-channel and per-group scales, the quantizers' own rules for larger
  /// blocks. @throws shape_error
  void fit(integer_codes& codes, matrix_view<float const> v, context const& ctx = {}) const {
    detail::require_shape(codes.rows(), codes.cols(), v.rows(), v.cols(), "uniform_grid::fit");
    check(codes, "uniform_grid::fit");
    if (v.empty()) return;
    if (codes.block.rows_of(codes.rows()) == 1) return fit_row_groups(codes, v, ctx);
    if (!group_bits.empty()) throw config_error("uniform_grid: groups of several rows cannot have bits of their own");
    calibration const unseen(codes.cols());
    integer_codes const fitted =
        symmetric && !takes_largest()
            ? slim_quantizer({.bits = bits, .block = block, .scale_format = scale_format}).quantize(v, unseen, ctx)
            : absmax_quantizer({.bits = bits,
                                .block = block,
                                .symmetric = symmetric,
                                .scale_format = scale_format,
                                .full_range = rule == scale_rule::full_range})
                  .quantize(v, unseen, ctx);
    codes.scales = fitted.scales;
    codes.zeros = fitted.zeros;
    for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = stored_scale(codes.scales.data()[k]);
  }

  [[nodiscard]] index_t groups(integer_codes const& codes) const noexcept { return codes.scales.cols(); }
  [[nodiscard]] index_t group_cols(integer_codes const& codes) const noexcept { return codes.block.cols_of(codes.cols()); }
  /// A group of one row; 0 where several rows share a scale, or a row has one for all columns.
  [[nodiscard]] index_t fit_cols(integer_codes const& codes) const noexcept {
    return codes.block.rows_of(codes.rows()) == 1 && codes.scales.cols() > 1 ? group_cols(codes) : 0;
  }
  void fit_tile(integer_codes& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    fit_group(codes, tile, row, count, first / group_cols(codes), width, scale_fractions(rule, symmetric), ctx);
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

  /// Moves every scale to where ||V - S||_H is least with the levels as they are, one group of columns after another. A scale
  /// that would not lower it, as stored, stays. O(d_out d_in^2). @throws shape_error
  void refit(integer_codes& codes, mask const*, matrix_view<float> gradient, matrix_view<float const> h,
             context const& ctx = {}) const {
    check(codes, "uniform_grid::refit");
    detail::check_refit(codes.rows(), codes.cols(), gradient, h); // a pruned weight has level 0
    detail::refit_parameters(
        codes.block.rows_of(codes.rows()), group_cols(codes), gradient, h,
        [&](index_t i, index_t j) { return detail::integer_levels::level(codes, i, j); },
        [&](index_t b, index_t g, double curvature, double slope) {
          float& scale = codes.scales(b, g);
          if (!(curvature > 0.0)) return 0.0;
          float const moved = stored_scale(static_cast<float>(static_cast<double>(scale) + slope / curvature));
          double const by = static_cast<double>(moved) - static_cast<double>(scale);
          if (!(moved > 0.0f) || !detail::is_finite(moved) || !detail::lowers_error(curvature, slope, by)) return 0.0;
          scale = moved;
          return by;
        },
        ctx);
  }

  [[nodiscard]] std::string describe() const {
    return message(bits, " bit ", slim::describe(block), symmetric ? "" : " with zero points",
                   group_bits.empty() ? "" : ", bits by group",
                   takes_largest() && symmetric && rule == scale_rule::full_range ? ", absmax scales for all codes"
                   : takes_largest() || (!symmetric && block.rows != 1)           ? ", absmax scales"
                   : rule == scale_rule::weighted_error                           ? ", weighted scales"
                                                                                  : "",
                   scale_format == number_format::fp32 ? "" : message(", ", name_of(scale_format), " scales"),
                   scale_digits == 0 ? "" : message(" of ", scale_digits, " significant bits"));
  }

  /// The fit of `fit` with squared errors of the columns weighted (d_in numbers), for scales of single rows. @throws
  /// shape_error
  void fit_weighted(integer_codes& codes, matrix_view<float const> v, std::span<float const> weights,
                    context const& ctx = {}) const {
    detail::require_shape(codes.rows(), codes.cols(), v.rows(), v.cols(), "uniform_grid::fit_weighted");
    check(codes, "uniform_grid::fit_weighted");
    if (std::ssize(weights) != v.cols())
      throw shape_error(message("uniform_grid::fit_weighted: ", weights.size(), " weights for ", v.cols(), " columns"));
    fit_row_groups(codes, v, ctx, weights);
  }

  /// What sweeps call in place of `fit`: weighted if the rule says so and scales belong to single rows. @throws shape_error
  void fit_under(integer_codes& codes, matrix_view<float const> v, std::span<float const> weights,
                 context const& ctx = {}) const {
    if (rule == scale_rule::weighted_error && !weights.empty() && block.rows == 1) return fit_weighted(codes, v, weights, ctx);
    fit(codes, v, ctx);
  }

  /// What takes codes of this grid calls it first. @throws as integer_codes::check; config_error on codes that `empty` does not
  /// make, but for the bits of their groups
  void check(integer_codes const& codes, std::string_view who) const {
    codes.check(who);
    if (codes.bits != bits || codes.block != block || !codes.offsets.empty() || codes.scales.has_second_level() ||
        codes.signed_scales || (!codes.scales.empty() && codes.zeros.empty() != symmetric))
      throw config_error(message(who, ": codes of another grid; this one is ", describe()));
  }

private:
  [[nodiscard]] float stored_scale(float scale) const noexcept {
    return detail::stored_divisor(scale_format, scale_digits == 0 ? scale : detail::rounded_to_digits(scale, scale_digits));
  }

  [[nodiscard]] bool takes_largest() const noexcept { return rule == scale_rule::absmax || rule == scale_rule::full_range; }

  /// Groups that lie in one row: sixteen rows in the lanes of a vector.
  void fit_row_groups(integer_codes& codes, matrix_view<float const> v, context const& ctx,
                      std::span<float const> weights = {}) const {
    index_t const wide = group_cols(codes);
    auto const fractions = scale_fractions(rule, symmetric);
    ctx.parallel_for(v.rows(), grid_lanes, [&](index_t begin, index_t end) {
      std::vector<float> tile(static_cast<std::size_t>(wide * grid_lanes));
      for (index_t g = 0; g < codes.scales.cols(); ++g) {
        index_t const first = g * wide, width = std::min(wide, v.cols() - first);
        detail::load_tile(v, begin, first, width, tile.data());
        fit_group(codes, tile.data(), begin, end - begin, g, width, fractions, ctx,
                  weights.empty() ? nullptr : weights.data() + first);
      }
    });
  }

  void fit_group(integer_codes& codes, float const* tile, index_t row, index_t count, index_t g, index_t width,
                 std::span<float const> fractions, context const& ctx, float const* weights = nullptr) const {
    float scale[grid_lanes], zero[grid_lanes];
    int const lowest = codes.lowest_of(g), highest = codes.highest_of(g);
    auto const top = static_cast<float>(symmetric ? highest : highest - lowest);
    float const all_levels = top / (top + 0.5f); // the fraction of full_range: top + 1/2 levels reach the largest weight
    if (symmetric && rule == scale_rule::full_range) fractions = {&all_levels, 1};
    detail::grid_kernels_of(ctx.simd).search_scales(
        tile, width, {fractions.data(), static_cast<index_t>(fractions.size()), weights}, symmetric, top, scale, zero);
    for (index_t lane = 0; lane < count; ++lane) {
      codes.scales(row + lane, g) = stored_scale(scale[lane]);
      if (!symmetric) codes.zeros(row + lane, g) = static_cast<std::int8_t>(lowest + static_cast<int>(zero[lane]));
    }
  }
};

static_assert(grid<uniform_grid>);

} // namespace SLIM_ABI
} // namespace slim
