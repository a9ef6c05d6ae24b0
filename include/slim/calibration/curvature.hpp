#pragma once
/// @file
/// The curvature of the layer's output error in the weights: ||X E^T||^2 / tokens = tr(E H E^T) with H = X^T X / tokens. What
/// GPTQ, SparseGPT, QERA and everything in joint/ call the Hessian.

#include "slim/calibration/calibration.hpp"

namespace slim::inline SLIM_ABI {

/// Mean over input channels of the mean square activation: the unit in which curvature() is given. 0 if no channel ever moved.
[[nodiscard]] inline double mean_channel_energy(calibration const& seen) {
  std::vector<double> const squares = seen.mean_square();
  return squares.empty() ? 0.0 : std::accumulate(squares.begin(), squares.end(), 0.0) / static_cast<double>(squares.size());
}

/// H / mean(diag H) + damping * I as float (d_in x d_in): its diagonal is 1 + damping on average, whatever the activations'
/// scale. Without a Gram matrix channels are taken as uncorrelated; if no channel ever moved, the identity. Positive definite
/// to rounding for damping > 0. @throws config_error before the first token, or if damping is negative or not a number.
[[nodiscard]] inline matrix<float> curvature(calibration const& seen, double damping) {
  require_observed(seen, "curvature");
  if (!(damping >= 0.0)) throw config_error(message("curvature: damping ", damping, " is negative or not a number"));
  index_t const n = seen.channels();
  double const unit = mean_channel_energy(seen);
  matrix<float> h(n, n);
  if (!(unit > 0.0)) {
    for (index_t j = 0; j < n; ++j) h(j, j) = 1.0f;
    return h;
  }
  if (seen.has_gram()) {
    double const scale = 1.0 / (unit * static_cast<double>(seen.tokens()));
    auto const gram = seen.gram();
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) h(i, j) = static_cast<float>(gram(i, j) * scale + (i == j ? damping : 0.0));
  } else {
    std::vector<double> const squares = seen.mean_square();
    for (index_t j = 0; j < n; ++j) h(j, j) = static_cast<float>(squares[static_cast<std::size_t>(j)] / unit + damping);
  }
  return h;
}

/// tr(E H E^T), E (d_out x d_in), H symmetric. Double sums of float products. O(d_out d_in^2). @throws shape_error
[[nodiscard]] inline double energy_under(matrix_view<float const> e, matrix_view<float const> h, context const& ctx = {}) {
  matrix<float> product(e.rows(), e.cols());
  gemm_into(e, h, product.view(), ctx);
  constexpr index_t rows_per_task = 16;
  std::vector<double> row_energy(static_cast<std::size_t>(e.rows()));
  ctx.parallel_for(e.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < e.cols(); ++j)
        row_energy[static_cast<std::size_t>(i)] += static_cast<double>(product(i, j)) * static_cast<double>(e(i, j));
  });
  return std::max(std::accumulate(row_energy.begin(), row_energy.end(), 0.0), 0.0); // rounding may fall below zero
}

} // namespace slim::inline SLIM_ABI
