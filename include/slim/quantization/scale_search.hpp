#pragma once
/// @file
/// Search of the step of a uniform quantizer that minimises the mean squared error of *that* quantizer: round to nearest,
/// codes clamped to [lowest, highest], signed data. The idea is SLiM-Quant's (arXiv 2410.09615, section 3.1: minimise over the
/// distribution of the weights, not over the largest of them); the error it minimises is the true one.
///
/// With values sorted and prefix sums of weight, weight * value and weight * value^2, the error of one step is a sum of one
/// term per code, whatever the number of weights:  J(s) = sum_k [S2_k - 2 k s S1_k + (k s)^2 S0_k],  where S*_k sums over
/// the values that round to k. For fixed cells the best step is closed form, s = sum k S1_k / sum k^2 S0_k (Lloyd).

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Sorted values with weights, as prefix sums. Value number i stands for one weight, or for all weights in a histogram bin.
class prefix_moments {
public:
  void reserve(index_t size) { points_.reserve(static_cast<std::size_t>(size) + 2); }

  /// Adds values in increasing order: total weight, weight * value, weight * value^2 of one point or bin.
  void push_back(double weight, double first, double second) {
    if (weight <= 0.0) return;
    points_.back().value = first / weight;
    sums const before = points_.back().before;
    points_.push_back({beyond, {before.weight + weight, before.first + first, before.second + second}});
  }

  struct sums {
    double weight = 0, first = 0, second = 0;
  };

  /// A value and the sums over all values before it.
  struct point {
    double value;
    sums before;
  };

  [[nodiscard]] index_t size() const noexcept { return static_cast<index_t>(points_.size()) - 2; }
  [[nodiscard]] double value(index_t i) const noexcept { return begin()[i].value; }
  /// Sums over values from .. to - 1.
  [[nodiscard]] sums between(index_t from, index_t to) const noexcept {
    sums const &low = begin()[from].before, &high = begin()[to].before;
    return {high.weight - low.weight, high.first - low.first, high.second - low.second};
  }
  /// First value not below x.
  [[nodiscard]] index_t lower_bound(double x) const noexcept { return point_at(x) - begin(); }

  /// The points in order. `begin() - 1` and `end()` may be read: their values lie below and above all thresholds; `end()`
  /// holds the sums over everything.
  [[nodiscard]] point const* begin() const noexcept { return points_.data() + 1; }
  [[nodiscard]] point const* end() const noexcept { return begin() + size(); }
  /// First point whose value is not below x.
  [[nodiscard]] point const* point_at(double x) const noexcept {
    return std::lower_bound(begin(), end(), x, [](point const& p, double threshold) { return p.value < threshold; });
  }

  /// Finite, so that comparisons mean the same under -ffast-math.
  static constexpr double beyond = std::numeric_limits<double>::max();

private:
  std::vector<point> points_{{-beyond, {}}, {beyond, {}}};
};

/// What a search found.
struct scale_choice {
  double scale = 0; ///< the step
  double error = 0; ///< sum of weight * (value - quantized)^2
};

/// True error of step `scale` for codes lowest..highest (lowest < 0 < highest). O(codes log n).
[[nodiscard]] inline scale_choice error_of_scale(prefix_moments const& data, double scale, int lowest, int highest) {
  scale_choice found{scale, 0.0};
  index_t begin = 0;
  for (int k = lowest; k <= highest; ++k) {
    index_t const end = k == highest ? data.size() : std::max(begin, data.lower_bound((k + 0.5) * scale));
    auto const cell = data.between(begin, end);
    double const level = k * scale;
    found.error += cell.second - 2 * level * cell.first + level * level * cell.weight;
    begin = end;
  }
  return found;
}

namespace detail {

/// Errors of growing steps, one after the other. The thresholds t = (k + 0.5) s between the codes k and k + 1 move away from
/// zero, each in one direction. Summed by parts, J(s) needs the sums S0, S1 *before* each threshold only:
/// J(s) = S2 - 2 h s S1 + (h s)^2 S0 + 2 s sum_k [S1(t_k) - t_k S0(t_k)],  h the highest code, without argument: of everything.
class growing_steps {
public:
  growing_steps(prefix_moments const& data, int lowest, int highest)
      : all_(data.end()->before), highest_(highest), below_(static_cast<std::size_t>(-lowest), data.point_at(0.0)),
        above_(static_cast<std::size_t>(highest), data.point_at(0.0)) {}

  /// Error of a step that is not smaller than the one before.
  [[nodiscard]] double error(double step) {
    double const top = highest_ * step;
    return all_.second - 2 * top * all_.first + top * top * all_.weight + 2 * step * (cut_below(step) + cut_above(step));
  }

private:
  /// Sum of S1(t) - t S0(t) over the positive thresholds. Where values and steps are equally many, a threshold passes one
  /// value or none, which no processor predicts: the first value is passed without a branch, in a loop of its own because
  /// compilers would join it with the next one.
  double cut_above(double step) {
    double sum = 0;
    std::span<prefix_moments::point const*> const first_above(above_); // a local copy stays in registers
    for (std::size_t k = 0; k < first_above.size(); ++k) {
      auto const*& at = first_above[k];
      at += static_cast<index_t>(at->value < half(k) * step);
    }
    for (std::size_t k = 0; k < first_above.size(); ++k) {
      auto const* at = first_above[k];
      double const threshold = half(k) * step;
      if (at->value < threshold) {
        while (at->value < threshold) ++at;
        first_above[k] = at;
      }
      sum += at->before.first - threshold * at->before.weight;
    }
    return sum;
  }

