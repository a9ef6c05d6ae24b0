#pragma once
/// @file
/// What a bias has to make up for when weights change: the mean of the output's error (Nagel et al., arXiv 1906.04721, section
/// 4.2, with observed means).

#include "slim/calibration/calibration.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// (W - W_c) mean(x), one number per output: added to the layer's bias it makes the mean output on the calibration tokens what
/// it was. W and W_c are d_out x d_in. Double sums. @throws shape_error; config_error before the first token, and without the
/// means.
[[nodiscard]] inline std::vector<float> bias_correction(matrix_view<float const> w, matrix_view<float const> w_c,
                                                        calibration const& calib) {
  require_channels(calib, w.cols(), "bias_correction");
  require_observed(calib, "bias_correction");
  require_known(calib, statistic::mean, "bias_correction");
  if (w.rows() != w_c.rows() || w.cols() != w_c.cols())
    throw shape_error(message("bias_correction: W is ", w.rows(), " x ", w.cols(), ", W_c ", w_c.rows(), " x ", w_c.cols()));
  std::vector<double> const mean = calib.mean();
  std::vector<float> by;
  for (index_t i = 0; i < w.rows(); ++i) {
    double sum = 0;
    for (index_t j = 0; j < w.cols(); ++j)
      sum += (static_cast<double>(w(i, j)) - static_cast<double>(w_c(i, j))) * mean[static_cast<std::size_t>(j)];
    by.push_back(static_cast<float>(sum));
  }
  return by;
}

} // namespace SLIM_ABI
} // namespace slim
