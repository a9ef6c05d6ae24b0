#pragma once
/// @file
/// `packed_format`: what a byte format offers. Codes and a mask become bytes, and bytes become codes and a mask, or a sentence.

#include "slim/core/context.hpp"
#include "slim/packing/packed_header.hpp"
#include "slim/quantization/codes/any_codes.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/sparse_codes.hpp"

#include <concepts>

namespace slim {
inline namespace SLIM_ABI {

/// What packed bytes hold: codes on a mask. The codes are integer_codes or codebook_codes (16 levels); ask
/// `codes.get_if<integer_codes>()`. The code of a pruned weight stands for 0 where the grid has a 0.
using unpacked_matrix = sparse_codes<mask, any_codes>;

/// A byte format: a type that only has functions. `pack(codes, kept)` writes what `kept` keeps, of integer_codes or of
/// codebook_codes of 4 bits with one book: a kept code may be 0, and the codes of pruned weights are never read. Laws
/// (slim/testing/packed_format_laws.hpp): `byte_size` is the size of what `pack` returns; `unpack` gives back the values of the
/// kept weights, scales, zero points, books and factors bit for bit, and 0 for the others; packing again gives the same bytes,
/// and so does every executor; whatever the bytes, `unpack` returns.
template <class F>
concept packed_format = requires(integer_codes const& codes, codebook_codes const& book_codes, mask const& kept,
                                 std::span<std::byte const> bytes, unpack_limit limit, context const& ctx) {
  { F::kind } -> std::convertible_to<packed_kind>;
  { F::pack(codes, kept) } -> std::same_as<std::vector<std::byte>>;
  { F::pack(codes, kept, ctx) } -> std::same_as<std::vector<std::byte>>;
  { F::pack(book_codes, kept, ctx) } -> std::same_as<std::vector<std::byte>>;
  { F::unpack(bytes) } -> std::same_as<result<unpacked_matrix>>;
  { F::unpack(bytes, limit, ctx) } -> std::same_as<result<unpacked_matrix>>;
  { F::byte_size(codes, kept) } -> std::same_as<std::int64_t>;
  { F::byte_size(book_codes, kept) } -> std::same_as<std::int64_t>;
};

} // namespace SLIM_ABI
} // namespace slim
