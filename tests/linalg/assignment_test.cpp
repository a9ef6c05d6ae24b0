#include "slim/linalg/assignment.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

#include <numeric>

using namespace slim;
using namespace slim::testing;

namespace {

double total(matrix<double> const& gain, std::vector<index_t> const& p) {
  double sum = 0;
  for (index_t i = 0; i < gain.rows(); ++i) sum += gain(i, p[static_cast<std::size_t>(i)]);
  return sum;
}

bool is_permutation_of(std::vector<index_t> p, index_t n) {
  std::sort(p.begin(), p.end());
  std::vector<index_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), index_t{0});
  return p == all;
}

double best_of_all(matrix<double> const& gain) {
  std::vector<index_t> p(static_cast<std::size_t>(gain.rows()));
  std::iota(p.begin(), p.end(), index_t{0});
  double best = -std::numeric_limits<double>::infinity();
  do best = std::max(best, total(gain, p));
  while (std::next_permutation(p.begin(), p.end()));
  return best;
}

/// Bertsekas' auction with bids of at least 1 / (n + 1): exact for integer gains. Shares nothing with shortest paths.
double auction(matrix<double> const& gain) {
  index_t const n = gain.rows();
  double const least = 1.0 / static_cast<double>(n + 1);
  std::vector<double> price(static_cast<std::size_t>(n));
  std::vector<index_t> owner(static_cast<std::size_t>(n), -1), bidders(static_cast<std::size_t>(n));
  std::iota(bidders.begin(), bidders.end(), index_t{0});
  while (!bidders.empty()) {
    index_t const i = bidders.back();
    bidders.pop_back();
    index_t best = -1;
    double first = -std::numeric_limits<double>::infinity(), second = first;
    for (index_t j = 0; j < n; ++j) {
      double const value = gain(i, j) - price[static_cast<std::size_t>(j)];
      if (value > first) {
        second = first;
        first = value;
        best = j;
      } else {
        second = std::max(second, value);
      }
    }
    auto const at = static_cast<std::size_t>(best);
    price[at] += (n == 1 ? 0.0 : first - second) + least;
    if (owner[at] >= 0) bidders.push_back(owner[at]);
    owner[at] = i;
  }
  double sum = 0;
  for (index_t j = 0; j < n; ++j) sum += gain(owner[static_cast<std::size_t>(j)], j);
  return sum;
}

matrix<double> integers(index_t n, std::uint64_t seed, double range) {
  matrix<double> m(n, n);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = std::floor(random_uniform(seed, static_cast<std::uint64_t>(k)) * range) - range / 3;
  return m;
}

} // namespace

TEST_CASE("an assignment gains as much as the best of all permutations") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    auto const n = static_cast<index_t>(1 + seed % 7);
    matrix<double> const gain(normal_matrix(n, n, seed).view());
    matrix<double> const ties = integers(n, seed, 4);
    for (matrix<double> const& m : {gain, ties}) {
      auto const p = linear_sum_assignment(m.view());
      REQUIRE(is_permutation_of(p, n));
      CHECK(total(m, p) == Approx(best_of_all(m)).margin(1e-12));
    }
  }
}

TEST_CASE("large assignments gain as much as an auction finds") {
  auto const [n, range] = GENERATE(table<index_t, double>({{40, 10.0}, {97, 1000.0}, {150, 3.0}}));
  matrix<double> const gain = integers(n, 5, range);
  auto const p = linear_sum_assignment(gain.view());
  REQUIRE(is_permutation_of(p, n));
  CHECK(total(gain, p) == auction(gain));
}

TEST_CASE("an assignment of nothing, of a view with wide rows, of equal gains") {
  CHECK(linear_sum_assignment(matrix<double>(0, 0).view()).empty());
  CHECK(is_permutation_of(linear_sum_assignment(matrix<double>(9, 9).view()), 9));
  matrix<double> const wide = integers(12, 6, 50);
  matrix<double> const part(wide.view().block(3, 2, 5, 5));
  CHECK(linear_sum_assignment(wide.view().block(3, 2, 5, 5)) == linear_sum_assignment(part.view()));
  CHECK_THROWS_AS(linear_sum_assignment(matrix<double>(2, 3).view()), shape_error);
  matrix<double> broken(3, 3);
  broken(1, 2) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(linear_sum_assignment(broken.view()), Catch::Contains("row 1, column 2"));
}
