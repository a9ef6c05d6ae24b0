#pragma once
/// @file
/// Trainable quantizers on uniform grids: `learned_step` (LSQ, arXiv 1902.08153, equations 1 and 3, without its gradient
/// scale), `free_bounds` (2DQuant, arXiv 2406.06649, section 3), `trainable_ternary` (a reconstruction, see there).

#include "slim/quantization/absmax.hpp"
#include "slim/quantization/ternary_quantizer.hpp"
#include "slim/training/trainable_quantizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// @throws shape_error unless there are as many parameters as the quantizer has, and dQ is as W.
inline void check_trainable(char const* who, matrix_view<float const> w, std::span<float const> parameters, index_t needed,
                            matrix_view<float const> dq) {
  if (std::ssize(parameters) != needed)
    throw shape_error(message(who, ": ", parameters.size(), " parameters, ", needed, " are needed"));
  require_shape(w.rows(), w.cols(), dq.rows(), dq.cols(), who);
}

} // namespace detail

/// Codes of a learned_step.
struct learned_step_config {
  int bits = 4;
  scale_block block = per_channel;
  bool trains = true; ///< false: the scale is that of the largest weight in every step, and has no gradient
};

/// Symmetric codes whose scales train: Q = s clamp(round(w / s), low, high). Where w / s is inside, dQ/dw = 1 and dQ/ds =
/// round(w / s) - w / s; outside dQ/dw = 0 and dQ/ds = low or high. Parameters: one scale per block, first those of
/// absmax_quantizer. Scales that are not positive give codes of 0 and no gradient.
class learned_step {
public:
  /// @throws config_error
  explicit learned_step(learned_step_config config = {})
      : config_(config), start_({.bits = config.bits, .block = config.block}) {}

  [[nodiscard]] std::vector<float> first(matrix_view<float const> w, context const& ctx = {}) const {
    if (!config_.trains) return {};
    integer_codes const codes = start_.quantize(w, calibration(w.cols()), ctx);
    return {codes.scales.data(), codes.scales.data() + codes.scales.size()};
  }

  /// @throws shape_error
  [[nodiscard]] integer_codes codes(matrix_view<float const> w, std::span<float const> parameters,
                                    context const& ctx = {}) const {
    if (!config_.trains) return start_.quantize(w, calibration(w.cols()), ctx);
    integer_codes made(w.rows(), w.cols(), config_.bits, config_.block, number_format::fp32);
    detail::check_trainable("learned_step", w, parameters, made.scales.size(), w);
    for (index_t k = 0; k < made.scales.size(); ++k)
      made.scales.data()[k] = std::max(parameters[static_cast<std::size_t>(k)], 0.0f);
    made.encode(w, ctx);
    return made;
  }

  /// @throws shape_error
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, context const& ctx = {}) const {
    integer_codes const made = codes(w, parameters, ctx);
    detail::check_trainable("learned_step", w, parameters, config_.trains ? made.scales.size() : 0, dq);
    quantizer_gradient g{matrix<float>(w.rows(), w.cols()), std::vector<float>(parameters.size())};
    index_t const tall = made.block.rows_of(w.rows()), wide = made.block.cols_of(w.cols());
    auto const low = static_cast<float>(made.lowest()), high = static_cast<float>(made.highest());
    ctx.parallel_for(made.scales.rows(), 1, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b)
        for (index_t k = 0; k < made.scales.cols(); ++k) {
          float const scale = made.scales(b, k);
          double sum = 0;
          for (index_t i = b * tall; scale > 0 && i < std::min(w.rows(), (b + 1) * tall); ++i)
            for (index_t j = k * wide; j < std::min(w.cols(), (k + 1) * wide); ++j) {
              float const level = w(i, j) / scale;
              bool const inside = low <= level && level <= high;
              if (inside) g.weight(i, j) = dq(i, j);
              double const by_scale = static_cast<double>(made.codes(i, j)) - (inside ? static_cast<double>(level) : 0.0);
              sum += static_cast<double>(dq(i, j)) * by_scale;
            }
          if (config_.trains) g.parameters[static_cast<std::size_t>(b * made.scales.cols() + k)] = static_cast<float>(sum);
        }
    });
    return g;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit codes, ", slim::describe(config_.block), config_.trains ? ", scales train" : "");
  }

