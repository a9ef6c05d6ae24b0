#pragma once
/// @file
/// The pruning metric of JSQ (Guo et al., "Compressing Large Language Models by Joint Sparsification and Quantization", ICML
/// 2024), a baseline of SLiM's paper: Wanda's score, plus rho times the range that the output would have without the weight. A
/// weight that holds the range of its output down makes it easier to quantize, and stays.

#include "slim/core/finite.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/saliency/saliency.hpp"

#include <functional>
#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// Settings of jsq.
struct jsq_config {
  double rho = 2.1;   ///< weight of the range; the published code's default
  double clip = 0.01; ///< share of the sample's activations, the largest by magnitude, that is cut to the largest of the rest

  friend bool operator==(jsq_config const&, jsq_config const&) = default;
};

/// score(i, j) = |w_ij| * ||x_j||_2 + rho * (max_t - min_t)(y_ti - x_tj w_ij) over the tokens t of a sample X, Y = X W^T.
/// Ranges need tokens: the sample is the calibration's (`calibration_config{.samples = n}`), and both terms are taken on it.
/// (The published code averages the activations of its sequences position by position, 2048 tokens; the ratio of the two terms
/// depends on the number of tokens.)
///
/// **Numerics** Sample and weights are scaled by powers of two to magnitudes of at most 1; outputs in float, scores rounded to
/// float: a factor common to all scores changes no comparison. O(tokens d_out d_in) to prepare.
class jsq {
public:
  /// @throws config_error on a negative rho or a clip outside [0, 1).
  explicit jsq(jsq_config config = {}) : config_(config) {
    if (!(config.rho >= 0.0) || !detail::is_finite(config.rho) || !(config.clip >= 0.0 && config.clip < 1.0))
      throw config_error(message("jsq: rho ", config.rho, ", clip ", config.clip));
  }

  [[nodiscard]] jsq_config const& config() const noexcept { return config_; }

  class scorer {
  public:
    explicit scorer(matrix<float> scores) : scores_(std::move(scores)) {}
    float operator()(index_t i, index_t j) const noexcept { return scores_(i, j); }

  private:
    matrix<float> scores_;
  };

  /// @throws shape_error if W and the calibration disagree on d_in; config_error if the calibration keeps no samples;
  /// nonfinite_error on NaN or infinity in them.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "jsq");
    require_samples(calib, "jsq");
    matrix<float> const sample = clipped(calib.samples());
    matrix<float> scaled(w);
    scale_down(scaled);
    matrix<float> outputs(w.rows(), sample.rows()), scores(w.rows(), w.cols());
    gemm_into(scaled.view(), transposed(sample.view()), outputs.view(), ctx.in_fp32());
    std::vector<double> const norm = norms(sample);
    matrix<float> const by_channel(transposed(sample.view()));
    ctx.parallel_for(w.rows(), 4, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < w.cols(); ++j)
          scores(i, j) =
              static_cast<float>(std::abs(static_cast<double>(scaled(i, j))) * norm[static_cast<std::size_t>(j)] +
                                 config_.rho * range_without(outputs.row(i), by_channel.row(j), scaled(i, j), sample.rows()));
    });
    return scorer(std::move(scores));
  }

  [[nodiscard]] std::string describe() const { return message("jsq, rho ", config_.rho); }

private:
  /// The sample as the scores take it: its largest activations cut as by the published code's activation editor (for statistics
  /// only), and scaled to at most 1.
  [[nodiscard]] matrix<float> clipped(matrix_view<float const> tokens) const {
    matrix<float> sample(tokens);
    for (index_t k = 0; k < sample.size(); ++k)
      if (!detail::is_finite(sample.data()[k]))
        throw nonfinite_error(
            message("jsq: the sample is ", sample.data()[k], " at token ", k / sample.cols(), ", channel ", k % sample.cols()));
    if (auto const cut = static_cast<index_t>(config_.clip * static_cast<double>(sample.size())); cut > 0) {
      std::vector<float> magnitudes;
      for (index_t k = 0; k < sample.size(); ++k) magnitudes.push_back(std::abs(sample.data()[k]));
      auto const limit = magnitudes.begin() + cut;
      std::nth_element(magnitudes.begin(), limit, magnitudes.end(), std::greater<>());
      for (index_t k = 0; k < sample.size(); ++k) sample.data()[k] = std::clamp(sample.data()[k], -*limit, *limit);
    }
    scale_down(sample);
    return sample;
  }

  static void scale_down(matrix<float>& m) {
    float largest = 0.0f;
    for (index_t k = 0; k < m.size(); ++k) largest = std::max(largest, std::abs(m.data()[k]));
    int const power = power_below(largest);
    for (index_t k = 0; k < m.size(); ++k) m.data()[k] = std::ldexp(m.data()[k], power);
  }

  /// Of each channel, tokens added in order.
  [[nodiscard]] static std::vector<double> norms(matrix<float> const& sample) {
    std::vector<double> norm(static_cast<std::size_t>(sample.cols()));
    for (index_t t = 0; t < sample.rows(); ++t)
      for (index_t j = 0; j < sample.cols(); ++j) {
        double const x = static_cast<double>(sample(t, j));
        norm[static_cast<std::size_t>(j)] += x * x;
      }
    for (double& n : norm) n = std::sqrt(n);
    return norm;
  }

  [[nodiscard]] static double range_without(float const* outputs, float const* channel, float w, index_t tokens) {
    float lowest = std::numeric_limits<float>::infinity(), highest = -lowest;
    for (index_t t = 0; t < tokens; ++t) {
      float const y = outputs[t] - channel[t] * w;
      lowest = y < lowest ? y : lowest;
      highest = y > highest ? y : highest;
    }
    return static_cast<double>(highest) - static_cast<double>(lowest);
  }

  jsq_config config_;
};

static_assert(saliency<jsq>);

} // namespace SLIM_ABI
} // namespace slim
