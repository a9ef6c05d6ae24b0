// What a user's first program does: hand over an Eigen weight and activations, get a compressed layer back.
#include <slim/slim.hpp>

#include <Eigen/Core>

#include <cstdio>

#if defined(EXPECT_OPENMP) && EXPECT_OPENMP != 1 && defined(_OPENMP)
#error "this project did not ask for OpenMP"
#endif
#if defined(EXPECT_OPENMP) && EXPECT_OPENMP == 1 && !defined(_OPENMP)
#error "slim::slim should have brought OpenMP"
#endif

int main() {
  Eigen::MatrixXf const W = Eigen::MatrixXf::Random(48, 64), X = Eigen::MatrixXf::Random(200, 64);
  slim::calibration calib(64);
  calib.observe(X);
  auto const layer = slim::compress(W, calib,
                                    slim::chain(slim::slim_quantizer({.bits = 4}), slim::nm_pruner<2, 4>(slim::wanda{}),
                                                slim::slim_lora({.rank = {.ratio = 0.25}})));
  auto const& steps = layer.report.steps;
  slim::matrix<float> const dense = slim::decompress(layer);
  double error = 0;
  for (Eigen::Index i = 0; i < 48; ++i)
    for (Eigen::Index j = 0; j < 64; ++j) error += static_cast<double>((dense(i, j) - W(i, j)) * (dense(i, j) - W(i, j)));
  error = std::sqrt(error) / static_cast<double>(W.norm());
  bool const right = steps.size() == 3 && steps[1].sparsity == 0.5 && layer.adapter.rank() == 12 &&
                     steps[2].output_error < steps[1].output_error && std::abs(error - steps[2].relative_error) < 1e-4;
  std::printf("consumer: %s, relative error %.4f\n", right ? "right" : "wrong", error);
  return right ? 0 : 1;
}
