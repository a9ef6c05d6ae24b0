#pragma once
/// @file
/// The best weights on a given mask: S minimises tr((W - S) C (W - S)^T) over all S that are 0 where the mask is, with
/// C = X^T X + damping. OPTIMA (arXiv 2512.13886) solves one quadratic programme per row, s_k = C_kk^-1 C_k: w. Here
/// conjugate gradients solve all rows at once; an iteration costs one product with C.

#include "slim/calibration/hessian.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/pruning/mask.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Damping and stopping rule of `masked_least_squares`.
struct masked_least_squares_config {
  double damping = 0.01;    ///< added to the diagonal of X^T X, relative to its mean; regularises if tokens are few
  double tolerance = 1e-4;  ///< a row stops when the norm of its gradient has fallen to this share
  int max_iterations = 100; ///< products with C

  friend bool operator==(masked_least_squares_config const&, masked_least_squares_config const&) = default;
};

/// Weights on a mask, and a report of the solve. Errors are tr(E C E^T), damping included.
struct masked_weights {
  matrix<float> weights;      ///< exactly 0 where pruned
  double error_before = 0;    ///< of W with the mask applied
  double error_after = 0;     ///< of `weights`; no row is worse than before
  int iterations = 0;         ///< products with C
  index_t rows_not_done = 0;  ///< rows stopped by max_iterations
  index_t rows_unchanged = 0; ///< rows for which float arithmetic found nothing better than W with the mask applied
};

namespace detail {

/// Conjugate gradients for E~ H -> 0 on a support, every row a system of its own. Rows are scaled to a largest entry near 1.
class support_solver {
public:
  /// @param change E~ = (W - S) diag(scale) at the start; the solver moves S where the mask keeps.
  support_solver(normalized_hessian const& hessian, matrix<float> change, mask const& kept, context const& ctx)
      : hessian_(hessian), kept_(kept), ctx_(ctx), change_(std::move(change)), residual_(change_.rows(), change_.cols()),
        direction_(residual_), product_(residual_), energy_(static_cast<std::size_t>(change_.rows())), target_(energy_) {}

  /// Returns the number of products. change() is then that of the best weights found.
  int run(double tolerance, int max_iterations) {
    start(tolerance);
    int iterations = 0;
    for (; iterations < max_iterations && rows_not_done() > 0; ++iterations) {
      gemm_into(direction_.view(), hessian_.h.view(), product_.view(), ctx_.in_fp32());
      ctx_.parallel_for(change_.rows(), rows_per_task, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i)
          if (energy_[static_cast<std::size_t>(i)] > target_[static_cast<std::size_t>(i)]) step(i);
      });
    }
    return iterations;
  }

  [[nodiscard]] index_t rows_not_done() const {
    index_t count = 0;
    for (std::size_t i = 0; i < energy_.size(); ++i) count += energy_[i] > target_[i] ? 1 : 0;
    return count;
  }
  [[nodiscard]] matrix<float> const& change() const noexcept { return change_; }

private:
  static constexpr index_t rows_per_task = 16;

  void start(double tolerance) {
    gemm_into(change_.view(), hessian_.h.view(), residual_.view(), ctx_.in_fp32());
    ctx_.parallel_for(change_.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        keep_supported(residual_, i);
        std::copy_n(residual_.row(i), residual_.cols(), direction_.row(i));
        auto const row = static_cast<std::size_t>(i);
        energy_[row] = dot(residual_, residual_, i);
        target_[row] = tolerance * tolerance * energy_[row];
      }
    });
  }

  /// One step of row i: S moves along the direction, so E~ moves against it.
  void step(index_t i) {
    auto const row = static_cast<std::size_t>(i);
    keep_supported(product_, i);
    double const curvature = dot(direction_, product_, i);
    if (!(curvature > 0.0)) { // the direction is lost in rounding: no further gain
      target_[row] = energy_[row];
      return;
    }
    auto const length = static_cast<float>(energy_[row] / curvature);
    for (index_t j = 0; j < change_.cols(); ++j) {
      change_(i, j) -= length * direction_(i, j);
      residual_(i, j) -= length * product_(i, j);
    }
    double const energy = dot(residual_, residual_, i);
    auto const turn = static_cast<float>(energy / energy_[row]);
    for (index_t j = 0; j < change_.cols(); ++j) direction_(i, j) = residual_(i, j) + turn * direction_(i, j);
    energy_[row] = energy;
  }

  void keep_supported(matrix<float>& a, index_t i) const {
    for (index_t j = 0; j < a.cols(); ++j)
      if (!kept_.kept(i, j)) a(i, j) = 0.0f;
  }

  [[nodiscard]] static double dot(matrix<float> const& a, matrix<float> const& b, index_t i) {
    double sum = 0;
    for (index_t j = 0; j < a.cols(); ++j) sum += static_cast<double>(a(i, j)) * static_cast<double>(b(i, j));
    return sum;
  }

  normalized_hessian const& hessian_;
  mask const& kept_;
  context const& ctx_;
  matrix<float> change_, residual_, direction_, product_;
  std::vector<double> energy_, target_; ///< squared norm of the residual of a row, and where it ends
};

