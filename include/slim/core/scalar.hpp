#pragma once
/// @file
/// Small floating-point formats as storage types: `fp16`, `bf16`, `fp8_e4m3`, `fp8_e5m2`. They hold bits; arithmetic is
/// done in float. Conversion to a format rounds to nearest, ties to even; conversion from it is exact.
///
/// **Numerics** fp16, bf16 and fp8_e5m2 overflow to infinity as IEEE 754 does. fp8_e4m3 is the "FN" variant of OCP FP8: no
/// infinity, largest value 448, S.1111.111 is NaN; overflow saturates to +-448. NaN stays NaN (sign kept, payload not).

#include "slim/config.hpp"

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// Encodes |value| into an unsigned format of `exponent_bits` and `mantissa_bits`, rounding to nearest even, without a
/// range check at the top: the caller decides what overflow means. Works on the bits of binary32.
template <int ExponentBits, int MantissaBits>
constexpr std::uint32_t encode_magnitude(std::uint32_t magnitude_bits) {
  constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  constexpr int dropped = 23 - MantissaBits;
  int const exponent = static_cast<int>(magnitude_bits >> 23) - 127;
  std::uint32_t significand = magnitude_bits & 0x7fffffu;
  if (exponent < 1 - bias) { // becomes subnormal: shift the full significand right, remembering what falls off
    int const shift = dropped + (1 - bias - exponent);
    if (shift > 25) return 0;
    if (magnitude_bits >> 23) significand |= 0x800000u;
    std::uint32_t const kept = significand >> shift;
    std::uint32_t const rest = significand & ((1u << shift) - 1u);
    std::uint32_t const half = 1u << (shift - 1);
    return kept + ((rest > half || (rest == half && (kept & 1u))) ? 1u : 0u);
  }
  // Adding just below one half, or one half to an odd code, carries where it should, into the exponent too: no branch to guess.
  std::uint32_t const odd = (magnitude_bits >> dropped) & 1u;
  return (magnitude_bits - (static_cast<std::uint32_t>(127 - bias) << 23) + ((1u << (dropped - 1)) - 1u) + odd) >> dropped;
}

/// The value of a non-negative code whose exponent field is not special.
template <int ExponentBits, int MantissaBits>
constexpr float decode_magnitude(std::uint32_t code) {
  constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  std::uint32_t const exponent = code >> MantissaBits;
  std::uint32_t const mantissa = code & ((1u << MantissaBits) - 1u);
  if (exponent == 0) { // subnormal: mantissa * 2^(1 - bias - MantissaBits), exact in float
    constexpr float step = std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - bias - MantissaBits) << 23);
    return static_cast<float>(mantissa) * step;
  }
  return std::bit_cast<float>(((exponent + 127u - static_cast<std::uint32_t>(bias)) << 23) | (mantissa << (23 - MantissaBits)));
}

/// IEEE-style format: the top exponent means infinity and NaN.
template <int ExponentBits, int MantissaBits>
constexpr std::uint32_t encode_ieee(float value) {
  constexpr std::uint32_t infinity = ((1u << ExponentBits) - 1u) << MantissaBits;
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(value);
  std::uint32_t const sign = (bits >> 31) << (ExponentBits + MantissaBits);
  std::uint32_t const magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | infinity | (1u << (MantissaBits - 1));
  constexpr int max_exponent = 127 + (1 << (ExponentBits - 1)); // first binary32 exponent field beyond the format
  if (static_cast<int>(magnitude >> 23) >= max_exponent) return sign | infinity;
  return sign | encode_magnitude<ExponentBits, MantissaBits>(magnitude);
}

template <int ExponentBits, int MantissaBits>
constexpr float decode_ieee(std::uint32_t code) {
  std::uint32_t const sign = code >> (ExponentBits + MantissaBits);
  std::uint32_t const magnitude = code & ((1u << (ExponentBits + MantissaBits)) - 1u);
  float value = 0;
  if ((magnitude >> MantissaBits) == (1u << ExponentBits) - 1u)
    value = (magnitude & ((1u << MantissaBits) - 1u)) ? std::numeric_limits<float>::quiet_NaN()
                                                      : std::numeric_limits<float>::infinity();
  else
    value = decode_magnitude<ExponentBits, MantissaBits>(magnitude);
  return sign ? -value : value;
}

} // namespace detail

/// IEEE 754 binary16: 5 exponent bits, 10 mantissa bits, largest value 65504.
struct fp16 {
  std::uint16_t bits = 0;

