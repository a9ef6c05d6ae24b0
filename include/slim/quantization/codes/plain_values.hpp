#pragma once
/// @file
/// `plain_values`: weights that are not quantized, as a model of quantized_matrix. What a compressed layer holds behind a
/// pruner alone.

#include "slim/core/scalar.hpp"
#include "slim/quantization/quantized_matrix.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Numbers, counted as what a model stores: 16 bits each, unless the format says otherwise.
struct plain_values {
  matrix<float> values;                       ///< d_out x d_in
  number_format format = number_format::bf16; ///< how many bits a number costs; the values are not rounded to it

  [[nodiscard]] index_t rows() const noexcept { return values.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return values.cols(); }
  [[nodiscard]] double stored_bits(mask const* kept = nullptr) const {
    if (kept) kept->check("stored_bits", rows(), cols());
    return static_cast<double>(kept ? kept->count() : values.size()) * bit_width(format);
  }
  /// A pruned weight can be stored as the number 0.
  [[nodiscard]] bool has_zero() const noexcept { return true; }
  /// Weights that are not kept become 0. @throws shape_error
  void prune(mask const& kept) { kept.apply_to(values.view()); }

  /// @throws shape_error
  void dequantize_into(matrix_view<float> out, context const& ctx = {}) const {
    detail::require_shape(rows(), cols(), out.rows(), out.cols(), "dequantize_into");
    ctx.parallel_for(rows(), 32, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) std::copy_n(values.row(i), cols(), out.row(i));
    });
  }

  friend bool operator==(plain_values const&, plain_values const&) = default;
};

static_assert(quantized_matrix<plain_values>);

} // namespace SLIM_ABI
} // namespace slim
