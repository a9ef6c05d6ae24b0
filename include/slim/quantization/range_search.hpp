#pragma once
/// @file
/// Which range of numbers a uniform grid covers: min-max, percentiles, 2DQuant's distribution-oriented bounds (DOBI, arXiv
/// 2406.06649, Algorithm 1), or factors near 1 (SliM-LLM, arXiv 2405.14917). One search for weights per tensor, row or group
/// and for activations, under any p-norm or any other loss.

#include "slim/core/error.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Which ranges are tried.
enum class range_rule {
  min_max,        ///< all numbers
  percentile,     ///< all but the outermost numbers, a share on each side
  dobi_symmetric, ///< both ends move inwards by equal steps, up to the middle: bell-shaped numbers
  dobi_one_sided, ///< the end farther from 0 moves up to the other one: softmax, GELU
  dobi,           ///< the better of both, which 2DQuant decides by hand
  factors,        ///< both ends times a factor near 1
};

/// Settings of a search.
struct range_config {
  range_rule rule = range_rule::dobi;
  int steps = 100;          ///< ranges tried by DOBI (each way), and on each side of 1 by `factors`
  double percentile = 99.9; ///< of the numbers at most the rest to 100 lies above the range, and below it
  double factor_span = 0.1; ///< `factors` tries 1 - span .. 1 + span
  double norm = 2.0;        ///< p of the loss, the sum of |v - v_q|^p

  /// @throws config_error on a configuration that cannot be. `who` begins the message.
  void check(std::string_view who) const {
    if (steps < 1 || !(percentile > 50.0 && percentile <= 100.0) || !(factor_span >= 0.0 && factor_span < 1.0) ||
        !(norm > 0.0) || !detail::is_finite(norm))
      throw config_error(message(who, ": ", steps, " steps, percentile ", percentile, ", factor_span ", factor_span, ", norm ",
                                 norm,
                                 "; possible are steps from 1 on, percentiles above 50 up to 100, spans from 0 to below 1, "
                                 "norms above 0"));
  }

  friend bool operator==(range_config const&, range_config const&) = default;
};

/// The rule in words, for reports.
[[nodiscard]] inline std::string describe(range_config const& config) {
  switch (config.rule) {
  case range_rule::min_max: return "min-max";
  case range_rule::percentile: return message(config.percentile, " percentile");
  case range_rule::dobi_symmetric: return "symmetric DOBI";
  case range_rule::dobi_one_sided: return "one-sided DOBI";
  case range_rule::factors: return message("range factors of 1 +- ", config.factor_span);
  default: return "DOBI";
  }
}

/// A range that a uniform grid covers: 2^bits levels from low to high.
struct value_range {
  float low = 0;
  float high = 0;

  /// What a number becomes: nearest level, ties to even, ends for what lies outside. low == high: that number.
  [[nodiscard]] float round(float v, int bits) const noexcept {
    float const top = static_cast<float>((1 << bits) - 1), step = (high - low) / top;
    if (!(step > 0.0f)) return low;
    return low + step * static_cast<float>(detail::round_to_int(std::clamp((v - low) / step, 0.0f, top)));
  }

  friend bool operator==(value_range const&, value_range const&) = default;
};

/// The ranges that a rule tries for numbers, min-max first, except for percentiles, which are one range alone. NaN counts as 0;
/// no numbers: the range of 0. The configuration is sound.
[[nodiscard]] inline std::vector<value_range> candidate_ranges(std::span<float const> values, range_config const& config) {
  if (values.empty()) return {{}};
  std::vector<float> numbers(values.begin(), values.end());
  for (float& v : numbers)
    if (!(v == v)) v = 0.0f;
  auto const [least, most] = std::minmax_element(numbers.begin(), numbers.end());
  float const low = *least, high = *most;
  if (config.rule == range_rule::percentile) {
    double const at = (1.0 - config.percentile / 100.0) * static_cast<double>(numbers.size() - 1);
    auto const number_at = [&](double position) { // interpolated linearly
      auto const here = numbers.begin() + static_cast<std::ptrdiff_t>(position);
      std::nth_element(numbers.begin(), here, numbers.end());
      auto const below = static_cast<double>(*here);
      if (here + 1 == numbers.end()) return static_cast<float>(below);
      auto const above = static_cast<double>(*std::min_element(here + 1, numbers.end()));
      return static_cast<float>(below + (position - std::floor(position)) * (above - below));
    };
    float const bottom = number_at(at);
    return {{bottom, number_at(static_cast<double>(numbers.size() - 1) - at)}};
  }
  std::vector<value_range> ranges{{low, high}};
  double const from = low, to = high, width = to - from;
  auto const add = [&](double l, double h) { ranges.push_back({static_cast<float>(l), static_cast<float>(h)}); };
  bool const both = config.rule == range_rule::dobi;
  for (int i = 1; i < config.steps; ++i) {
    double const part = width * i / config.steps;
    if (both || config.rule == range_rule::dobi_symmetric) add(from + part / 2, to - part / 2);
    if (both || config.rule == range_rule::dobi_one_sided) {
      if (std::abs(from) <= std::abs(to))
        add(from, to - part);
      else
        add(from + part, to);
    }
  }
  for (int i = 1; i <= config.steps && config.rule == range_rule::factors; ++i)
    for (double const sign : {1.0, -1.0}) {
      double const factor = 1.0 + sign * config.factor_span * i / config.steps;
      add(factor * from, factor * to);
    }
  return ranges;
}

/// The candidate of least loss, the first of equal ones: never worse than min-max, unless the rule is percentile. `loss` gives
/// a number for a value_range. @throws config_error
template <class Loss>
[[nodiscard]] value_range search_range(std::span<float const> values, range_config const& config, Loss const& loss) {
  config.check("search_range");
  auto const ranges = candidate_ranges(values, config);
  value_range best = ranges.front();
  double least = std::numeric_limits<double>::infinity();
  for (value_range const range : ranges)
    if (double const here = loss(range); here < least) {
      least = here;
      best = range;
    }
  return best;
}

/// The same for levels of `bits` bits and the p-norm, to the power p, of the errors, each times its entry of `weights` if there
/// are any. @throws config_error; shape_error unless there are as many weights as values, or none.
[[nodiscard]] inline value_range search_range(std::span<float const> values, int bits, std::span<float const> weights = {},
                                              range_config const& config = {}) {
  if (!weights.empty() && weights.size() != values.size())
    throw shape_error(message("search_range: ", weights.size(), " weights for ", values.size(), " numbers"));
  return search_range(values, config, [&](value_range range) {
    double total = 0;
    for (std::size_t k = 0; k < values.size(); ++k) {
      auto const off = static_cast<double>(std::abs(values[k] - range.round(values[k], bits)));
      double const weight = weights.empty() ? 1.0 : static_cast<double>(weights[k]);
      total += weight * (config.norm == 2.0 ? off * off : std::pow(off, config.norm));
    }
    return total;
  });
}

} // namespace SLIM_ABI
} // namespace slim
