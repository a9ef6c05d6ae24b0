#pragma once
/// @file
/// How much a change of the weights changes the layer's output on the calibration tokens.

#include "slim/calibration/hessian.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// ||X E^T||_F^2 over the calibration tokens, E (d_out x d_in): tr(E X^T X E^T). With a Gram matrix this is exact; without,
/// channels are taken as uncorrelated, sum_ij e_ij^2 sum_t x_tj^2. Double sums over rows in order; O(d_out d_in^2) or
/// O(d_out d_in). @throws shape_error
inline double output_energy(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) {
  require_channels(calib, e.cols(), "output_energy");
  if (calib.has_gram()) {
    auto const sums = calib.gram();
    matrix<float> gram(sums.rows(), sums.cols(), uninitialized);
    ctx.parallel_for(sums.rows(), 64, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < sums.cols(); ++j) gram(i, j) = static_cast<float>(sums(i, j));
    });
    return hessian_energy(e, gram.view(), ctx);
  }
  constexpr index_t rows_per_task = 16;
  std::vector<double> row_energy(static_cast<std::size_t>(e.rows()));
  std::vector<double> const weight = calib.mean_square();
  double const tokens = static_cast<double>(calib.tokens());
  ctx.parallel_for(e.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < e.cols(); ++j) {
        double const value = static_cast<double>(e(i, j));
        row_energy[static_cast<std::size_t>(i)] += tokens * weight[static_cast<std::size_t>(j)] * value * value;
      }
  });
  double energy = 0;
  for (double const row : row_energy) energy += row;
  return energy;
}

} // namespace SLIM_ABI
} // namespace slim
