// Ranges of uniform grids against a grid of all pairs of ends, and the parts that use them.

#include "slim/calibration/bias_correction.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/core/elementwise.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/quantization/range_quantizer.hpp"
#include "slim/testing/input_quantizer_laws.hpp"
#include "slim/testing/quantizer_laws.hpp"

#include <catch2/catch.hpp>

#include <utility>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

std::vector<float> numbers_of(matrix<float> const& m) { return {m.data(), m.data() + m.size()}; }

/// Mean square error, level by level in double.
double mean_square_error(std::vector<float> const& values, value_range range, int bits) {
  double const top = (1 << bits) - 1, low = static_cast<double>(range.low),
               step = (static_cast<double>(range.high) - low) / top;
  double total = 0;
  for (float const v : values) {
    double least = 1e300;
    for (int k = 0; k <= (1 << bits) - 1; ++k) least = std::min(least, std::abs(static_cast<double>(v) - (low + step * k)));
    total += least * least;
  }
  return total / static_cast<double>(values.size());
}

value_range found_by(range_rule rule, std::vector<float> const& values, int bits) {
  return search_range(values, bits, {}, {.rule = rule});
}

template <class Codes>
matrix<float> decoded(Codes const& codes) {
  matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

/// Inputs with a mean, and channels that follow each other.
matrix<float> following_inputs(index_t tokens, index_t channels, std::uint64_t seed) {
  matrix<float> x = normal_matrix(tokens, channels, seed);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < channels; ++j) x(t, j) = (j > 0 ? 0.8f * x(t, j - 1) : 0.0f) + 0.6f * x(t, j) + 0.3f;
  return x;
}

} // namespace

TEST_CASE("DOBI is never worse than min-max, symmetric for bells, one-sided for what begins at 0, and automatic the better") {
  std::vector<float> const bell = numbers_of(normal_matrix(1, 20000, 1));
  std::vector<float> one_sided = bell;
  for (std::size_t k = 0; k < one_sided.size(); ++k)
    one_sided[k] = static_cast<float>(-std::log(1.0 - random_uniform(2, static_cast<std::uint64_t>(k))));
  for (int const bits : {2, 4}) {
    for (std::vector<float> const* values : {&std::as_const(bell), &std::as_const(one_sided)}) {
      auto const error = [&](range_rule rule) { return mean_square_error(*values, found_by(rule, *values, bits), bits); };
      double const symmetric = error(range_rule::dobi_symmetric), side = error(range_rule::dobi_one_sided);
      CHECK(error(range_rule::dobi) == std::min(symmetric, side));
      CHECK(std::max(symmetric, side) <= error(range_rule::min_max));
      CHECK((symmetric < side) == (values == &bell));
    }
  }
  // what another program found for 20,000 such numbers
  auto const two_bits = [&](std::vector<float> const& values, range_rule rule) {
    return mean_square_error(values, found_by(rule, values, 2), 2);
  };
  CHECK(two_bits(bell, range_rule::dobi_symmetric) == Approx(0.125).epsilon(0.1));
  CHECK(two_bits(one_sided, range_rule::dobi_one_sided) == Approx(0.167).epsilon(0.1));
}

TEST_CASE("DOBI against all pairs of ends on a grid") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    std::vector<float> const values = numbers_of(normal_matrix(1, 300, seed));
    auto const [low, high] = std::minmax_element(values.begin(), values.end());
    double least = 1e300;
    for (int a = 0; a < 60; ++a)
      for (int b = 0; b < 60 - a; ++b) {
        float const part = (*high - *low) / 60;
        least = std::min(
            least, mean_square_error(values, {*low + part * static_cast<float>(a), *high - part * static_cast<float>(b)}, 3));
      }
    double const found = mean_square_error(values, found_by(range_rule::dobi, values, 3), 3);
    CHECK(found <= 1.25 * least); // both ends move together: the price of 100 candidates instead of all
    CHECK(found >= 0.9 * least);
  }
}

TEST_CASE("the loss that is searched is the loss that is asked for") {
  std::vector<float> const values = numbers_of(normal_matrix(1, 500, 7));
  auto const power = [&](value_range range, double p) {
    double total = 0;
    for (float const v : values) total += std::pow(std::abs(static_cast<double>(v - range.round(v, 3))), p);
    return total;
  };
  for (range_rule const rule : {range_rule::dobi, range_rule::factors})
    for (double const p : {1.0, 2.0, 2.4}) {
      value_range const found = search_range(values, 3, {}, {.rule = rule, .norm = p});
      for (value_range const other : candidate_ranges(values, {.rule = rule}))
        CHECK(power(found, p) <= power(other, p) * (1 + 1e-12));
    }
  std::vector<float> weights(500, 0.0f);
  weights[3] = 1.0f; // one number decides alone
  value_range const alone = search_range(values, 3, weights, {});
  for (value_range const other : candidate_ranges(values, {}))
    CHECK(std::abs(values[3] - alone.round(values[3], 3)) <= std::abs(values[3] - other.round(values[3], 3)));
  CHECK(candidate_ranges(values, {.rule = range_rule::factors, .steps = 50}).size() == 101);
  CHECK(candidate_ranges(values, {.steps = 100}).size() == 199);
}

