#pragma once
/// @file
/// AbsMax: round to nearest on a uniform grid that spans the largest weight of each block. Symmetric or with a zero point.

#include "slim/quantization/codes/integer_codes.hpp"

#include <array>

namespace slim {
inline namespace SLIM_ABI {

/// Grid of `absmax_quantizer`: bits, scale blocks, zero points.
struct absmax_config {
  int bits = 4;                                     ///< 2 to 8
  scale_block block = per_group(128);               ///< which weights share a scale
  bool symmetric = true;                            ///< no zero point
  number_format scale_format = number_format::fp32; ///< scales are rounded to it before weights are rounded to them
  bool full_range = false;                          ///< symmetric: all 2^bits codes share the range, as GPTQ's code has it

  friend bool operator==(absmax_config const&, absmax_config const&) = default;
};

/// Symmetric: scale = max|w| / (2^(bits-1) - 1), as SLiM's code has it; the lowest code is reached by rounding of a snapped
/// scale only. With `full_range` scale = 2 max|w| / (2^bits - 1): a weight above the highest code is clipped to it, by half a
/// scale at most. Asymmetric: scale = (max - min) / (2^bits - 1) over the block's range extended to hold 0, so that 0 is on the
/// grid exactly and pruned weights stay 0.
///
/// **Numerics** Ties round to even. |error| <= scale / 2 up to one rounding of float, for fp32 scales. A block of zeros gets
/// scale 0 and codes 0. O(d_out d_in).
class absmax_quantizer {
public:
  /// @throws config_error unless 2 <= bits <= 8.
  explicit absmax_quantizer(absmax_config config = {}) : config_(config) {
    if (config.bits < 2) throw config_error(message("absmax_quantizer: ", config.bits, " bits, possible are 2 to 8"));
    integer_codes(0, 0, config.bits, config.block, config.scale_format);
  }

  [[nodiscard]] absmax_config const& config() const noexcept { return config_; }

  [[nodiscard]] integer_codes quantize(matrix_view<float const> w, calibration const&, context const& ctx = {}) const {
    integer_codes result = zero_codes(w.rows(), w.cols());
    if (config_.block.rows_of(w.rows()) > 1) {
      set_grids(result, w, ctx);
      result.encode(w, ctx);
      return result;
    }
    auto const& kernels = detail::rounding_kernels_of(ctx.simd);
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) quantize_row(kernels, w.row(i), result, i);
    });
    return result;
  }

  /// What `quantize` fills: codes of the configured kind, all 0.
  [[nodiscard]] integer_codes zero_codes(index_t rows, index_t cols) const {
    integer_codes codes(rows, cols, config_.bits, config_.block, config_.scale_format);
    if (!config_.symmetric) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
    return codes;
  }

  /// Row i of `codes` alone, where scales belong to single rows: a panel of groups at a time, which the first cache holds.
  void quantize_row(detail::rounding_kernels const& kernels, float const* w, integer_codes& codes, index_t i) const {
    index_t const cols = codes.cols(), group = config_.block.cols_of(cols), panel = panel_cols(cols);
    for (index_t first = 0, g = 0; first < cols; first += panel, g += panel / group)
      quantize_groups(kernels, w + first, std::min(panel, cols - first), group, codes.scales.row(i) + g,
                      codes.zeros.empty() ? nullptr : codes.zeros.row(i) + g, codes.codes.row(i) + first);
  }

  /// As many whole groups as the first cache holds well, one at least.
  [[nodiscard]] index_t panel_cols(index_t cols) const noexcept {
    constexpr index_t most = 1024;
    index_t const group = config_.block.cols_of(cols);
    return std::max(most / group, index_t{1}) * group;
  }

  /// Scales, zero points (unless symmetric) and codes of neighbouring groups of one row, the last perhaps ragged.
  void quantize_groups(detail::rounding_kernels const& kernels, float const* w, index_t cols, index_t group, float* scales,
                       std::int8_t* zeros, std::int8_t* codes) const {
    index_t const groups = (cols + group - 1) / group;
    int const highest = (1 << (config_.bits - 1)) - 1, lowest = -highest - 1;
    if (config_.symmetric) {
      kernels.group_maxima(w, cols, group, detail::magnitudes, scales);
      kernels.symmetric_scales(scales, groups, top(highest), config_.scale_format);
    } else {
      constexpr index_t some = 64;
      std::array<float, some> above, below;
      for (index_t g = 0; g < groups; g += some) {
        index_t const first = g * group, count = std::min(some, groups - g), width = std::min(count * group, cols - first);
        kernels.group_maxima(w + first, width, group, detail::themselves, above.data());
        kernels.group_maxima(w + first, width, group, detail::negatives, below.data());
        for (index_t k = 0; k < count; ++k)
          set_grid(above[static_cast<std::size_t>(k)], below[static_cast<std::size_t>(k)], scales[g + k], zeros[g + k]);
      }
    }
    kernels.round_row(w, cols, {.scales = scales, .zeros = zeros, .group = group, .lowest = lowest, .highest = highest}, codes);
  }

  [[nodiscard]] std::string describe() const {
    return message("absmax ", config_.bits, " bit ", slim::describe(config_.block),
                   !config_.symmetric   ? " with zero point"
                   : config_.full_range ? ", all codes"
                                        : "",
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " scales"));
  }

private:
  /// What the largest weight is divided by.
  [[nodiscard]] float top(int highest) const noexcept {
    return static_cast<float>(highest) + (config_.full_range ? 0.5f : 0.0f);
  }

  /// Scales and zero points of blocks that span rows.
  void set_grids(integer_codes& result, matrix_view<float const> w, context const& ctx) const {
    auto const& kernels = detail::rounding_kernels_of(ctx.simd);
    index_t const tall = config_.block.rows_of(w.rows()), wide = config_.block.cols_of(w.cols());
    matrix<float> above(w.rows(), result.scales.cols()), below = above; // for every row inside every block of columns
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        kernels.group_maxima(w.row(i), w.cols(), wide, detail::themselves, above.row(i));
        kernels.group_maxima(w.row(i), w.cols(), wide, detail::negatives, below.row(i));
      }
    });
    for (index_t b = 0; b < result.scales.rows(); ++b)
      for (index_t g = 0; g < result.scales.cols(); ++g) {
        float farthest_above = 0.0f, farthest_below = 0.0f;
        for (index_t i = b * tall; i < std::min(w.rows(), (b + 1) * tall); ++i) {
          farthest_above = std::max(farthest_above, above(i, g));
          farthest_below = std::max(farthest_below, below(i, g));
        }
        if (config_.symmetric)
          result.scales(b, g) =
              detail::stored_scale(config_.scale_format, std::max(farthest_above, farthest_below) / top(result.highest()));
        else
          set_grid(farthest_above, farthest_below, result.scales(b, g), result.zeros(b, g));
      }
  }

  /// Scale and zero point for weights that reach as far above 0 and below it.
  void set_grid(float above, float below, float& scale, std::int8_t& zero) const {
    auto const steps = static_cast<float>((1 << config_.bits) - 1);
    int const highest = (1 << (config_.bits - 1)) - 1, lowest = -highest - 1;
    scale = detail::stored_scale(config_.scale_format, above / steps + below / steps);
    zero = scale > 0.0f ? detail::encode(below, scale, lowest, lowest, highest) : std::int8_t{0};
  }

  absmax_config config_;
};

static_assert(quantizer<absmax_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
