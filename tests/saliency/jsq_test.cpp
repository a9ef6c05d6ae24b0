#include "slim/saliency/jsq.hpp"
#include "slim/testing/saliency_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("jsq keeps the laws of a saliency") {
  CHECK(describe(check_saliency(jsq(normal_matrix(40, 30, 1)), hard_values())) == "");
  CHECK(describe(check_saliency(jsq(normal_matrix(1, 30, 2, 1e30f)), hard_values())) == "");
  CHECK(describe(check_saliency(jsq(matrix<float>(5, 30)), hard_values())) == "");
}

TEST_CASE("jsq is |w| ||x|| plus rho times the range of the output without the weight, up to one common factor") {
  double const rho = GENERATE(0.0, 2.1, 50.0);
  matrix<float> const x = normal_matrix(25, 6, 3, 3.0f), w = normal_matrix(4, 6, 4);
  auto const score = jsq(x, {.rho = rho, .clip = 0.0}).prepare(w.view(), calibration(6));
  auto const literal = [&](index_t i, index_t j) {
    double norm = 0, low = 1e300, high = -1e300;
    for (index_t t = 0; t < 25; ++t) {
      norm += std::pow(static_cast<double>(x(t, j)), 2);
      double y = 0;
      for (index_t k = 0; k < 6; ++k)
        if (k != j) y += static_cast<double>(x(t, k)) * static_cast<double>(w(i, k));
      low = std::min(low, y);
      high = std::max(high, y);
    }
    return std::abs(static_cast<double>(w(i, j))) * std::sqrt(norm) + rho * (high - low);
  };
  double const factor = static_cast<double>(score(0, 0)) / literal(0, 0);
  CHECK(std::exp2(std::round(std::log2(factor))) == Approx(factor).epsilon(1e-5)); // a power of two
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 6; ++j) CHECK(static_cast<double>(score(i, j)) == Approx(factor * literal(i, j)).epsilon(1e-5));
}

TEST_CASE("jsq's sample is clipped as if its largest activations were no larger than the next") {
  matrix<float> x = normal_matrix(20, 5, 5);
  x(3, 2) = 1000.0f;
  x(4, 0) = -500.0f;
  matrix<float> cut = x;
  float next = 0.0f;
  for (index_t k = 0; k < x.size(); ++k)
    if (float const m = std::abs(x.data()[k]); m < 500.0f) next = std::max(next, m);
  cut(3, 2) = next;
  cut(4, 0) = -next;
  matrix<float> const w = normal_matrix(3, 5, 6);
  auto const clipped = jsq(x, {.clip = 0.02}).prepare(w.view(), calibration(5)),
             by_hand = jsq(cut, {.clip = 0.0}).prepare(w.view(), calibration(5));
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 5; ++j) CHECK(clipped(i, j) == by_hand(i, j));
}

TEST_CASE("jsq refuses bad samples and configurations") {
  matrix<float> x = normal_matrix(4, 3, 7);
  CHECK_THROWS_AS(jsq(matrix<float>(0, 3)), config_error);
  CHECK_THROWS_AS(jsq(x, {.rho = -1.0}), config_error);
  CHECK_THROWS_AS(jsq(x, {.clip = 1.0}), config_error);
  CHECK_THROWS_AS(jsq(x).prepare(matrix<float>(2, 4).view(), calibration(4)), shape_error);
  x(1, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(jsq(x), Catch::Contains("token 1") && Catch::Contains("channel 2"));
}
