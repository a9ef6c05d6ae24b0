/// The output-weighted exact step: squared errors of channel j weighted by the mean square of x_j, for every kind of block.
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// A block of a matrix: its values, and what a squared error of each costs.
struct weighted_values {
  std::vector<double> values, costs;
  double largest = 0;
};

weighted_values block_of(matrix<float> const& w, std::vector<double> const& cost, scale_block block, index_t b, index_t g) {
  index_t const tall = block.rows_of(w.rows()), wide = block.cols_of(w.cols());
  weighted_values out;
  for (index_t i = b * tall; i < std::min(w.rows(), (b + 1) * tall); ++i)
    for (index_t j = g * wide; j < std::min(w.cols(), (g + 1) * wide); ++j) {
      out.values.push_back(static_cast<double>(w(i, j)));
      out.costs.push_back(cost[static_cast<std::size_t>(j)]);
      out.largest = std::max(out.largest, std::abs(out.values.back()));
    }
  return out;
}

double brute_error(weighted_values const& block, double scale, int bits) {
  double const top = (1 << (bits - 1)) - 1, bottom = -(1 << (bits - 1));
  double error = 0;
  for (std::size_t k = 0; k < block.values.size(); ++k) {
    double const code = std::clamp(std::floor(block.values[k] / scale + 0.5), bottom, top);
    error += block.costs[k] * (block.values[k] - code * scale) * (block.values[k] - code * scale);
  }
  return error;
}

matrix<float> loud_and_quiet(index_t tokens, index_t channels, std::uint64_t seed) {
  matrix<float> x = normal_matrix(tokens, channels, seed);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < channels; ++j)
      x(t, j) *= static_cast<float>(std::exp(1.5 * random_normal(seed + 1, static_cast<std::uint64_t>(j))));
  return x;
}

} // namespace

TEST_CASE("no step of three thousand is better under output weights than the one found, in any kind of block") {
  scale_block const block = GENERATE(per_tensor, per_channel, per_group(16), per_column_group(5));
  int const bits = GENERATE(2, 3, 4, 8);
  matrix<float> const w = mapped(normal_matrix(13, 50, 1, 0.02f), [](float x) { return x + 20 * x * x * x; });
  calibration const calib = observed(loud_and_quiet(60, 50, 2));
  integer_codes const codes = slim_quantizer({.bits = bits, .block = block, .output_weighted = true}).quantize(w.view(), calib);
  std::vector<double> const cost = calib.mean_square();
  for (index_t b = 0; b < codes.scales.rows(); ++b)
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      INFO(slim::describe(block) << ", " << bits << " bits, block " << b << ", " << g);
      weighted_values const part = block_of(w, cost, block, b, g);
      double const top = (1 << (bits - 1)) - 1;
      double best = std::numeric_limits<double>::infinity();
      for (int c = 1; c <= 3000; ++c) best = std::min(best, brute_error(part, part.largest / (top - 0.5) * c / 3000, bits));
      CHECK(brute_error(part, static_cast<double>(codes.scales(b, g)), bits) <= best * 1.002);
    }
}

TEST_CASE("output weights pay: less output error than without, on uncorrelated channels, in every kind of block") {
  for (scale_block const block : {per_tensor, per_channel, per_group(16)}) {
    INFO(slim::describe(block));
    matrix<float> const w = normal_matrix(24, 64, 3, 0.02f);
    calibration const calib = observed(loud_and_quiet(200, 64, 4));
    std::vector<double> const cost = calib.mean_square();
    auto const error = [&](bool weighted) {
      integer_codes const codes =
          slim_quantizer({.bits = 3, .block = block, .output_weighted = weighted}).quantize(w.view(), calib);
      double sum = 0;
      for (index_t i = 0; i < 24; ++i)
        for (index_t j = 0; j < 64; ++j)
          sum += cost[static_cast<std::size_t>(j)] *
                 std::pow(static_cast<double>(w(i, j)) - static_cast<double>(codes.value(i, j)), 2);
      return sum;
    };
    CHECK(error(true) < error(false));
  }
}

TEST_CASE("equal channels: output weights cost nothing in squared error") {
  matrix<float> const w = normal_matrix(9, 30, 5);
  calibration const calib = observed(mapped(normal_matrix(4, 30, 6), [](float) { return 3.0f; }));
  for (scale_block const block : {per_tensor, per_channel, per_group(8)}) {
    auto const error = [&](bool weighted) {
      integer_codes const codes = slim_quantizer({.block = block, .output_weighted = weighted}).quantize(w.view(), calib);
      double sum = 0;
      for (index_t i = 0; i < 9; ++i)
        for (index_t j = 0; j < 30; ++j)
          sum += std::pow(static_cast<double>(w(i, j)) - static_cast<double>(codes.value(i, j)), 2);
      return sum;
    };
    CHECK(error(true) <= error(false) * 1.001);
  }
}

TEST_CASE("a whole matrix of more than 65536 weights gets its output-weighted step by histogram, within 0.1% of the best") {
  matrix<float> const w = normal_matrix(300, 240, 7, 0.02f);
  calibration const calib = observed(loud_and_quiet(100, 240, 8));
  integer_codes const codes = slim_quantizer({.bits = 4, .output_weighted = true}).quantize(w.view(), calib);
  weighted_values const all = block_of(w, calib.mean_square(), per_tensor, 0, 0);
  double best = std::numeric_limits<double>::infinity();
  for (int c = 1; c <= 300; ++c) best = std::min(best, brute_error(all, all.largest / 7 * c / 300, 4));
  CHECK(brute_error(all, static_cast<double>(codes.scales(0, 0)), 4) <= best * 1.001);
}
