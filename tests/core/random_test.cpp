#include "slim/core/random.hpp"

#include <catch2/catch.hpp>

TEST_CASE("seed 0 counts through the published SplitMix64 sequence") {
  // First outputs of Vigna's splitmix64.c started at 0.
  CHECK(slim::random_bits(0, 0) == 0xe220a8397b1dcdafull);
  CHECK(slim::random_bits(0, 1) == 0x6e789e6aa1b965f4ull);
  CHECK(slim::random_bits(0, 2) == 0x06c45d188009454full);
  CHECK(slim::random_bits(0, 3) == 0xf88bb8a8724c81ecull);
}

TEST_CASE("the numbers of a seed never change between versions") { // results of a seed are written down in people's papers
  CHECK(slim::random_bits(42, 7) == 0x2c2f7db2e54bae6aull);
  CHECK(slim::random_uniform(1, 0) == 0.9557038184179468);
  CHECK(slim::random_normal(1, 0) == Approx(-0.020661914581578594).epsilon(1e-14));
}

TEST_CASE("uniform numbers lie between 0 and 1, 1 excluded, and have its moments") {
  int const n = 200000;
  double sum = 0, squares = 0, neighbours = 0, between_seeds = 0;
  for (int k = 0; k < n; ++k) {
    auto const counter = static_cast<std::uint64_t>(k);
    double const u = slim::random_uniform(3, counter);
    REQUIRE((u >= 0 && u < 1));
    double const centred = u - 0.5;
    sum += centred;
    squares += centred * centred;
    neighbours += centred * (slim::random_uniform(3, counter + 1) - 0.5);
    between_seeds += centred * (slim::random_uniform(4, counter) - 0.5);
  }
  // Five standard errors: sqrt(1/12 / n) for the mean, sqrt(1/180 / n) for the variance, 1/12 / sqrt(n) for products.
  double const root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(sum / n) < 5 * std::sqrt(1.0 / 12) / root);
  CHECK(std::abs(squares / n - 1.0 / 12) < 5 * std::sqrt(1.0 / 180) / root);
  CHECK(std::abs(neighbours / n) < 5.0 / 12 / root);
  CHECK(std::abs(between_seeds / n) < 5.0 / 12 / root);
}

TEST_CASE("normal numbers are finite and have the normal moments") {
  int const n = 200000;
  double sum = 0, squares = 0, cubes = 0, fourths = 0, neighbours = 0;
  for (int k = 0; k < n; ++k) {
    auto const counter = static_cast<std::uint64_t>(k);
    double const z = slim::random_normal(5, counter);
    REQUIRE(std::isfinite(z));
    sum += z;
    squares += z * z;
    cubes += z * z * z;
    fourths += z * z * z * z;
    neighbours += z * slim::random_normal(5, counter + 1);
  }
  // Five standard errors; the variances of z, z^2, z^3, z^4 are 1, 2, 15, 96.
  double const root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(sum / n) < 5 / root);
  CHECK(std::abs(squares / n - 1) < 5 * std::sqrt(2.0) / root);
  CHECK(std::abs(cubes / n) < 5 * std::sqrt(15.0) / root);
  CHECK(std::abs(fourths / n - 3) < 5 * std::sqrt(96.0) / root);
  CHECK(std::abs(neighbours / n) < 5 / root);
}
