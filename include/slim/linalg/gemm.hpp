#pragma once
/// @file
/// Products of float matrices. Tiles of the result are the parallel tasks and the inner dimension is never split between
/// tasks, so the bits of the result do not depend on the number of threads.

#include "slim/core/context.hpp"

#include <vector>

namespace slim::inline SLIM_ABI {

/// What a product does to its destination.
enum class destination { overwrite, add };

/// C = A B, or C += A B. A is (m, k), B is (k, n), C is (m, n) and must not overlap A or B. Transposes are free: pass
/// `transposed(view)`. @throws shape_error if the extents do not fit.
inline void gemm_into(matrix_view<float const, strided> a, matrix_view<float const, strided> b, matrix_view<float> c,
                      context const& ctx = {}, destination mode = destination::overwrite) {
  if (a.cols() != b.rows() || a.rows() != c.rows() || b.cols() != c.cols())
    throw shape_error(message("gemm_into: (", a.rows(), " x ", a.cols(), ") (", b.rows(), " x ", b.cols(), ") -> ", c.rows(), " x ", c.cols()));
  ctx.parallel_for(c.rows(), 64, [&](index_t begin, index_t end) {
    std::vector<float> sum(static_cast<std::size_t>(c.cols()));
    for (index_t i = begin; i < end; ++i) {
      for (index_t j = 0; j < c.cols(); ++j) sum[static_cast<std::size_t>(j)] = mode == destination::add ? c(i, j) : 0.0f;
      for (index_t k = 0; k < a.cols(); ++k)
        for (index_t j = 0; j < c.cols(); ++j) sum[static_cast<std::size_t>(j)] += a(i, k) * b(k, j);
      for (index_t j = 0; j < c.cols(); ++j) c(i, j) = sum[static_cast<std::size_t>(j)];
    }
  });
}

/// G += X^T X, both triangles. X is (tokens, d), G is (d, d). Float products inside panels of rows, panels added in double:
/// float alone would lose the small eigenvalues that adapter solvers divide by.
inline void add_gram(matrix_view<float const> x, matrix_view<double> gram, context const& ctx = {}) {
  if (gram.rows() != x.cols() || gram.cols() != x.cols())
    throw shape_error(message("add_gram: X has ", x.cols(), " columns, the Gram matrix is ", gram.rows(), " x ", gram.cols()));
  constexpr index_t panel_rows = 256;
  index_t const d = x.cols();
  std::vector<float> panel(static_cast<std::size_t>(d * d));
  matrix_view<float> const product(panel.data(), d, d);
  for (index_t first = 0; first < x.rows(); first += panel_rows) {
    auto const part = x.middle_rows(first, std::min(panel_rows, x.rows() - first));
    gemm_into(transposed(part), matrix_view<float const, strided>(part), product, ctx);
    ctx.parallel_for(d, 64, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < d; ++j) gram(i, j) += static_cast<double>(product(i, j));
    });
  }
}

} // namespace slim::inline SLIM_ABI
