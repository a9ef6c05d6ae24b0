#pragma once
/// @file
/// Quantizers of a layer's input at run time: FP8 and int8 with one scale per tensor, chosen by range, as SLiM does for its
/// "input quantization" rows (arXiv 2410.09615, section 4); few bits per token and group of channels, as SVDQuant does (arXiv
/// 2411.05007); bounds fitted beforehand, as 2DQuant does (arXiv 2406.06649). They round activations in place; nothing is
/// stored.

#include "slim/core/context.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/quantization/range_search.hpp"

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

/// Bits and groups of `group_input`.
struct group_input_config {
  int bits = 4;       ///< 2 to 8
  index_t group = 64; ///< neighbouring channels of a token that share a scale
  /// Not above 0: inputs are known to lie above it (what comes out of GELU or SiLU), are shifted by it, and take all 2^bits
  /// levels upwards. 1: nothing is known.
  float lower = 1.0f;

  friend bool operator==(group_input_config const&, group_input_config const&) = default;
};

/// Inputs of few bits, one scale per token and group of channels. Symmetric: scale = max|x| / (2^(bits-1) - 1). With a lower
/// bound c: x' = c + scale * round((x - c) / scale), scale = max(x - c) / (2^bits - 1); what lies below becomes c. |x - x'| <=
/// scale / 2.
class group_input {
public:
  /// @throws config_error unless 2 <= bits <= 8, the group is positive and the bound is 1 or not above 0.
  explicit group_input(group_input_config config = {}) : config_(config) {
    if (config.bits < 2 || config.bits > 8 || config.group < 1 || !(config.lower <= 0.0f || config.lower == 1.0f) ||
        !detail::is_finite(config.lower))
      throw config_error(message("group_input: ", config.bits, " bits in groups of ", config.group, ", lower bound ",
                                 config.lower,
                                 "; possible are 2 to 8 bits, groups from 1 on and bounds up to 0, or 1 for none"));
  }

  [[nodiscard]] group_input_config const& config() const noexcept { return config_; }

  void round_inplace(matrix_view<float> x) const {
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t j = 0; j < x.cols(); j += config_.group)
        round_group(x.block(t, j, 1, std::min(config_.group, x.cols() - j)));
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit inputs per token and ", config_.group, " channels",
                   config_.lower <= 0.0f ? message(", above ", config_.lower) : "");
  }

private:
  void round_group(matrix_view<float> x) const noexcept {
    bool const shifted = config_.lower <= 0.0f;
    float const base = shifted ? config_.lower : 0.0f;
    int const top = shifted ? (1 << config_.bits) - 1 : (1 << (config_.bits - 1)) - 1;
    float largest = 0.0f;
    for (index_t j = 0; j < x.cols(); ++j) largest = std::max(largest, shifted ? x(0, j) - base : std::abs(x(0, j)));
    float const scale = largest / static_cast<float>(top);
    if (!(scale >= std::numeric_limits<float>::min()) || !detail::is_finite(scale))
      return; // a denormal scale has too few digits
    for (index_t j = 0; j < x.cols(); ++j) {
      float const level =
          std::clamp((x(0, j) - base) / scale, shifted ? 0.0f : -static_cast<float>(top), static_cast<float>(top));
      if (level == level) x(0, j) = base + scale * static_cast<float>(detail::round_to_int(level)); // NaN stays
    }
  }

  group_input_config config_;
};

/// Inputs between two bounds for the whole tensor, fitted beforehand (search_range on a sample); what lies outside goes to
/// them.
class bounded_input {
public:
  /// @throws config_error unless low <= high are finite and 1 <= bits <= 8.
  bounded_input(float low, float high, int bits) : range_{low, high}, bits_(bits) {
    if (!(low <= high) || !detail::is_finite(low) || !detail::is_finite(high) || bits < 1 || bits > 8)
      throw config_error(message("bounded_input: ", bits, " bits from ", low, " to ", high));
  }

  /// Bounds fitted to a sample of inputs, such as calibration::samples(). NaN counts as 0. @throws config_error
  [[nodiscard]] static bounded_input fitted(matrix_view<float const> sample, int bits, range_config const& config = {}) {
    if (bits < 1 || bits > 8) throw config_error(message("bounded_input: ", bits, " bits, possible are 1 to 8"));
    std::vector<float> values;
    for (index_t t = 0; t < sample.rows(); ++t) values.insert(values.end(), sample.row(t), sample.row(t) + sample.cols());
    value_range const found = search_range(values, bits, {}, config);
    return bounded_input(found.low, found.high, bits);
  }

  [[nodiscard]] value_range range() const noexcept { return range_; }

  void round_inplace(matrix_view<float> x) const {
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t j = 0; j < x.cols(); ++j)
        if (detail::is_finite(x(t, j))) x(t, j) = range_.round(x(t, j), bits_);
  }

  [[nodiscard]] std::string describe() const { return message(bits_, " bit inputs from ", range_.low, " to ", range_.high); }

private:
  value_range range_;
  int bits_;
};

static_assert(input_quantizer<fp8_input> && input_quantizer<int8_input> && input_quantizer<group_input> &&
              input_quantizer<bounded_input>);

} // namespace SLIM_ABI
} // namespace slim
