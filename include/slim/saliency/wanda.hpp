#pragma once
/// @file
/// Wanda: |w_ij| * ||x_j||_2 (Sun et al. 2023, arXiv 2306.11695). The norm is taken as root mean square over tokens, which
/// ranks the same, as does the common factor that keeps scores finite. Weights of dead channels score 0: they go first.

#include "slim/core/power_of_two.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Wanda's score of a weight.
class wanda {
public:
  class scorer {
  public:
    scorer(matrix_view<float const> w, calibration const& calib) : w_(w) {
      std::vector<double> const squares = calib.mean_square();
      double const largest = squares.empty() ? 0.0 : *std::max_element(squares.begin(), squares.end());
      // A common power of two changes no comparison; with norms below 1 no score overflows.
      int const power = power_below(std::sqrt(largest));
      for (double const square : squares) norm_.push_back(static_cast<float>(std::ldexp(std::sqrt(square), power)));
    }
    float operator()(index_t i, index_t j) const noexcept { return std::abs(w_(i, j)) * norm_[static_cast<std::size_t>(j)]; }
    /// What |w| is multiplied by, per input channel: a pruner may score a row at a time with it.
    [[nodiscard]] float const* column_factors() const noexcept { return norm_.data(); }

  private:
    matrix_view<float const> w_;
    std::vector<float> norm_;
  };

  /// @throws shape_error if W and the calibration disagree on d_in; config_error before the first token.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& calib, context const& = {}) const {
    require_channels(calib, w.cols(), "wanda");
    require_observed(calib, "wanda");
    return scorer(w, calib);
  }
  [[nodiscard]] std::string describe() const { return "wanda"; }
};

static_assert(saliency<wanda>);

} // namespace SLIM_ABI
} // namespace slim
