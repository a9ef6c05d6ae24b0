/// Run a compressed layer: 2:4 codes of 4 bits and an adapter of 4-bit codes, multiplied as they are stored. The instruction
/// set is chosen at run time; compile with whatever flags your program has.

#include <slim/slim.hpp>

#include <Eigen/Core>

#include <cstdio>

int main() {
  Eigen::MatrixXf const W = Eigen::MatrixXf::Random(768, 1024), X = Eigen::MatrixXf::Random(512, 1024);
  slim::calibration calib(W.cols());
  calib.observe(X);

  // Scales that the kernels read are fp16; factors of adapters have theirs along the dimension that is summed over.
  slim::absmax_quantizer const codes({.bits = 4, .block = slim::per_group(128), .scale_format = slim::number_format::fp16});
  slim::absmax_quantizer const factor_codes(
      {.bits = 4, .block = slim::per_column_group(128), .scale_format = slim::number_format::fp16});
  auto const layer = slim::compress(
      W, calib,
      slim::chain(slim::nm_pruner<2, 4>(slim::wanda{}), codes, slim::quantized_adapter(slim::slim_lora(), factor_codes)));

  slim::packed_linear const packed = slim::pack(layer);
  std::printf("%td bytes instead of %td as 16-bit floats\n", packed.byte_size(), W.size() * 2);

  slim::matrix<float> const dense = slim::decompress(layer);
  using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::MatrixXf const expected = X * Eigen::Map<rows const>(dense.data(), dense.rows(), dense.cols()).transpose();
  Eigen::MatrixXf Y(X.rows(), W.rows());
  float worst = 0;
  for (auto const inputs : {slim::input_precision::int8, slim::input_precision::int16, slim::input_precision::exact}) {
    slim::forward_into(packed, X, Y, {.inputs = inputs});
    worst = (Y - expected).norm() / expected.norm();
    std::printf("inputs %s: relative error %.1e\n",
                inputs == slim::input_precision::int8    ? "in 8 bits"
                : inputs == slim::input_precision::int16 ? "in 16 bits"
                                                         : "as floats",
                static_cast<double>(worst));
  }
  return worst < 1e-5f ? 0 : 1;
}
