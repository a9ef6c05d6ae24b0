#pragma once
/// @file
/// As many items with a bit more as with a bit less (SliM-LLM's salience-determined bit allocation, arXiv 2405.14917, section
/// 3.2).

#include "slim/allocation/bit_allocator.hpp"

#include <algorithm>
#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// The mean width of `balanced_allocation`.
struct balanced_config {
  int bits = 2; ///< 2 to 7; others get one less or more

  friend bool operator==(balanced_config const&, balanced_config const&) = default;
};

/// The p items of the lowest scores get bits - 1, the p of the highest bits + 1, p the one of 0 .. half of the items that loses
/// least as a whole (ties: the smaller; p = 0, which SliM-LLM's code cannot choose, is equal bits). Items that are smaller than
/// the first, such as a ragged last group, keep `bits`, so that the mean is exactly `bits`.
class balanced_allocation {
public:
  /// @throws config_error unless 2 <= bits <= 7.
  explicit balanced_allocation(balanced_config config = {}) : config_(config) {
    if (config.bits < 2 || config.bits > 7)
      throw config_error(message("balanced_allocation: ", config.bits, " bits, possible are 2 to 7"));
  }

  [[nodiscard]] balanced_config const& config() const noexcept { return config_; }
  [[nodiscard]] std::vector<double> widths() const {
    double const middle = config_.bits;
    return {middle - 1, middle, middle + 1};
  }

  /// @throws as bit_offers::check; config_error on offers of other widths
  [[nodiscard]] std::vector<index_t> allocate(bit_offers const& offers) const {
    offers.check("balanced_allocation");
    if (offers.widths != widths()) throw config_error("balanced_allocation: offers of other widths");
    std::vector<index_t> by_score;
    for (index_t k = 0; k < offers.count(); ++k)
      if (offers.sizes[static_cast<std::size_t>(k)] == offers.sizes.front()) by_score.push_back(k);
    std::stable_sort(by_score.begin(), by_score.end(), [&](index_t a, index_t b) {
      return offers.scores[static_cast<std::size_t>(a)] < offers.scores[static_cast<std::size_t>(b)];
    });
    std::vector<index_t> chosen(static_cast<std::size_t>(offers.count()), 1), best = chosen;
    double least = offers.loss(chosen);
    for (std::size_t p = 0; 2 * (p + 1) <= by_score.size(); ++p) {
      chosen[static_cast<std::size_t>(by_score[p])] = 0;
      chosen[static_cast<std::size_t>(by_score[by_score.size() - 1 - p])] = 2;
      if (double const loss = offers.loss(chosen); loss < least) {
        least = loss;
        best = chosen;
      }
    }
    return best;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bits on average, as many with one more as with one less");
  }

private:
  balanced_config config_;
};

static_assert(bit_allocator<balanced_allocation>);

} // namespace SLIM_ABI
} // namespace slim