private:
  learned_step_config config_;
  absmax_quantizer start_;
};

static_assert(trainable_quantizer<learned_step>);

/// Codes between two bounds of the whole matrix that train, l and u: Q = l + s k, s = (u - l) / (2^bits - 1), k the nearest
/// level. With v = (clamp(w, l, u) - l) / (u - l) and k' = k / (2^bits - 1): dQ/du = [w >= u] + k' - v, dQ/dl = [w <= l] - k' +
/// v, dQ/dw = [l <= w <= u]. Parameters: l, u, first the least and the largest weight. Bounds that have crossed are refused.
class free_bounds {
public:
  /// @throws config_error unless 1 <= bits <= 8
  explicit free_bounds(int bits = 4) : bits_(bits) { (void)integer_codes(0, 0, bits, per_tensor, number_format::fp32); }

  [[nodiscard]] std::vector<float> first(matrix_view<float const> w, context const& = {}) const {
    float low = 0, high = 0;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        low = i + j == 0 ? w(i, j) : std::min(low, w(i, j));
        high = i + j == 0 ? w(i, j) : std::max(high, w(i, j));
      }
    // Equal bounds leave no step to divide by.
    return {low, std::max(high, std::nextafter(low, std::numeric_limits<float>::infinity()))};
  }

  /// @throws shape_error; config_error unless l < u
  [[nodiscard]] integer_codes codes(matrix_view<float const> w, std::span<float const> parameters,
                                    context const& ctx = {}) const {
    detail::check_trainable("free_bounds", w, parameters, 2, w);
    float const low = parameters[0], high = parameters[1];
    if (!(low < high)) throw config_error(message("free_bounds: bounds ", low, " and ", high, " have crossed"));
    integer_codes made(w.rows(), w.cols(), bits_, per_tensor, number_format::fp32);
    made.offsets = made.scales;
    auto const levels = static_cast<float>((1 << bits_) - 1);
    for (index_t k = 0; k < made.scales.size(); ++k) {
      made.scales.data()[k] = high / levels - low / levels; // high - low may overflow
      made.offsets.data()[k] = low;
    }
    made.encode(w, ctx);
    return made;
  }

  /// @throws as codes
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, context const& ctx = {}) const {
    integer_codes const made = codes(w, parameters, ctx);
    detail::check_trainable("free_bounds", w, parameters, 2, dq);
    float const low = parameters[0], high = parameters[1];
    auto const levels = static_cast<double>((1 << bits_) - 1);
    quantizer_gradient g{matrix<float>(w.rows(), w.cols()), {}};
    std::vector<double> by_low(static_cast<std::size_t>(w.rows())), by_high(by_low); // of each row
    ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < w.cols(); ++j) {
          double const d = static_cast<double>(dq(i, j)), clamped = static_cast<double>(std::clamp(w(i, j), low, high));
          double const v = (clamped - static_cast<double>(low)) / (static_cast<double>(high) - static_cast<double>(low));
          double const k = static_cast<double>(made.codes(i, j) - made.lowest()) / levels;
          bool const inside = low <= w(i, j) && w(i, j) <= high;
          if (inside) g.weight(i, j) = dq(i, j);
          by_high[static_cast<std::size_t>(i)] += d * ((w(i, j) >= high ? 1.0 : 0.0) + k - v);
          by_low[static_cast<std::size_t>(i)] += d * ((w(i, j) <= low ? 1.0 : 0.0) - k + v);
        }
    });
    g.parameters = {static_cast<float>(std::accumulate(by_low.begin(), by_low.end(), 0.0)),
                    static_cast<float>(std::accumulate(by_high.begin(), by_high.end(), 0.0))};
    return g;
  }

  [[nodiscard]] std::string describe() const { return message(bits_, " bit codes between trained bounds"); }

