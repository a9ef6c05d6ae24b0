#pragma once
/// @file
/// Levels that lie closer where weights are many: LCQ's companding (Yamamoto, CVPR 2021, arXiv 2103.07156) without training.

#include "slim/quantization/absmax.hpp"
#include "slim/quantization/compander.hpp"

#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of `companding_quantizer`.
struct companding_config {
  int bits = 4;                                     ///< 2 to 8: 2^bits - 1 levels, 0 among them; 2: nothing to compand
  scale_block block = per_channel;                  ///< which weights share a scale; the compander is the matrix's
  index_t intervals = 16;                           ///< of the compander: 1, 2, 4, ... 256
  number_format scale_format = number_format::fp32; ///< scales are rounded to it before weights are rounded to them

  friend bool operator==(companding_config const&, companding_config const&) = default;
};

/// A compander and the scales it goes with.
struct companding_fit {
  std::vector<float> theta; ///< of compander
  scale_table scales;
};

/// Round to nearest behind a compander, see companded_codes. Each scale is the best of 20 from that of the largest weight
/// downwards to 0.43 of it; the compander passes through the means of the weights of each level (as Lloyd's step), and both
/// take turns, six times at most, while the squared error falls. Where no compander helps theta is 0, so the error is never
/// above that of uniform levels with searched scales. LCQ normalizes weights by mean and deviation first; here scales do that.
///
/// **Numerics** sums are double. O(140 d_out d_in).
class companding_quantizer {
public:
  /// @throws config_error unless 2 <= bits <= 8 and intervals are a power of two up to 256
  explicit companding_quantizer(companding_config config = {}) : config_(config) {
    (void)compander(uniform());
    (void)absmax_quantizer({.bits = config.bits, .block = config.block, .scale_format = config.scale_format});
  }

  [[nodiscard]] companding_config const& config() const noexcept { return config_; }

  [[nodiscard]] codebook_codes quantize(matrix_view<float const> w, calibration const&, context const& ctx = {}) const {
    companding_fit const found = fit(w, ctx);
    return companded_codes(w, config_.bits, config_.block, found.scales, compander(found.theta), ctx);
  }

  /// What quantize encodes with.
  [[nodiscard]] companding_fit fit(matrix_view<float const> w, context const& ctx = {}) const {
    absmax_quantizer const widest({.bits = config_.bits, .block = config_.block, .scale_format = config_.scale_format});
    scale_table const largest = widest.quantize(w, calibration(w.cols()), ctx).scales;
    std::vector<float> theta = uniform();
    outcome best = search(w, largest, theta, ctx);
    constexpr int most_rounds = 6;
    outcome last = best;
    std::vector<float> best_theta = theta;
    for (int round = 0; round < most_rounds && config_.bits > 2; ++round) {
      theta = through_means(last);
      last = search(w, largest, theta, ctx);
      if (!(last.error < best.error)) break;
      best = last;
      best_theta = theta;
    }
    return {std::move(best_theta), std::move(best.scales)};
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit companded ", slim::describe(config_.block),
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " scales"));
  }

