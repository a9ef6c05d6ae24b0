#include "slim/saliency/channel_weights.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/saliency_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("magnitude keeps the laws and is |w|") {
  CHECK(describe(check_saliency(magnitude())) == "");
  matrix<float> const w = normal_matrix(3, 5, 1);
  auto const score = magnitude().prepare(w.view(), calibration(5));
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 5; ++j) CHECK(score(i, j) == std::abs(w(i, j)));
}

TEST_CASE("wanda keeps the laws") { CHECK(describe(check_saliency(wanda())) == ""); }

TEST_CASE("wanda ranks weights as |w| times the norm of the channel does") {
  matrix<float> const w = normal_matrix(8, 12, 2), x = normal_matrix(30, 12, 3);
  auto const score = wanda().prepare(w.view(), observed(x));
  std::vector<double> norm(12);
  for (index_t t = 0; t < 30; ++t)
    for (index_t j = 0; j < 12; ++j)
      norm[static_cast<std::size_t>(j)] += static_cast<double>(x(t, j)) * static_cast<double>(x(t, j));
  auto const literal = [&](index_t i, index_t j) {
    return std::abs(static_cast<double>(w(i, j))) * std::sqrt(norm[static_cast<std::size_t>(j)]);
  };
  for (index_t i = 0; i < 8; ++i)
    for (index_t a = 0; a < 12; ++a)
      for (index_t b = 0; b < 12; ++b)
        if (literal(i, a) > literal(i, b) * (1 + 1e-6)) CHECK(score(i, a) > score(i, b));
}

TEST_CASE("wanda scores of dead channels are 0 and those of huge weights finite") {
  matrix<float> x = normal_matrix(9, 3, 4, 1e18f), w(1, 3);
  for (index_t t = 0; t < 9; ++t) x(t, 1) = 0.0f;
  w(0, 0) = w(0, 1) = 3e38f;
  w(0, 2) = 1e38f;
  auto const score = wanda().prepare(w.view(), observed(x));
  CHECK(score(0, 1) == 0.0f);
  CHECK(std::isfinite(score(0, 0)));
  CHECK(score(0, 0) > score(0, 2));
}

TEST_CASE("wanda refuses an unseen layer and another layer") {
  matrix<float> const w = normal_matrix(2, 4, 5);
  CHECK_THROWS_AS(wanda().prepare(w.view(), calibration(4)), config_error);
  CHECK_THROWS_AS(wanda().prepare(w.view(), observed(normal_matrix(3, 3, 6))), shape_error);
}

TEST_CASE("linear saliencies keep the laws") {
  CHECK(describe(check_linear_saliency(unit_saliency())) == "");
  CHECK(describe(check_linear_saliency(slim_saliency())) == "");
  CHECK(describe(check_linear_saliency(rms_saliency())) == "");
  CHECK(describe(check_linear_saliency(l2qer_saliency())) == "");
}

TEST_CASE("without dead channels the weights are mean |x|, root mean square, and L2QER's ratio") {
  matrix<float> const x = normal_matrix(20, 7, 7);
  calibration calib(7);
  calib.observe(x.view().middle_rows(0, 8));
  calib.observe(x.view().middle_rows(8, 12));
  std::vector<double> mean_abs(7), mean_square(7), peak(7);
  for (index_t j = 0; j < 7; ++j) {
    auto const c = static_cast<std::size_t>(j);
    double first = 0, second = 0;
    for (index_t t = 0; t < 20; ++t) {
      double const v = std::abs(static_cast<double>(x(t, j)));
      mean_abs[c] += v / 20;
      mean_square[c] += v * v / 20;
      (t < 8 ? first : second) += v;
    }
    peak[c] = std::max(first / 8, second / 12);
  }
  double const low = *std::min_element(peak.begin(), peak.end()), high = *std::max_element(peak.begin(), peak.end());
  auto const unit = unit_saliency().channel_weights(calib), slim_weights = slim_saliency().channel_weights(calib),
             rms = rms_saliency().channel_weights(calib), l2qer = l2qer_saliency().channel_weights(calib);
  for (std::size_t j = 0; j < 7; ++j) {
    CHECK(unit[j] == 1.0f);
    CHECK(static_cast<double>(slim_weights[j]) == Approx(mean_abs[j]).epsilon(1e-6));
    CHECK(static_cast<double>(rms[j]) == Approx(std::sqrt(mean_square[j])).epsilon(1e-6));
    CHECK(static_cast<double>(l2qer[j]) == Approx(peak[j] / std::sqrt(low * high)).epsilon(1e-6));
  }
}

TEST_CASE("a dead channel shifts all of SLiM's weights by the smallest positive mean") {
  matrix<float> x(2, 4);
  x(0, 0) = 1, x(1, 0) = -3; // mean |x| = 2
  x(0, 1) = 0.5f;            // 0.25
  x(1, 2) = 16;              // 8; channel 3 is dead
  auto const weights = slim_saliency().channel_weights(observed(x));
  CHECK(weights == std::vector<float>{2.25f, 0.5f, 8.25f, 0.25f});
}

TEST_CASE("a dead channel gets the smallest positive weight of the others; all dead gives 1") {
  matrix<float> x(1, 3);
  x(0, 0) = 2, x(0, 2) = 4;
  CHECK(rms_saliency().channel_weights(observed(x)) == std::vector<float>{2, 2, 4});
  CHECK(rms_saliency().channel_weights(observed(matrix<float>(5, 2))) == std::vector<float>{1, 1});
  CHECK(l2qer_saliency().channel_weights(observed(matrix<float>(5, 2))) == std::vector<float>{1, 1});
}

TEST_CASE("weights are finite and positive for activations at both ends of the floats") {
  matrix<float> x(1, 3);
  x(0, 0) = std::numeric_limits<float>::denorm_min(), x(0, 1) = std::numeric_limits<float>::max();
  calibration const calib = observed(x);
  for (auto const& weights :
       {slim_saliency().channel_weights(calib), rms_saliency().channel_weights(calib), l2qer_saliency().channel_weights(calib)})
    for (float const weight : weights) CHECK((std::isnormal(weight) && weight > 0));
}

TEST_CASE("linear saliencies that need activations say so by name") {
  CHECK_THROWS_AS(slim_saliency().channel_weights(calibration(2)), config_error);
  CHECK_THROWS_AS(rms_saliency().channel_weights(calibration(2)), config_error);
  CHECK_THROWS_AS(l2qer_saliency().channel_weights(calibration(2)), config_error);
  CHECK(unit_saliency().channel_weights(calibration(2)) == std::vector<float>{1, 1});
  CHECK_THROWS_WITH(slim_saliency().channel_weights(calibration(2)), Catch::Contains("slim_saliency"));
}
