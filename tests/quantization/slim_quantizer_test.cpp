#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// The error of one step over all weights: round to nearest, clamp, one by one.
double brute_error(matrix<float> const& w, double scale, int bits, std::vector<double> const& column_weights = {}) {
  double const top = (1 << (bits - 1)) - 1, bottom = -(1 << (bits - 1));
  double error = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) {
      double const x = static_cast<double>(w(i, j));
      double const code = std::clamp(std::floor(x / scale + 0.5), bottom, top);
      error += (column_weights.empty() ? 1.0 : column_weights[static_cast<std::size_t>(j)]) * (x - code * scale) *
               (x - code * scale);
    }
  return error;
}

double largest_of(matrix<float> const& w) { return static_cast<double>(largest_magnitude(w.view())); }

/// The best step of all that use the highest code: the error is a parabola between steps at which a weight changes its code;
/// the best of every parabola, and of both ends of its interval.
double best_error_of_all_steps(matrix<float> const& w, int bits) {
  int const top = (1 << (bits - 1)) - 1, bottom = -(1 << (bits - 1));
  std::vector<double> breaks;
  for (index_t k = 0; k < w.size(); ++k)
    for (int c = bottom; c < top; ++c)
      if (double const at = static_cast<double>(w.data()[k]) / (c + 0.5); at > 0) breaks.push_back(at);
  std::sort(breaks.begin(), breaks.end());
  double best = std::numeric_limits<double>::infinity();
  for (std::size_t b = 0; b + 1 < breaks.size(); ++b) {
    double const left = breaks[b], right = breaks[b + 1], middle = (left + right) / 2;
    if (right > largest_of(w) / (top - 0.5) * (1 + 1e-12)) break; // no weight gets the highest code any more: not searched
    double numerator = 0, denominator = 0;
    for (index_t k = 0; k < w.size(); ++k) {
      double const x = static_cast<double>(w.data()[k]), code = std::clamp<double>(std::floor(x / middle + 0.5), bottom, top);
      numerator += code * x;
      denominator += code * code;
    }
    double const inside = denominator > 0 ? std::clamp(numerator / denominator, left, right) : middle;
    best = std::min(best, brute_error(w, inside, bits));
  }
  return best;
}

double error_of_codes(matrix<float> const& w, integer_codes const& codes) {
  double error = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j)
      error += std::pow(static_cast<double>(w(i, j)) - static_cast<double>(codes.value(i, j)), 2);
  return error;
}

prefix_moments sorted_moments(matrix<float> const& w, std::vector<double> const& column_weights = {}) {
  std::vector<std::pair<float, double>> values;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j)
      values.emplace_back(w(i, j), column_weights.empty() ? 1.0 : column_weights[static_cast<std::size_t>(j)]);
  return moments_of(values);
}

} // namespace

TEST_CASE("the error of a step by prefix moments is the error of rounding every weight") {
  int const bits = GENERATE(2, 3, 4, 8);
  int const top = (1 << (bits - 1)) - 1;
  for (named_matrix const& w : hard_matrices(70)) {
    if (w.values.empty() || largest_of(w.values) == 0) continue;
    INFO(w.name << " " << bits << " bits");
    std::vector<double> weights;
    for (index_t j = 0; j < w.values.cols(); ++j) weights.push_back(random_uniform(3, static_cast<std::uint64_t>(j)) + 0.01);
    prefix_moments const plain = sorted_moments(w.values), weighted = sorted_moments(w.values, weights);
    double const energy = brute_error(w.values, 1e60, bits);
    for (double const share : {0.013, 0.1, 0.31, 0.7, 1.0, 1.7}) {
      double const scale = share * largest_of(w.values) / top;
      CHECK(error_of_scale(plain, scale, -top - 1, top).error ==
            Approx(brute_error(w.values, scale, bits)).epsilon(1e-9).margin(1e-12 * energy));
      CHECK(error_of_scale(weighted, scale, -top - 1, top).error ==
            Approx(brute_error(w.values, scale, bits, weights)).epsilon(1e-9).margin(1e-12 * energy));
    }
  }
}

TEST_CASE("the search reports the error of the step it found") {
  matrix<float> const w = normal_matrix(9, 50, 3);
  scale_choice const found = search_scale(sorted_moments(w), largest_of(w) / 7, -8, 7, 500);
  CHECK(found.error == Approx(brute_error(w, found.scale, 4)).epsilon(1e-10));
}

