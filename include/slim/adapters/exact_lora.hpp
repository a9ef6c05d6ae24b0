#pragma once
/// @file
/// The low-rank adapter that minimises the error of the layer's output itself, not of a diagonal stand-in: QERA-exact
/// (arXiv 2410.06040, theorem 1) and EoRA (arXiv 2410.21271) are this one estimator; which of the two names it goes by depends
/// on what stands before it in the chain.

#include "slim/adapters/adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/calibration/hessian.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of exact_lora.
struct exact_lora_config {
  adapter_rank rank = {};
  double damping = 0.01; ///< of the mean diagonal of H, added to it
  svd_method method = svd_method::truncated;
  number_format format = number_format::fp32; ///< the factors are rounded to it, once, at the end

  friend bool operator==(exact_lora_config const&, exact_lora_config const&) = default;
};

/// An adapter, and the error that it leaves.
struct fitted_adapter {
  adapter factors;
  double energy = 0; ///< tr(D H D^T), as ||E C||^2 without what the factors capture of it
};

/// Factors of rank r that minimise tr(D H D^T), D = E - (L R)^T, for a lower triangular C with H = C C^T: with E C ~ U S,
/// U (d_out x r) orthonormal, R = U^T and L = E^T U. No system is solved, so nothing is divided by small eigenvalues.
/// `start` (d_out x any, or nothing) spans an earlier solution: a truncated decomposition then needs fewer products.
/// `fallbacks` of the decomposition go to the notes. d_out d_in^2 / 2 multiply-adds + the decomposition.
template <std::same_as<float> T>
[[nodiscard]] fitted_adapter output_optimal_adapter(matrix_view<T const> e, matrix_view<T const> root, index_t rank,
                                                    svd_method method, matrix_view<T const> start, context const& ctx = {}) {
  fitted_adapter out{empty_adapter(e.cols(), e.rows())};
  if (e.empty()) return out;
  matrix<T> weighted(e.rows(), e.cols(), uninitialized);
  multiply_lower_into(e, root, weighted.view(), ctx);
  auto const target = matrix_view<T const>(weighted.view());
  out.energy = squared_norm(target, ctx);
  if (rank == 0) return out;
  auto const factors = method == svd_method::exact ? exact_low_rank<T>(target, rank, ctx)
                                                   : truncated_low_rank<T>(target, rank, {.start = start}, ctx);
  out.energy = std::max(0.0, out.energy - squared_norm(matrix_view<T const>(factors.coefficients.view()), ctx));
  adapter& found = out.factors;
  found.right = matrix<T>(transposed(factors.basis.view()));
  found.left = matrix<T>(e.cols(), factors.basis.cols());
  gemm_into(transposed(e), factors.basis.view(), found.left.view(), ctx.in_fp32());
  if (!factors.fallbacks.empty()) found.notes.push_back("low-rank factors: " + factors.fallbacks);
  return out;
}

/// Rounds both factors to a number format.
inline void round_factors(adapter& a, number_format format) {
  a.format = format;
  for (index_t k = 0; k < a.left.size(); ++k) a.left.data()[k] = rounded_to(format, a.left.data()[k]);
  for (index_t k = 0; k < a.right.size(); ++k) a.right.data()[k] = rounded_to(format, a.right.data()[k]);
}

/// Needs a calibration with a Gram matrix; without one its channels count as uncorrelated (QERA-approx), with a note.
class exact_lora {
public:
  explicit exact_lora(exact_lora_config config = {}) : config_(config) {
    (void)config.rank.of(1, 1);
    if (!(config.damping > 0.0)) throw config_error(message("exact_lora: damping ", config.damping, ", needed is > 0"));
  }

  [[nodiscard]] exact_lora_config const& config() const noexcept { return config_; }

  /// tr(E H E^T) of the damped Hessian.
  [[nodiscard]] double energy(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, e.cols(), "exact_lora");
    return hessian_energy(e, hessian(calib, config_.damping, ctx).view(), ctx);
  }

  /// @throws shape_error if E and the calibration disagree on d_in; config_error before the first token.
  template <std::same_as<float> T>
  [[nodiscard]] adapter solve(matrix_view<T const> e, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, e.cols(), "exact_lora");
    index_t const rank = config_.rank.of(e.rows(), e.cols());
    matrix<T> const h = hessian(calib, config_.damping, ctx);
    matrix<T> root = h;
    if (!cholesky_inplace(root.view(), ctx))
      throw nonfinite_error("exact_lora: the damped Gram matrix is not positive definite; raise the damping");
    adapter found = output_optimal_adapter<T>(e, root.view(), rank, config_.method, {}, ctx).factors;
    round_factors(found, config_.format);
    if (!calib.has_gram()) found.notes.push_back("no Gram matrix: channels taken as uncorrelated");
    return unless_worse_than_none(std::move(found), e, ctx,
                                  [&](matrix_view<float const> rest) { return hessian_energy(rest, h.view(), ctx); });
  }

  [[nodiscard]] std::string describe() const {
    return message("low-rank adapter, exact output error, ", slim::describe(config_.rank),
                   config_.method == svd_method::exact ? ", exact svd" : "",
                   config_.format == number_format::fp32 ? "" : message(", ", name_of(config_.format)));
  }

private:
  exact_lora_config config_;
};

static_assert(low_rank_solver<exact_lora>);

} // namespace SLIM_ABI
} // namespace slim
