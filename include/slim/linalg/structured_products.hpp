#pragma once
/// @file
/// Products with triangular and symmetric matrices for half the cost of `gemm_into`: strips of columns skip what is zero, or
/// what the other triangle says as well.

#include "slim/linalg/gemm.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Columns of a strip: a multiple of the depth of a packed block, so that sums run in the same blocks as in gemm_into.
inline constexpr index_t structured_strip = 2 * gemm_depth;

/// Dot products of the rows of A with those of B, in double, added to `sums` with a factor.
inline void add_row_products(matrix_view<float const> a, matrix_view<float const> b, double factor, std::vector<double>& sums,
                             context const& ctx) {
  constexpr index_t rows_per_task = 16;
  ctx.parallel_for(a.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      double sum = 0;
      for (index_t j = 0; j < a.cols(); ++j) sum += static_cast<double>(a(i, j)) * static_cast<double>(b(i, j));
      sums[static_cast<std::size_t>(i)] += factor * sum;
    }
  });
}

} // namespace detail

/// C = A L, A (m, n), L (n, n) lower triangular with zeros above the diagonal, C (m, n). C must not overlap A or L.
/// m n^2 / 2 multiply-adds. **Numerics** as gemm_into. @throws shape_error if the extents do not fit.
inline void multiply_lower_into(matrix_view<float const> a, matrix_view<float const> l, matrix_view<float> c,
                                context const& ctx = {}) {
  index_t const n = l.rows();
  if (l.cols() != n || a.cols() != n || c.rows() != a.rows() || c.cols() != n)
    throw shape_error(message("multiply_lower_into: (", a.rows(), " x ", a.cols(), ") (", l.rows(), " x ", l.cols(), ") -> ",
                              c.rows(), " x ", c.cols()));
  for (index_t j = 0; j < n; j += detail::structured_strip) {
    index_t const width = std::min(detail::structured_strip, n - j);
    gemm_into(a.block(0, j, a.rows(), n - j), l.block(j, j, n - j, width), c.block(0, j, a.rows(), width), ctx);
  }
}

/// The diagonal of E H E^T, E (m, n), H (n, n) symmetric, of which only the blocks on and below the diagonal are read. Double
/// sums of float products. m n^2 / 2 multiply-adds. @throws shape_error if the extents do not fit.
[[nodiscard]] inline std::vector<double> row_energies(matrix_view<float const> e, matrix_view<float const> h,
                                                      context const& ctx = {}) {
  index_t const n = h.rows();
  if (h.cols() != n || e.cols() != n)
    throw shape_error(message("row_energies: E is ", e.rows(), " x ", e.cols(), ", H is ", h.rows(), " x ", h.cols()));
  std::vector<double> sums(static_cast<std::size_t>(e.rows()));
  matrix<float> product(e.rows(), std::min(detail::structured_strip, n), uninitialized);
  for (index_t j = 0; j < n; j += detail::structured_strip) {
    index_t const width = std::min(detail::structured_strip, n - j), below = n - j - width;
    auto const strip = e.block(0, j, e.rows(), width);
    auto const image = product.view().block(0, 0, e.rows(), width);
    gemm_into(strip, h.block(j, j, width, width), image, ctx);
    detail::add_row_products(image, strip, 1.0, sums, ctx);
    if (below == 0) continue;
    gemm_into(e.block(0, j + width, e.rows(), below), h.block(j + width, j, below, width), image, ctx);
    detail::add_row_products(image, strip, 2.0, sums, ctx);
  }
  return sums;
}

} // namespace SLIM_ABI
} // namespace slim