TEST_CASE("the search tries every candidate: none has a smaller error, whatever the values and the codes") {
  auto const signs = GENERATE(0, 1, -1); // both, all positive, all negative
  for (auto const& [values, candidates] :
       std::vector<std::pair<index_t, index_t>>{{1, 7}, {2, 1000}, {50, 999}, {3000, 3}, {3000, 40}})
    for (auto const& [lowest, highest] :
         std::vector<std::pair<int, int>>{{-8, 7}, {-7, 7}, {-1, 1}, {-2, 1}, {-1, 6}, {-128, 127}}) {
      INFO(values << " values, " << candidates << " candidates, codes " << lowest << " to " << highest << ", signs " << signs);
      matrix<float> const w = mapped(normal_matrix(1, values, 11), [&](float x) {
        float const y = x * x * x;
        return signs == 0 ? y : static_cast<float>(signs) * std::abs(y);
      });
      prefix_moments const data = sorted_moments(w);
      double const largest_step = 1.3 * largest_of(w) / highest;
      double best = std::numeric_limits<double>::infinity(), energy = data.between(0, data.size()).second;
      for (index_t c = 1; c <= candidates; ++c)
        best = std::min(
            best, error_of_scale(data, largest_step * static_cast<double>(c) / static_cast<double>(candidates), lowest, highest)
                      .error);
      scale_choice const found = search_scale(data, largest_step, lowest, highest, candidates);
      CHECK(found.error <= best + 1e-12 * energy);
      CHECK(found.error == Approx(error_of_scale(data, found.scale, lowest, highest).error).margin(1e-12 * energy));
    }
}

TEST_CASE("a search without data, candidates or a usable step finds nothing") {
  prefix_moments const some = sorted_moments(normal_matrix(3, 3, 1));
  CHECK(search_scale(prefix_moments{}, 1.0, -8, 7, 10).scale == 0.0);
  CHECK(search_scale(some, 0.0, -8, 7, 10).scale == 0.0);
  CHECK(search_scale(some, std::numeric_limits<double>::infinity(), -8, 7, 10).scale == 0.0);
  CHECK(search_scale(some, std::numeric_limits<double>::quiet_NaN(), -8, 7, 10).scale == 0.0);
  CHECK(search_scale(some, 1.0, -8, 7, 0).scale == 0.0);
}

TEST_CASE("no step of two thousand is better than the one found, nor is absmax's") {
  int const bits = GENERATE(2, 3, 4, 6);
  int const top = (1 << (bits - 1)) - 1;
  for (named_matrix const& w : hard_matrices(80)) {
    if (w.values.empty() || largest_of(w.values) == 0) continue;
    INFO(w.name << " " << bits << " bits");
    double const largest_step = largest_of(w.values) / top, energy = brute_error(w.values, 1e60, bits);
    double const found = static_cast<double>(slim_quantizer({.bits = bits, .block = per_tensor})
                                                 .quantize(w.values.view(), calibration(w.values.cols()))
                                                 .scales(0, 0));
    double best = std::numeric_limits<double>::infinity();
    for (int c = 1; c <= 2000; ++c) best = std::min(best, brute_error(w.values, largest_step * c / 2000 * 1.05, bits));
    CHECK(brute_error(w.values, found, bits) <= best * 1.002 + 1e-12 * energy);
    CHECK(brute_error(w.values, found, bits) <= brute_error(w.values, largest_step, bits) + 1e-12 * energy);
  }
}

TEST_CASE("on small blocks the step found is as good as the best of all that use the highest code, to 0.2%") {
  int const bits = GENERATE(2, 3, 4);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    index_t const n = 1 + static_cast<index_t>(seed % 16) * 2;
    matrix<float> w = normal_matrix(1, n, seed);
    if (seed % 3 == 0) w = mapped(w, [](float x) { return x * x * x; });
    integer_codes const codes = slim_quantizer({.bits = bits, .block = per_channel}).quantize(w.view(), calibration(n));
    double const best = best_error_of_all_steps(w, bits), energy = brute_error(w, 1e60, bits);
    INFO("seed " << seed << ", " << n << " weights, " << bits << " bits");
    CHECK(error_of_codes(w, codes) <= best * 1.002 + 1e-12 * energy); // 256 steps, then Lloyd
  }
}

TEST_CASE("slim_quantizer is never worse than absmax in squared error") {
  for (scale_block const block : {per_tensor, per_channel, per_group(16)})
    for (named_matrix const& w : hard_matrices(90)) {
      INFO(w.name << ", " << slim::describe(block));
      calibration const none(w.values.cols());
      double const ours = error_of_codes(w.values, slim_quantizer({.bits = 4, .block = block}).quantize(w.values.view(), none));
      double const absmax =
          error_of_codes(w.values, absmax_quantizer({.bits = 4, .block = block}).quantize(w.values.view(), none));
      CHECK(ours <= absmax * (1 + 1e-6) + 1e-80);
    }
}

