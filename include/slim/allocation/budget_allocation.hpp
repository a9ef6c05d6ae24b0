#pragma once
/// @file
/// Bits from a common budget: each item gets the width whose loss and price fit the others' best (a Lagrangian allocation:
/// Shoham and Gersho, IEEE Transactions on Acoustics, Speech and Signal Processing 36, 1988).

#include "slim/allocation/bit_allocator.hpp"

#include <cmath>
#include <queue>
#include <tuple>

namespace slim {
inline namespace SLIM_ABI {

/// Widths and budget of `budget_allocation`.
struct budget_config {
  double bits = 3.0;                            ///< per weight, on average at most
  std::vector<double> widths = {2.0, 3.0, 4.0}; ///< on offer, ascending

  friend bool operator==(budget_config const&, budget_config const&) = default;
};

/// All items begin at the smallest width; steps to larger ones, of the best gain per bit first (on the lower hull of an item's
/// losses; ties: the lower item), are taken until one does not fit, others behind it as far as they fit. The best of all
/// allocations that use no more bits if every step that was wanted fitted; otherwise its loss is above the best by less than
/// the gain of the first step that did not fit. O(items * widths^2 * log(items)).
class budget_allocation {
public:
  /// @throws config_error if there is no width.
  explicit budget_allocation(budget_config config = {}) : config_(std::move(config)) {
    if (config_.widths.empty()) throw config_error("budget_allocation: no width is on offer");
  }

  [[nodiscard]] budget_config const& config() const noexcept { return config_; }
  [[nodiscard]] std::vector<double> widths() const { return config_.widths; }

  /// @throws as bit_offers::check; config_error on offers of other widths, or a budget below the smallest
  [[nodiscard]] std::vector<index_t> allocate(bit_offers const& offers) const {
    offers.check("budget_allocation");
    if (offers.widths != widths()) throw config_error("budget_allocation: offers of other widths");
    if (!(config_.bits >= config_.widths.front()))
      throw config_error(
          message("budget_allocation: ", config_.bits, " bits per weight, the smallest offer has ", config_.widths.front()));
    double left = 0;
    for (double const size : offers.sizes) left += size * (config_.bits - config_.widths.front());
    double const whole = left;
    std::vector<index_t> chosen(offers.sizes.size());
    using candidate = std::tuple<double, index_t, index_t>; // gain per bit, the lower item first, next width
    auto const later = [](candidate const& a, candidate const& b) {
      return std::get<0>(a) < std::get<0>(b) || (std::get<0>(a) == std::get<0>(b) && std::get<1>(a) > std::get<1>(b));
    };
    std::priority_queue<candidate, std::vector<candidate>, decltype(later)> steps(later);
    auto const offer_step = [&](index_t item, index_t end) {
      if (auto const [gain, width] = best_step(offers, item, chosen[static_cast<std::size_t>(item)], end); gain > 0.0)
        steps.push({gain, item, width});
    };
    index_t const all = std::ssize(config_.widths);
    for (index_t k = 0; k < offers.count(); ++k) offer_step(k, all);
    while (!steps.empty()) {
      auto const [gain, item, width] = steps.top();
      steps.pop();
      auto const at = static_cast<std::size_t>(item);
      double const price = offers.sizes[at] * (width_of(width) - width_of(chosen[at]));
      if (price > left + 1e-12 * whole) {
        offer_step(item, width); // a shorter one may fit
        continue;
      }
      left -= price;
      chosen[at] = width;
      offer_step(item, all);
    }
    return chosen;
  }

  [[nodiscard]] std::string describe() const { return message("at most ", config_.bits, " bits per weight"); }

private:
  [[nodiscard]] double width_of(index_t k) const { return config_.widths[static_cast<std::size_t>(k)]; }

  /// The step from `from` to a width before `end` that gains most per bit, and where it leads; gain 0: none is worth it. Ties:
  /// the shorter one.
  [[nodiscard]] std::tuple<double, index_t> best_step(bit_offers const& offers, index_t item, index_t from, index_t end) const {
    double best = 0;
    index_t to = from;
    for (index_t k = from + 1; k < end; ++k) {
      double const gain = (offers.losses(item, from) - offers.losses(item, k)) /
                          (offers.sizes[static_cast<std::size_t>(item)] * (width_of(k) - width_of(from)));
      if (gain > best) {
        best = gain;
        to = k;
      }
    }
    return {best, to};
  }

  budget_config config_;
};

static_assert(bit_allocator<budget_allocation>);

} // namespace SLIM_ABI
} // namespace slim
