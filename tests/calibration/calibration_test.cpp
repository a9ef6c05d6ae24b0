#include "slim/calibration/calibration.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "support/brute_gram.hpp"

#include <catch2/catch.hpp>

#include <functional>

using namespace slim;
using namespace slim::testing;
using Catch::Matchers::Contains;

namespace {

matrix<float> rows_of(matrix<float> const& x, index_t begin, index_t end) {
  return matrix<float>(x.view().middle_rows(begin, end - begin));
}

/// ||X E^T||_F^2 by multiplying out.
double brute_output_energy(matrix<float> const& e, matrix<float> const& x) {
  double energy = 0;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t i = 0; i < e.rows(); ++i) {
      double y = 0;
      for (index_t j = 0; j < e.cols(); ++j) y += static_cast<double>(x(t, j)) * static_cast<double>(e(i, j));
      energy += y * y;
    }
  return energy;
}

std::string what_of(std::function<void()> const& f) {
  try {
    f();
  } catch (error const& thrown) {
    return thrown.what();
  }
  return "nothing thrown";
}

} // namespace

TEST_CASE("moments are the means of plain double loops") {
  index_t const channels = GENERATE(0, 1, 3, 64, 131);
  matrix<float> const x = normal_matrix(29, channels, 7, 3.0f);
  calibration const calib = observed(x);
  CHECK(calib.tokens() == 29);
  CHECK(calib.channels() == channels);
  for (index_t j = 0; j < channels; ++j) {
    double sum = 0, sum_abs = 0, sum_square = 0;
    float largest = 0;
    for (index_t t = 0; t < 29; ++t) {
      double const v = static_cast<double>(x(t, j));
      sum += v;
      sum_abs += std::abs(v);
      sum_square += v * v;
      largest = std::max(largest, std::abs(x(t, j)));
    }
    auto const c = static_cast<std::size_t>(j);
    CHECK(calib.mean()[c] == sum / 29);
    CHECK(calib.mean_abs()[c] == sum_abs / 29);
    CHECK(calib.mean_square()[c] == sum_square / 29);
    CHECK(calib.max_abs()[c] == largest);
    CHECK(calib.sample_peak_mean_abs()[c] == sum_abs / 29);
  }
}

TEST_CASE("moments do not depend on how tokens are cut into batches, bit for bit") {
  matrix<float> const x = normal_matrix(50, 70, 8);
  calibration const whole = observed(x);
  calibration cut(70);
  for (index_t const end : {0, 1, 1, 17, 18, 49, 50}) {
    cut.observe(rows_of(x, cut.tokens(), end).view());
    CHECK(cut.tokens() == end);
  }
  CHECK(cut.mean() == whole.mean());
  CHECK(cut.mean_abs() == whole.mean_abs());
  CHECK(cut.mean_square() == whole.mean_square());
  CHECK(cut.max_abs() == whole.max_abs());
}

TEST_CASE("the peak of batch means is the largest of the batches' own means") {
  matrix<float> x(4, 1);
  x(0, 0) = 1, x(1, 0) = -3, x(2, 0) = 5, x(3, 0) = 0;
  calibration calib(1);
  calib.observe(rows_of(x, 0, 2).view());
  calib.observe(rows_of(x, 2, 4).view());
  CHECK(calib.sample_peak_mean_abs()[0] == 2.5);
  CHECK(calib.mean_abs()[0] == 2.25);
  calib.observe(matrix<float>(0, 1).view()); // an empty batch is no sample
  CHECK(calib.sample_peak_mean_abs()[0] == 2.5);
}

TEST_CASE("merging two calibrations is observing both") {
  matrix<float> const x = normal_matrix(60, 33, 9);
  calibration_config const config{.gram = true};
  calibration a = observed(rows_of(x, 0, 20), config);
  calibration const b = observed(rows_of(x, 20, 60), config);
  a.merge(b);
  calibration both(33, config);
  both.observe(rows_of(x, 0, 20).view());
  both.observe(rows_of(x, 20, 60).view());
  CHECK(a.tokens() == 60);
  CHECK(a.max_abs() == both.max_abs());
  CHECK(a.sample_peak_mean_abs() == both.sample_peak_mean_abs());
  for (std::size_t j = 0; j < 33; ++j) { // two partial double sums against one: a few ulp
    CHECK(a.mean()[j] == Approx(both.mean()[j]).epsilon(1e-12).margin(1e-14));
    CHECK(a.mean_abs()[j] == Approx(both.mean_abs()[j]).epsilon(1e-13));
    CHECK(a.mean_square()[j] == Approx(both.mean_square()[j]).epsilon(1e-13));
  }
  for (index_t i = 0; i < 33; ++i)
    for (index_t j = 0; j < 33; ++j) CHECK(a.gram()(i, j) == both.gram()(i, j)); // the same two float panels
  calibration empty(33, config);
  empty.merge(a);
  CHECK(empty.mean_square() == a.mean_square());
}