private:
  /// Scales for a compander, and what they give.
  struct outcome {
    scale_table scales;
    double error = 0;                ///< squared, of all weights
    std::vector<double> mass, means; ///< by magnitude of the code: squared scales of its weights, and times |w| / scale
  };

  [[nodiscard]] int levels() const noexcept { return (1 << (config_.bits - 1)) - 1; }
  [[nodiscard]] std::vector<float> uniform() const {
    if (config_.intervals < 1 || config_.intervals > 256)
      throw config_error(message("companding_quantizer: ", config_.intervals, " intervals, possible are 1, 2, 4, ... 256"));
    return std::vector<float>(static_cast<std::size_t>(config_.intervals));
  }

  [[nodiscard]] outcome search(matrix_view<float const> w, scale_table const& largest, std::vector<float> const& theta,
                               context const& ctx) const {
    compander const f(theta);
    auto const count = static_cast<std::size_t>(levels()) + 1;
    std::vector<double> values;
    for (int k = 0; k <= levels(); ++k)
      values.push_back(static_cast<double>(rounded_to(number_format::fp16, static_cast<float>(f.expand(k, levels())))));
    outcome found{largest, 0, std::vector<double>(count), std::vector<double>(count)};
    std::vector<outcome> parts(static_cast<std::size_t>(largest.rows()), {{}, 0, found.mass, found.means}); // rows of blocks
    ctx.parallel_for(largest.rows(), 1, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b)
        for (index_t g = 0; g < largest.cols(); ++g)
          search_block(w, b, g, largest(b, g), f, values, found.scales, parts[static_cast<std::size_t>(b)]);
    });
    for (outcome const& part : parts) {
      found.error += part.error;
      for (std::size_t k = 0; k < count; ++k) {
        found.mass[k] += part.mass[k];
        found.means[k] += part.means[k];
      }
    }
    return found;
  }

  void search_block(matrix_view<float const> w, index_t b, index_t g, float largest, compander const& f,
                    std::vector<double> const& values, scale_table& scales, outcome& sums) const {
    index_t const tall = config_.block.rows_of(w.rows()), wide = config_.block.cols_of(w.cols());
    auto const for_each = [&](float scale, auto const& use) {
      for (index_t i = b * tall; i < std::min(w.rows(), (b + 1) * tall); ++i)
        for (index_t j = g * wide; j < std::min(w.cols(), (g + 1) * wide); ++j)
          use(static_cast<double>(std::abs(w(i, j))), std::abs(detail::companded(w(i, j), scale, f, levels())));
    };
    constexpr int candidates = 20;
    double least = std::numeric_limits<double>::infinity();
    float best = largest;
    for (int c = 0; c < candidates; ++c) {
      float const scale = detail::stored_divisor(config_.scale_format, largest * (1.0f - 0.03f * static_cast<float>(c)));
      double error = 0;
      for_each(scale, [&](double magnitude, int k) {
        double const off = magnitude - static_cast<double>(scale) * values[static_cast<std::size_t>(k)];
        error += off * off;
      });
      if (!(error < least)) continue;
      least = error;
      best = scale;
    }
    scales(b, g) = best;
    if (!(best > 0.0f)) return;
    sums.error += least;
    double const mass = static_cast<double>(best) * static_cast<double>(best);
    for_each(best, [&](double magnitude, int k) {
      sums.mass[static_cast<std::size_t>(k)] += mass;
      sums.means[static_cast<std::size_t>(k)] += mass * (magnitude / static_cast<double>(best));
    });
  }

  /// The compander whose inverse takes each level to the mean of its weights: increments of the line through (mean_k, k / L),
  /// looked up where intervals end. Level 0 and the last one stay.
  [[nodiscard]] std::vector<float> through_means(outcome const& found) const {
    int const last = levels();
    std::vector<double> at{0}, height{0};
    for (int k = 1; k < last; ++k) {
      auto const n = static_cast<std::size_t>(k);
      if (!(found.mass[n] > 0)) continue;
      double const mean = found.means[n] / found.mass[n] / last;
      if (mean <= at.back() || mean >= 1) continue;
      at.push_back(mean);
      height.push_back(static_cast<double>(k) / last);
    }
    at.push_back(1);
    height.push_back(1);
    std::vector<float> theta;
    double before = 0;
    std::size_t piece = 0;
    for (index_t k = 1; k <= config_.intervals; ++k) {
      double const x = static_cast<double>(k) / static_cast<double>(config_.intervals);
      while (piece + 2 < at.size() && at[piece + 1] < x) ++piece;
      double const y = height[piece] + (height[piece + 1] - height[piece]) * (x - at[piece]) / (at[piece + 1] - at[piece]);
      theta.push_back(static_cast<float>(std::log(std::max(y - before, 1e-9))));
      before = y;
    }
    return theta;
  }

  companding_config config_;
};

static_assert(quantizer<companding_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
