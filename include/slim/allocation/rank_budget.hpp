#pragma once
/// @file
/// Ranks of the adapters of many layers from a common budget: greedy water-filling over the spectra of their errors. (CAP,
/// ICLR 2026, and SRR, arXiv 2602.02001, show that equal ranks waste bits.)

#include "slim/core/error.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/matrix_view.hpp"

#include <cmath>
#include <queue>
#include <span>
#include <tuple>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Gains and cost of the components of one layer's adapter.
struct rank_offer {
  std::vector<double> gains; ///< error removed by each further component: not negative, not increasing
  double bits_each = 0;      ///< stored bits of one component, > 0
};

/// Ranks, one per offer: components are taken in the order of gain per bit (ties: the earlier offer) until the next one does
/// not fit into `bits`; smaller ones behind it may still fit and are taken. With gains that do not increase this is the best
/// allocation of the bits it uses. O(total rank * log(offers)).
/// @throws config_error on a cost that is not positive, or gains that are negative, not finite or increasing.
[[nodiscard]] inline std::vector<index_t> allocate_ranks(std::span<rank_offer const> offers, double bits) {
  using candidate = std::tuple<double, std::size_t>; // gain per bit, offer
  auto const later = [](candidate const& a, candidate const& b) {
    return std::get<0>(a) < std::get<0>(b) || (std::get<0>(a) == std::get<0>(b) && std::get<1>(a) > std::get<1>(b));
  };
  std::priority_queue<candidate, std::vector<candidate>, decltype(later)> next(later);
  std::vector<index_t> ranks(offers.size());
  for (std::size_t k = 0; k < offers.size(); ++k) {
    rank_offer const& offer = offers[k];
    if (!(offer.bits_each > 0.0)) throw config_error(message("allocate_ranks: offer ", k, " costs ", offer.bits_each, " bits"));
    for (std::size_t i = 0; i < offer.gains.size(); ++i)
      if (!(offer.gains[i] >= 0.0) || !detail::is_finite(offer.gains[i]) || (i > 0 && offer.gains[i] > offer.gains[i - 1]))
        throw config_error(message("allocate_ranks: gain ", i, " of offer ", k, " is ", offer.gains[i],
                                   "; gains must be finite, not negative and not increasing"));
    if (!offer.gains.empty()) next.push({offer.gains[0] / offer.bits_each, k});
  }
  while (!next.empty()) {
    std::size_t const k = std::get<1>(next.top());
    next.pop();
    rank_offer const& offer = offers[k];
    if (offer.bits_each > bits) continue; // nor will any later component of this layer fit
    bits -= offer.bits_each;
    auto const taken = static_cast<std::size_t>(++ranks[k]);
    if (taken < offer.gains.size()) next.push({offer.gains[taken] / offer.bits_each, k});
  }
  return ranks;
}

} // namespace SLIM_ABI
} // namespace slim
