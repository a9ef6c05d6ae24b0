#pragma once
/// @file
/// `noise`: in each step a random share of a matrix's blocks is quantized, the others stay as they are and get exact gradients
/// (Quant-Noise, arXiv 2004.07320, section 4.2).

#include "slim/core/random.hpp"
#include "slim/training/trainable_quantizer.hpp"

#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

/// Which blocks a step quantizes.
struct noise_config {
  double rate = 0.5;      ///< share of the blocks that are quantized; 0: none, 1: all, as in quantization-aware training
  index_t columns = 8;    ///< neighbouring columns of a row that are drawn together
  std::uint64_t seed = 0; ///< of the draws, with the step and the block
};

/// A trainable quantizer on a share of the blocks. The weights themselves are never written; the draw is a pure function of
/// seed, step and block, so that backward() sees the blocks of its forward().
template <trainable_quantizer Q>
class noise {
public:
  /// @throws config_error unless 0 <= rate <= 1 and columns >= 1
  explicit noise(Q quantizer, noise_config config = {}) : quantizer_(std::move(quantizer)), config_(config) {
    if (!(config.rate >= 0 && config.rate <= 1) || config.columns < 1)
      throw config_error(message("noise: rate ", config.rate, " of blocks of ", config.columns, " columns"));
  }

  [[nodiscard]] Q const& quantizer() const noexcept { return quantizer_; }

  /// Whether the block of weight (i, j), of a matrix of `cols` columns, is quantized in a step.
  [[nodiscard]] bool draws(std::uint64_t step, index_t i, index_t j, index_t cols) const noexcept {
    index_t const across = (cols + config_.columns - 1) / config_.columns;
    auto const block = static_cast<std::uint64_t>(i * across + j / config_.columns);
    return random_uniform(random_bits(config_.seed, step), block) < config_.rate;
  }

  /// W with the blocks of that step quantized, d_out x d_in. @throws as the quantizer's codes
  [[nodiscard]] matrix<float> forward(matrix_view<float const> w, std::span<float const> parameters, std::uint64_t step,
                                      context const& ctx = {}) const {
    matrix<float> out = quantized(quantizer_, w, parameters, ctx);
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        if (!draws(step, i, j, w.cols())) out(i, j) = w(i, j);
    return out;
  }

  /// Gradients of that step's forward pass, given that of its result, dQ (d_out x d_in). @throws as the quantizer's backward
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, std::uint64_t step, context const& ctx = {}) const {
    matrix<float> drawn(dq);
    for (index_t i = 0; i < dq.rows(); ++i)
      for (index_t j = 0; j < dq.cols(); ++j)
        if (!draws(step, i, j, dq.cols())) drawn(i, j) = 0.0f;
    quantizer_gradient g = quantizer_.backward(w, parameters, drawn, ctx);
    for (index_t i = 0; i < dq.rows(); ++i)
      for (index_t j = 0; j < dq.cols(); ++j)
        if (!draws(step, i, j, dq.cols())) g.weight(i, j) = dq(i, j);
    return g;
  }

private:
  Q quantizer_;
  noise_config config_;
};

} // namespace SLIM_ABI
} // namespace slim