/// (W - S) diag(scale), every row times a power of two that brings its largest weight near 1; returns the powers.
[[nodiscard]] inline std::vector<int> scaled_change_into(matrix_view<float const> w, matrix_view<float const> s,
                                                         normalized_hessian const& hessian, matrix<float>& change) {
  std::vector<int> powers(static_cast<std::size_t>(w.rows()));
  for (index_t i = 0; i < w.rows(); ++i) {
    float largest = 0.0f;
    for (index_t j = 0; j < w.cols(); ++j) largest = std::max(largest, std::abs(w(i, j)));
    int const power = power_below(largest, 1);
    powers[static_cast<std::size_t>(i)] = power;
    for (index_t j = 0; j < w.cols(); ++j) {
      double const e = std::ldexp(static_cast<double>(w(i, j)) - static_cast<double>(s(i, j)), power);
      change(i, j) = static_cast<float>(e * hessian.scale[static_cast<std::size_t>(j)]);
    }
  }
  return powers;
}

inline void require_fit(matrix_view<float const> w, mask const& kept, index_t channels, char const* who) {
  if (kept.rows() != w.rows() || kept.cols() != w.cols())
    throw shape_error(message(who, ": the mask is ", kept.rows(), " x ", kept.cols(), ", W is ", w.rows(), " x ", w.cols()));
  if (channels != w.cols())
    throw shape_error(message(who, ": the Gram matrix has ", channels, " channels, W ", w.cols(), " columns"));
}

/// S where the solver left E~: kept weights of `start` plus what it moved; rows that did not improve stay at `start`.
[[nodiscard]] inline masked_weights solve_on_support(matrix_view<float const> w, matrix<float> start, mask const& kept,
                                                     normalized_hessian const& hessian,
                                                     masked_least_squares_config const& config, context const& ctx) {
  matrix<float> before(w.rows(), w.cols());
  std::vector<int> const powers = scaled_change_into(w, start.view(), hessian, before);
  support_solver solver(hessian, before, kept, ctx);
  masked_weights out{std::move(start)};
  out.iterations = solver.run(config.tolerance, config.max_iterations);
  out.rows_not_done = solver.rows_not_done();
  matrix<float> const& after = solver.change();
  std::vector<double> const first = hessian.row_errors(before, ctx), last = hessian.row_errors(after, ctx);
  for (index_t i = 0; i < w.rows(); ++i) {
    auto const row = static_cast<std::size_t>(i);
    bool const better = last[row] < first[row];
    out.error_before += std::ldexp(first[row], -2 * powers[row]);
    out.error_after += std::ldexp(better ? last[row] : first[row], -2 * powers[row]);
    if (!better) {
      ++out.rows_unchanged;
      continue;
    }
    for (index_t j = 0; j < w.cols(); ++j) {
      if (!kept.kept(i, j)) continue;
      double const moved =
          (static_cast<double>(before(i, j)) - static_cast<double>(after(i, j))) * hessian.inverse[static_cast<std::size_t>(j)];
      out.weights(i, j) = static_cast<float>(static_cast<double>(out.weights(i, j)) + std::ldexp(moved, -powers[row]));
    }
  }
  return out;
}

} // namespace detail

/// Weights on a mask for a target W (d_out x d_in) and a Gram matrix (d_in x d_in): that of the calibration, or any other
/// positive semidefinite form.
///
/// **Numerics** Products in float of a Hessian with unit diagonal, sums in double. Excess of the error over the exact minimum:
/// about tolerance^2, unless the iteration limit stops a row. A row that would end with a larger error than in the masked W is
/// left unchanged. With and without damping, the error is never above that of the masked W (which is the member of the mask's
/// set that is nearest to W, so that a lower damped error is a lower undamped one). Bits do not depend on the executor.
/// O(iterations d_out d_in^2). @throws shape_error, config_error on a negative damping or count.
[[nodiscard]] inline masked_weights masked_least_squares(matrix_view<float const> w, mask const& kept,
                                                         matrix_view<double const> gram,
                                                         masked_least_squares_config const& config = {},
                                                         context const& ctx = {}) {
  detail::require_fit(w, kept, gram.rows(), "masked_least_squares");
  if (config.max_iterations < 0)
    throw config_error(message("masked_least_squares: max_iterations ", config.max_iterations, ", needed is >= 0"));
  matrix<float> start(w);
  kept.apply_to(start.view());
  return detail::solve_on_support(w, std::move(start), kept, normalized_hessian(gram, config.damping, ctx), config, ctx);
}

/// The same for a calibration with a Gram matrix. @throws config_error without one, and before the first token.
[[nodiscard]] inline masked_weights masked_least_squares(matrix_view<float const> w, mask const& kept, calibration const& calib,
                                                         masked_least_squares_config const& config = {},
                                                         context const& ctx = {}) {
  require_channels(calib, w.cols(), "masked_least_squares");
  require_observed(calib, "masked_least_squares");
  return masked_least_squares(w, kept, calib.gram(), config, ctx);
}

} // namespace SLIM_ABI
} // namespace slim
