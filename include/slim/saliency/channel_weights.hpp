#pragma once
/// @file
/// Linear saliencies: positive weights of input channels under which adapter solvers measure the error.

#include "slim/core/finite.hpp"
#include "slim/saliency/saliency.hpp"

#include <limits>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// The smallest positive value; 1 if there is none, so that a layer that saw only zeros still gets invertible weights.
inline double smallest_positive(std::vector<double> const& values) {
  double smallest = std::numeric_limits<double>::infinity();
  for (double const value : values)
    if (value > 0.0) smallest = std::min(smallest, value);
  return detail::is_finite(smallest) ? smallest : 1.0;
}

/// Weights of dead channels become the smallest positive one: any positive number keeps F invertible, and this one neither
/// dominates the error nor blows up L = F^-1(L~). All weights are normal floats.
inline std::vector<float> lifted_from_zero(std::vector<double> const& values) {
  double const floor = smallest_positive(values);
  std::vector<float> weights;
  constexpr double smallest = std::numeric_limits<float>::min(), largest = std::numeric_limits<float>::max();
  for (double const value : values)
    weights.push_back(static_cast<float>(std::clamp(value > 0.0 ? value : floor, smallest, largest)));
  return weights;
}

} // namespace detail

/// All channels weigh the same: the adapter is the plain truncated SVD of the error ("Naive-LoRA").
class unit_saliency {
public:
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const {
    return std::vector<float>(static_cast<std::size_t>(calib.channels()), 1.0f);
  }
  [[nodiscard]] std::string describe() const { return "unit"; }
};

/// SLiM's saliency: x_j = mean |X_j| (arXiv 2410.09615, section 3.3 and Algorithm 2). If a channel is dead, every channel is
/// shifted by the smallest positive mean, as the paper's text asks; the printed `x + min|x|` would add 0 just then.
class slim_saliency {
public:
  /// @throws config_error before the first token, and without mean |x|.
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const {
    require_observed(calib, "slim_saliency");
    require_known(calib, statistic::mean_abs, "slim_saliency");
    std::vector<double> weights = calib.mean_abs();
    if (std::count(weights.begin(), weights.end(), 0.0) > 0) {
      double const shift = detail::smallest_positive(weights);
      for (double& weight : weights) weight += shift;
    }
    return detail::lifted_from_zero(weights);
  }
  [[nodiscard]] std::string describe() const { return "mean_abs"; }
};

/// Root mean square: the optimal diagonal for uncorrelated channels (QERA, arXiv 2410.06040, theorem 2), and what SLiM's
/// published code computes.
class rms_saliency {
public:
  /// @throws config_error before the first token.
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const {
    require_observed(calib, "rms_saliency");
    std::vector<double> weights = calib.mean_square();
    for (double& weight : weights) weight = std::sqrt(weight);
    return detail::lifted_from_zero(weights);
  }
  [[nodiscard]] std::string describe() const { return "rms"; }
};

/// L2QER's scaling: s_j = a_j / sqrt(min a * max a), a_j = largest over samples of the sample's mean |x_j| (LQER, arXiv
/// 2402.02446). The common factor does not change the adapter; it is kept so that the weights can be compared.
class l2qer_saliency {
public:
  /// @throws config_error before the first token, and without the peaks of samples.
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const {
    require_observed(calib, "l2qer_saliency");
    require_known(calib, statistic::sample_peak_mean_abs, "l2qer_saliency");
    std::vector<double> weights = calib.sample_peak_mean_abs();
    if (weights.empty()) return {};
    double const smallest = detail::smallest_positive(weights);
    double const largest = *std::max_element(weights.begin(), weights.end());
    double const middle = std::sqrt(smallest) * std::sqrt(largest > 0.0 ? largest : 1.0);
    for (double& weight : weights) weight /= middle;
    return detail::lifted_from_zero(weights);
  }
  [[nodiscard]] std::string describe() const { return "l2qer"; }
};

static_assert(linear_saliency<unit_saliency> && linear_saliency<slim_saliency> && linear_saliency<rms_saliency> &&
              linear_saliency<l2qer_saliency>);

} // namespace SLIM_ABI
} // namespace slim