TEST_CASE("percentiles are NumPy's, levels are 2DQuant's") {
  std::vector<float> const values = {4, 1, 9, 16, 25}; // numpy.percentile([1, 4, 9, 16, 25], 90) == 21.4, 10: 2.2
  value_range const range = search_range(values, 2, {}, {.rule = range_rule::percentile, .percentile = 90.0});
  CHECK(range.low == Approx(2.2));
  CHECK(range.high == Approx(21.4));
  CHECK(search_range(values, 2, {}, {.rule = range_rule::percentile, .percentile = 100.0}) == value_range{1, 25});
  value_range const unit{-1, 2};
  float const levels[] = {-1, 0, 1, 2};
  for (float const level : levels) CHECK(unit.round(level, 2) == level);
  CHECK(unit.round(-5, 2) == -1);
  CHECK(unit.round(7, 2) == 2);
  CHECK(unit.round(0.4f, 2) == 0);
  CHECK(unit.round(0.6f, 2) == 1);
  CHECK(value_range{3, 3}.round(9, 4) == 3);
  CHECK(search_range({}, 4, {}, {}) == value_range{0, 0});
  CHECK_THROWS_WITH(search_range(values, 4, {}, {.steps = 0}), Contains("0 steps"));
  CHECK_THROWS_WITH(search_range(values, 4, {}, {.percentile = 40.0}), Contains("percentile 40"));
  CHECK_THROWS_AS(search_range(values, 4, std::vector<float>(3, 1.0f), {}), shape_error);
}

TEST_CASE("a search under the output error is best in it, block by block") {
  matrix<float> const w = mapped(normal_matrix(12, 48, 3), [](float x) { return x * x * x; });
  calibration const calib = observed(following_inputs(400, 48, 4), {.gram = true});
  auto const error_of = [&](range_quantizer_config const& config) {
    matrix<float> e = decoded(range_quantizer(config).quantize(w.view(), calib));
    subtract_into(w.view(), e.view(), e.view());
    return output_energy(e.view(), calib);
  };
  for (scale_block const block : {per_tensor, per_channel})
    for (int const bits : {2, 3, 4}) {
      double const by_output = error_of({.bits = bits, .block = block, .by_output = true});
      CHECK(by_output <= error_of({.bits = bits, .block = block, .range = {.rule = range_rule::min_max}}) * (1 + 1e-5));
      CHECK(by_output <= error_of({.bits = bits, .block = block}) * (1 + 1e-5));
    }
  CHECK(error_of({.bits = 3, .block = per_channel, .by_output = true}) < 0.95 * error_of({.bits = 3, .block = per_channel}));
}

TEST_CASE("range_quantizer rounds to nearest between its ends, counts steps and ends, keeps the laws") {
  matrix<float> const w = normal_matrix(8, 40, 5);
  range_quantizer const rounding({.bits = 3, .block = per_group(20), .range = {.rule = range_rule::min_max}});
  integer_codes const codes = rounding.quantize(w.view(), calibration(40));
  matrix<float> const values = decoded(codes);
  for (index_t i = 0; i < 8; ++i)
    for (index_t g = 0; g < 2; ++g) {
      auto const [low, high] = std::minmax_element(w.row(i) + 20 * g, w.row(i) + 20 * (g + 1));
      for (index_t j = 20 * g; j < 20 * (g + 1); ++j)
        CHECK(std::abs(values(i, j) - value_range{*low, *high}.round(w(i, j), 3)) < 1e-5f);
    }
  CHECK(codes.stored_bits() == 8 * 40 * 3 + 16 * 2 * 32);
  CHECK(describe(check_quantizer(range_quantizer())) == "");
  CHECK(describe(check_quantizer(range_quantizer({.bits = 2, .block = per_channel, .by_output = true}))) == "");
  CHECK(describe(check_quantizer(range_quantizer({.bits = 3,
                                                  .block = per_group(8),
                                                  .range = {.rule = range_rule::percentile},
                                                  .scale_format = number_format::fp16}))) == "");
  CHECK_THROWS_WITH(range_quantizer({.bits = 9}), Contains("9 bits"));
  CHECK_THROWS_AS(range_quantizer({.by_output = true}).quantize(w.view(), calibration(40)), config_error);
}

