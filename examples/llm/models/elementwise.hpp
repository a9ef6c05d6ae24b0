#pragma once
/// @file
/// The elementwise and row-wise arithmetic of a forward pass. Sums run in a fixed number of lanes, in an order that depends on
/// the length alone. The functions that take a `simd_level` have one meaning and one kernel per instruction set
/// (elementwise_kernels.inc); between levels, bits may differ where the machine fuses products and sums.

#include "slim/simd/levels.hpp"

#include <array>

namespace slim_llm {

using slim::index_t;

/// Largest of n > 0 values; NaN where it pleases.
[[nodiscard]] float max_of(float const* x, index_t n, slim::simd_level level);

/// x[j] = e^((x[j] - shift) scale), exponents clamped to [-87, 88]; returns the sum. NaN stays NaN.
/// **Numerics** e^y = 2^n e^r with |r| <= ln 2 / 2 and the degree-6 polynomial of Cephes' expf: relative error below 3e-7.
/// The sum has 16 float lanes: relative error about n / 16 * 6e-8 at worst, so keep n to some thousands.
float exp_inplace(float* x, index_t n, float shift, float scale, slim::simd_level level);

/// up[j] *= gate[j] sigmoid(gate[j]).
void multiply_by_silu(float* up, float const* gate, index_t n, slim::simd_level level);

/// One token's queries of the heads that share a head of keys and values, kept as attention_cache keeps them.
struct cached_attention {
  float const* q; ///< queries x dim
  index_t queries, dim, padded_dim;
  float const *keys, *values;
  index_t first;   ///< positions before it are not seen
  index_t visible; ///< positions up to here are seen
  float scale;     ///< of the scores

  /// Floats of scores: whole blocks of 64 positions.
  [[nodiscard]] index_t score_size() const { return queries * ((visible + 63) / 64 * 64); }
};

/// out (queries x padded_dim) += softmax(scale q K^T) V. `scores` is room for score_size() floats.
void attend_cached(cached_attention const& a, float* scores, float* out, slim::simd_level level);

/// Adds f(j) for j in [0, n) in 16 lanes, then the lanes pairwise.
template <class F>
[[nodiscard]] double sum_in_lanes(index_t n, F const& f) {
  constexpr index_t lanes = 16;
  std::array<double, static_cast<std::size_t>(lanes)> lane{};
  index_t j = 0;
  for (; j + lanes <= n; j += lanes)
    for (index_t l = 0; l < lanes; ++l) lane[static_cast<std::size_t>(l)] += f(j + l);
  for (; j < n; ++j) lane[static_cast<std::size_t>(j % lanes)] += f(j);
  for (std::size_t width = lanes / 2; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

[[nodiscard]] inline double sum_of(float const* x, index_t n) {
  return sum_in_lanes(n, [x](index_t j) { return static_cast<double>(x[j]); });
}

/// Sum of squares of x[j] - center.
[[nodiscard]] inline double sum_of_squares(float const* x, index_t n, double center = 0) {
  return sum_in_lanes(n, [x, center](index_t j) {
    double const d = static_cast<double>(x[j]) - center;
    return d * d;
  });
}

} // namespace slim_llm
