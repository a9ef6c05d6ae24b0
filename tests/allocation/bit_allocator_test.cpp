// Allocations of bits against all allocations of a few items.

#include "slim/allocation/balanced_allocation.hpp"
#include "slim/allocation/budget_allocation.hpp"
#include "slim/allocation/top_share.hpp"
#include "slim/core/random.hpp"
#include "slim/testing/allocator_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using Catch::Contains;

namespace {

bit_offers random_offers(index_t items, std::vector<double> const& widths, std::uint64_t seed) {
  bit_offers offers;
  offers.widths = widths;
  offers.losses = matrix<double>(items, std::ssize(widths));
  for (index_t k = 0; k < items; ++k) {
    double const energy = std::exp(2 * random_normal(seed, static_cast<std::uint64_t>(k)));
    offers.sizes.push_back(64);
    offers.scores.push_back(energy);
    for (std::size_t b = 0; b < widths.size(); ++b)
      offers.losses(k, static_cast<index_t>(b)) = energy * std::pow(4.0, -widths[b]);
  }
  return offers;
}

/// f(chosen, bits per weight) for every allocation.
template <class F>
void for_each_allocation(bit_offers const& offers, F const& f) {
  std::vector<index_t> chosen(static_cast<std::size_t>(offers.count()));
  auto const all = std::ssize(offers.widths);
  for (;;) {
    double bits = 0, weights = 0;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      bits += offers.sizes[k] * offers.widths[static_cast<std::size_t>(chosen[k])];
      weights += offers.sizes[k];
    }
    f(chosen, bits / weights);
    std::size_t k = 0;
    while (k < chosen.size() && ++chosen[k] == all) chosen[k++] = 0;
    if (k == chosen.size()) return;
  }
}

double mean_bits(bit_offers const& offers, std::vector<index_t> const& chosen) {
  double bits = 0, weights = 0;
  for (std::size_t k = 0; k < chosen.size(); ++k) {
    bits += offers.sizes[k] * offers.widths[static_cast<std::size_t>(chosen[k])];
    weights += offers.sizes[k];
  }
  return bits / weights;
}

} // namespace

TEST_CASE("allocators keep the laws") {
  CHECK(testing::describe(testing::check_bit_allocator(balanced_allocation())) == "");
  CHECK(testing::describe(testing::check_bit_allocator(top_share())) == "");
  CHECK(testing::describe(testing::check_bit_allocator(budget_allocation({.bits = 2.7}))) == "");
}

TEST_CASE("a balanced allocation is the best of all balanced ones when losses follow scores") {
  balanced_allocation const balanced({.bits = 2});
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    bit_offers const offers = random_offers(6, balanced.widths(), seed);
    double least = 1e300;
    for_each_allocation(offers, [&](auto const& chosen, double bits) {
      if (bits == 2.0) least = std::min(least, offers.loss(chosen));
    });
    auto const found = balanced.allocate(offers);
    CHECK(mean_bits(offers, found) == 2.0);
    CHECK(offers.loss(found) == Approx(least));
  }
}

TEST_CASE("a balanced allocation can be equal bits, and asks the loss of the whole where there is one") {
  bit_offers offers = random_offers(7, {1, 2, 3}, 3);
  offers.loss_of = [](std::span<index_t const> chosen) {
    double away = 0; // 2 pairs are best
    for (index_t const k : chosen) away += k == 1 ? 0 : 1;
    return std::abs(away - 4);
  };
  auto const found = balanced_allocation().allocate(offers);
  CHECK(std::count(found.begin(), found.end(), index_t{0}) == 2);
  CHECK(std::count(found.begin(), found.end(), index_t{2}) == 2);
  offers.loss_of = [](std::span<index_t const>) { return 1.0; };
  CHECK(balanced_allocation().allocate(offers) == std::vector<index_t>(7, 1)); // nothing is gained: p = 0
  CHECK(balanced_allocation().allocate(random_offers(1, {1, 2, 3}, 1)) == std::vector<index_t>{1});
  CHECK(balanced_allocation().allocate(random_offers(0, {1, 2, 3}, 1)).empty());
}

