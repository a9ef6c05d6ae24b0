#pragma once
/// @file
/// Rounding to nearest on uniform grids with two free real ends, found by range_search: 2DQuant's quantizer (arXiv 2406.06649,
/// equation 1) per tensor, and the same per row or group.

#include "slim/calibration/hessian.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/quantization/range_search.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Grid and search of `range_quantizer`.
struct range_quantizer_config {
  int bits = 4;                   ///< 1 to 8
  scale_block block = per_tensor; ///< which weights share a range
  range_config range = {};
  /// The loss of a range is the output's, tr(E H E^T) over the columns of the block, instead of the p-norm. Needs tokens.
  bool by_output = false;
  number_format scale_format = number_format::fp32; ///< of steps and lower ends

  friend bool operator==(range_quantizer_config const&, range_quantizer_config const&) = default;
};

/// Codes with real offsets: level k of a block stands for low + k (high - low) / (2^bits - 1). A constant block is exact, but
/// for the format. O(steps n), by output O(steps n width of a block).
class range_quantizer {
public:
  /// @throws config_error unless 1 <= bits <= 8 and the search makes sense.
  explicit range_quantizer(range_quantizer_config config = {}) : config_(config) {
    config.range.check("range_quantizer");
    (void)empty(0, 0);
  }

  [[nodiscard]] range_quantizer_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error if tokens are needed and none
  /// were seen.
  [[nodiscard]] integer_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    integer_codes codes = empty(w.rows(), w.cols());
    if (w.empty()) return codes;
    matrix<float> h;
    if (config_.by_output) {
      require_channels(calib, w.cols(), "range_quantizer");
      h = hessian(calib, 0.0, ctx);
    }
    index_t const tall = config_.block.rows_of(w.rows()), wide = config_.block.cols_of(w.cols());
    index_t const down = codes.scales.rows(), across = codes.scales.cols();
    ctx.parallel_for(down, config_.block.rows == 1 ? 4 : 1, [&](index_t begin, index_t end) {
      context const inner = ctx.inside_task();
      for (index_t b = begin; b < end; ++b)
        for (index_t g = 0; g < across; ++g) {
          auto const block =
              w.block(b * tall, g * wide, std::min(tall, w.rows() - b * tall), std::min(wide, w.cols() - g * wide));
          set_range(codes, b, g, range_of(block, g * wide, h, inner));
        }
    });
    codes.encode(w, ctx);
    return codes;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit ", slim::describe(config_.block), ", ", slim::describe(config_.range),
                   config_.by_output ? " by output error" : "",
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " steps"));
  }

private:
  [[nodiscard]] integer_codes empty(index_t rows, index_t cols) const {
    integer_codes codes(rows, cols, config_.bits, config_.block, config_.scale_format);
    codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), codes.scales.stored());
    return codes;
  }

  [[nodiscard]] value_range range_of(matrix_view<float const> block, index_t first, matrix<float> const& h,
                                     context const& ctx) const {
    std::vector<float> values;
    for (index_t i = 0; i < block.rows(); ++i) values.insert(values.end(), block.row(i), block.row(i) + block.cols());
    if (!config_.by_output) return search_range(values, config_.bits, {}, config_.range);
    auto const part = h.view().block(first, first, block.cols(), block.cols());
    auto const error_of = [&](value_range range, index_t i, float* error) {
      for (index_t j = 0; j < block.cols(); ++j) error[j] = block(i, j) - range.round(block(i, j), config_.bits);
    };
    if (block.rows() == 1) { // all candidates in one product
      auto const ranges = candidate_ranges(values, config_.range);
      matrix<float> errors(std::ssize(ranges), block.cols());
      for (index_t k = 0; k < errors.rows(); ++k) error_of(ranges[static_cast<std::size_t>(k)], 0, errors.row(k));
      std::vector<double> const losses = row_energies(errors.view(), part, ctx);
      return ranges[static_cast<std::size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin())];
    }
    return search_range(values, config_.range, [&](value_range range) {
      matrix<float> error(block.rows(), block.cols());
      for (index_t i = 0; i < block.rows(); ++i) error_of(range, i, error.row(i));
      return hessian_energy(error.view(), part, ctx);
    });
  }

  /// Step and lower end as they are stored.
  void set_range(integer_codes& codes, index_t b, index_t g, value_range range) const {
    float const step =
        range.high / static_cast<float>((1 << config_.bits) - 1) - range.low / static_cast<float>((1 << config_.bits) - 1);
    codes.scales(b, g) = detail::stored_divisor(config_.scale_format, step);
    codes.offsets(b, g) = detail::stored_number(config_.scale_format, range.low);
  }

  range_quantizer_config config_;
};

static_assert(quantizer<range_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
