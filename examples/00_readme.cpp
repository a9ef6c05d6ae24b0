// The example of the README; tests/docs compares the two. W and X stand for a layer's weights and inputs.
// [readme]
#include <slim/slim.hpp>

#include <Eigen/Core>

#include <cstdio>

int main() {
  Eigen::MatrixXf const W = Eigen::MatrixXf::Random(256, 512); // d_out x d_in, as in a PyTorch nn.Linear
  slim::calibration calib(W.cols(), {.gram = true});
  for (int batch = 0; batch < 4; ++batch) {
    Eigen::MatrixXf const X = Eigen::MatrixXf::Random(256, W.cols()); // tokens x d_in
    calib.observe(X);
  }
  auto const recipe = slim::chain(slim::slim_quantizer({.bits = 4}),          // 4-bit codes
                                  slim::nm_pruner<2, 4>(slim::wanda{}),       // half of them dropped, 2 of every 4
                                  slim::slim_lora({.rank = {.ratio = 0.1}})); // low-rank repair of both errors
  auto const layer = slim::compress(W, calib, recipe);
  for (auto const& step : layer.report.steps)
    std::printf("%s: output error %.3f, %.2f bits per weight\n", step.step.c_str(), step.output_error, step.bits_per_weight);

  auto const packed = slim::pack(layer); // 3 bits per weight, and the adapter
  Eigen::MatrixXf const X = Eigen::MatrixXf::Random(3, W.cols());
  Eigen::MatrixXf Y(3, W.rows());
  slim::forward_into(packed, X, Y); // Y = X W_c^T + (X L) R, on the codes
  return layer.report.last().output_error < layer.report.steps[1].output_error ? 0 : 1;
}
// [/readme]
