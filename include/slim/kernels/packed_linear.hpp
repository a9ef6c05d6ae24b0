#pragma once
/// @file
/// A compressed layer ready to run: packed weights and the adapter beside them.

#include "slim/adapters/adapter.hpp"
#include "slim/kernels/matmul.hpp"

#include <optional>

namespace slim::inline SLIM_ABI {

/// Y = X W^T + (X L) R with W in codes and L, R in codes (packed transposed) or floats. d_in -> d_out.
struct packed_linear {
  r16_matrix weight;                     ///< d_out x d_in
  std::optional<r16_matrix> left, right; ///< L^T (r x d_in) and R^T (d_out x r) if both are codes
  matrix<float> left_values;             ///< d_in x r, else
  matrix<float> right_values;            ///< r x d_out, else

  [[nodiscard]] index_t rank() const noexcept { return left ? left->rows() : left_values.cols(); }

  /// Bytes that a product reads; adapters without codes count as the 32-bit floats they are here.
  [[nodiscard]] index_t byte_size() const noexcept {
    index_t const codes = (left ? left->byte_size() : 0) + (right ? right->byte_size() : 0);
    return weight.byte_size() + codes + 4 * (left_values.size() + right_values.size());
  }
};

/// Packs codes, on a 2:4 mask if there is one, and an adapter if there is one. @throws as pack_r16.
[[nodiscard]] inline packed_linear pack_linear(integer_codes const& codes, mask const* kept, adapter const* low_rank,
                                               context const& ctx = {}) {
  packed_linear packed{.weight = kept ? pack_r16(codes, *kept, ctx) : pack_r16(codes, ctx),
                       .left = {},
                       .right = {},
                       .left_values = {},
                       .right_values = {}};
  if (!low_rank || low_rank->rank() == 0) return packed;
  if (low_rank->left_codes && low_rank->right_codes && !low_rank->left_mask) {
    packed.left = pack_r16(transposed(*low_rank->left_codes), ctx);
    packed.right = pack_r16(transposed(*low_rank->right_codes), ctx);
  } else {
    packed.left_values = low_rank->left;
    packed.right_values = low_rank->right;
  }
  return packed;
}

/// Y = X W^T + (X L) R, or Y +=; X (tokens x d_in), Y (tokens x d_out). X L is rounded like X. @throws shape_error
inline void matmul_into(packed_linear const& layer, matrix_view<float const> x, matrix_view<float> y,
                        matmul_options const& options = {}, context const& ctx = {}) {
  matmul_into(layer.weight, x, y, options, ctx);
  if (layer.rank() == 0) return;
  matrix<float> inner(x.rows(), layer.rank());
  if (layer.left) {
    matmul_into(*layer.left, x, inner.view(), {.inputs = options.inputs}, ctx);
    matmul_into(*layer.right, inner.view(), y, {.inputs = options.inputs, .add = true}, ctx);
  } else {
    gemm_into(x, layer.left_values.view(), inner.view(), ctx);
    gemm_into(matrix_view<float const>(inner.view()), layer.right_values.view(), y, ctx, destination::add);
  }
}

} // namespace slim::inline SLIM_ABI
