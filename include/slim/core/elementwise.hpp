#pragma once
/// @file
/// Cheap loops over whole matrices.

#include "slim/core/context.hpp"

namespace slim {
inline namespace SLIM_ABI {

namespace detail {
/// Rows of `cols` elements that are worth a task of a cheap loop.
[[nodiscard]] constexpr index_t rows_per_task(index_t cols) { return (index_t{1} << 16) / (cols + 1) + 1; }
} // namespace detail

/// C = A - B, all of one shape. C may be A or B, and overlap neither otherwise. @throws shape_error
inline void subtract_into(matrix_view<float const> a, matrix_view<float const> b, matrix_view<float> c,
                          context const& ctx = {}) {
  if (b.rows() != a.rows() || b.cols() != a.cols() || c.rows() != a.rows() || c.cols() != a.cols())
    throw shape_error(message("subtract_into: A is ", a.rows(), " x ", a.cols(), ", B ", b.rows(), " x ", b.cols(), ", C ",
                              c.rows(), " x ", c.cols()));
  ctx.parallel_for(a.rows(), detail::rows_per_task(a.cols()), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < a.cols(); ++j) c(i, j) = a(i, j) - b(i, j);
  });
}

} // namespace SLIM_ABI
} // namespace slim
