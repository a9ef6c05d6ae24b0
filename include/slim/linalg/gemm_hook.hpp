#pragma once
/// @file
/// How linalg/gemm.hpp passes a product to `context.sgemm`: which operands a BLAS can read, and its arguments for them.

#include "slim/linalg/gemm_tiled.hpp"

#include <limits>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// A matrix as a BLAS reads it: rows (or, transposed, columns) of neighbouring floats, `stride` apart.
struct blas_operand {
  float const* data;
  bool transposed;
  index_t stride;
};

[[nodiscard]] constexpr bool fits_int(index_t n) { return n <= std::numeric_limits<int>::max(); }

/// Empty if neither rows nor columns are contiguous, or if rows overlap or run backwards. The matrix must not be empty.
[[nodiscard]] inline std::optional<blas_operand> as_blas_operand(matrix_view<float const, strided> a) {
  auto const by_rows = [](matrix_view<float const, strided> v, bool transposed) -> std::optional<blas_operand> {
    bool const neighbours = v.cols() == 1 || v.col_stride() == 1;
    index_t const stride = v.rows() == 1 ? v.cols() : v.row_stride();
    if (!neighbours || stride < v.cols() || !fits_int(stride)) return std::nullopt;
    return blas_operand{v.data(), transposed, stride};
  };
  if (auto const rows = by_rows(a, false)) return rows;
  return by_rows(slim::transposed(a), true);
}

/// Computes the product by `hook`. Returns false, and does nothing, if a BLAS cannot read or write these matrices. No matrix
/// may be empty.
[[nodiscard]] inline bool multiply_by_hook(sgemm_function* hook, matrix_view<float const, strided> a,
                                           matrix_view<float const, strided> b, matrix_view<float> c, destination mode) {
  auto const left = as_blas_operand(a), right = as_blas_operand(b);
  auto const to = as_blas_operand(matrix_view<float const>(c));
  bool const fits = fits_int(c.rows()) && fits_int(c.cols()) && fits_int(a.cols());
  if (!left || !right || !to || to->transposed || !fits) return false;
  float const alpha = mode == destination::subtract ? -1.0f : 1.0f, beta = mode == destination::overwrite ? 0.0f : 1.0f;
  hook(left->transposed, right->transposed, c.rows(), c.cols(), a.cols(), alpha, left->data, left->stride, right->data,
       right->stride, beta, c.data(), to->stride);
  return true;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
