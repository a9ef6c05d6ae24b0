#pragma once
/// @file
/// One-shot low-rank adapters under a diagonal saliency: SLiM-LoRA (arXiv 2410.09615, section 3.3, equations 10 and 11), and
/// with other saliencies naive low-rank, L2QER and QERA-approx.

#include "slim/adapters/diagonal_norm.hpp"
#include "slim/core/norms.hpp"
#include "slim/linalg/low_rank.hpp"
#include "slim/saliency/channel_weights.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// How the singular value decomposition is computed.
enum class svd_method {
  truncated, ///< Gram + subspace iteration until the captured energy settles: residual within 1.003 of optimal
  exact,     ///< eigendecomposition of the Gram matrix in double
};

/// Settings of saliency_lora.
struct lora_config {
  adapter_rank rank = {};
  svd_method method = svd_method::truncated;
  number_format format = number_format::fp32; ///< the factors are rounded to it, once, at the end

  friend bool operator==(lora_config const&, lora_config const&) = default;
};

/// Minimises ||(E - (L R)^T) D||_F with D = diag(channel weights of the saliency): with E D ~ U C, U (d_out x r) orthonormal,
/// L = D^-1 C^T and R = U^T. O(d_out d_in min(d_out, d_in)) for the Gram matrix.
template <linear_saliency Saliency>
class saliency_lora {
public:
  /// @throws config_error on a rank that cannot be.
  explicit saliency_lora(Saliency weighing, lora_config config = {}) : config_(config), weighing_(std::move(weighing)) {
    (void)config.rank.of(1, 1);
  }
  /// The same with a default-made saliency.
  explicit saliency_lora(lora_config config = {})
    requires std::default_initializable<Saliency>
      : saliency_lora(Saliency{}, config) {}

  [[nodiscard]] lora_config const& config() const noexcept { return config_; }
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const { return weighing_.channel_weights(calib); }
  /// ||E D||_F^2
  [[nodiscard]] double energy(matrix_view<float const> e, calibration const& calib, context const& = {}) const {
    return weighted_squared_norm(e, channel_weights(calib));
  }

  /// @throws shape_error if E and the calibration disagree on d_in; config_error if the saliency needs activations and none
  /// were seen.
  template <std::same_as<float> T>
  [[nodiscard]] adapter solve(matrix_view<T const> e, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, e.cols(), "saliency_lora");
    std::vector<float> const weights = channel_weights(calib);
    index_t const rank = config_.rank.of(e.rows(), e.cols());
    if (rank == 0) return empty_adapter(e.cols(), e.rows());
    matrix<T> weighted(e);
    for (index_t i = 0; i < e.rows(); ++i)
      for (index_t j = 0; j < e.cols(); ++j) weighted(i, j) *= weights[static_cast<std::size_t>(j)];
    matrix_view<T const> const target = weighted.view();
    auto const factors = config_.method == svd_method::exact ? exact_low_rank<T>(target, rank, ctx)
                                                             : truncated_low_rank<T>(target, rank, {}, ctx);
    adapter found = empty_adapter(e.cols(), e.rows());
    found.format = config_.format;
    found.left = matrix<T>(e.cols(), factors.basis.cols());
    found.right = matrix<T>(factors.basis.cols(), e.rows());
    for (index_t k = 0; k < found.rank(); ++k) {
      for (index_t j = 0; j < e.cols(); ++j)
        found.left(j, k) = rounded_to(config_.format, factors.coefficients(k, j) / weights[static_cast<std::size_t>(j)]);
      for (index_t i = 0; i < e.rows(); ++i) found.right(k, i) = rounded_to(config_.format, factors.basis(i, k));
    }
    if (!factors.fallbacks.empty()) found.notes.push_back("low-rank factors: " + factors.fallbacks);
    return unless_worse_than_none(std::move(found), e, ctx,
                                  [&](matrix_view<float const> rest) { return weighted_squared_norm(rest, weights); });
  }

  [[nodiscard]] std::string describe() const {
    return message("low-rank adapter, ", std::string(weighing_.describe()), " saliency, ", slim::describe(config_.rank),
                   config_.method == svd_method::exact ? ", exact svd" : "",
                   config_.format == number_format::fp32 ? "" : message(", ", name_of(config_.format)));
  }

private:
  lora_config config_;
  [[no_unique_address]] Saliency weighing_; // empty, mostly
};

static_assert(diagonal_norm<saliency_lora<unit_saliency>>);

/// Plain truncated SVD of the error.
[[nodiscard]] inline saliency_lora<unit_saliency> naive_lora(lora_config config = {}) {
  return saliency_lora<unit_saliency>(config);
}
/// SLiM-LoRA: saliency mean |x|.
[[nodiscard]] inline saliency_lora<slim_saliency> slim_lora(lora_config config = {}) {
  return saliency_lora<slim_saliency>(config);
}
/// L2QER-style scaling.
[[nodiscard]] inline saliency_lora<l2qer_saliency> l2qer_lora(lora_config config = {}) {
  return saliency_lora<l2qer_saliency>(config);
}

} // namespace SLIM_ABI
} // namespace slim