TEST_CASE("ties of a balanced allocation go to the lower item, a smaller last group keeps its bits") {
  bit_offers offers = random_offers(4, {1, 2, 3}, 5);
  std::fill(offers.scores.begin(), offers.scores.end(), 1.0);
  offers.loss_of = [](std::span<index_t const> chosen) { return chosen[0] == 0 ? 0.0 : 1.0; };
  CHECK(balanced_allocation().allocate(offers) == std::vector<index_t>{0, 1, 1, 2});
  offers.sizes[3] = 16;
  CHECK(balanced_allocation().allocate(offers) == std::vector<index_t>{0, 1, 2, 1});
}

TEST_CASE("top_share gives the highest scores the wide codes") {
  bit_offers offers = random_offers(10, {2, 4}, 6);
  offers.scores = {1, 5, 3, 5, 2, 5, 0, 0, 9, 4};
  CHECK(top_share({.share = 0.3}).allocate(offers) == std::vector<index_t>{0, 1, 0, 1, 0, 0, 0, 0, 1, 0}); // a tie: the lower
  CHECK(top_share({.share = 0.0}).allocate(offers) == std::vector<index_t>(10, 0));
  CHECK(top_share({.share = 1.0}).allocate(offers) == std::vector<index_t>(10, 1));
  CHECK_THROWS_WITH(top_share({.share = 1.5}), Contains("1.5 of the items"));
  CHECK_THROWS_WITH(top_share({.low = 4, .high = 4}), Contains("at 4 bits"));
}

TEST_CASE("a budget is spent as the best of all allocations of six items spends it") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    for (double const bits : {2.0, 2.5, 3.0, 3.25, 4.0, 9.0}) {
      budget_allocation const budget({.bits = bits});
      bit_offers offers = random_offers(6, budget.widths(), seed);
      for (index_t k = 0; k < 6; ++k)
        offers.losses(k, 1) *= 1.0 + 0.3 * random_normal(seed + 50, static_cast<std::uint64_t>(k)) * 0.5;
      double least = 1e300;
      for_each_allocation(offers, [&](auto const& chosen, double used) {
        if (used <= bits) least = std::min(least, offers.loss(chosen));
      });
      auto const found = budget.allocate(offers);
      CHECK(mean_bits(offers, found) <= bits);
      CHECK(offers.loss(found) <= 1.15 * least); // equal sizes: single steps fit
      if (bits == 2.0) CHECK(found == std::vector<index_t>(6, 0));
      if (bits >= 4.0) CHECK(offers.loss(found) == Approx(least));
    }
}

TEST_CASE("a budget skips widths that are not worth it, and takes what still fits") {
  bit_offers offers;
  offers.widths = {2, 3, 4};
  offers.sizes = {10, 10, 1};
  offers.scores = {0, 0, 0};
  offers.losses = matrix<double>(3, 3);
  double const losses[] = {100, 99, 1, /**/ 50, 20, 10, /**/ 5, 4, 3};
  std::copy_n(losses, 9, offers.losses.data());
  // 31 bits to spend: item 0 jumps to 4 (49.5 a step, 20 bits), then item 1 takes a step (10), then item 2 (1)
  CHECK(budget_allocation({.bits = 2 + 31.0 / 21}).allocate(offers) == std::vector<index_t>{2, 1, 1});
  // 15 bits: the jump of item 0 does not fit, its short step gains 1; item 1 gains 30
  CHECK(budget_allocation({.bits = 2 + 15.0 / 21}).allocate(offers) == std::vector<index_t>{0, 1, 2});
  CHECK_THROWS_WITH(budget_allocation({.bits = 1.5}).allocate(offers),
                    Contains("1.5 bits per weight, the smallest offer has 2"));
  offers.losses(1, 1) = -1;
  CHECK_THROWS_WITH(budget_allocation().allocate(offers), Contains("item 1 loses -1 at 3 bits"));
  offers.losses(1, 1) = 20;
  CHECK_THROWS_WITH(top_share().allocate(offers), Contains("other widths"));
  offers.sizes.pop_back();
  CHECK_THROWS_AS(budget_allocation().allocate(offers), shape_error);
}
