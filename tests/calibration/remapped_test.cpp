#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Y with y_j = factors[j] * x_{from[j]}, by hand.
matrix<float> moved(matrix<float> const& x, std::vector<index_t> const& from, std::vector<double> const& factors) {
  matrix<float> y(x.rows(), static_cast<index_t>(from.size()));
  for (index_t t = 0; t < y.rows(); ++t)
    for (index_t j = 0; j < y.cols(); ++j)
      y(t, j) = static_cast<float>(factors[static_cast<std::size_t>(j)] *
                                   static_cast<double>(x(t, from[static_cast<std::size_t>(j)])));
  return y;
}

} // namespace

TEST_CASE("a remapped calibration is the calibration of the remapped activations") {
  matrix<float> const x = normal_matrix(30, 6, 1);
  std::vector<index_t> const from{4, 0, 5, 2, 2, 1};
  std::vector<double> const factors{1.0, -2.0, 0.25, 8.0, 1.0, 0.0}; // powers of two: products are exact
  matrix<float> const y = moved(x, from, factors);
  calibration calib(6, {.gram = true}), expected(6, {.gram = true});
  for (index_t t = 0; t < 30; t += 10) {
    calib.observe(x.view().middle_rows(t, 10));
    expected.observe(y.view().middle_rows(t, 10));
  }
  calibration const found = calib.remapped(from, factors);
  CHECK(found.tokens() == 30);
  CHECK(found.mean() == expected.mean());
  CHECK(found.mean_abs() == expected.mean_abs());
  CHECK(found.mean_square() == expected.mean_square());
  CHECK(found.max_abs() == expected.max_abs());
  CHECK(found.sample_peak_mean_abs() == expected.sample_peak_mean_abs());
  for (index_t j = 0; j < 6; ++j)
    for (index_t k = 0; k < 6; ++k) CHECK(found.gram()(j, k) == Approx(expected.gram()(j, k)).margin(1e-5));
}

TEST_CASE("without factors every number of a remapped calibration is copied exactly") {
  matrix<float> const x = normal_matrix(30, 3, 2);
  calibration const calib = observed(x, {.gram = true});
  calibration const found = calib.remapped(std::vector<index_t>{2, 0, 1});
  for (index_t j = 0; j < 3; ++j)
    for (index_t k = 0; k < 3; ++k) CHECK(found.gram()(j, k) == calib.gram()((j + 2) % 3, (k + 2) % 3));
  CHECK(found.mean()[0] == calib.mean()[2]);
  CHECK_FALSE(observed(x).remapped(std::vector<index_t>{0}).has_gram());
  CHECK(observed(x).remapped(std::vector<index_t>{}).channels() == 0);
}

TEST_CASE("remapping keeps what else a calibration knows") {
  matrix<float> x = normal_matrix(4, 2, 3);
  x(1, 1) = std::numeric_limits<float>::quiet_NaN();
  calibration calib(2);
  calib.observe(x, {.on_nonfinite = nonfinite::zero});
  CHECK(calib.remapped(std::vector<index_t>{1, 0}).zeroed_activations() == 1);
  CHECK(calib.remapped(std::vector<index_t>{1, 0}).tokens() == 4);
}

TEST_CASE("remapping takes the cross moment with the outputs and the held-out tokens along") {
  matrix<float> const x = normal_matrix(12, 3, 4), y = normal_matrix(12, 2, 5), later = normal_matrix(5, 3, 6);
  calibration calib(3, {.gram = true, .outputs = 2});
  calib.observe(x.view(), y.view());
  calib.hold_out(observed(later));
  calibration const found = calib.remapped(std::vector<index_t>{2, 0, 1}, std::vector<double>{1.0, 4.0, -1.0});
  for (index_t k = 0; k < 2; ++k) {
    CHECK(found.cross()(0, k) == calib.cross()(2, k));
    CHECK(found.cross()(1, k) == 4 * calib.cross()(0, k));
    CHECK(found.cross()(2, k) == -calib.cross()(1, k));
  }
  REQUIRE(found.held_out());
  CHECK(found.held_out()->tokens() == 5);
  CHECK(found.held_out()->mean_square()[1] == 16 * observed(later).mean_square()[0]);
}

TEST_CASE("bad maps of channels are refused") {
  calibration const calib(3);
  std::vector<index_t> const same{0, 1, 2};
  CHECK_THROWS_AS(calib.remapped(std::vector<index_t>{0, 3}), shape_error);
  CHECK_THROWS_AS(calib.remapped(std::vector<index_t>{-1}), shape_error);
  CHECK_THROWS_AS(calib.remapped(same, std::vector<double>{1.0}), shape_error);
  CHECK_THROWS_AS(calib.remapped(same, std::vector<double>{1.0, 2.0, std::numeric_limits<double>::infinity()}), config_error);
}

TEST_CASE("what calibrations hold out is merged like what they show") {
  matrix<float> const x = normal_matrix(30, 6, 1);
  auto const rows = [&](index_t first, index_t count) { return observed(matrix<float>(x.view().middle_rows(first, count))); };
  calibration a = rows(0, 5), b = rows(5, 5), none = rows(10, 5);
  a.hold_out(rows(15, 7));
  b.hold_out(rows(22, 8));
  a.merge(b);
  a.merge(none);
  REQUIRE(a.held_out());
  CHECK(a.held_out()->tokens() == 15);
  CHECK(a.held_out()->mean() == rows(15, 15).mean());
  none.merge(a);
  REQUIRE(none.held_out());
  CHECK(none.held_out()->tokens() == 15);
  CHECK(none.tokens() == 20);
}
