// Calibrations from sums that somebody else has made.

#include "slim/calibration/calibration.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/saliency/channel_weights.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "support/brute_gram.hpp"

#include <catch2/catch.hpp>

#include <cstring>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

constexpr statistic all_statistics[] = {statistic::mean, statistic::mean_abs, statistic::max_abs,
                                        statistic::sample_peak_mean_abs};

std::vector<double> squares(matrix<float> const& x) {
  std::vector<double> sums;
  for (index_t j = 0; j < x.cols(); ++j) sums.push_back(slim_test::brute_gram(x)(j, j));
  return sums;
}

constexpr double infinity = std::numeric_limits<double>::infinity();

} // namespace

TEST_CASE("a Gram matrix tells what an observed calibration tells of second moments") {
  matrix<float> x = normal_matrix(40, 6, 1);
  for (index_t t = 0; t < 40; ++t) x(t, 4) = 0.0f;
  calibration const seen = observed(x, {.gram = true}), told = calibration::from_gram(slim_test::brute_gram(x).view(), 40);
  CHECK(told.tokens() == 40);
  CHECK(told.channels() == 6);
  CHECK(told.dead_channels() == 1);
  for (std::size_t j = 0; j < 6; ++j) CHECK(told.mean_square()[j] == Approx(seen.mean_square()[j]).epsilon(1e-12));
  matrix<float> const e = normal_matrix(5, 6, 2);
  CHECK(output_energy(e, told) == Approx(output_energy(e, seen)).epsilon(1e-5));
  CHECK(calibration::from_gram(matrix<double>(0, 0).view(), 7).channels() == 0);
  CHECK(calibration::from_gram(matrix<double>(2, 2).view(), 0).tokens() == 0);

  matrix<double> sloppy = slim_test::brute_gram(x); // triangles from different roundings
  sloppy(0, 1) *= 1 + 1e-6;
  calibration const mean = calibration::from_gram(sloppy.view(), 40);
  CHECK(mean.gram()(0, 1) == mean.gram()(1, 0));
  CHECK(mean.gram()(0, 1) == (sloppy(0, 1) + sloppy(1, 0)) / 2);
}

TEST_CASE("sums of squares are enough for Wanda and for weights by root mean square") {
  matrix<float> const x = normal_matrix(30, 8, 3), w = normal_matrix(4, 8, 4);
  calibration const seen = observed(x), told = calibration::from_moments({.sum_square = squares(x)}, 30);
  auto const a = wanda().prepare(w.view(), seen), b = wanda().prepare(w.view(), told);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 8; ++j) CHECK(a(i, j) == b(i, j));
  CHECK(rms_saliency().channel_weights(told) == rms_saliency().channel_weights(seen));
  CHECK_FALSE(told.has_gram());
}

TEST_CASE("what sums do not tell is refused with its name, never 0") {
  matrix<float> const x = normal_matrix(30, 3, 5);
  calibration const told = calibration::from_moments({.sum_square = squares(x)}, 30);
  for (statistic const what : all_statistics) {
    CHECK_FALSE(told.knows(what));
    CHECK(observed(x).knows(what));
    CHECK_FALSE(calibration::from_gram(slim_test::brute_gram(x).view(), 30).knows(what));
  }
  CHECK_THROWS_AS(told.mean(), config_error);
  CHECK_THROWS_WITH(told.mean_abs(), Contains("mean_abs") && Contains("not known"));
  CHECK_THROWS_WITH(told.max_abs(), Contains("max_abs"));
  CHECK_THROWS_WITH(told.sample_peak_mean_abs(), Contains("sample_peak_mean_abs"));
  CHECK_THROWS_WITH(slim_saliency().channel_weights(told), Contains("slim_saliency") && Contains("mean_abs"));
  CHECK_THROWS_WITH(l2qer_saliency().channel_weights(told), Contains("l2qer_saliency") && Contains("sample_peak_mean_abs"));
  CHECK_THROWS_AS(slim_saliency().channel_weights(told), config_error);
  CHECK_THROWS_AS(told.gram(), config_error);

  std::vector<double> sums = observed(x).mean_abs();
  for (double& s : sums) s *= 30;
  calibration const more = calibration::from_moments({.sum_square = squares(x), .sum_abs = sums}, 30);
  for (std::size_t j = 0; j < 3; ++j) CHECK(more.mean_abs()[j] == Approx(observed(x).mean_abs()[j]).epsilon(1e-14));
  CHECK_NOTHROW(slim_saliency().channel_weights(more));
}

