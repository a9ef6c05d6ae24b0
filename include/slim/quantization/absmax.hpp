#pragma once
/// @file
/// AbsMax: round to nearest on a uniform grid that spans the largest weight of each block. Symmetric or with a zero point.

#include "slim/quantization/integer_codes.hpp"

#include <array>

namespace slim::inline SLIM_ABI {

struct absmax_config {
  int bits = 4;                                     ///< 2 to 8
  scale_block block = per_group(128);               ///< which weights share a scale
  bool symmetric = true;                            ///< no zero point
  number_format scale_format = number_format::fp32; ///< scales are rounded to it before weights are rounded to them

  friend bool operator==(absmax_config const&, absmax_config const&) = default;
};

/// Symmetric: scale = max|w| / (2^(bits-1) - 1), as SLiM's code has it; the lowest code is reached by rounding of a snapped
/// scale only. Asymmetric: scale = (max - min) / (2^bits - 1) over the block's range extended to hold 0, so that 0 is on the
/// grid exactly and pruned weights stay 0.
///
/// **Numerics** Ties round to even. |error| <= scale / 2 up to one rounding of float, for fp32 scales. A block of zeros gets
/// scale 0 and codes 0. O(d_out d_in).
class absmax_quantizer {
public:
  /// @throws config_error unless 2 <= bits <= 8.
  absmax_quantizer(absmax_config config = {}) : config_(config) { // NOLINT: implicit, so that a config can stand for it
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

  /// Row i of `codes` alone, where scales belong to single rows: scales, zero points and codes, a panel of groups at a time,
  /// which the first cache holds.
  void quantize_row(detail::rounding_kernels const& kernels, float const* w, integer_codes& codes, index_t i) const {
    constexpr index_t panel_cols = 1024;
    index_t const cols = codes.cols(), wide = config_.block.cols_of(cols);
    index_t const panel = std::max(panel_cols / wide, index_t{1});
    std::array<float, panel_cols> low, high;
    for (index_t g = 0; g < codes.scales.cols(); g += panel) {
      index_t const first = g * wide, last = std::min(first + panel * wide, cols);
      detail::prefetch_floats(w + last, std::min(last - first, panel_cols));
      kernels.group_ranges(w + first, last - first, wide, low.data(), high.data());
      for (index_t k = 0; k < panel && g + k < codes.scales.cols(); ++k)
        set_grid(codes, i, g + k, low[static_cast<std::size_t>(k)], high[static_cast<std::size_t>(k)]);
      codes.encode_row(kernels, w, i, first, last);
    }
  }

  [[nodiscard]] std::string describe() const {
    return message("absmax ", config_.bits, " bit ", slim::describe(config_.block), config_.symmetric ? "" : " with zero point",
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " scales"));
  }

private:
  /// Scales and zero points of blocks that span rows.
  void set_grids(integer_codes& result, matrix_view<float const> w, context const& ctx) const {
    auto const& kernels = detail::rounding_kernels_of(ctx.simd);
    matrix<float> low(w.rows(), result.scales.cols()), high = low; // of every row inside every block of columns
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        kernels.group_ranges(w.row(i), w.cols(), config_.block.cols_of(w.cols()), low.row(i), high.row(i));
    });
    index_t const tall = config_.block.rows_of(w.rows());
    for (index_t b = 0; b < result.scales.rows(); ++b)
      for (index_t g = 0; g < result.scales.cols(); ++g) {
        float lowest = 0.0f, highest = 0.0f;
        for (index_t i = b * tall; i < std::min(w.rows(), (b + 1) * tall); ++i) {
          lowest = std::min(lowest, low(i, g));
          highest = std::max(highest, high(i, g));
        }
        set_grid(result, b, g, lowest, highest);
      }
  }

  void set_grid(integer_codes& result, index_t b, index_t g, float lowest, float highest) const {
    if (config_.symmetric) {
      float const largest = std::max(-lowest, highest);
      result.scales(b, g) = detail::stored_scale(config_.scale_format, largest / static_cast<float>(result.highest()));
      return;
    }
    auto const steps = static_cast<float>((1 << config_.bits) - 1);
    float const scale = detail::stored_scale(config_.scale_format, highest / steps - lowest / steps);
    result.scales(b, g) = scale;
    result.zeros(b, g) =
        scale > 0.0f ? detail::encode(-lowest, scale, result.lowest(), result.lowest(), result.highest()) : std::int8_t{0};
  }

  absmax_config config_;
};

static_assert(quantizer<absmax_quantizer>);

} // namespace slim::inline SLIM_ABI