TEST_CASE("merging refuses another layer and another configuration, with both sizes in the message") {
  calibration a(3);
  CHECK_THROWS_AS(a.merge(calibration(4)), shape_error);
  CHECK_THAT(what_of([&] { a.merge(calibration(4)); }), Contains("4") && Contains("3"));
  CHECK_THROWS_AS(a.merge(calibration(3, {.gram = true})), config_error);
}

TEST_CASE("the Gram matrix is X^T X of a double loop, to float rounding of panels") {
  index_t const tokens = GENERATE(0, 1, 5, 255, 256, 257, 600);
  index_t const channels = GENERATE(1, 7, 40, 65);
  matrix<float> const x = normal_matrix(tokens, channels, 11);
  calibration const calib = observed(x, {.gram = true});
  matrix<double> const gram = slim_test::brute_gram(x);
  // A panel of 256 products of unit normals: error below 256 * 2^-24 * 256^(1/2) with room for outliers.
  double const tolerance = 1e-6 * static_cast<double>(std::max<index_t>(tokens, 1));
  for (index_t a = 0; a < channels; ++a)
    for (index_t b = 0; b < channels; ++b) {
      REQUIRE(calib.gram()(a, b) == Approx(gram(a, b)).margin(tolerance));
      REQUIRE(calib.gram()(a, b) == calib.gram()(b, a));
    }
}

TEST_CASE("statistics are the same bits on every executor") {
  matrix<float> const x = normal_matrix(300, 150, 12);
  auto const run = [&](auto const& where) {
    calibration calib(150, {.gram = true});
    calib.observe(x.view(), on(where));
    return calib;
  };
  calibration const one = run(serial_executor{});
  auto const same = [&](calibration const& other) {
    return other.mean() == one.mean() && other.mean_square() == one.mean_square() && other.max_abs() == one.max_abs() &&
           other.sample_peak_mean_abs() == one.sample_peak_mean_abs() &&
           matrix<double>(other.gram()) == matrix<double>(one.gram());
  };
  CHECK(same(run(backwards_executor{})));
  CHECK(same(run(thread_team_executor{4})));
  CHECK(same(run(default_executor{})));
}

TEST_CASE("activations that are not finite are refused by token and channel, zeroed, or let through") {
  float const bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity());
  matrix<float> x = normal_matrix(6, 4, 13);
  x(3, 2) = bad;
  x(5, 1) = bad;
  calibration calib(4, {.gram = true});
  CHECK_THROWS_AS(calib.observe(x), nonfinite_error);
  CHECK_THAT(what_of([&] { calib.observe(x); }), Contains("token 3") && Contains("channel 2"));
  CHECK(calib.tokens() == 0);
  CHECK(calib.mean_square() == std::vector<double>(4, 0.0));

  context zero;
  zero.on_nonfinite = nonfinite::zero;
  calib.observe(x, zero);
  matrix<float> cleaned = x;
  cleaned(3, 2) = cleaned(5, 1) = 0.0f;
  CHECK(calib.mean_abs() == observed(cleaned).mean_abs());
  CHECK(calib.zeroed_activations() == 2);

  context propagate;
  propagate.on_nonfinite = nonfinite::propagate;
  calibration through(4);
  through.observe(x, propagate);
  CHECK_FALSE(std::isfinite(through.mean_square()[2]));
  CHECK(std::isfinite(through.mean_square()[0]));
}

TEST_CASE("observing another number of channels throws shape_error with both numbers and changes nothing") {
  calibration calib(4);
  CHECK_THROWS_AS(calib.observe(matrix<float>(2, 5)), shape_error);
  CHECK_THAT(what_of([&] { calib.observe(matrix<float>(2, 5)); }), Contains("5") && Contains("4"));
  CHECK(calib.tokens() == 0);
  CHECK_THROWS_AS(calibration(-1), shape_error);
  CHECK_THROWS_AS(calibration(3).gram(), config_error);
}

TEST_CASE("dead channels are those that were 0 in every token") {
  matrix<float> x = normal_matrix(5, 4, 14);
  for (index_t t = 0; t < 5; ++t) x(t, 1) = x(t, 3) = 0.0f;
  x(2, 3) = 1e-40f; // alive
  CHECK(observed(x).dead_channels() == 1);
  CHECK(calibration(4).dead_channels() == 0);
  CHECK(calibration(4).mean() == std::vector<double>(4, 0.0));
}

