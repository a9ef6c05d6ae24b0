#pragma once
/// @file
/// Scaling by powers of two: exact, and out of the way of overflow and underflow.

#include "slim/core/finite.hpp"

#include <cmath>
#include <concepts>

namespace slim {
inline namespace SLIM_ABI {

/// The power p for which largest * 2^p lies in [1/2, 1) * 2^exponent; 0 if `largest` is 0, negative, infinite or NaN.
template <std::floating_point T>
[[nodiscard]] int power_below(T largest, int exponent = 0) noexcept {
  return largest > T{0} && detail::is_finite(largest) ? exponent - 1 - std::ilogb(largest) : 0;
}

} // namespace SLIM_ABI
} // namespace slim