  double cut_below(double step) {
    double sum = 0;
    std::span<prefix_moments::point const*> const first_not_below(below_);
    for (std::size_t k = 0; k < first_not_below.size(); ++k) {
      auto const*& at = first_not_below[k];
      at -= static_cast<index_t>(at[-1].value >= -half(k) * step);
    }
    for (std::size_t k = 0; k < first_not_below.size(); ++k) {
      auto const* at = first_not_below[k];
      double const threshold = -half(k) * step;
      if (at[-1].value >= threshold) {
        while (at[-1].value >= threshold) --at;
        first_not_below[k] = at;
      }
      sum += at->before.first - threshold * at->before.weight;
    }
    return sum;
  }

  static double half(std::size_t k) { return static_cast<double>(static_cast<int>(k)) + 0.5; }

  prefix_moments::sums all_;
  double highest_;
  std::vector<prefix_moments::point const*> below_, above_; // first point not below -0.5, -1.5 ...; 0.5, 1.5 ... steps
};

} // namespace detail

/// Best of the steps c * largest_step / candidates, c = 1..candidates, followed by Lloyd steps while they help. All
/// candidates are tried: the error has several local minima, so nothing is assumed about its shape. The cell boundaries of
/// growing steps move one way only, so the whole search is O(codes * (n + candidates)).
[[nodiscard]] inline scale_choice search_scale(prefix_moments const& data, double largest_step, int lowest, int highest,
                                               index_t candidates) {
  bool const usable = largest_step > 0.0 && largest_step < prefix_moments::beyond / std::max(-lowest, highest);
  if (data.size() == 0 || candidates < 1 || !usable) return {};
  scale_choice best{0.0, std::numeric_limits<double>::infinity()};
  detail::growing_steps steps(data, lowest, highest);
  for (index_t c = 1; c <= candidates; ++c) {
    double const scale = largest_step * static_cast<double>(c) / static_cast<double>(candidates);
    if (double const error = steps.error(scale); error < best.error) best = {scale, error};
  }
  best = error_of_scale(data, best.scale, lowest, highest); // to the rounding of every other error that is reported
  constexpr int lloyd_steps = 8;
  for (int step = 0; step < lloyd_steps; ++step) {
    double numerator = 0, denominator = 0;
    index_t begin = 0;
    for (int k = lowest; k <= highest; ++k) {
      index_t const end = k == highest ? data.size() : std::max(begin, data.lower_bound((k + 0.5) * best.scale));
      auto const cell = data.between(begin, end);
      numerator += k * cell.first;
      denominator += static_cast<double>(k) * k * cell.weight;
      begin = end;
    }
    if (!(numerator > 0.0 && denominator > 0.0)) break;
    scale_choice const moved = error_of_scale(data, numerator / denominator, lowest, highest);
    if (!(moved.error < best.error)) break;
    best = moved;
  }
  best.error = std::max(best.error, 0.0);
  return best;
}

/// The search of SLiM's published code (slim/quantization/quantization.py @ ed72646), for parity: a density histogram of |w|,
/// truncation to multiples of alpha / 2^bits in place of rounding, 11 coarse positions and a linear scan between the best
/// one's neighbours. Returns alpha, the value that gets the highest code.
///
/// `density` are bin heights, `centers` bin centres of an equidistant histogram of |w|. The original leaves its last slot at
/// position 0 when the number of bins is a multiple of 10; its fine range may then be empty and the first centre is returned.
/// That is reproduced.
[[nodiscard]] inline double reference_search_alpha(std::vector<double> const& density, std::vector<double> const& centers,
                                                   int bits) {
  auto const bins = static_cast<index_t>(centers.size());
  if (bins < 2) return bins == 1 ? centers[0] : 0.0;
  double const infinity = std::numeric_limits<double>::infinity();
  auto const loss = [&](index_t index) {
    double const alpha = centers[static_cast<std::size_t>(index)];
    double const step = alpha / static_cast<double>(1 << bits);
    double total = 0;
    for (index_t i = 0; i < bins; ++i) {
      double const x = centers[static_cast<std::size_t>(i)];
      double const away = i < index ? x - std::floor(x / step) * step : x - alpha;
      total += density[static_cast<std::size_t>(i)] * away * away;
    }
    return total;
  };
  std::vector<double> losses(11, infinity);
  std::vector<index_t> positions(11, 0);
  std::size_t slot = 0;
  for (index_t i = 0; i < bins && slot < 11; i += bins / 10, ++slot) {
    losses[slot] = loss(i);
    positions[slot] = i;
  }
  auto const turn = std::min_element(losses.begin(), losses.end()) - losses.begin();
  index_t const begin = positions[static_cast<std::size_t>(std::max<std::ptrdiff_t>(turn - 1, 0))];
  index_t const end = positions[static_cast<std::size_t>(std::min<std::ptrdiff_t>(turn + 1, 10))];
  index_t best = 0;
  double best_loss = infinity;
  for (index_t i = begin; i < end; ++i)
    if (double const candidate = loss(i); candidate < best_loss) {
      best_loss = candidate;
      best = i;
    }
  return centers[static_cast<std::size_t>(best)];
}

} // namespace SLIM_ABI
} // namespace slim
