#pragma once
/// @file
/// Whether a number is finite, told by its bits: with -ffinite-math-only a compiler takes std::isfinite for true, and every
/// refusal that asks it is gone.

#include "slim/config.hpp"

#include <bit>
#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

[[nodiscard]] constexpr bool is_finite(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) < 0x7f800000u;
}
[[nodiscard]] constexpr bool is_finite(double value) noexcept {
  return (std::bit_cast<std::uint64_t>(value) & 0x7fffffffffffffffu) < 0x7ff0000000000000u;
}
/// Finite, and neither 0 nor subnormal.
[[nodiscard]] constexpr bool is_normal(float value) noexcept {
  return is_finite(value) && (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) != 0;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
