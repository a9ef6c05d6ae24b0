#include "slim/saliency/jsq.hpp"
#include "slim/testing/saliency_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// A calibration whose sample is all of X.
calibration kept_whole(matrix<float> const& x) { return observed(x, {.samples = x.rows()}); }

/// Counts the parallel regions it is given.
struct counting_executor {
  mutable int regions = 0;
  void for_each(index_t count, task_ref task) const {
    ++regions;
    serial_executor{}.for_each(count, task);
  }
};

} // namespace

TEST_CASE("jsq keeps the laws of a saliency") {
  CHECK(describe(check_saliency(jsq())) == "");
  CHECK(describe(check_saliency(jsq({.rho = 0.0, .clip = 0.5}))) == "");
}

TEST_CASE("jsq is |w| ||x|| plus rho times the range of the output without the weight, up to one common factor") {
  double const rho = GENERATE(0.0, 2.1, 50.0);
  matrix<float> const x = normal_matrix(25, 6, 3, 3.0f), w = normal_matrix(4, 6, 4);
  auto const score = jsq({.rho = rho, .clip = 0.0}).prepare(w.view(), kept_whole(x));
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
  auto const clipped = jsq({.clip = 0.02}).prepare(w.view(), kept_whole(x)),
             by_hand = jsq({.clip = 0.0}).prepare(w.view(), kept_whole(cut));
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 5; ++j) CHECK(clipped(i, j) == by_hand(i, j));
}

TEST_CASE("jsq scores by the calibration's sample alone, on the context's executor") {
  matrix<float> const x = normal_matrix(40, 9, 8), w = normal_matrix(30, 9, 9);
  calibration const some = observed(x, {.samples = 7});
  counting_executor const where;
  auto const score = jsq().prepare(w.view(), some, on(where));
  CHECK(where.regions > 0);
  auto const by_hand = jsq().prepare(w.view(), kept_whole(matrix<float>(some.samples())));
  for (index_t i = 0; i < 30; ++i)
    for (index_t j = 0; j < 9; ++j) CHECK(score(i, j) == by_hand(i, j));
}

TEST_CASE("jsq stays finite on huge, single and all-zero tokens") {
  matrix<float> const w = normal_matrix(5, 30, 10);
  for (matrix<float> const& x : {normal_matrix(1, 30, 2, 1e30f), matrix<float>(5, 30), normal_matrix(3, 30, 2, 1e-40f)}) {
    auto const score = jsq().prepare(w.view(), kept_whole(x));
    for (index_t i = 0; i < 5; ++i)
      for (index_t j = 0; j < 30; ++j) CHECK(std::isfinite(score(i, j)));
  }
}

TEST_CASE("jsq refuses bad configurations and calibrations without samples, and says what it needs") {
  matrix<float> x = normal_matrix(4, 3, 7);
  matrix<float> const w(2, 3);
  CHECK_THROWS_AS(jsq({.rho = -1.0}), config_error);
  CHECK_THROWS_AS(jsq({.clip = 1.0}), config_error);
  CHECK_THROWS_AS(jsq().prepare(matrix<float>(2, 4).view(), kept_whole(x)), shape_error);
  CHECK_THROWS_AS(jsq().prepare(w.view(), observed(x)), config_error);
  CHECK_THROWS_WITH(jsq().prepare(w.view(), observed(x)), Catch::Contains("jsq") && Catch::Contains(".samples = n"));
  CHECK_THROWS_WITH(jsq().prepare(w.view(), calibration(3, {.samples = 5})), Catch::Contains("no tokens"));
  x(1, 2) = std::numeric_limits<float>::quiet_NaN();
  calibration through(3, {.samples = 4});
  through.observe(x.view(), {.on_nonfinite = nonfinite::propagate});
  CHECK_THROWS_AS(jsq().prepare(w.view(), through), nonfinite_error);
  CHECK_THROWS_WITH(jsq().prepare(w.view(), through), Catch::Contains("token 1") && Catch::Contains("channel 2"));
}
