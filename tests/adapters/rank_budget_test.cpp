#include "slim/allocation/rank_budget.hpp"

#include "slim/core/random.hpp"

#include <catch2/catch.hpp>

#include <algorithm>

using namespace slim;

namespace {

double gained(std::vector<rank_offer> const& offers, std::vector<index_t> const& ranks) {
  double sum = 0;
  for (std::size_t k = 0; k < offers.size(); ++k)
    for (index_t i = 0; i < ranks[k]; ++i) sum += offers[k].gains[static_cast<std::size_t>(i)];
  return sum;
}

/// The best over all allocations.
double best_gain(std::vector<rank_offer> const& offers, std::size_t k, double bits) {
  if (k == offers.size()) return 0;
  double best = 0, sum = 0;
  for (std::size_t r = 0; r <= offers[k].gains.size() && static_cast<double>(r) * offers[k].bits_each <= bits; ++r) {
    if (r > 0) sum += offers[k].gains[r - 1];
    best = std::max(best, sum + best_gain(offers, k + 1, bits - static_cast<double>(r) * offers[k].bits_each));
  }
  return best;
}

} // namespace

TEST_CASE("water-filling is the best allocation of what it spends, by trying all") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    std::vector<rank_offer> offers(3);
    for (std::size_t k = 0; k < 3; ++k) {
      offers[k].bits_each = 1.0 + std::floor(3 * random_uniform(seed, k));
      for (std::uint64_t i = 0; i < 4; ++i) offers[k].gains.push_back(random_uniform(seed, 10 + 4 * k + i));
      std::sort(offers[k].gains.rbegin(), offers[k].gains.rend());
    }
    auto const ranks = allocate_ranks(offers, 9.0);
    double spent = 0, dearest = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      spent += static_cast<double>(ranks[k]) * offers[k].bits_each;
      dearest = std::max(dearest, offers[k].bits_each);
    }
    CHECK(spent <= 9.0);
    CHECK(gained(offers, ranks) >= best_gain(offers, 0, 9.0 - dearest)); // all but what the last component may waste
    CHECK(gained(offers, ranks) <= best_gain(offers, 0, spent) + 1e-12);
  }
}

TEST_CASE("equal layers share equally, no budget gives no ranks, an ample one gives all") {
  std::vector<rank_offer> const offers(4, rank_offer{{4, 3, 2, 1}, 2.0});
  CHECK(allocate_ranks(offers, 16.0) == std::vector<index_t>{2, 2, 2, 2});
  CHECK(allocate_ranks(offers, -1.0) == std::vector<index_t>{0, 0, 0, 0});
  CHECK(allocate_ranks(offers, 1e9) == std::vector<index_t>{4, 4, 4, 4});
  CHECK(allocate_ranks(std::vector<rank_offer>{}, 5.0).empty());
}

TEST_CASE("offers that make no sense are refused") {
  CHECK_THROWS_AS(allocate_ranks(std::vector<rank_offer>{{{1.0}, 0.0}}, 1.0), config_error);
  CHECK_THROWS_AS(allocate_ranks(std::vector<rank_offer>{{{1.0, 2.0}, 1.0}}, 1.0), config_error);
  CHECK_THROWS_AS(allocate_ranks(std::vector<rank_offer>{{{-1.0}, 1.0}}, 1.0), config_error);
}
