#pragma once
/// @file
/// Bitwise equality, where NaN equals itself and -0 differs from 0: what "the same result" means.

#include "slim/adapters/adapter.hpp"
#include "slim/core/finite.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"

#include <bit>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Whether two results are equal bit for bit.
[[nodiscard]] inline bool same_bits(float a, float b) noexcept {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <class T>
[[nodiscard]] bool same_bits(matrix<T> const& a, matrix<T> const& b) noexcept {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  if constexpr (std::same_as<T, float>) {
    for (index_t k = 0; k < a.size(); ++k)
      if (!same_bits(a.data()[k], b.data()[k])) return false;
    return true;
  } else {
    return a == b;
  }
}

[[nodiscard]] inline bool same_bits(std::vector<float> const& a, std::vector<float> const& b) noexcept {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) { return same_bits(x, y); });
}

[[nodiscard]] inline bool same_bits(scale_table const& a, scale_table const& b) noexcept {
  return a.stored() == b.stored() && same_bits(a.values(), b.values()) && a.codes() == b.codes() &&
         same_bits(a.steps(), b.steps()) && same_bits(a.offsets(), b.offsets());
}

[[nodiscard]] inline bool same_bits(integer_codes const& a, integer_codes const& b) noexcept {
  return a.bits == b.bits && a.group_bits == b.group_bits && a.block == b.block && a.codes == b.codes && a.zeros == b.zeros &&
         same_bits(a.scales, b.scales) && same_bits(a.offsets, b.offsets) && same_bits(a.channel_factors, b.channel_factors);
}

[[nodiscard]] inline bool same_bits(codebook_codes const& a, codebook_codes const& b) noexcept {
  return a.bits == b.bits && a.dim == b.dim && a.columns == b.columns && a.codes == b.codes && a.book_block == b.book_block &&
         same_bits(a.books, b.books) && a.block == b.block && same_bits(a.scales, b.scales) &&
         same_bits(a.channel_factors, b.channel_factors);
}

[[nodiscard]] inline bool same_bits(adapter const& a, adapter const& b) noexcept;

template <class T>
[[nodiscard]] bool same_bits(std::optional<T> const& a, std::optional<T> const& b) noexcept {
  if (a.has_value() != b.has_value()) return false;
  if constexpr (std::same_as<T, mask>)
    return a == b;
  else
    return !a || same_bits(*a, *b);
}

[[nodiscard]] inline bool same_bits(adapter const& a, adapter const& b) noexcept {
  return same_bits(a.left, b.left) && same_bits(a.right, b.right) && a.format == b.format &&
         same_bits(a.left_codes, b.left_codes) && same_bits(a.right_codes, b.right_codes) &&
         same_bits(a.left_mask, b.left_mask) && a.notes == b.notes;
}

/// Whether no element is NaN or infinite.
[[nodiscard]] inline bool all_finite(matrix<float> const& m) noexcept {
  return std::all_of(m.data(), m.data() + m.size(), [](float x) { return slim::detail::is_finite(x); });
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
