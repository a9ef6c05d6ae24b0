#include "slim/quantization/absmax.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

#include <map>

using namespace slim;
using namespace slim::testing;

namespace {

/// Nearest integer, ties to even, in double.
double nearest(double x) {
  double const below = std::floor(x), rest = x - below;
  if (rest != 0.5) return rest < 0.5 ? below : below + 1;
  return std::fmod(below, 2) == 0 ? below : below + 1;
}

/// A literal absmax: blocks found by dividing positions, one pass for ranges, one for codes.
struct literal {
  std::map<std::pair<index_t, index_t>, std::pair<double, double>> range;
  matrix<double> values;
  std::map<std::pair<index_t, index_t>, double> scale;

  literal(matrix<float> const& w, absmax_config const& c) : values(w.rows(), w.cols()) {
    auto const key = [&](index_t i, index_t j) {
      return std::pair(c.block.rows == 0 ? 0 : i / c.block.rows, c.block.cols == 0 ? 0 : j / c.block.cols);
    };
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        auto& [low, high] = range[key(i, j)];
        low = std::min(low, static_cast<double>(w(i, j)));
        high = std::max(high, static_cast<double>(w(i, j)));
      }
    double const top = std::pow(2, c.bits - 1) - 1, bottom = -std::pow(2, c.bits - 1);
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        auto const [low, high] = range[key(i, j)];
        double const s = c.symmetric ? std::max(-low, high) / top : (high - low) / (std::pow(2, c.bits) - 1);
        scale[key(i, j)] = s;
        if (s == 0) continue;
        double const zero = c.symmetric ? 0 : nearest(-low / s) + bottom;
        double const code = std::clamp(nearest(static_cast<double>(w(i, j)) / s) + zero, bottom, top);
        values(i, j) = (code - zero) * s;
      }
  }
};

} // namespace

TEST_CASE("absmax is a literal re-implementation in double, at every granularity and width") {
  int const bits = GENERATE(2, 3, 4, 5, 6, 7, 8);
  bool const symmetric = GENERATE(true, false);
  matrix<float> const w = normal_matrix(19, 45, static_cast<std::uint64_t>(bits), 0.05f);
  for (scale_block const block : {per_tensor, per_channel, per_group(16), per_group(45), per_group(1000), per_column_group(6),
                                  scale_block{.rows = 5, .cols = 10}}) {
    absmax_config const config{.bits = bits, .block = block, .symmetric = symmetric};
    integer_codes const codes = absmax_quantizer(config).quantize(w.view(), calibration(45));
    literal const expected(w, config);
    REQUIRE(codes.scales.size() == static_cast<index_t>(expected.scale.size()));
    int other_side = 0;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        double const step = static_cast<double>(codes.scale_at(i, j)), value = static_cast<double>(codes.value(i, j));
        if (std::abs(value - expected.values(i, j)) <= 1e-6 * step * 256) continue;
        // Only a weight within float rounding of a threshold may go to the other side of it.
        CHECK(std::abs(std::abs(static_cast<double>(w(i, j)) - value) - step / 2) <= 1e-4 * step);
        ++other_side;
      }
    CHECK(other_side <= 2);
  }
}

TEST_CASE("symmetric absmax gives the largest weight the highest code, and never the lowest") {
  for (named_matrix const& w : hard_shapes(4)) {
    integer_codes const codes =
        absmax_quantizer({.bits = 4, .block = per_channel}).quantize(w.values.view(), calibration(w.values.cols()));
    for (index_t i = 0; i < w.values.rows(); ++i) {
      int largest = 0;
      for (index_t j = 0; j < w.values.cols(); ++j) {
        largest = std::max(largest, std::abs(int{codes.codes(i, j)}));
        CHECK(codes.codes(i, j) >= -7);
      }
      if (w.values.cols() > 0) CHECK(largest == 7);
    }
  }
}

TEST_CASE("ties round to even codes") {
  matrix<float> w(1, 8);
  float const values[] = {7, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 6.5f};
  std::copy(std::begin(values), std::end(values), w.data());
  integer_codes const codes = absmax_quantizer({.bits = 4, .block = per_tensor}).quantize(w.view(), calibration(8));
  CHECK(codes.scales(0, 0) == 1.0f);
  int const expected[] = {7, 0, 2, 2, 0, -2, -2, 6};
  for (index_t j = 0; j < 8; ++j) CHECK(int{codes.codes(0, j)} == expected[j]);
}

TEST_CASE("a block of zeros gets scale 0 and codes 0, others are not touched by it") {
  matrix<float> w = normal_matrix(2, 12, 5);
  for (index_t j = 4; j < 8; ++j) w(0, j) = 0.0f;
  bool const symmetric = GENERATE(true, false);
  integer_codes const codes =
      absmax_quantizer({.bits = 4, .block = per_group(4), .symmetric = symmetric}).quantize(w.view(), calibration(12));
  CHECK(codes.scales(0, 1) == 0.0f);
  for (index_t j = 4; j < 8; ++j) CHECK((codes.codes(0, j) == 0 && codes.value(0, j) == 0.0f));
  CHECK(codes.scales(0, 0) > 0.0f);
  CHECK(codes.scales(1, 1) > 0.0f);
}

