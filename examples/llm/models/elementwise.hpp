#pragma once
/// @file
/// The inner loops of a forward pass outside its linears: elementwise and row-wise arithmetic, products of attention. Sums run
/// in a fixed number of lanes, in an order that depends on the length alone. The functions that take a `simd_level` have one
/// meaning and one kernel per instruction set (elementwise_kernels.inc); between levels, bits may differ where the machine
/// fuses products and sums.

#include "slim/simd/levels.hpp"

#include <array>
#include <cstdint>

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

/// C = A B or C += A B with B as attention_cache keeps keys and values.
struct panel_product {
  float const* a;
  index_t a_stride, rows, inner; ///< A is rows x inner
  void const* b;
  bool is_fp16;              ///< B holds finite fp16 numbers, else floats
  index_t b_stride, columns; ///< a multiple of 64
  float* c;
  index_t c_stride;
  bool add;
};

/// **Numerics** Each element of C is one sum in the order of `inner`, whatever else is computed with it.
void multiply_panels(panel_product const& p, slim::simd_level level);

/// Bits of fp16, rounded to nearest, ties to even, to infinity beyond 65504.
void to_fp16(float const* x, index_t n, std::uint16_t* out, slim::simd_level level);
/// The other way, of finite numbers; n is a multiple of 16.
void from_fp16(std::uint16_t const* x, index_t n, float* out, slim::simd_level level);

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