TEST_CASE("the histogram of bf16 weights loses nothing") {
  matrix<float> const w = mapped(normal_matrix(40, 70, 4), [](float x) { return static_cast<float>(bf16(x * x * x)); });
  REQUIRE(is_bf16_exact(w.view()));
  std::vector<float> weights;
  std::vector<double> wide_weights;
  for (index_t j = 0; j < 70; ++j) {
    weights.push_back(static_cast<float>(j % 5) * 0.25f);
    wide_weights.push_back(static_cast<double>(weights.back()));
  }
  prefix_moments const histogram = histogram_moments(w.view(), largest_magnitude(w.view()), 100, weights);
  prefix_moments const sorted = sorted_moments(w, wide_weights);
  double const step = largest_of(w) / 7;
  for (double const share : {0.01, 0.1, 0.5, 0.9, 1.0})
    CHECK(error_of_scale(histogram, share * step, -8, 7).error ==
          Approx(error_of_scale(sorted, share * step, -8, 7).error).epsilon(1e-10));
  scale_choice const a = search_scale(histogram, step, -8, 7, 3000), b = search_scale(sorted, step, -8, 7, 3000);
  CHECK(a.scale == Approx(b.scale).epsilon(1e-10));
}

TEST_CASE("bf16 order is the order of the reals") {
  float last = -std::numeric_limits<float>::infinity();
  std::vector<std::uint32_t> halves;
  for (std::uint32_t h = 0xff80; h >= 0x8000; --h) halves.push_back(h); // -inf .. -0
  for (std::uint32_t h = 0; h <= 0x7f80; ++h) halves.push_back(h);      // +0 .. inf
  index_t place = -1;
  for (std::uint32_t const h : halves) {
    float const x = static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(h)));
    REQUIRE(x >= last);
    REQUIRE(slim::detail::ordered_bf16(h) > place);
    last = x;
    place = slim::detail::ordered_bf16(h);
  }
  CHECK(place < 65536);
}

TEST_CASE("per tensor, a matrix of more than 65536 weights gets a step within 0.01% of the error of the best of 4000") {
  float const power = GENERATE(1.0f, 2.5f);
  matrix<float> const w =
      mapped(normal_matrix(260, 300, 5), [&](float x) { return std::copysign(std::pow(std::abs(x), power), x); });
  REQUIRE_FALSE(is_bf16_exact(w.view()));
  integer_codes const codes = slim_quantizer({.bits = 4}).quantize(w.view(), calibration(300));
  prefix_moments const sorted = sorted_moments(w);
  double best = std::numeric_limits<double>::infinity();
  for (int c = 1; c <= 4000; ++c) best = std::min(best, error_of_scale(sorted, largest_of(w) / 7 * c / 4000, -8, 7).error);
  double const ours = brute_error(w, static_cast<double>(codes.scales(0, 0)), 4);
  CHECK(ours == Approx(error_of_scale(sorted, static_cast<double>(codes.scales(0, 0)), -8, 7).error).epsilon(1e-9));
  CHECK(ours <= best * 1.0001);
}

TEST_CASE("output weighting lowers the output-weighted error, and dead channels do not count") {
  matrix<float> w = normal_matrix(12, 40, 6), x = normal_matrix(25, 40, 7);
  for (index_t t = 0; t < 25; ++t)
    for (index_t j = 0; j < 40; ++j) x(t, j) *= j < 10 ? 10.0f : j == 39 ? 0.0f : 0.1f;
  for (index_t i = 0; i < 12; ++i) {
    w(i, 39) = 50.0f;
    for (index_t j = 0; j < 10; ++j) w(i, j) *= 0.2f;
  }
  calibration const calib = observed(x);
  auto const step = [&](bool weighted) {
    return static_cast<double>(slim_quantizer({.bits = 4, .output_weighted = weighted}).quantize(w.view(), calib).scales(0, 0));
  };
  std::vector<double> const weights = calib.mean_square();
  CHECK(brute_error(w, step(true), 4, weights) < 0.5 * brute_error(w, step(false), 4, weights));
  double best = std::numeric_limits<double>::infinity();
  for (int c = 1; c <= 20000; ++c) best = std::min(best, brute_error(w, 50.0 / 7 * c / 20000, 4, weights));
  CHECK(brute_error(w, step(true), 4, weights) <= best * 1.001);
}

