#pragma once
/// @file
/// More bits for the most important items, a fixed share of them ("2/4/16-bit in a weight matrix", arXiv 2311.16442).

#include "slim/allocation/bit_allocator.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// Widths and share of `top_share`.
struct top_share_config {
  double share = 0.1; ///< of the items, rounded to nearest
  int low = 2;        ///< bits of the others
  int high = 4;       ///< bits of the most important

  friend bool operator==(top_share_config const&, top_share_config const&) = default;
};

/// The items of the highest scores get `high` bits, the others `low`. Ties: the lower item first.
class top_share {
public:
  /// @throws config_error unless 1 <= low < high <= 8 and the share is in [0, 1].
  explicit top_share(top_share_config config = {}) : config_(config) {
    if (config.low < 1 || config.high > 8 || config.low >= config.high || !(config.share >= 0.0 && config.share <= 1.0))
      throw config_error(message("top_share: ", config.share, " of the items at ", config.high, " bits, the others at ",
                                 config.low, "; possible are shares of 0 to 1 and 1 to 8 bits"));
  }

  [[nodiscard]] top_share_config const& config() const noexcept { return config_; }
  [[nodiscard]] std::vector<double> widths() const {
    return {static_cast<double>(config_.low), static_cast<double>(config_.high)};
  }

  /// @throws as bit_offers::check; config_error on offers of other widths
  [[nodiscard]] std::vector<index_t> allocate(bit_offers const& offers) const {
    offers.check("top_share");
    if (offers.widths != widths()) throw config_error("top_share: offers of other widths");
    std::vector<index_t> order(offers.sizes.size()), chosen(offers.sizes.size());
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return offers.scores[static_cast<std::size_t>(a)] > offers.scores[static_cast<std::size_t>(b)];
    });
    auto const wide = static_cast<std::size_t>(std::floor(config_.share * static_cast<double>(order.size()) + 0.5));
    for (std::size_t k = 0; k < wide; ++k) chosen[static_cast<std::size_t>(order[k])] = 1;
    return chosen;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.low, " bits, ", config_.high, " for the top ", 100 * config_.share, "%");
  }

private:
  top_share_config config_;
};

static_assert(bit_allocator<top_share>);

} // namespace SLIM_ABI
} // namespace slim
