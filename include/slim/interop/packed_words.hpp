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

/// Writes what word_field reads. The field's bits are 0 before.
inline void set_word_field(std::int32_t* words, index_t stride, index_t k, int bits, int value) noexcept {
  index_t const first = k * bits, word = first / 32, shift = first % 32;
  auto const add = [&](index_t at, std::uint64_t field) {
    auto const sum = static_cast<std::uint32_t>(words[at * stride]) | static_cast<std::uint32_t>(field);
    words[at * stride] = static_cast<std::int32_t>(sum);
  };
  std::uint64_t const pair = static_cast<std::uint64_t>(value) << shift;
  add(word, pair);
  if (shift + bits > 32) add(word + 1, pair >> 32);
}

/// Words that hold so many fields.
[[nodiscard]] constexpr index_t words_of(index_t fields, int bits) noexcept { return (fields * bits + 31) / 32; }

/// @throws shape_error unless it is an extent of a matrix that can be: what is computed of it does not overflow.
inline void require_extent(std::string_view who, std::string_view what, index_t extent) {
  if (extent < 0 || extent > (index_t{1} << 31)) throw shape_error(message(who, ": ", what, " is ", extent));
}

/// @throws shape_error unless so many fields fill whole words.
inline void require_words(std::string_view who, std::string_view what, index_t extent, int bits) {
  require_extent(who, what, extent);
  if (extent * bits % 32 != 0)
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
