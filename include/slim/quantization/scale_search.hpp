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
#include <vector>

namespace slim::inline SLIM_ABI {

/// Sorted values with weights, as prefix sums. Value number i stands for one weight, or for all weights in a histogram bin.
class prefix_moments {
public:
  /// Adds values in increasing order: total weight, weight * value, weight * value^2 of one point or bin.
  void push_back(double weight, double first, double second) {
    if (weight <= 0.0) return;
    values_.push_back(first / weight);
    sums_.push_back({sums_.back().weight + weight, sums_.back().first + first, sums_.back().second + second});
  }

  struct sums {
    double weight = 0, first = 0, second = 0;
  };

  [[nodiscard]] index_t size() const noexcept { return static_cast<index_t>(values_.size()); }
  [[nodiscard]] double value(index_t i) const noexcept { return values_[static_cast<std::size_t>(i)]; }
  /// Sums over values begin .. end - 1.
  [[nodiscard]] sums between(index_t begin, index_t end) const noexcept {
    sums const& low = sums_[static_cast<std::size_t>(begin)];
    sums const& high = sums_[static_cast<std::size_t>(end)];
    return {high.weight - low.weight, high.first - low.first, high.second - low.second};
  }
  /// First value not below x.
  [[nodiscard]] index_t lower_bound(double x) const noexcept {
    return std::lower_bound(values_.begin(), values_.end(), x) - values_.begin();
  }

private:
  std::vector<double> values_;
  std::vector<sums> sums_{sums{}};
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

/// Best of the steps c * largest_step / candidates, c = 1..candidates, followed by Lloyd steps while they help. All
/// candidates are tried: the error has several local minima, so nothing is assumed about its shape. The cell boundaries of
/// growing steps move one way only, so the whole search is O(codes * (n + candidates)).
[[nodiscard]] inline scale_choice search_scale(prefix_moments const& data, double largest_step, int lowest, int highest,
                                               index_t candidates) {
  if (data.size() == 0 || !(largest_step > 0.0)) return {};
  auto const codes = static_cast<std::size_t>(highest - lowest + 1);
  // boundary[c]: first value of code lowest + c + 1. For tiny steps all positive values lie above every threshold, negative
  // ones below.
  std::vector<index_t> boundary(codes - 1);
  index_t const first_positive = data.lower_bound(0.0);
  std::fill(boundary.begin(), boundary.end(), first_positive);
  scale_choice best{0.0, std::numeric_limits<double>::infinity()};
  for (index_t c = 1; c <= candidates; ++c) {
    double const scale = largest_step * static_cast<double>(c) / static_cast<double>(candidates);
    double error = 0;
    index_t begin = 0;
    for (std::size_t k = 0; k < codes; ++k) {
      int const code = lowest + static_cast<int>(k);
      index_t end = data.size();
      if (k + 1 < codes) {
        index_t& at = boundary[k];
        double const threshold = (code + 0.5) * scale;
        if (threshold > 0)
          while (at < data.size() && data.value(at) < threshold) ++at;
        else
          while (at > 0 && data.value(at - 1) >= threshold) --at;
        end = at;
      }
      auto const cell = data.between(begin, end);
      double const level = code * scale;
      error += cell.second - 2 * level * cell.first + level * level * cell.weight;
      begin = end;
    }
    if (error < best.error) best = {scale, error};
  }
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

} // namespace slim::inline SLIM_ABI