TEST_CASE("what one of two merged calibrations does not know is unknown, and so it stays") {
  matrix<float> const x = normal_matrix(30, 3, 6), y = normal_matrix(10, 3, 7);
  calibration both = observed(x);
  both.merge(calibration::from_moments({.sum_square = squares(y), .sum = {1.0, 2.0, -3.0}}, 10));
  CHECK(both.tokens() == 40);
  CHECK(both.knows(statistic::mean));
  CHECK_FALSE(both.knows(statistic::mean_abs));
  CHECK_FALSE(both.knows(statistic::max_abs));
  for (std::size_t j = 0; j < 3; ++j) {
    CHECK(both.mean_square()[j] == Approx((squares(x)[j] + squares(y)[j]) / 40).epsilon(1e-14));
    CHECK(both.mean()[j] == Approx((observed(x).mean()[j] * 30 + std::vector<double>{1.0, 2.0, -3.0}[j]) / 40).epsilon(1e-12));
  }
  both.observe(y.view());
  CHECK(both.tokens() == 50);
  CHECK_FALSE(both.knows(statistic::mean_abs));
  CHECK(both.mean_square()[1] == Approx((squares(x)[1] + 2 * squares(y)[1]) / 50).epsilon(1e-14));
  calibration const moved = both.remapped(std::vector<index_t>{2, 2}, std::vector<double>{2.0, 1.0});
  CHECK_FALSE(moved.knows(statistic::max_abs));
  CHECK(moved.mean_square()[0] == 4 * both.mean_square()[2]);
}

TEST_CASE("sums that cannot be are refused") {
  auto const gram = [](double a, double b, double c, double d, index_t tokens = 5) {
    matrix<double> g(2, 2);
    g(0, 0) = a, g(0, 1) = b, g(1, 0) = c, g(1, 1) = d;
    return calibration::from_gram(g.view(), tokens);
  };
  CHECK_NOTHROW(gram(4, 2, 2, 1));
  CHECK_NOTHROW(gram(0, 0, 0, 1));
  CHECK_THROWS_AS(gram(4, 2, 2, -1), config_error);
  CHECK_THROWS_AS(gram(4, 2.1, 2.1, 1), config_error);
  CHECK_THROWS_AS(gram(4, 1.5, 1, 1), config_error);
  CHECK_THROWS_AS(gram(4, 1, 1, 0), config_error);
  CHECK_THROWS_AS(gram(4, 2, 2, 1, -1), config_error);
  CHECK_THROWS_WITH(gram(4, 2, 2, 1, 0), Contains("without tokens"));
  CHECK_THROWS_AS(gram(infinity, 0, 0, 1), nonfinite_error);
  CHECK_THROWS_WITH(gram(1, std::nan(""), 0, 1), Contains("(0, 1)"));
  CHECK_THROWS_AS(calibration::from_gram(matrix<double>(2, 3).view(), 5), shape_error);

  auto const moments = [](channel_moments m, index_t tokens = 4) { return calibration::from_moments(std::move(m), tokens); };
  CHECK_NOTHROW(moments({.sum_square = {4.0, 0.0}, .sum = {-4.0, 0.0}, .sum_abs = {4.0, 0.0}, .max_abs = {2.0f, 0.0f}}));
  CHECK_NOTHROW(moments({}));
  CHECK_THROWS_AS(moments({.sum_square = {-1.0}}), config_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}}, -1), config_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}}, 0), config_error);
  CHECK_THROWS_AS(moments({.sum_square = {std::nan("")}}), nonfinite_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}, .sum = {0.0, 0.0}}), shape_error);
  CHECK_THROWS_AS(moments({.sum_square = {}, .sum_abs = {1.0}}), shape_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}, .sum = {-2.1}}), config_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}, .sum_abs = {-0.1}}), config_error);
  CHECK_THROWS_WITH(moments({.sum_square = {0.25}, .sum_abs = {2.0}}), Contains("sum_abs") && Contains("channel 0")); // means
  CHECK_THROWS_AS(moments({.sum_square = {1.0}, .max_abs = {1.1f}}), config_error);
  CHECK_THROWS_AS(moments({.sum_square = {1.0}, .sample_peak_mean_abs = {infinity}}), nonfinite_error);
}
