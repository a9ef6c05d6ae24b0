#pragma once
/// @file
/// The function between the first and the second product of an MLP. Names and formulas are those of ACT2CLS in
/// transformers 5.24; GELU: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415.

#include <cmath>

namespace slim_llm {

enum class activation_kind {
  silu,      ///< x sigmoid(x)
  gelu,      ///< x Phi(x), Phi the distribution function of the normal distribution
  gelu_tanh, ///< 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  relu,      ///< max(x, 0)
};

/// As configurations of transformers call it: "silu", "gelu", "gelu_pytorch_tanh", "relu".
[[nodiscard]] inline char const* name_of(activation_kind kind) {
  constexpr char const* names[] = {"silu", "gelu", "gelu_pytorch_tanh", "relu"};
  return names[static_cast<int>(kind)];
}

/// An activation at a point.
struct activation_at {
  float value;
  float slope; ///< its derivative there
};

/// **Numerics** some roundings relative to the largest term; NaN stays NaN. Inline, so that a slope that nobody reads costs
/// nothing.
[[nodiscard]] inline activation_at activate(activation_kind kind, float x) {
  constexpr float root_half = 0.7071067812f, density_at_0 = 0.3989422804f; // sqrt(1 / 2), 1 / sqrt(2 pi)
  constexpr float root = 0.7978845608f;                                    // sqrt(2 / pi)
  switch (kind) {
  case activation_kind::silu: {
    float const sigmoid = 1.0f / (1.0f + std::exp(-x));
    return {x * sigmoid, sigmoid * (1.0f + x * (1.0f - sigmoid))};
  }
  case activation_kind::gelu: {
    float const below = 0.5f * std::erfc(-x * root_half); // erfc keeps its digits where erf is near -1
    return {x * below, below + x * density_at_0 * std::exp(-0.5f * x * x)};
  }
  case activation_kind::gelu_tanh: {
    float const t = std::tanh(root * (x + 0.044715f * x * x * x));
    return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * root * (1.0f + 3.0f * 0.044715f * x * x)};
  }
  case activation_kind::relu: break;
  }
  return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};
}

} // namespace slim_llm