TEST_CASE("output energy with a Gram matrix is ||X E^T||^2, without one the sum of uncorrelated channels") {
  matrix<float> const x = normal_matrix(90, 23, 15), e = normal_matrix(11, 23, 16, 0.01f);
  double const energy = brute_output_energy(e, x);
  CHECK(output_energy(e.view(), observed(x, {.gram = true})) == Approx(energy).epsilon(1e-5)); // Gram in float
  double uncorrelated = 0;
  for (index_t t = 0; t < 90; ++t)
    for (index_t i = 0; i < 11; ++i)
      for (index_t j = 0; j < 23; ++j) uncorrelated += std::pow(static_cast<double>(x(t, j)) * static_cast<double>(e(i, j)), 2);
  CHECK(output_energy(e.view(), observed(x)) == Approx(uncorrelated).epsilon(1e-12));
  CHECK(output_energy(e.view(), calibration(23)) == 0.0);
  CHECK(output_energy(matrix<float>(0, 23).view(), observed(x, {.gram = true})) == 0.0);
  CHECK_THROWS_AS(output_energy(e.view(), calibration(22)), shape_error);
}

TEST_CASE("output energy is the same bits on every executor") {
  bool const gram = GENERATE(false, true);
  matrix<float> const x = normal_matrix(90, 77, 17), e = normal_matrix(61, 77, 18);
  calibration const calib = observed(x, {.gram = gram});
  double const energy = output_energy(e.view(), calib, on(serial_executor{}));
  CHECK(energy > 0);
  CHECK(energy == output_energy(e.view(), calib, on(thread_team_executor{4})));
  CHECK(energy == output_energy(e.view(), calib, on(backwards_executor{})));
}

TEST_CASE("tokens of weight 1 change no bit, others count as often as they weigh") {
  matrix<float> const x = normal_matrix(300, 7, 1), y = normal_matrix(300, 4, 2);
  calibration plain(7, {.gram = true, .outputs = 4}), ones = plain, weighted = plain;
  plain.observe(x.view(), y.view());
  ones.observe(x.view(), y.view(), std::vector<float>(300, 1.0f));
  CHECK(matrix<double>(ones.gram()) == matrix<double>(plain.gram()));
  CHECK(matrix<double>(ones.cross()) == matrix<double>(plain.cross()));
  CHECK(ones.mean() == plain.mean());
  CHECK(ones.mean_abs() == plain.mean_abs());
  CHECK(ones.mean_square() == plain.mean_square());
  CHECK(ones.sample_peak_mean_abs() == plain.sample_peak_mean_abs());

  std::vector<float> weights;
  for (std::size_t t = 0; t < 300; ++t) weights.push_back(0.25f * static_cast<float>(t % 9));
  weighted.observe(x.view(), y.view(), weights);
  CHECK(weighted.tokens() == 300);
  CHECK(weighted.max_abs() == plain.max_abs());
  for (index_t a = 0; a < 7; ++a) {
    double sum = 0, sum_abs = 0, sum_square = 0;
    for (index_t t = 0; t < 300; ++t) {
      double const w = static_cast<double>(weights[static_cast<std::size_t>(t)]), v = static_cast<double>(x(t, a));
      sum += w * v;
      sum_abs += w * std::abs(v);
      sum_square += w * v * v;
    }
    auto const at = static_cast<std::size_t>(a);
    CHECK(weighted.mean()[at] == Approx(sum / 300));
    CHECK(weighted.mean_abs()[at] == Approx(sum_abs / 300));
    CHECK(weighted.mean_square()[at] == Approx(sum_square / 300));
    auto const compared = [&](matrix<float> const& other, matrix_view<double const> have) {
      for (index_t b = 0; b < other.cols(); ++b) {
        double want = 0, size = 0;
        for (index_t t = 0; t < 300; ++t) {
          double const term = static_cast<double>(weights[static_cast<std::size_t>(t)]) * static_cast<double>(x(t, a)) *
                              static_cast<double>(other(t, b));
          want += term;
          size += std::abs(term);
        }
        CHECK(std::abs(have(a, b) - want) <= 1e-6 * size);
      }
    };
    compared(x, weighted.gram());
    compared(y, weighted.cross());
  }
}

TEST_CASE("weights that are none are refused and change nothing") {
  matrix<float> const x = normal_matrix(3, 2, 1);
  matrix_view<float const> const none(nullptr, 3, 0, 0);
  calibration calib(2, {.gram = true});
  CHECK_THAT(what_of([&] { calib.observe(x.view(), none, std::vector<float>{1, 2}); }), Contains("2 weights for 3 tokens"));
  CHECK_THAT(what_of([&] { calib.observe(x.view(), none, std::vector<float>{1, 2, -1}); }), Contains("token 2 is -1"));
  CHECK_THAT(what_of([&] { calib.observe(x.view(), none, std::vector<float>{1, std::nanf(""), 1}); }), Contains("token 1 is"));
  CHECK(calib.tokens() == 0);
}