TEST_CASE("with a zero point, weights of one sign use all codes") {
  matrix<float> w(1, 16);
  for (index_t j = 0; j < 16; ++j) w(0, j) = static_cast<float>(j);
  integer_codes const codes =
      absmax_quantizer({.bits = 4, .block = per_tensor, .symmetric = false}).quantize(w.view(), calibration(16));
  for (index_t j = 0; j < 16; ++j) {
    CHECK(int{codes.codes(0, j)} == j - 8);
    CHECK(codes.value(0, j) == static_cast<float>(j));
  }
}

TEST_CASE("scales are snapped before weights are rounded to them") {
  matrix<float> const w = normal_matrix(4, 32, 6);
  number_format const format = GENERATE(number_format::bf16, number_format::fp16);
  integer_codes const exact = absmax_quantizer({.block = per_channel}).quantize(w.view(), calibration(32));
  integer_codes const snapped =
      absmax_quantizer({.block = per_channel, .scale_format = format}).quantize(w.view(), calibration(32));
  for (index_t i = 0; i < 4; ++i) {
    float const scale = snapped.scales(i, 0);
    CHECK(scale == rounded_to(format, exact.scales(i, 0)));
    for (index_t j = 0; j < 32; ++j)
      CHECK(int{snapped.codes(i, j)} == static_cast<int>(std::clamp(nearest(static_cast<double>(w(i, j) / scale)), -8.0, 7.0)));
  }
  CHECK(snapped.stored_bits() == 4 * 32 * 4 + 4 * 16);
  CHECK(exact.stored_bits() == 4 * 32 * 4 + 4 * 32);
}

TEST_CASE("a snapped scale neither overflows nor becomes 0") {
  matrix<float> w(2, 1);
  w(0, 0) = 1e30f, w(1, 0) = 1e-30f;
  integer_codes const half =
      absmax_quantizer({.block = per_channel, .scale_format = number_format::fp16}).quantize(w.view(), calibration(1));
  CHECK(half.scales(0, 0) == 65504.0f);
  CHECK(half.scales(1, 0) == 0x1p-24f);
  CHECK(int{half.codes(0, 0)} == 7); // clipped
  CHECK(int{half.codes(1, 0)} == 0);
  w(0, 0) = 3.4e38f, w(1, 0) = 1e-44f;
  integer_codes const brain = absmax_quantizer({.bits = 2, .block = per_channel, .scale_format = number_format::bf16})
                                  .quantize(w.view(), calibration(1));
  CHECK(std::isfinite(brain.scales(0, 0)));
  CHECK(brain.scales(1, 0) > 0.0f);
}

TEST_CASE("stored bits: codes, scales of ragged groups, zero points") {
  matrix<float> const w = normal_matrix(3, 130, 7);
  integer_codes const symmetric = absmax_quantizer({.bits = 4, .block = per_group(128), .scale_format = number_format::fp16})
                                      .quantize(w.view(), calibration(130));
  CHECK(symmetric.stored_bits() == 390 * 4 + 3 * 2 * 16);
  CHECK(bits_per_weight(symmetric) == 4 + 96.0 / 390);
  integer_codes const shifted =
      absmax_quantizer({.bits = 3, .block = per_group(128), .symmetric = false}).quantize(w.view(), calibration(130));
  CHECK(shifted.stored_bits() == 390 * 3 + 3 * 2 * (32 + 3));
  CHECK(bits_per_weight(absmax_quantizer().quantize(matrix<float>(0, 5).view(), calibration(5))) == 0.0);
}

TEST_CASE("widths outside 2 to 8 bits and negative blocks are refused") {
  CHECK_THROWS_AS(absmax_quantizer({.bits = 1}), config_error);
  CHECK_THROWS_AS(absmax_quantizer({.bits = 9}), config_error);
  CHECK_THROWS_AS(absmax_quantizer({.block = per_group(-1)}), config_error);
  CHECK_NOTHROW(absmax_quantizer({.block = per_group(std::numeric_limits<index_t>::max())})
                    .quantize(normal_matrix(2, 3, 1).view(), calibration(3)));
}

TEST_CASE("codes refuse a destination and a source of another shape") {
  integer_codes codes = absmax_quantizer().quantize(normal_matrix(2, 3, 1).view(), calibration(3));
  matrix<float> wrong(3, 2);
  CHECK_THROWS_AS(codes.dequantize_into(wrong.view()), shape_error);
  CHECK_THROWS_AS(codes.encode(wrong.view()), shape_error);
}

TEST_CASE("weights that are NaN get the value 0 and do not disturb the scale") {
  matrix<float> w = normal_matrix(1, 8, 9);
  integer_codes const clean = absmax_quantizer().quantize(w.view(), calibration(8));
  w(0, 0) = std::numeric_limits<float>::quiet_NaN();
  bool const symmetric = GENERATE(true, false);
  integer_codes const codes = absmax_quantizer({.symmetric = symmetric}).quantize(w.view(), calibration(8));
  CHECK(codes.value(0, 0) == 0.0f);
  CHECK(codes.scales(0, 0) > 0.0f);
}
