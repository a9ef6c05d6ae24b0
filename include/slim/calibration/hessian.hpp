#pragma once
/// @file
/// The Hessian of a layer's output error in its weights: ||X E^T||^2 / tokens = tr(E H E^T) with H = X^T X / tokens, as GPTQ,
/// SparseGPT and QERA use it. Two forms: `hessian` for error feedback and low-rank solvers, damped and in units of the mean
/// channel energy; `normalized_hessian` for pruning solvers, scaled to a unit diagonal.

#include "slim/calibration/calibration.hpp"
#include "slim/core/finite.hpp"
#include "slim/linalg/structured_products.hpp"

#include <cmath>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Mean over input channels of the mean square activation: the unit of hessian(). 0 if no channel ever moved.
[[nodiscard]] inline double mean_channel_energy(calibration const& calib) {
  std::vector<double> const squares = calib.mean_square();
  return squares.empty() ? 0.0 : std::accumulate(squares.begin(), squares.end(), 0.0) / static_cast<double>(squares.size());
}

/// H / mean(diag H) + damping * I as float (d_in x d_in): its diagonal is 1 + damping on average, whatever the activations'
/// scale. Without a Gram matrix channels are taken as uncorrelated; if no channel ever moved, the identity. Positive definite
/// to rounding for damping > 0. @throws config_error before the first token, or if damping is negative or not a number.
[[nodiscard]] inline matrix<float> hessian(calibration const& calib, double damping, context const& ctx = {}) {
  require_observed(calib, "hessian");
  if (!(damping >= 0.0)) throw config_error(message("hessian: damping ", damping, " is negative or not a number"));
  index_t const n = calib.channels();
  double const unit = mean_channel_energy(calib);
  if (unit > 0.0 && calib.has_gram()) {
    matrix<float> h(n, n, uninitialized);
    double const scale = 1.0 / (unit * static_cast<double>(calib.tokens()));
    auto const gram = calib.gram();
    ctx.parallel_for(n, 64, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < n; ++j) h(i, j) = static_cast<float>(gram(i, j) * scale + (i == j ? damping : 0.0));
    });
    return h;
  }
  matrix<float> h(n, n);
  std::vector<double> const squares = calib.mean_square();
  for (index_t j = 0; j < n; ++j)
    h(j, j) = unit > 0.0 ? static_cast<float>(squares[static_cast<std::size_t>(j)] / unit + damping) : 1.0f;
  return h;
}

/// tr(E H E^T), E (d_out x d_in), H symmetric. Double sums of float products. d_out d_in^2 / 2 multiply-adds. @throws
/// shape_error
[[nodiscard]] inline double hessian_energy(matrix_view<float const> e, matrix_view<float const> h, context const& ctx = {}) {
  std::vector<double> const row_energy = row_energies(e, h, ctx);
  return std::max(std::accumulate(row_energy.begin(), row_energy.end(), 0.0), 0.0); // rounding may fall below zero
}

/// C = G + damping * mean(diag G) * I for a Gram matrix G = X^T X, held as C = diag(s) H diag(s) with a unit diagonal of H:
/// float products with H lose nothing to outlier channels, and conjugate gradients on it are preconditioned by the diagonal of
/// C. tr(E C E^T) = unit * ||E~ F||_F^2 with E~ = E diag(scale) and F F^T = H. Channels with C_jj = 0 have scale, inverse and
/// H_jj 0.
struct normalized_hessian {
  matrix<float> h;             ///< (d_in, d_in)
  std::vector<double> scale;   ///< sqrt(C_jj) relative to the largest, in [0, 1]
  std::vector<double> inverse; ///< 1 / scale, 0 where scale is 0
  double unit = 0;             ///< largest C_jj

  /// @throws shape_error if G is not square; config_error if damping is negative or not finite; nonfinite_error if the diagonal
  /// of G is not finite.
  normalized_hessian(matrix_view<double const> gram, double damping, context const& ctx = {})
      : h(gram.rows(), gram.cols()), scale(static_cast<std::size_t>(gram.rows())), inverse(scale.size()) {
    if (gram.rows() != gram.cols())
      throw shape_error(message("normalized_hessian: the Gram matrix is ", gram.rows(), " x ", gram.cols()));
    if (!(damping >= 0.0) || !detail::is_finite(damping)) throw config_error(message("normalized_hessian: damping ", damping));
    set_scale(gram, damping);
    ctx.parallel_for(h.rows(), 32, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        double const left = inverse[static_cast<std::size_t>(i)] / (unit > 0.0 ? unit : 1.0);
        for (index_t j = 0; j < h.cols(); ++j)
          h(i, j) = static_cast<float>(gram(i, j) * left * inverse[static_cast<std::size_t>(j)]);
        if (left > 0.0) h(i, i) = 1.0f;
      }
    });
  }

  [[nodiscard]] index_t channels() const noexcept { return h.rows(); }

  /// tr(E C E^T), row by row, for E~ = E diag(scale) as rows: double sums of a float product.
  [[nodiscard]] std::vector<double> row_errors(matrix<float> const& scaled_change, context const& ctx) const {
    std::vector<double> errors = row_energies(scaled_change.view(), h.view(), ctx);
    for (double& e : errors) e = std::max(e, 0.0) * unit;
    return errors;
  }

private:
  void set_scale(matrix_view<double const> gram, double damping) {
    double mean = 0;
    for (index_t j = 0; j < gram.rows(); ++j) {
      if (!detail::is_finite(gram(j, j)))
        throw nonfinite_error(message("normalized_hessian: G is ", gram(j, j), " at (", j, ", ", j, ")"));
      mean += gram(j, j) / static_cast<double>(gram.rows());
    }
    for (index_t j = 0; j < gram.rows(); ++j) {
      scale[static_cast<std::size_t>(j)] = gram(j, j) + damping * mean;
      unit = std::max(unit, scale[static_cast<std::size_t>(j)]);
    }
    for (std::size_t j = 0; j < scale.size(); ++j) {
      scale[j] = unit > 0.0 ? std::sqrt(scale[j] / unit) : 0.0;
      inverse[j] = scale[j] > 0.0 ? 1.0 / scale[j] : 0.0;
    }
  }
};

} // namespace SLIM_ABI
} // namespace slim
