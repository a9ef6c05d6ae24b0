// Compressed layers, packed, against their dense weights in double.
#include "slim/kernels/packed_linear.hpp"

#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Largest error of the packed layer's outputs, relative to the largest output of the dense weight.
double error_of(packed_linear const& packed, matrix<float> const& dense, input_precision inputs, index_t tokens) {
  matrix<float> const x = normal_matrix(tokens, dense.cols(), 3);
  matrix<float> y(tokens, dense.rows());
  matmul_into(packed, x.view(), y.view(), {.inputs = inputs});
  double error = 0, size = 0;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t i = 0; i < dense.rows(); ++i) {
      double sum = 0;
      for (index_t j = 0; j < dense.cols(); ++j) sum += static_cast<double>(x(t, j)) * static_cast<double>(dense(i, j));
      error = std::max(error, std::abs(static_cast<double>(y(t, i)) - sum));
      size = std::max(size, std::abs(sum));
    }
  return error / size;
}

template <class Layer>
void check_layer(Layer const& layer, mask const* kept) {
  matrix<float> const dense = decompress(layer);
  packed_linear const packed = pack_linear(layer.codes, kept, &layer.low_rank);
  for (index_t const tokens : {1, 9}) {
    CHECK(error_of(packed, dense, input_precision::exact, tokens) < 1e-5);
    CHECK(error_of(packed, dense, input_precision::int16, tokens) < 5e-4);
    CHECK(error_of(packed, dense, input_precision::int8, tokens) < 2e-2);
  }
}

} // namespace

TEST_CASE("a packed 2:4 layer with adapters in 4 bits or floats computes what its dense weight computes") {
  matrix<float> const w = normal_matrix(70, 200, 1);
  calibration const seen = observed(normal_matrix(300, 200, 2));
  auto const codes = slim_quantizer({.bits = 4, .block = per_group(128), .scale_format = number_format::fp16});
  auto const sparse = nm_pruner<2, 4>(wanda{});
  auto const lora = slim_lora({.rank = {.number = 20}});
  absmax_quantizer const rounding({.bits = 4, .block = per_column_group(128), .scale_format = number_format::fp16});
  auto const floats = compress(w, seen, chain(codes, sparse, lora));
  check_layer(floats, &floats.kept);
  auto const four_bits = compress(w, seen, chain(codes, sparse, quantized_adapter(lora, rounding)));
  check_layer(four_bits, &four_bits.kept);
  packed_linear const packed = pack_linear(four_bits.codes, &four_bits.kept, &four_bits.low_rank);
  CHECK(packed.rank() == 20);
  CHECK(packed.byte_size() < pack_linear(floats.codes, &floats.kept, &floats.low_rank).byte_size());
}

TEST_CASE("codes have a transpose, blocks and zero points with them") {
  matrix<float> const w = normal_matrix(7, 50, 5);
  absmax_quantizer const rounding({.bits = 3, .block = per_group(16), .symmetric = false});
  integer_codes const codes = rounding.quantize(w.view(), calibration(50));
  integer_codes const turned = transposed(codes);
  for (index_t i = 0; i < 7; ++i)
    for (index_t j = 0; j < 50; ++j) REQUIRE(turned.value(j, i) == codes.value(i, j));
  integer_codes scaled = codes;
  scaled.channel_factors.assign(50, 2.0f);
  CHECK_THROWS_AS(transposed(scaled), config_error);
}
