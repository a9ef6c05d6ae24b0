#include "slim/saliency/ria.hpp"
#include "slim/testing/saliency_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("ria keeps the laws, whatever its power") {
  CHECK(describe(check_saliency(ria())) == "");
  CHECK(describe(check_saliency(ria({.power = 0.0}))) == "");
  CHECK(describe(check_saliency(ria({.power = 2.0}))) == "");
}

TEST_CASE("ria is the paper's formula up to one common factor") {
  double const power = GENERATE(0.0, 0.5, 1.0);
  matrix<float> const w = normal_matrix(7, 12, 2), x = normal_matrix(30, 12, 3);
  auto const score = ria({.power = power}).prepare(w.view(), observed(x));
  std::vector<double> row(7), column(12), norm(12);
  for (index_t i = 0; i < 7; ++i)
    for (index_t j = 0; j < 12; ++j) {
      row[static_cast<std::size_t>(i)] += std::abs(static_cast<double>(w(i, j)));
      column[static_cast<std::size_t>(j)] += std::abs(static_cast<double>(w(i, j)));
    }
  for (index_t t = 0; t < 30; ++t)
    for (index_t j = 0; j < 12; ++j) norm[static_cast<std::size_t>(j)] += std::pow(static_cast<double>(x(t, j)), 2);
  auto const literal = [&](index_t i, index_t j) {
    double const magnitude = std::abs(static_cast<double>(w(i, j)));
    return (magnitude / row[static_cast<std::size_t>(i)] + magnitude / column[static_cast<std::size_t>(j)]) *
           std::pow(std::sqrt(norm[static_cast<std::size_t>(j)]), power);
  };
  double const factor = static_cast<double>(score(3, 4)) / literal(3, 4);
  for (index_t i = 0; i < 7; ++i)
    for (index_t j = 0; j < 12; ++j) CHECK(static_cast<double>(score(i, j)) == Approx(factor * literal(i, j)).epsilon(1e-6));
}

TEST_CASE("ria scores of dead channels are 0, unless activations do not count; rows and columns of zeros score 0") {
  matrix<float> x = normal_matrix(9, 3, 4), w = normal_matrix(2, 3, 5);
  for (index_t t = 0; t < 9; ++t) x(t, 1) = 0.0f;
  w(0, 2) = w(1, 2) = 0.0f;
  auto const score = ria().prepare(w.view(), observed(x));
  CHECK(score(0, 1) == 0.0f);
  CHECK(score(0, 2) == 0.0f);
  CHECK(score(0, 0) > 0.0f);
  CHECK(ria({.power = 0.0}).prepare(w.view(), observed(x))(0, 1) > 0.0f);
}

TEST_CASE("a channel of small weights keeps some of them under ria, none under magnitude") {
  // Column 0 is a hundred times smaller than the others; by its share of its column its weights still count.
  matrix<float> w = normal_matrix(40, 4, 6);
  for (index_t i = 0; i < 40; ++i) w(i, 0) *= 0.01f;
  auto const score = ria({.power = 0.0}).prepare(w.view(), calibration(4));
  index_t kept = 0;
  for (index_t i = 0; i < 40; ++i) {
    int better = 0;
    for (index_t j = 1; j < 4; ++j) better += score(i, j) > score(i, 0) ? 1 : 0;
    kept += better < 2 ? 1 : 0;
  }
  CHECK(kept > 0);
  CHECK(kept < 20); // but less than of an ordinary channel
}

TEST_CASE("ria refuses bad powers, an unseen layer and another layer") {
  matrix<float> const w = normal_matrix(2, 4, 5);
  CHECK_THROWS_AS(ria({.power = -1.0}), config_error);
  CHECK_THROWS_AS(ria({.power = std::nan("")}), config_error);
  CHECK_THROWS_AS(ria().prepare(w.view(), calibration(4)), config_error);
  CHECK_NOTHROW(ria({.power = 0.0}).prepare(w.view(), calibration(4)));
  CHECK_THROWS_AS(ria().prepare(w.view(), observed(normal_matrix(3, 3, 6))), shape_error);
}