private:
  int bits_;
};

static_assert(trainable_quantizer<free_bounds>);

/// Codes -1, 0, 1 times a scale per row, on the support of the exact projection (ternary_quantizer) or on a given one. A
/// reconstruction of Pruning Ternary Quantization (arXiv 2107.10998), whose method section could not be read: there the support
/// shrinks along a schedule, `ternary_support(w, share)` of this library, while weights decay (adamw's or sgd's weight_decay).
///
/// dQ/dw = 1 on what is kept, 0 elsewhere; dQ/dalpha = the sign. Parameters: one scale per row, first the mean magnitude of
/// what is kept. Without a given support the weights decide in every step what is kept.
class trainable_ternary {
public:
  /// On the support of the projection.
  trainable_ternary() = default;
  /// On the weights that the mask keeps.
  explicit trainable_ternary(mask kept) : given_(std::move(kept)) {}

  /// @throws shape_error on a mask of another shape
  [[nodiscard]] std::vector<float> first(matrix_view<float const> w, context const& ctx = {}) const {
    std::vector<float> scales(static_cast<std::size_t>(w.rows()));
    if (!given_) {
      integer_codes const once = ternary_quantizer().quantize(w, calibration(w.cols()), ctx);
      std::copy_n(once.scales.data(), once.scales.size(), scales.begin());
      return scales;
    }
    mask const kept = support(w, ctx);
    for (index_t i = 0; i < w.rows(); ++i) {
      double sum = 0, count = 0;
      for (index_t j = 0; j < w.cols(); ++j)
        if (kept.kept(i, j)) {
          sum += std::abs(static_cast<double>(w(i, j)));
          count += 1;
        }
      if (count > 0) scales[static_cast<std::size_t>(i)] = static_cast<float>(sum / count);
    }
    return scales;
  }

  /// @throws shape_error
  [[nodiscard]] integer_codes codes(matrix_view<float const> w, std::span<float const> parameters,
                                    context const& ctx = {}) const {
    detail::check_trainable("trainable_ternary", w, parameters, w.rows(), w);
    mask const kept = support(w, ctx);
    integer_codes made(w.rows(), w.cols(), 2, per_channel, number_format::fp32);
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) {
        made.scales(i, 0) = std::max(parameters[static_cast<std::size_t>(i)], 0.0f);
        if (kept.kept(i, j)) made.codes(i, j) = static_cast<std::int8_t>(w(i, j) < 0 ? -1 : 1);
      }
    return made;
  }

  /// @throws shape_error
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, context const& ctx = {}) const {
    detail::check_trainable("trainable_ternary", w, parameters, w.rows(), dq);
    integer_codes const made = codes(w, parameters, ctx);
    quantizer_gradient g{matrix<float>(w.rows(), w.cols()), std::vector<float>(parameters.size())};
    for (index_t i = 0; i < w.rows(); ++i) {
      double sum = 0;
      for (index_t j = 0; j < w.cols(); ++j) {
        if (made.codes(i, j) == 0) continue;
        g.weight(i, j) = dq(i, j);
        sum += static_cast<double>(dq(i, j)) * static_cast<double>(made.codes(i, j));
      }
      g.parameters[static_cast<std::size_t>(i)] = static_cast<float>(sum);
    }
    return g;
  }

  [[nodiscard]] std::string describe() const {
    return given_ ? "ternary codes on a mask, a trained scale per row" : "ternary codes, a trained scale per row";
  }

private:
  [[nodiscard]] mask support(matrix_view<float const> w, context const& ctx) const {
    if (!given_) return ternary_support(w, 1.0, ctx);
    given_->check("trainable_ternary", w.rows(), w.cols());
    return *given_;
  }

  std::optional<mask> given_;
};

static_assert(trainable_quantizer<trainable_ternary>);

} // namespace SLIM_ABI
} // namespace slim
