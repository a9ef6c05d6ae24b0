#pragma once
/// @file
/// The weight a layer should have had: where the inputs of a layer come from an already compressed model, W itself is no
/// longer the best thing to aim at.

#include "slim/calibration/hessian.hpp"
#include "slim/linalg/cholesky.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// W~ = W + (H + damping * mean(diag H) I)^-1 X^T (Y - X W^T) / tokens, transposed to (d_out x d_in): the ridge regression of
/// the observed targets Y on X, shrunk towards W. With Y from the uncompressed model this is the asymmetric target of GPTAQ
/// (arXiv 2504.02692); with the drift of the residual stream added to Y it also repairs what earlier layers left behind.
/// d_in^3 / 3 + 3 d_out d_in^2 multiply-adds. @throws shape_error unless the calibration observed d_out outputs; config_error
/// if it has no Gram matrix or damping is not positive.
template <std::same_as<float> T>
[[nodiscard]] matrix<T> target_weight(matrix_view<T const> w, calibration const& calib, double damping = 0.5,
                                      context const& ctx = {}) {
  require_channels(calib, w.cols(), "target_weight");
  if (calib.cross().cols() != w.rows())
    throw shape_error(message("target_weight: W has ", w.rows(), " outputs, the calibration observed ", calib.cross().cols()));
  if (!calib.has_gram()) throw config_error("target_weight: needs a calibration with {.gram = true}");
  if (!(damping > 0.0)) throw config_error(message("target_weight: damping ", damping, ", needed is > 0"));
  matrix<T> h = hessian(calib, damping, ctx);
  matrix<T> moved(w.cols(), w.rows(), uninitialized), predicted(w.cols(), w.rows(), uninitialized);
  matrix<T> const plain = hessian(calib, 0.0, ctx);
  gemm_into(plain.view(), transposed(w), predicted.view(), ctx.in_fp32());
  double const unit = mean_channel_energy(calib);
  if (!(unit > 0.0)) return matrix<T>(w); // nothing went in, nothing can be aimed at
  double const per_token = 1.0 / (unit * static_cast<double>(calib.tokens()));
  auto const cross = calib.cross();
  ctx.parallel_for(moved.rows(), 64, [&](index_t begin, index_t end) {
    for (index_t j = begin; j < end; ++j)
      for (index_t i = 0; i < moved.cols(); ++i)
        moved(j, i) = static_cast<T>(cross(j, i) * per_token - static_cast<double>(predicted(j, i)));
  });
  if (!cholesky_inplace(h.view(), ctx))
    throw nonfinite_error("target_weight: the damped Gram matrix is not positive definite; raise the damping");
  solve_lower_inplace<T>(h.view(), moved.view(), ctx);
  solve_lower_transposed_inplace<T>(h.view(), moved.view(), ctx);
  matrix<T> out(w);
  ctx.parallel_for(out.rows(), 64, [&](index_t begin, index_t end) {
    for (index_t j = 0; j < out.cols(); ++j)
      for (index_t i = begin; i < end; ++i) out(i, j) += moved(j, i);
  });
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
