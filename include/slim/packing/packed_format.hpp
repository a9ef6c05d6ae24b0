#pragma once
/// @file
/// `packed_format`: what a byte format offers. Codes and a mask become bytes, and bytes become codes and a mask, or a sentence.

#include "slim/core/context.hpp"
#include "slim/packing/packed_header.hpp"

#include <concepts>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {

/// Values of the 16 codes of 4 bits, lowest code (-8) first: the value of a code is scale * book[code + 8] / factor.
using code_book = std::array<float, 16>;

/// What packed bytes hold. The code of a pruned weight is the zero point, so that it stands for 0.
struct unpacked_matrix {
  integer_codes codes;
  mask kept;
  std::optional<code_book> book = {};
};

/// A byte format: a type that only has functions. `pack(codes, kept)` writes what `kept` keeps: a kept code may be 0, and the
/// codes of pruned weights are never read. Laws (slim/testing/packed_format_laws.hpp): `byte_size` is the size of what `pack`
/// returns; `unpack` gives back the values of the kept weights, scales, zero points and factors bit for bit, and 0 for the
/// others; packing again gives the same bytes, and so does every executor; whatever the bytes, `unpack` returns.
template <class F>
concept packed_format = requires(integer_codes const& codes, mask const& kept, std::optional<code_book> const& book,
                                 std::span<std::byte const> bytes, unpack_limit limit, context const& ctx) {
  { F::kind } -> std::convertible_to<packed_kind>;
  { F::pack(codes, kept) } -> std::same_as<std::vector<std::byte>>;
  { F::pack(codes, kept, book, ctx) } -> std::same_as<std::vector<std::byte>>;
  { F::unpack(bytes) } -> std::same_as<result<unpacked_matrix>>;
  { F::unpack(bytes, limit, ctx) } -> std::same_as<result<unpacked_matrix>>;
  { F::byte_size(codes, kept) } -> std::same_as<std::int64_t>;
  { F::byte_size(codes, kept, book) } -> std::same_as<std::int64_t>;
};

} // namespace SLIM_ABI
} // namespace slim
