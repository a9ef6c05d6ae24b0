#pragma once
/// @file
/// Quantizers of a layer's input at run time: FP8 and int8 with one scale per tensor, chosen by range, as SLiM does for its
/// "input quantization" rows (arXiv 2410.09615, section 4). They round activations in place; nothing is stored.

#include "slim/core/context.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// `round_inplace(X)` replaces X (tokens x d_in) by what the layer sees of it. Laws: idempotent up to one rounding of the
/// scale; 0 stays 0; |x - x'| within the documented bound. NaN stays NaN; inputs with an infinity, or too small for a scale
/// that is a normal float, stay as they are.
template <class Q>
concept input_quantizer = requires(Q const& q, matrix_view<float> x) {
  q.round_inplace(x);
  { q.describe() } -> std::convertible_to<std::string>;
};

namespace detail {

inline float largest_input(matrix_view<float const> x) noexcept {
  float largest = 0.0f;
  for (index_t i = 0; i < x.rows(); ++i)
    for (index_t j = 0; j < x.cols(); ++j) largest = std::max(largest, std::abs(x(i, j)));
  return largest;
}

template <class Fp8>
void round_to_fp8(matrix_view<float> x, float largest) noexcept {
  float const up = Fp8::largest / largest; // the largest input lands on the format's largest number
  if (!detail::is_finite(up)) return;      // below 1e-33 the scale is no float: such inputs stay as they are
  for (index_t i = 0; i < x.rows(); ++i)
    for (index_t j = 0; j < x.cols(); ++j)
      x(i, j) = static_cast<float>(Fp8(std::clamp(x(i, j) * up, -Fp8::largest, Fp8::largest))) / up;
}

} // namespace detail

/// Which FP8 format inputs are rounded to.
enum class fp8_format {
  e4m3,     ///< 3 mantissa bits: relative error up to 2^-4
  e5m2,     ///< 2 mantissa bits: relative error up to 2^-3, more range
  by_range, ///< e4m3 if max|x| < 448, else e5m2: SLiM's choice
};

/// FP8 inputs, one scale per tensor: x' = fp8(x * largest / max|x|) * max|x| / largest.
class fp8_input {
public:
  explicit fp8_input(fp8_format format = fp8_format::by_range) : format_(format) {}

  void round_inplace(matrix_view<float> x) const {
    float const largest = detail::largest_input(x);
    if (!(largest > 0.0f) || !detail::is_finite(largest)) return;
    bool const fine = format_ == fp8_format::e4m3 || (format_ == fp8_format::by_range && largest < fp8_e4m3::largest);
    fine ? detail::round_to_fp8<fp8_e4m3>(x, largest) : detail::round_to_fp8<fp8_e5m2>(x, largest);
  }

  [[nodiscard]] std::string describe() const {
    return format_ == fp8_format::e4m3 ? "fp8 e4m3 inputs" : format_ == fp8_format::e5m2 ? "fp8 e5m2 inputs" : "fp8 inputs";
  }

private:
  fp8_format format_;
};

/// int8 inputs, symmetric, one scale per tensor: |x - x'| <= max|x| / 254.
class int8_input {
public:
  void round_inplace(matrix_view<float> x) const {
    float const scale = detail::largest_input(x) / 127.0f;
    if (!(scale >= std::numeric_limits<float>::min()) || !detail::is_finite(scale))
      return; // a denormal scale has too few digits
    for (index_t i = 0; i < x.rows(); ++i)
      for (index_t j = 0; j < x.cols(); ++j)
        if (x(i, j) == x(i, j)) x(i, j) = scale * static_cast<float>(detail::encode(x(i, j), scale, 0, -127, 127));
  }

  [[nodiscard]] std::string describe() const { return "int8 inputs"; }
};

static_assert(input_quantizer<fp8_input> && input_quantizer<int8_input>);

} // namespace SLIM_ABI
} // namespace slim
