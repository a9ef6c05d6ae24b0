/// Compress a layer that lives in Eigen matrices, and check the report against Eigen's own arithmetic.
///
/// The layer is synthetic: heavy-tailed weights, and input channels of very different size, as language models have them.

#include <slim/slim.hpp>

#include <Eigen/Core>

#include <cmath>
#include <cstdio>

namespace {

Eigen::MatrixXf synthetic_weights(slim::index_t d_out, slim::index_t d_in) {
  return Eigen::MatrixXf::NullaryExpr(d_out, d_in, [&](slim::index_t i, slim::index_t j) {
    double const x = slim::random_normal(1, static_cast<std::uint64_t>(i * d_in + j));
    return static_cast<float>(0.02 * x * std::abs(x));
  });
}

Eigen::MatrixXf synthetic_inputs(slim::index_t tokens, slim::index_t d_in, std::uint64_t seed) {
  return Eigen::MatrixXf::NullaryExpr(tokens, d_in, [&](slim::index_t t, slim::index_t j) {
    double const size = std::exp(slim::random_normal(7, static_cast<std::uint64_t>(j))); // the same for all tokens
    return static_cast<float>(size * slim::random_normal(seed, static_cast<std::uint64_t>(t * d_in + j)));
  });
}

} // namespace

int main() {
  Eigen::MatrixXf const W = synthetic_weights(96, 192); // column-major, Eigen's default: strides are free
  Eigen::MatrixXf const X = synthetic_inputs(512, W.cols(), 2);

  slim::calibration calib(W.cols(), {.gram = true}); // with a Gram matrix output errors are exact
  calib.observe(X.topRows(256));                     // blocks and maps are matrices, too
  calib.observe(X.bottomRows(256));

  auto const layer = slim::compress(W, calib,
                                    slim::chain(slim::slim_quantizer({.bits = 4}), slim::nm_pruner<2, 4>(slim::wanda{}),
                                                slim::slim_lora({.rank = {.ratio = 0.1}})));
  for (auto const& step : layer.report.steps)
    std::printf("%-55s weight error %.4f, output error %.4f, %5.2f bits per weight\n", step.step.c_str(), step.relative_error,
                step.output_error, step.bits_per_weight);

  // The result owns its storage; Eigen sees it through a map.
  using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  slim::matrix<float> const dense = slim::decompress(layer);
  Eigen::Map<rows const> const W_c(dense.data(), dense.rows(), dense.cols());
  float const measured = (X * (W - W_c).transpose()).norm() / (X * W.transpose()).norm();
  double const reported = layer.report.last().output_error;
  std::printf("output error by Eigen: %.4f\n", static_cast<double>(measured));
  return std::abs(static_cast<double>(measured) - reported) < 1e-3 * reported ? 0 : 1;
}
