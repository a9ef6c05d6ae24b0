#pragma once
/// @file
/// What gradients of the end loss say of single layers: how much each token matters (GuidedQuant, arXiv 2505.07004, with one
/// group of outputs), and how much each weight matters (the diagonal of the empirical Fisher matrix, SqueezeLLM, arXiv
/// 2306.07629).

#include "slim/core/finite.hpp"
#include "slim/linalg/gemm.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Mean over the outputs of dY_tj^2 for every token t; dY (tokens x d_out) is the gradient of the end loss by the layer's
/// outputs. Sums are double.
[[nodiscard]] inline std::vector<float> token_energy(matrix_view<float const> dy) {
  std::vector<float> energy(static_cast<std::size_t>(dy.rows()));
  for (index_t t = 0; t < dy.rows(); ++t) {
    double sum = 0;
    for (index_t j = 0; j < dy.cols(); ++j) sum += static_cast<double>(dy(t, j)) * static_cast<double>(dy(t, j));
    energy[static_cast<std::size_t>(t)] = static_cast<float>(sum / static_cast<double>(std::max<index_t>(dy.cols(), 1)));
  }
  return energy;
}

/// Safeguards of token_weights.
struct token_weight_config {
  double clip_share = 0.999;     ///< larger energies become this quantile
  double tokens_per_channel = 4; ///< the effective number of tokens stays above so many times d_in, or all tokens count alike
};

/// (sum s)^2 / sum s^2: how many tokens of equal weight tell as much.
[[nodiscard]] inline double effective_tokens(std::span<float const> weights) {
  double sum = 0, squares = 0;
  for (float const w : weights) {
    sum += static_cast<double>(w);
    squares += static_cast<double>(w) * static_cast<double>(w);
  }
  return squares > 0 ? sum * sum / squares : 0;
}

/// Weights for calibration::observe from the energies of the tokens: clipped, divided by their mean, and blended with 1 as
/// (1 - b) s + b, with the least b in [0, 1] that keeps the effective number of tokens at `tokens_per_channel` d_in. Their mean
/// is 1. With fewer tokens than that all weights are 1, as where all energies are 0.
/// @throws config_error on an energy that is negative or not finite, or a configuration out of range.
[[nodiscard]] inline std::vector<float> token_weights(std::span<float const> energy, index_t d_in,
                                                      token_weight_config const& config = {}) {
  if (!(config.clip_share > 0 && config.clip_share <= 1) || !(config.tokens_per_channel >= 0))
    throw config_error(
        message("token_weights: clip share ", config.clip_share, ", tokens per channel ", config.tokens_per_channel));
  for (float const e : energy)
    if (!detail::is_finite(e) || e < 0) throw config_error(message("token_weights: an energy of ", e));
  std::vector<float> weights(energy.begin(), energy.end());
  if (weights.empty()) return weights;
  auto const count = static_cast<double>(weights.size());
  std::vector<float> sorted = weights;
  auto const place = static_cast<std::size_t>(std::ceil(config.clip_share * count)) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(place), sorted.end());
  float const highest = sorted[place];
  double sum = 0;
  for (float& w : weights) {
    w = std::min(w, highest);
    sum += static_cast<double>(w);
  }
  double const mean = sum / count;
  if (!(mean > 0)) {
    std::fill(weights.begin(), weights.end(), 1.0f);
    return weights;
  }
  double variance = 0; // of the weights whose mean is 1
  for (float const w : weights) {
    double const deviation = static_cast<double>(w) / mean - 1;
    variance += deviation * deviation / count;
  }
  // Blended weights have mean 1 and variance (1 - b)^2 v, so the effective number is count / (1 + (1 - b)^2 v).
  double const allowed = count / std::max(config.tokens_per_channel * static_cast<double>(d_in), 1.0) - 1;
  double const keep = variance > allowed ? std::sqrt(std::max(allowed, 0.0) / variance) : 1.0;
  for (float& w : weights) w = static_cast<float>(keep * (static_cast<double>(w) / mean) + (1 - keep));
  return weights;
}

/// Sums of squared gradients of a layer's weights, one gradient per sequence: the diagonal of the empirical Fisher matrix
/// times the number of sequences.
class fisher_diagonal {
public:
  fisher_diagonal(index_t d_out, index_t d_in) : sum_(d_out, d_in) {}

  /// Adds one sequence: (dY^T X)_ij^2, X (tokens x d_in), dY (tokens x d_out). O(tokens d_out d_in). Bit-identical for any
  /// executor. @throws shape_error
  void observe(matrix_view<float const> x, matrix_view<float const> dy, context const& ctx = {}) {
    if (x.rows() != dy.rows() || x.cols() != sum_.cols() || dy.cols() != sum_.rows())
      throw shape_error(message("fisher_diagonal: X is ", x.rows(), " x ", x.cols(), ", dY ", dy.rows(), " x ", dy.cols(),
                                ", the weight ", sum_.rows(), " x ", sum_.cols()));
    matrix<float> gradient(sum_.rows(), sum_.cols());
    gemm_into(transposed(dy), x, gradient.view(), ctx);
    for (index_t k = 0; k < sum_.size(); ++k) {
      double const g = static_cast<double>(gradient.data()[k]);
      sum_.data()[k] += g * g;
    }
    ++sequences_;
  }

  /// d_out x d_in
  [[nodiscard]] matrix_view<double const> sum() const noexcept { return sum_.view(); }
  [[nodiscard]] index_t sequences() const noexcept { return sequences_; }

private:
  matrix<double> sum_;
  index_t sequences_ = 0;
};

} // namespace SLIM_ABI
} // namespace slim
