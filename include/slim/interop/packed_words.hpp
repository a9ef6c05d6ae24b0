#pragma once
/// @file
/// Fields of a few bits in 32-bit words, as other software packs codes, and the sizes of its arrays.

#include "slim/core/error.hpp"
#include "slim/core/matrix_view.hpp"

#include <cstdint>
#include <span>
#include <string_view>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Field k of `bits` bits in a stream of words, lowest bits first, a word every `stride`: a field may go on in the next word.
[[nodiscard]] inline int word_field(std::int32_t const* words, index_t stride, index_t k, int bits) noexcept {
  index_t const first = k * bits, word = first / 32, shift = first % 32;
  std::uint64_t pair = static_cast<std::uint32_t>(words[word * stride]);
  if (shift + bits > 32) pair |= std::uint64_t{static_cast<std::uint32_t>(words[(word + 1) * stride])} << 32;
  return static_cast<int>((pair >> shift) & ((1u << bits) - 1u));
}

/// @throws shape_error unless so many fields fill whole words.
inline void require_words(std::string_view who, std::string_view what, index_t extent, int bits) {
  if (extent < 0 || extent > (index_t{1} << 31) || extent * bits % 32 != 0)
    throw shape_error(message(who, ": ", what, " is ", extent, ", codes of ", bits, " bits fill whole words of 32 bits"));
}

/// @throws shape_error
inline void require_size(std::string_view who, std::string_view what, std::size_t size, index_t rows, index_t cols) {
  if (size != static_cast<std::size_t>(rows * cols))
    throw shape_error(message(who, ": ", what, " has ", size, " numbers, ", rows, " x ", cols, " are needed"));
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
