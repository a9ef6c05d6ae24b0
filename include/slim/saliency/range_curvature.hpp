#pragma once
/// @file
/// What more bits are worth to a group of weights: H x range^2 (after "2/4/16-bit in a weight matrix", arXiv 2311.16442, whose
/// exact formula is not public).

#include "slim/core/norms.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Groups of `range_curvature`.
struct range_curvature_config {
  index_t group = 16; ///< neighbouring columns of a row that share a scale

  friend bool operator==(range_curvature_config const&, range_curvature_config const&) = default;
};

/// Scores weight (i, j) by (max - min of its group)^2 times the mean of x_j^2, times a power of two common to all. The squared
/// error of rounding a group evenly to b bits is range^2 / (12 (2^b - 1)^2), so the sum over a group of columns is, but for a
/// factor, what the output gains by more bits in it.
class range_curvature {
public:
  class scorer {
  public:
    scorer(matrix_view<float const> w, calibration const& calib, index_t group) : group_(group), squares_(calib.mean_square()) {
      double const largest = squares_.empty() ? 0.0 : *std::max_element(squares_.begin(), squares_.end());
      int const power = power_below(largest);
      for (double& square : squares_) square = std::ldexp(square, power);
      double const unit = std::ldexp(1.0, power_below(static_cast<double>(detail::largest_of(w))) - 1); // ranges below 1
      ranges_ = matrix<double>(w.rows(), w.cols() == 0 ? 0 : (w.cols() - 1) / group + 1);
      for (index_t i = 0; i < w.rows(); ++i)
        for (index_t g = 0; g < ranges_.cols(); ++g) {
          double low = unit * static_cast<double>(w(i, g * group)), high = low;
          for (index_t j = g * group; j < std::min(w.cols(), (g + 1) * group); ++j) {
            low = std::min(low, unit * static_cast<double>(w(i, j)));
            high = std::max(high, unit * static_cast<double>(w(i, j)));
          }
          ranges_(i, g) = high - low;
        }
    }
    float operator()(index_t i, index_t j) const noexcept {
      double const range = ranges_(i, j / group_);
      return static_cast<float>(range * range * squares_[static_cast<std::size_t>(j)]);
    }

  private:
    index_t group_;
    std::vector<double> squares_;
    matrix<double> ranges_;
  };

  /// @throws config_error if the group is not positive.
  explicit range_curvature(range_curvature_config config = {}) : config_(config) {
    if (config.group < 1) throw config_error(message("range_curvature: groups of ", config.group));
  }

  [[nodiscard]] range_curvature_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error before the first token.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& calib, context const& = {}) const {
    require_channels(calib, w.cols(), "range_curvature");
    require_observed(calib, "range_curvature");
    return scorer(w, calib, config_.group);
  }
  [[nodiscard]] std::string describe() const { return message("H x range^2 in groups of ", config_.group); }

private:
  range_curvature_config config_;
};

static_assert(saliency<range_curvature>);

} // namespace SLIM_ABI
} // namespace slim
