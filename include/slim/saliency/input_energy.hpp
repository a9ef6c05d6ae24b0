#pragma once
/// @file
/// Mean square of the input that a weight multiplies: how much the output changes by an error of the weight, whatever the
/// weight is. The diagonal of the Hessian of the output error, and what is known of a Fisher diagonal without gradients.

#include "slim/core/power_of_two.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Scores weight (i, j) by the mean of x_j^2, times a power of two common to all.
class input_energy {
public:
  class scorer {
  public:
    explicit scorer(calibration const& calib) {
      std::vector<double> const squares = calib.mean_square();
      double const largest = squares.empty() ? 0.0 : *std::max_element(squares.begin(), squares.end());
      int const power = power_below(largest); // changes no ratio; no score overflows
      for (double const square : squares) energy_.push_back(static_cast<float>(std::ldexp(square, power)));
    }
    float operator()(index_t, index_t j) const noexcept { return energy_[static_cast<std::size_t>(j)]; }

  private:
    std::vector<float> energy_;
  };

  /// @throws shape_error if W and the calibration disagree on d_in; config_error before the first token.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& calib, context const& = {}) const {
    require_channels(calib, w.cols(), "input_energy");
    require_observed(calib, "input_energy");
    return scorer(calib);
  }
  [[nodiscard]] std::string describe() const { return "input energy"; }
};

static_assert(saliency<input_energy>);

} // namespace SLIM_ABI
} // namespace slim
