#pragma once
/// @file
/// Laws of a bit allocator.

#include "slim/allocation/bit_allocator.hpp"
#include "slim/core/random.hpp"
#include "slim/testing/violation.hpp"

#include <cmath>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Offers of some items at these widths, their losses falling with the bits. Every third set has ties, every fourth a loss of the
/// whole.
[[nodiscard]] inline bit_offers made_offers(index_t items, std::vector<double> const& widths, std::uint64_t seed) {
  bit_offers offers;
  offers.widths = widths;
  offers.losses = matrix<double>(items, std::ssize(widths));
  for (index_t k = 0; k < items; ++k) {
    double const energy = seed % 3 == 0 ? 1.0 : std::exp(2 * random_normal(seed, static_cast<std::uint64_t>(k)));
    offers.sizes.push_back(seed % 2 == 0 ? 64.0 : 16.0 * static_cast<double>(1 + k % 4));
    offers.scores.push_back(energy);
    for (index_t b = 0; b < offers.losses.cols(); ++b)
      offers.losses(k, b) = energy * std::pow(4.0, -widths[static_cast<std::size_t>(b)]);
  }
  if (seed % 4 == 3)
    offers.loss_of = [](std::span<index_t const> chosen) {
      double loss = 1.0;
      for (std::size_t k = 0; k < chosen.size(); ++k) loss += std::cos(static_cast<double>(k + 1) * static_cast<double>(chosen[k]));
      return std::abs(loss);
    };
  return offers;
}

/// A position that exists per item; the same twice; widths ascend; offers whose parts do not fit are refused by shape_error, those
/// of other widths by config_error.
template <bit_allocator A>
[[nodiscard]] violations check_bit_allocator(A const& a) {
  violations broken;
  std::vector<double> const widths = a.widths();
  for (index_t const items : {0, 1, 2, 7, 30})
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
      detail::collector judge(broken, message(items, " items, seed ", seed));
      bit_offers const offers = made_offers(items, widths, seed);
      std::vector<index_t> const chosen = a.allocate(offers);
      if (!judge.expect(std::ssize(chosen) == items, "there is a position per item", message(chosen.size()))) continue;
      for (index_t const k : chosen)
        if (!judge.expect(0 <= k && k < std::ssize(widths), "positions exist", message(k))) break;
      judge.expect(chosen == a.allocate(offers), "the same twice");
    }
  detail::collector judge(broken, "offers that do not fit");
  auto const refused = [&](bit_offers const& offers, auto const& as) {
    try {
      (void)a.allocate(offers);
    } catch (std::decay_t<decltype(as)> const&) {
      return true;
    }
    return false;
  };
  bit_offers offers = made_offers(3, widths, 1);
  offers.scores.pop_back();
  judge.expect(refused(offers, shape_error("")), "a missing score is refused by shape_error");
  offers = made_offers(3, widths, 1);
  for (double& width : offers.widths) width += 0.5;
  judge.expect(refused(offers, config_error("")), "other widths are refused by config_error");
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
