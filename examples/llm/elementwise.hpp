#pragma once
/// @file
/// The elementwise and row-wise arithmetic of a forward pass, written so that compilers vectorise it without -ffast-math:
/// no branches, and reductions in a fixed number of lanes. The order of every sum is fixed, whatever the vector width.

#include "slim/core/matrix_view.hpp"

#include <array>
#include <bit>
#include <cstdint>

namespace slim_llm {

using slim::index_t;

/// e^x for x in [-87, 88], clamped outside; NaN stays NaN.
/// **Numerics** x = n ln 2 + r, |r| <= ln 2 / 2, and the degree-6 polynomial of Cephes' expf: relative error below 3e-7.
[[nodiscard]] inline float exp_bounded(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float shift = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
  float const shifted = x * 1.44269504f + shift;
  float const n = shifted - shift;
  float const r = (x - n * 0.693359375f) + n * 2.12194440e-4f; // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float const value = (p * r) * r + r + 1.0f;
  std::uint32_t const exponent = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(shift) + 127u;
  return value * std::bit_cast<float>(exponent << 23);
}

/// Combines f(j) for j in [0, n) in 16 lanes, then the lanes pairwise.
template <class Value, class F, class Combine>
[[nodiscard]] Value reduce(index_t n, Value start, F const& f, Combine const& combine) {
  constexpr index_t lanes = 16;
  std::array<Value, static_cast<std::size_t>(lanes)> lane;
  lane.fill(start);
  index_t j = 0;
  for (; j + lanes <= n; j += lanes)
    for (index_t l = 0; l < lanes; ++l) lane[static_cast<std::size_t>(l)] = combine(lane[static_cast<std::size_t>(l)], f(j + l));
  for (; j < n; ++j) lane[static_cast<std::size_t>(j % lanes)] = combine(lane[static_cast<std::size_t>(j % lanes)], f(j));
  for (std::size_t width = lanes / 2; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) lane[l] = combine(lane[l], lane[l + width]);
  return lane[0];
}

/// Largest of n > 0 values.
[[nodiscard]] inline float max_of(float const* x, index_t n) {
  return reduce(n, x[0], [x](index_t j) { return x[j]; }, [](float a, float b) { return a < b ? b : a; });
}

/// x[j] = e^(x[j] - shift); returns the sum. Float lanes: relative error about (n / 16) * 6e-8 at worst.
inline float exp_inplace(float* x, index_t n, float shift) {
  for (index_t j = 0; j < n; ++j) x[j] = exp_bounded(x[j] - shift);
  return reduce(n, 0.0f, [x](index_t j) { return x[j]; }, [](float a, float b) { return a + b; });
}

/// Sum of squares of x[j] - center.
[[nodiscard]] inline double sum_of_squares(float const* x, index_t n, double center = 0) {
  auto const square = [x, center](index_t j) {
    double const d = static_cast<double>(x[j]) - center;
    return d * d;
  };
  return reduce(n, 0.0, square, [](double a, double b) { return a + b; });
}

[[nodiscard]] inline double sum_of(float const* x, index_t n) {
  return reduce(n, 0.0, [x](index_t j) { return static_cast<double>(x[j]); }, [](double a, double b) { return a + b; });
}

/// g sigmoid(g).
[[nodiscard]] inline float silu(float g) { return g / (1.0f + exp_bounded(-g)); }

} // namespace slim_llm
