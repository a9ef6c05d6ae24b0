#pragma once
/// @file
/// SLiM-Quant (arXiv 2410.09615, section 3.1): a uniform symmetric quantizer whose step minimises the expected squared error
/// over the distribution of the weights, and SLiM-Quant^O, its activation-aware form.

#include "slim/core/finite.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/quantization/weight_histogram.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// How the step is searched.
enum class scale_search {
  exact,     ///< the true error of the quantizer, every candidate, then Lloyd steps (quantization/scale_search.hpp)
  reference, ///< as SLiM's published code: truncating surrogate on |w|, 11 coarse points and a linear scan; for parity only
};

/// Grid of `slim_quantizer`, and how its scale is searched.
struct slim_quant_config {
  int bits = 4;                   ///< 2 to 8
  scale_block block = per_tensor; ///< which weights share a step
  scale_search search = scale_search::exact;
  bool output_weighted = false;                     ///< weigh squared errors of channel j by mean x_j^2: needs activations
  double outlier_share = 0.0;                       ///< SLiM-Quant^O: share of input channels scaled up (paper: 0.01)
  float outlier_factor = 2.0f;                      ///< ... by this factor; the paper leaves it open, its code uses 2
  index_t candidates = 20000;                       ///< steps tried, and histogram bins, for blocks of more than 65536 weights
  number_format scale_format = number_format::fp32; ///< the step is rounded to it before weights are rounded to the step

  friend bool operator==(slim_quant_config const&, slim_quant_config const&) = default;
};

/// Returns integer_codes. With outlier_share > 0, the channels with the largest product of mean |x_j| and mean |w_ij| over i
/// are multiplied by outlier_factor before the step is searched (the paper searches first, so that weights above alpha / 2 of
/// those channels clip) and divided by it afterwards; codes carry the factors.
///
/// **Numerics** Error sums in double. A block of zeros gets scale 0. Blocks of at most 65536 weights are sorted: errors of
/// steps are exact, and 2 n (at least 256) steps are tried: the best is within 0.2% of the error of the best of all steps that
/// use the highest code, 0.001% on average for normal weights (tests/quantization); output-weighted, 2 to 16 times as many (by
/// bits), for the same 0.2%. Larger blocks go through a histogram: exact
/// for bf16 weights. Never above the squared error of absmax (fp32 scales). O(n log n) or O(n).
class slim_quantizer {
public:
  /// @throws config_error on bits outside 2..8, a share outside [0, 1], a factor that is not positive, or fewer than 1
  /// candidate.
  explicit slim_quantizer(slim_quant_config config = {}) : config_(config) {
    if (config.bits < 2) throw config_error(message("slim_quantizer: ", config.bits, " bits, possible are 2 to 8"));
    static_cast<void>(integer_codes(0, 0, config.bits, config.block, config.scale_format)); // throws on bits
    if (!(config.outlier_share >= 0.0 && config.outlier_share <= 1.0))
      throw config_error(message("slim_quantizer: outlier share ", config.outlier_share, " is not in [0, 1]"));
    if (!(config.outlier_factor > 0.0f) || !detail::is_finite(config.outlier_factor))
      throw config_error(message("slim_quantizer: outlier factor ", config.outlier_factor, " is not positive"));
    if (config.candidates < 1) throw config_error(message("slim_quantizer: ", config.candidates, " candidates"));
  }

  [[nodiscard]] slim_quant_config const& config() const noexcept { return config_; }

  /// @throws if activations are needed: config_error if none were calib, shape_error if W and the calibration disagree on d_in.
  [[nodiscard]] integer_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    if (config_.output_weighted || config_.outlier_share > 0.0) {
      require_channels(calib, w.cols(), "slim_quantizer");
      require_observed(calib, "slim_quantizer");
    }
    integer_codes result(w.rows(), w.cols(), config_.bits, config_.block, config_.scale_format);
    std::vector<float> error_weights = config_.output_weighted ? squares_of_channels(calib) : std::vector<float>();
    if (config_.outlier_share == 0.0) {
      set_scales(result, w, error_weights, ctx);
    } else {
      result.channel_factors = factors_of_channels(w, calib);
      matrix<float> scaled(w);
      for (index_t j = 0; j < w.cols(); ++j) {
        float const factor = result.factor_at(j);
        if (config_.output_weighted)
          error_weights[static_cast<std::size_t>(j)] /= factor * factor; // in units of the scaled weight
        for (index_t i = 0; i < w.rows(); ++i) scaled(i, j) *= factor;
      }
      set_scales(result, scaled.view(), error_weights, ctx);
    }
    result.encode(w, ctx);
    return result;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.outlier_share > 0.0 ? "slim-quant^O " : "slim-quant ", config_.bits, " bit ",
                   slim::describe(config_.block), config_.search == scale_search::reference ? ", reference search" : "",
                   config_.output_weighted ? ", output-weighted" : "",
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " scales"));
  }

