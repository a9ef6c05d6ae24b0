#pragma once
/// @file
/// What a weight's loss costs the output when the weights behind it make up for it: optimal brain surgeon's w^2 / [H^-1]_jj in
/// the order of a sweep, as SliM-LLM's code has it (arXiv 2405.14917).

#include "slim/calibration/hessian.hpp"
#include "slim/core/norms.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/linalg/feedback_factor.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of `obs_saliency`.
struct obs_config {
  double damping = 0.01; ///< of the mean diagonal of H

  friend bool operator==(obs_config const&, obs_config const&) = default;
};

/// Scores w_ij^2 / u_jj^2, H^-1 = U^T U, times a power of four common to all. u_jj^2 is [H^-1]_jj with the columns before j
/// given; SliM-LLM's text has the square of the unconditional one, its code this. Without a Gram matrix channels are taken as
/// uncorrelated.
class obs_saliency {
public:
  class scorer {
  public:
    scorer(matrix_view<float const> w, std::vector<float> inverse_pivots)
        : w_(w), inverse_(std::move(inverse_pivots)),
          unit_(std::ldexp(1.0f, std::min(power_below(detail::largest_of(w)), 100))) {}
    float operator()(index_t i, index_t j) const noexcept {
      float const root = w_(i, j) * unit_ * inverse_[static_cast<std::size_t>(j)];
      return root * root;
    }

  private:
    matrix_view<float const> w_;
    std::vector<float> inverse_;
    float unit_;
  };

  /// @throws config_error if the damping is not positive.
  explicit obs_saliency(obs_config config = {}) : config_(config) {
    if (!(config.damping > 0.0)) throw config_error(message("obs_saliency: damping ", config.damping, ", needed is > 0"));
  }

  [[nodiscard]] obs_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error before the first token.
  template <std::same_as<float> T>
  [[nodiscard]] scorer prepare(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "obs_saliency");
    matrix<T> const upper = factor_for_feedback(hessian(calib, config_.damping, ctx).view(), ctx).upper;
    std::vector<float> inverse;
    for (index_t j = 0; j < upper.rows(); ++j) inverse.push_back(1.0f / upper(j, j));
    return scorer(w, std::move(inverse));
  }
  [[nodiscard]] std::string describe() const { return message("w^2 / [H^-1]_jj, damping ", config_.damping); }

private:
  obs_config config_;
};

static_assert(saliency<obs_saliency>);

} // namespace SLIM_ABI
} // namespace slim
