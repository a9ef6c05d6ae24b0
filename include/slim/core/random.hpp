#pragma once
/// @file
/// Counter-based random numbers: the k-th number of a seed is a pure function of (seed, k), so the order in which threads
/// ask does not matter and no generator has state. Used for the start basis of subspace iteration, and in tests.

#include "slim/config.hpp"

#include <cmath>
#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

/// 64 well-mixed bits of a counter: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
[[nodiscard]] constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) noexcept {
  std::uint64_t z = seed * 0xd1342543de82ef95ull + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// Uniform in [0, 1), 53 bits.
[[nodiscard]] constexpr double random_uniform(std::uint64_t seed, std::uint64_t counter) noexcept {
  return static_cast<double>(random_bits(seed, counter) >> 11) * 0x1p-53;
}

/// Standard normal by Box and Muller; one number per counter.
[[nodiscard]] inline double random_normal(std::uint64_t seed, std::uint64_t counter) noexcept {
  double const u = 1.0 - random_uniform(seed, 2 * counter); // (0, 1]: the logarithm stays finite
  double const v = random_uniform(seed, 2 * counter + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
}

} // namespace SLIM_ABI
} // namespace slim
