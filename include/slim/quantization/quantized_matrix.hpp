#pragma once
/// @file
/// The concept of codes: what a quantizer returns, what a mask stands beside in a compressed layer.

#include "slim/core/context.hpp"
#include "slim/core/matrix.hpp"
#include "slim/pruning/mask.hpp"

#include <concepts>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of a matrix (d_out x d_in). `dequantize_into(V, ctx)` writes their values; V has the matrix's shape, another shape
/// throws shape_error. `stored_bits(kept)` is the price of all that is stored, in bits: codes, scales, zero points, code books,
/// outliers. `kept` says which codes are stored; null: all of them. What the mask itself costs is not part of it. Optional
/// members: `check(who)` throws unless all parts fit each other; `has_zero()` says whether a pruned weight can be stored as a
/// code; `prune(kept)` makes the codes of pruned weights stand for 0.
template <class C>
concept quantized_matrix = requires(C const& codes, matrix_view<float> values, mask const* kept, context const& ctx) {
  { codes.rows() } -> std::same_as<index_t>;
  { codes.cols() } -> std::same_as<index_t>;
  { codes.stored_bits(kept) } -> std::same_as<double>;
  codes.dequantize_into(values, ctx);
};

/// Stored bits per weight when all codes are stored; 0 for an empty matrix.
template <quantized_matrix C>
[[nodiscard]] double bits_per_weight(C const& codes) {
  auto const size = static_cast<double>(codes.rows() * codes.cols());
  return size == 0.0 ? 0.0 : codes.stored_bits(nullptr) / size;
}

namespace detail {

/// What every codes type says when a destination or a matrix of weights has another shape.
inline void require_shape(index_t rows, index_t cols, index_t given_rows, index_t given_cols, char const* who) {
  if (rows != given_rows || cols != given_cols)
    throw shape_error(message(who, ": codes are ", rows, " x ", cols, ", the matrix ", given_rows, " x ", given_cols));
}

/// Whether codes say that a pruned weight can be stored as one of them.
template <class Codes>
[[nodiscard]] bool can_store_zero(Codes const& codes) {
  if constexpr (requires { codes.has_zero(); })
    return codes.has_zero();
  else
    return false;
}

/// Kept weights of columns first .. last - 1; all of them without a mask.
[[nodiscard]] inline index_t kept_in_columns(mask const* kept, index_t rows, index_t first, index_t last) {
  if (!kept) return rows * (last - first);
  index_t count = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = first; j < last; ++j) count += kept->kept(i, j) ? 1 : 0;
  return count;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
