#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/testing/input_quantizer_laws.hpp"
#include "slim/testing/quantizer_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("absmax keeps the laws at every granularity, with and without zero point") {
  bool const symmetric = GENERATE(true, false);
  for (scale_block const block :
       {per_tensor, per_channel, per_group(16), per_group(7), per_column_group(5), scale_block{.rows = 4, .cols = 8}})
    CHECK(describe(check_quantizer(absmax_quantizer({.bits = 4, .block = block, .symmetric = symmetric}))) == "");
}

TEST_CASE("absmax keeps the laws for 2, 3 and 8 bits and 16-bit scales") {
  bool const symmetric = GENERATE(true, false);
  for (int const bits : {2, 3, 8})
    CHECK(describe(check_quantizer(absmax_quantizer({.bits = bits, .symmetric = symmetric}))) == "");
  for (number_format const format : {number_format::bf16, number_format::fp16})
    CHECK(describe(check_quantizer(
              absmax_quantizer({.bits = 4, .block = per_group(32), .symmetric = symmetric, .scale_format = format}))) == "");
}

TEST_CASE("slim_quantizer keeps the laws in all its forms") {
  for (int const bits : {2, 4, 8}) CHECK(describe(check_quantizer(slim_quantizer({.bits = bits}))) == "");
  CHECK(describe(check_quantizer(slim_quantizer({.block = scale_block{.rows = 7}, .search = scale_search::reference}))) == "");
  CHECK(describe(check_quantizer(slim_quantizer({.block = per_group(16), .output_weighted = true}))) == "");
  CHECK(describe(check_quantizer(slim_quantizer({.outlier_share = 0.1}))) == "");
  CHECK(describe(check_quantizer(
            slim_quantizer({.block = per_channel, .outlier_share = 1.0, .scale_format = number_format::fp16}))) == "");
}

TEST_CASE("slim_quantizer keeps the laws on matrices that go through a histogram") {
  std::vector<named_matrix> large;
  large.push_back({"normal", normal_matrix(200, 331, 5)});
  large.push_back({"bf16", mapped(large[0].values, [](float x) { return static_cast<float>(bf16(x)); })});
  large.push_back({"tiny", mapped(large[0].values, [](float x) { return x * 1e-36f; })});
  large.push_back({"huge", mapped(large[0].values, [](float x) { return x * 1e36f; })});
  large.push_back({"one outlier", large[0].values});
  large.back().values(199, 330) = 1e6f;
  CHECK(describe(check_quantizer(slim_quantizer({.bits = 3, .output_weighted = true, .candidates = 2000}), large)) == "");
}

TEST_CASE("input quantizers keep the laws") {
  CHECK(describe(check_input_quantizer(int8_input(), 1.0 / 254)) == "");
  CHECK(describe(check_input_quantizer(fp8_input(fp8_format::e4m3), 1.0 / 16)) == "");
  CHECK(describe(check_input_quantizer(fp8_input(fp8_format::e5m2), 1.0 / 8)) == "");
  CHECK(describe(check_input_quantizer(fp8_input(), 1.0 / 8)) == "");
}