  constexpr fp16() = default;
  constexpr explicit fp16(float value) : bits(static_cast<std::uint16_t>(detail::encode_ieee<5, 10>(value))) {}
  constexpr operator float() const { return detail::decode_ieee<5, 10>(bits); }
  [[nodiscard]] static constexpr fp16 from_bits(std::uint16_t bits) {
    fp16 value;
    value.bits = bits;
    return value;
  }
};

/// bfloat16: the upper half of binary32.
struct bf16 {
  std::uint16_t bits = 0;

  constexpr bf16() = default;
  constexpr explicit bf16(float value) : bits(round_bits(std::bit_cast<std::uint32_t>(value))) {}
  constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  [[nodiscard]] static constexpr bf16 from_bits(std::uint16_t bits) {
    bf16 value;
    value.bits = bits;
    return value;
  }

private:
  static constexpr std::uint16_t round_bits(std::uint32_t bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

/// OCP FP8 E4M3FN: 4 exponent bits, 3 mantissa bits, largest value 448, no infinity; conversion saturates.
struct fp8_e4m3 {
  std::uint8_t bits = 0;

  static constexpr float largest = 448.0f;

  constexpr fp8_e4m3() = default;
  constexpr explicit fp8_e4m3(float value) : bits(encode(value)) {}
  constexpr operator float() const {
    std::uint32_t const magnitude = bits & 0x7fu;
    float const value =
        magnitude == 0x7fu ? std::numeric_limits<float>::quiet_NaN() : detail::decode_magnitude<4, 3>(magnitude);
    return (bits & 0x80u) ? -value : value;
  }

private:
  static constexpr std::uint8_t encode(float value) {
    std::uint32_t const bits = std::bit_cast<std::uint32_t>(value);
    std::uint32_t const sign = (bits >> 31) << 7;
    std::uint32_t const magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
    if (magnitude >= std::bit_cast<std::uint32_t>(largest)) return static_cast<std::uint8_t>(sign | 0x7eu);
    return static_cast<std::uint8_t>(sign | detail::encode_magnitude<4, 3>(magnitude));
  }
};

/// OCP FP8 E5M2: 5 exponent bits, 2 mantissa bits, largest value 57344.
struct fp8_e5m2 {
  std::uint8_t bits = 0;

  static constexpr float largest = 57344.0f;

  constexpr fp8_e5m2() = default;
  constexpr explicit fp8_e5m2(float value) : bits(static_cast<std::uint8_t>(detail::encode_ieee<5, 2>(value))) {}
  constexpr operator float() const { return detail::decode_ieee<5, 2>(bits); }
};

/// Scalars a matrix from outside may hold. All convert to float.
template <class T>
concept real_scalar = std::floating_point<T> || std::same_as<T, fp16> || std::same_as<T, bf16>;

/// How a real number is stored: scales of codes, factors of adapters.
enum class number_format { fp32, bf16, fp16 };

/// Stored bits of one number.
[[nodiscard]] constexpr int bit_width(number_format format) { return format == number_format::fp32 ? 32 : 16; }

/// The largest finite number of a format.
[[nodiscard]] constexpr float largest_number(number_format format) {
  return format == number_format::fp16   ? 65504.0f
         : format == number_format::bf16 ? static_cast<float>(bf16::from_bits(0x7f7f))
                                         : std::numeric_limits<float>::max();
}

/// The stored value of a number: rounded to the format.
[[nodiscard]] constexpr float rounded_to(number_format format, float value) {
  switch (format) {
  case number_format::bf16: return static_cast<float>(bf16(value));
  case number_format::fp16: return static_cast<float>(fp16(value));
  case number_format::fp32: break;
  }
  return value;
}

[[nodiscard]] constexpr char const* name_of(number_format format) {
  return format == number_format::bf16 ? "bf16" : format == number_format::fp16 ? "fp16" : "fp32";
}

namespace detail {

/// Nearest integer, ties to even, for |x| < 2^30. Plain arithmetic, so that it vectorises without flags and does not depend
/// on the rounding mode.
inline int round_to_int(float x) noexcept {
  int const whole = static_cast<int>(x);
  float const rest = x - static_cast<float>(whole); // exact
  bool const odd = (whole & 1) != 0;
  return whole + ((rest > 0.5f || (rest == 0.5f && odd)) ? 1 : 0) - ((rest < -0.5f || (rest == -0.5f && odd)) ? 1 : 0);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