TEST_CASE("a corrected bias gives the mean output back") {
  matrix<float> const w = normal_matrix(5, 24, 8), x = following_inputs(300, 24, 9);
  calibration const calib = observed(x);
  matrix<float> const w_c = decoded(range_quantizer({.bits = 2}).quantize(w.view(), calib));
  std::vector<float> const by = bias_correction(w.view(), w_c.view(), calib);
  matrix<float> dense(300, 5), rounded(300, 5);
  gemm_into(x.view(), transposed(w.view()), dense.view());
  gemm_into(x.view(), transposed(w_c.view()), rounded.view());
  for (index_t i = 0; i < 5; ++i) {
    double before = 0, off = 0;
    for (index_t t = 0; t < 300; ++t) {
      double const missing = static_cast<double>(dense(t, i) - rounded(t, i));
      before += missing / 300;
      off += (missing - static_cast<double>(by[static_cast<std::size_t>(i)])) / 300;
    }
    CHECK(std::abs(off) < 1e-4);
    CHECK(before == Approx(by[static_cast<std::size_t>(i)]).margin(1e-4));
  }
  CHECK_THROWS_AS(bias_correction(w.view(), w_c.view(), calibration(24)), config_error);
  CHECK_THROWS_AS(bias_correction(w.view(), dense.view(), calib), shape_error);
}

TEST_CASE("inputs of few bits per token and group of channels") {
  matrix<float> x = normal_matrix(6, 150, 10);
  x(2, 70) = 50.0f; // an outlier costs its own group of its own token
  matrix<float> rounded = x;
  group_input().round_inplace(rounded.view());
  for (index_t t = 0; t < 6; ++t)
    for (index_t first = 0; first < 150; first += 64) {
      double largest = 0;
      for (index_t j = first; j < std::min<index_t>(150, first + 64); ++j)
        largest = std::max(largest, std::abs(static_cast<double>(x(t, j))));
      for (index_t j = first; j < std::min<index_t>(150, first + 64); ++j) {
        double const step = largest / 7, level = std::nearbyint(static_cast<double>(x(t, j)) / step);
        CHECK(static_cast<double>(rounded(t, j)) == Approx(step * level).margin(1e-5 * largest));
      }
    }
  CHECK(describe(check_input_quantizer(group_input(), 1.0 / 14)) == "");
  CHECK(describe(check_input_quantizer(group_input({.bits = 8, .group = 7}), 1.0 / 254)) == "");

  x(2, 70) = 1.0f;
  matrix<float> gelu = mapped(x, [](float v) { return std::max(v, -0.17f); }), shifted = gelu;
  group_input const above({.lower = -0.17f});
  above.round_inplace(shifted.view());
  double unsigned_error = 0, signed_error = 0;
  matrix<float> plain = gelu;
  group_input().round_inplace(plain.view());
  for (index_t k = 0; k < x.size(); ++k) {
    CHECK(shifted.data()[k] >= -0.17f);
    unsigned_error += std::pow(static_cast<double>(shifted.data()[k] - gelu.data()[k]), 2.0);
    signed_error += std::pow(static_cast<double>(plain.data()[k] - gelu.data()[k]), 2.0);
  }
  CHECK(unsigned_error < 0.5 * signed_error); // 15 steps instead of 7
  matrix<float> twice = shifted;
  above.round_inplace(twice.view());
  for (index_t k = 0; k < x.size(); ++k) CHECK(twice.data()[k] == Approx(shifted.data()[k]).margin(1e-5));
  CHECK_THROWS_WITH(group_input({.bits = 1}), Contains("1 bits"));
  CHECK_THROWS_WITH(group_input({.lower = 0.5f}), Contains("lower bound 0.5"));
}

TEST_CASE("inputs between fitted bounds") {
  matrix<float> x = normal_matrix(40, 30, 11);
  bounded_input const bounds = bounded_input::fitted(x.view(), 4);
  CHECK(bounds.range() == search_range(numbers_of(x), 4, {}, {}));
  matrix<float> rounded = x;
  bounds.round_inplace(rounded.view());
  for (index_t k = 0; k < x.size(); ++k) CHECK(rounded.data()[k] == bounds.range().round(x.data()[k], 4));
  matrix<float> twice = rounded;
  bounds.round_inplace(twice.view());
  for (index_t k = 0; k < x.size(); ++k) CHECK(twice.data()[k] == Approx(rounded.data()[k]).margin(1e-6));
  CHECK_THROWS_WITH(bounded_input(2.0f, 1.0f, 4), Contains("from 2 to 1"));
}