TEST_CASE("outlier channels: the most important ones carry the factor, accounted as 32 bits each") {
  matrix<float> const w = normal_matrix(6, 20, 8);
  matrix<float> x = normal_matrix(15, 20, 9);
  for (index_t t = 0; t < 15; ++t) x(t, 3) *= 50.0f, x(t, 17) *= 40.0f;
  calibration const calib = observed(x);
  integer_codes const codes =
      slim_quantizer({.bits = 4, .outlier_share = 0.1, .scale_format = number_format::bf16}).quantize(w.view(), calib);
  for (index_t j = 0; j < 20; ++j) CHECK(codes.factor_at(j) == (j == 3 || j == 17 ? 2.0f : 1.0f));
  CHECK(codes.stored_bits() == static_cast<double>(codes.codes.size()) * codes.bits + 16 + 2 * 48);
  // Literally: scale the two channels, quantize with the reported step, scale back.
  double const scale = static_cast<double>(codes.scales(0, 0));
  matrix<float> scaled = w;
  for (index_t i = 0; i < 6; ++i) scaled(i, 3) *= 2.0f, scaled(i, 17) *= 2.0f;
  integer_codes const plain =
      slim_quantizer({.bits = 4, .scale_format = number_format::bf16}).quantize(scaled.view(), calibration(20));
  CHECK(static_cast<double>(plain.scales(0, 0)) == scale);
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = 0; j < 20; ++j) CHECK(codes.value(i, j) == plain.value(i, j) / codes.factor_at(j));
}

TEST_CASE("outlier channels leave the codes of all others alone, up to the shared step") {
  matrix<float> const w = normal_matrix(4, 16, 10);
  matrix<float> x = normal_matrix(8, 16, 11);
  for (index_t t = 0; t < 8; ++t) x(t, 5) *= 100.0f;
  integer_codes const codes =
      slim_quantizer({.bits = 4, .block = per_group(4), .outlier_share = 0.07}).quantize(w.view(), observed(x));
  integer_codes const plain = slim_quantizer({.bits = 4, .block = per_group(4)}).quantize(w.view(), observed(x));
  CHECK(std::count(codes.channel_factors.begin(), codes.channel_factors.end(), 2.0f) == 1);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 16; ++j)
      if (j / 4 != 1) CHECK(codes.value(i, j) == plain.value(i, j)); // groups without the outlier
}

TEST_CASE("a row whose only nonzero weights lie in dead channels is not clipped") {
  matrix<float> w(1, 4), x = normal_matrix(3, 4, 12);
  w(0, 2) = 3.0f;
  for (index_t t = 0; t < 3; ++t) x(t, 2) = 0.0f;
  integer_codes const codes = slim_quantizer({.block = per_channel, .output_weighted = true}).quantize(w.view(), observed(x));
  CHECK(codes.value(0, 2) == Approx(3.0f));
}

TEST_CASE("huge activations do not spoil output weighting") {
  matrix<float> const w = normal_matrix(5, 30, 13), x = normal_matrix(7, 30, 14);
  auto const codes = [&](float spread) {
    return slim_quantizer({.output_weighted = true}).quantize(w.view(), observed(mapped(x, [&](float v) {
                                                                return v * spread;
                                                              })));
  };
  CHECK(codes(0x1p100f).scales(0, 0) == Approx(codes(1.0f).scales(0, 0)).epsilon(1e-6));
}

TEST_CASE("bad configurations and missing activations are refused") {
  matrix<float> const w = normal_matrix(2, 4, 15);
  CHECK_THROWS_AS(slim_quantizer({.bits = 1}), config_error);
  CHECK_THROWS_AS(slim_quantizer({.outlier_share = 1.5}), config_error);
  CHECK_THROWS_AS(slim_quantizer({.outlier_factor = 0.0f}), config_error);
  CHECK_THROWS_AS(slim_quantizer({.candidates = 0}), config_error);
  CHECK_THROWS_AS(slim_quantizer({.outlier_share = 0.5}).quantize(w.view(), calibration(4)), config_error);
  CHECK_THROWS_AS(slim_quantizer({.output_weighted = true}).quantize(w.view(), calibration(4)), config_error);
  CHECK_THROWS_AS(slim_quantizer({.output_weighted = true}).quantize(w.view(), observed(normal_matrix(2, 5, 1))), shape_error);
  CHECK_THROWS_AS(slim_quantizer({.outlier_share = 0.5}).quantize(w.view(), observed(normal_matrix(2, 3, 1))), shape_error);
}
