#pragma once
/// @file
/// k-means of weighted numbers, exactly. On a line clusters are intervals of the sorted numbers, so dynamic programming finds
/// the best ones; the cost of an interval comes from prefix sums, and the best cut moves only upwards with the end of the
/// interval, so that each further level costs O(n log n) (Wu, Journal of Algorithms 12, 1991; Gronlund et al., arXiv
/// 1701.07204).

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Sorted numbers, equal ones together, and the cost of putting an interval of them into one cluster. Sums begin at the number
/// nearest 0 and run outwards, so that a huge number spoils no other's sums.
class sorted_numbers {
public:
  sorted_numbers(std::span<float const> x, std::span<float const> importance) {
    std::vector<std::size_t> order(x.size());
    for (std::size_t k = 0; k < order.size(); ++k) order[k] = k;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
    for (std::size_t const k : order) {
      if (value_.empty() || static_cast<double>(x[k]) != value_.back()) {
        value_.push_back(static_cast<double>(x[k]));
        mass_.push_back(0.0);
      }
      mass_.back() += static_cast<double>(importance[k]);
    }
  }

  [[nodiscard]] index_t count() const noexcept { return std::ssize(value_); }
  [[nodiscard]] std::vector<double> const& values() const noexcept { return value_; }

  /// Numbers that nothing depends on are left out, unless that leaves none.
  void forget_unimportant() {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < value_.size(); ++k)
      if (mass_[k] > 0.0) {
        value_[kept] = value_[k];
        mass_[kept++] = mass_[k];
      }
    if (kept == 0) {
      mass_.assign(mass_.size(), 1.0);
      return;
    }
    value_.resize(kept);
    mass_.resize(kept);
  }

  /// Makes `cost` and `mean` of intervals.
  void sum_up() {
    auto const nearest =
        std::min_element(value_.begin(), value_.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    std::size_t const start = static_cast<std::size_t>(nearest - value_.begin()), n = value_.size();
    sums_.assign(n + 1, {});
    for (std::size_t k = start; k < n; ++k) sums_[k + 1] = sums_[k].plus(1.0, mass_[k], value_[k]);
    for (std::size_t k = start; k-- > 0;) sums_[k] = sums_[k + 1].plus(-1.0, mass_[k], value_[k]);
  }
  /// Squared error of numbers [first, last) around their mean, weighted.
  [[nodiscard]] double cost(index_t first, index_t last) const noexcept {
    moments const a = sums_[static_cast<std::size_t>(first)], b = sums_[static_cast<std::size_t>(last)];
    double const sum = b.first - a.first;
    return std::max(b.second - a.second - sum * sum / (b.mass - a.mass), 0.0);
  }
  [[nodiscard]] double mean(index_t first, index_t last) const noexcept {
    moments const a = sums_[static_cast<std::size_t>(first)], b = sums_[static_cast<std::size_t>(last)];
    return (b.first - a.first) / (b.mass - a.mass);
  }

private:
  struct moments {
    double mass = 0, first = 0, second = 0;

    [[nodiscard]] moments plus(double sign, double m, double x) const noexcept {
      return {mass + sign * m, first + sign * m * x, second + sign * m * x * x};
    }
  };

  std::vector<double> value_, mass_;
  std::vector<moments> sums_;
};

/// The best cuts of sorted numbers into clusters, level by level.
class interval_clusters {
public:
  interval_clusters(sorted_numbers const& numbers, index_t clusters)
      : numbers_(numbers), least_(static_cast<std::size_t>(numbers.count() + 1)), before_(least_),
        cuts_(static_cast<std::size_t>(clusters), std::vector<std::int32_t>(least_.size())) {
    for (index_t last = 1; last <= numbers.count(); ++last) least_[static_cast<std::size_t>(last)] = numbers.cost(0, last);
    for (index_t level = 1; level < clusters; ++level) {
      before_.swap(least_);
      solve(level, level + 1, numbers.count(), level, numbers.count() - 1);
    }
  }

  /// Where clusters begin, and behind them the number of numbers.
  [[nodiscard]] std::vector<index_t> boundaries() const {
    std::vector<index_t> found{numbers_.count()};
    for (std::size_t level = cuts_.size(); level-- > 0;) found.push_back(cuts_[level][static_cast<std::size_t>(found.back())]);
    std::reverse(found.begin(), found.end());
    return found;
  }

private:
  /// Least costs of the first `low` .. `high` numbers in level + 1 clusters, whose last one begins in [from, to]. The middle is
  /// searched; what is below it cuts no later, what is above it no earlier.
  void solve(index_t level, index_t low, index_t high, index_t from, index_t to) {
    if (low > high) return;
    index_t const middle = low + (high - low) / 2;
    double least = std::numeric_limits<double>::infinity();
    index_t best = from;
    for (index_t cut = from; cut <= std::min(to, middle - 1); ++cut)
      if (double const cost = before_[static_cast<std::size_t>(cut)] + numbers_.cost(cut, middle); cost < least) {
        least = cost;
        best = cut;
      }
    least_[static_cast<std::size_t>(middle)] = least;
    cuts_[static_cast<std::size_t>(level)][static_cast<std::size_t>(middle)] = static_cast<std::int32_t>(best);
    solve(level, low, middle - 1, from, best);
    solve(level, middle + 1, high, best, to);
  }

  sorted_numbers const& numbers_;
  std::vector<double> least_, before_; ///< with so many clusters, and with one less
  std::vector<std::vector<std::int32_t>> cuts_;
};

} // namespace detail

/// At most `levels` numbers, ascending, that minimise the sum of importance * (x - nearest level)^2: all of x if it has no more
/// distinct numbers, else the means of the best clusters. Importance is not negative; numbers without importance count only
/// where all are without. NaN in x counts as 0. Sums in double. O(levels n log n).
[[nodiscard]] inline std::vector<float> weighted_kmeans(std::span<float const> x, std::span<float const> importance,
                                                        index_t levels) {
  std::vector<float> numbers(x.begin(), x.end());
  for (float& number : numbers)
    if (!(number == number)) number = 0.0f;
  detail::sorted_numbers sorted(numbers, importance);
  if (sorted.count() > levels) sorted.forget_unimportant();
  if (sorted.count() <= levels) return {sorted.values().begin(), sorted.values().end()};
  sorted.sum_up();
  std::vector<index_t> const ends = detail::interval_clusters(sorted, levels).boundaries();
  std::vector<float> means;
  for (std::size_t k = 0; k + 1 < ends.size(); ++k) means.push_back(static_cast<float>(sorted.mean(ends[k], ends[k + 1])));
  return means;
}

} // namespace SLIM_ABI
} // namespace slim