private:
  static constexpr index_t largest_sorted_block = 65536;
  static constexpr index_t fewest_candidates = 256;

  /// Mean square of every input channel, relative to the largest: what a squared weight error costs the output. Dead channels
  /// weigh 0.
  static std::vector<float> squares_of_channels(calibration const& calib) {
    std::vector<double> const squares = calib.mean_square();
    double const largest = squares.empty() ? 0.0 : *std::max_element(squares.begin(), squares.end());
    std::vector<float> weights;
    for (double const square : squares) weights.push_back(static_cast<float>(largest > 0.0 ? square / largest : square));
    return weights;
  }

  std::vector<float> factors_of_channels(matrix_view<float const> w, calibration const& calib) const {
    std::vector<double> importance = calib.mean_abs();
    for (index_t j = 0; j < w.cols(); ++j) {
      double sum = 0;
      for (index_t i = 0; i < w.rows(); ++i) sum += static_cast<double>(std::abs(w(i, j)));
      importance[static_cast<std::size_t>(j)] *= sum;
    }
    std::vector<index_t> order(importance.size());
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return importance[static_cast<std::size_t>(a)] > importance[static_cast<std::size_t>(b)];
    });
    auto const chosen = static_cast<index_t>(config_.outlier_share * static_cast<double>(w.cols()));
    std::vector<float> factors(importance.size(), 1.0f);
    for (index_t k = 0; k < chosen; ++k)
      factors[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])] = config_.outlier_factor;
    return factors;
  }

  void set_scales(integer_codes& result, matrix_view<float const> w, std::vector<float> const& weights,
                  context const& ctx) const {
    index_t const tall = config_.block.rows_of(w.rows());
    index_t const wide = config_.block.cols_of(w.cols());
    auto const set_block = [&](index_t b, index_t g, context const& inner) {
      index_t const i = b * tall, j = g * wide;
      index_t const width = std::min(wide, w.cols() - j);
      auto const part = w.block(i, j, std::min(tall, w.rows() - i), width);
      auto const part_weights = weights.empty()
                                    ? std::span<float const>()
                                    : std::span(weights).subspan(static_cast<std::size_t>(j), static_cast<std::size_t>(width));
      result.scales(b, g) = detail::stored_scale(config_.scale_format, search_block(part, part_weights, result, inner));
    };
    if (result.scales.size() == 1) return set_block(0, 0, ctx);
    context const serial = ctx.inside_task();
    ctx.parallel_for(result.scales.rows(), 1, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b)
        for (index_t g = 0; g < result.scales.cols(); ++g) set_block(b, g, serial);
    });
  }

  float search_block(matrix_view<float const> w, std::span<float const> weights, integer_codes const& codes,
                     context const& ctx) const {
    float const largest = largest_magnitude(w, ctx);
    if (!(largest > 0.0f) || !detail::is_finite(largest)) return largest;
    if (config_.search == scale_search::reference) return reference_scale(w, largest);
    float const unclipped = largest / static_cast<float>(codes.highest());
    if (w.size() > largest_sorted_block)
      return best_scale(histogram_moments(w, largest, config_.candidates, weights, ctx), codes, config_.candidates, unclipped);
    std::vector<std::pair<float, double>> values;
    values.reserve(static_cast<std::size_t>(w.size()));
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        if (w(i, j) == w(i, j))
          values.emplace_back(w(i, j), weights.empty() ? 1.0 : static_cast<double>(weights[static_cast<std::size_t>(j)]));
    // Few heavy weights make the error a comb whose teeth are narrow for large codes: look closer.
    index_t const finer = weights.empty() ? 1 : index_t{1} << std::max(1, config_.bits - 4);
    index_t const steps = std::min(std::max(2 * w.size(), fewest_candidates) * finer, config_.candidates);
    return best_scale(moments_of(values), codes, steps, unclipped);
  }

  /// Steps up to the one at which the highest code falls out of use, and the one of absmax: never worse than that. A block
  /// whose nonzero weights all lie in channels of weight 0 has no best step: it gets the one that clips nothing.
  static float best_scale(prefix_moments const& data, integer_codes const& codes, index_t steps, float unclipped) {
    double const largest = data.size() == 0 ? 0.0 : std::max(-data.value(0), data.value(data.size() - 1));
    if (!(largest > 0.0)) return unclipped;
    scale_choice const found = search_scale(data, largest / (codes.highest() - 0.5), codes.lowest(), codes.highest(), steps);
    scale_choice const absmax = error_of_scale(data, largest / codes.highest(), codes.lowest(), codes.highest());
    return static_cast<float>(found.error <= absmax.error ? found.scale : absmax.scale);
  }

  float reference_scale(matrix_view<float const> w, float largest) const {
    float smallest = largest;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) smallest = std::min(smallest, std::abs(w(i, j)));
    index_t const bins = std::max<index_t>(512, std::min<index_t>(w.size() / 1000, 20000));
    double const width = (static_cast<double>(largest) - static_cast<double>(smallest)) / static_cast<double>(bins);
    if (!(width > 0.0)) return largest / static_cast<float>((1 << (config_.bits - 1)) - 1);
    std::vector<double> density(static_cast<std::size_t>(bins)), centers(static_cast<std::size_t>(bins));
    for (index_t b = 0; b < bins; ++b)
      centers[static_cast<std::size_t>(b)] = static_cast<double>(smallest) + (static_cast<double>(b) + 0.5) * width;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        auto const bin = static_cast<index_t>((static_cast<double>(std::abs(w(i, j))) - static_cast<double>(smallest)) / width);
        density[static_cast<std::size_t>(std::min(bin, bins - 1))] += 1.0;
      }
    double const alpha = reference_search_alpha(density, centers, config_.bits);
    return static_cast<float>(alpha / static_cast<double>((1 << (config_.bits - 1)) - 1));
  }

  slim_quant_config config_;
};

static_assert(quantizer<slim_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
