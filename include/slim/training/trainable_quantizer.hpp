#pragma once
/// @file
/// The concept of quantizers through which weights train: rounding in the forward pass, a surrogate's gradient in the backward
/// pass (straight-through estimators, Bengio et al., arXiv 1308.3432).

#include "slim/quantization/quantized_matrix.hpp"

#include <concepts>
#include <span>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Gradients by what a trainable quantizer was given.
struct quantizer_gradient {
  matrix<float> weight;          ///< d_out x d_in
  std::vector<float> parameters; ///< as many as there are
};

/// Weights W (d_out x d_in) become codes by parameters that train with them. `first(W)` gives parameters to begin with;
/// `codes(W, parameters)` rounds, and what the codes stand for is the forward pass; `backward(W, parameters, dQ)` takes the
/// gradient dQ (d_out x d_in) of what they stand for back to the weights and the parameters, as if rounding were adding a
/// constant. Laws: testing/trainable_quantizer_laws.hpp.
template <class Q>
concept trainable_quantizer =
    requires(Q const& q, matrix_view<float const> w, std::span<float const> parameters, context const& ctx) {
      { q.first(w, ctx) } -> std::same_as<std::vector<float>>;
      { q.codes(w, parameters, ctx) } -> quantized_matrix;
      { q.backward(w, parameters, w, ctx) } -> std::same_as<quantizer_gradient>;
      { q.describe() } -> std::convertible_to<std::string>;
    };

/// The forward pass: what the codes stand for, d_out x d_in.
template <trainable_quantizer Q>
[[nodiscard]] matrix<float> quantized(Q const& q, matrix_view<float const> w, std::span<float const> parameters,
                                      context const& ctx = {}) {
  auto const codes = q.codes(w, parameters, ctx);
  matrix<float> values(w.rows(), w.cols());
  codes.dequantize_into(values.view(), ctx);
  return values;
}

} // namespace SLIM_ABI
} // namespace slim
