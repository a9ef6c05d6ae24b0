#pragma once
/// @file
/// Products of float matrices, at the speed of a BLAS whatever flags the consumer compiles with. Tiles of the result are the
/// parallel tasks and the inner dimension is never split between tasks, so the bits of the result do not depend on the number
/// of threads or on the executor. They do depend on the instruction set (order of summation; `context.simd` pins it).
/// If `context.sgemm` is set, that function computes the products: it decides about bits and threads.

#include "slim/linalg/gemm_hook.hpp"
#include "slim/linalg/gemm_tiled.hpp"
#include "slim/linalg/gram_tiled.hpp"

#include "slim/core/matrix.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// C = A B, C += A B or C -= A B. A is (m, k), B is (k, n), C is (m, n) and must not overlap A or B. Transposes are free:
/// pass `transposed(view)`; any strides, negative ones included, run at about the same speed. NaN and infinity propagate.
/// **Numerics** float products and sums (fused where the machine fuses): |error(i, j)| <= k eps (|A| |B|)(i, j) to first
/// order; in practice sums run in blocks of 256. This holds for our own kernels. `ctx.sgemm`, if set, computes the product
/// instead if each matrix has contiguous rows or columns, positive strides, and extents that fit an int.
/// @throws shape_error if the extents do not fit; config_error if `ctx.simd` forces instructions that the machine lacks.
inline void gemm_into(matrix_view<float const, strided> a, matrix_view<float const, strided> b, matrix_view<float> c,
                      destination mode, context const& ctx = {}) {
  if (a.cols() != b.rows() || a.rows() != c.rows() || b.cols() != c.cols())
    throw shape_error(message("gemm_into: (", a.rows(), " x ", a.cols(), ") (", b.rows(), " x ", b.cols(), ") -> ", c.rows(),
                              " x ", c.cols()));
  if (c.empty()) return;
  if (a.cols() == 0) {
    if (mode == destination::overwrite)
      for (index_t i = 0; i < c.rows(); ++i) std::fill_n(c.row(i), c.cols(), 0.0f);
    return;
  }
  if (ctx.sgemm && detail::multiply_by_hook(ctx.sgemm, a, b, c, mode)) return;
  detail::multiply(a, b, c, mode, ctx);
}

/// C = A B.
inline void gemm_into(matrix_view<float const, strided> a, matrix_view<float const, strided> b, matrix_view<float> c,
                      context const& ctx = {}) {
  gemm_into(a, b, c, destination::overwrite, ctx);
}

/// G += X^T X, both triangles; a symmetric G stays symmetric to the last bit. X is (tokens, d), G is (d, d). Bits do not
/// depend on the number of threads. NaN and infinity propagate to the rows and columns of their channel.
/// **Numerics** float products inside blocks of 256 rows of X, blocks added in double: float alone would lose the small
/// eigenvalues that adapter solvers divide by. Error of G(i, j) at most 256 eps_float |x_i| |x_j|, typically 16 times less.
/// If `ctx.gram_block` is not 0, `ctx.sgemm` computes whole blocks of so many tokens, and its bits and threads are its own;
/// blocks are added in double, and the bound has that number instead of 256. What is left over is ours.
/// With a share of several, only its tiles of G are added: a number of G has the bits that one call for all would give it.
/// @throws shape_error if G is not (d, d).
inline void add_gram(matrix_view<float const> x, matrix_view<double> gram, work_share share, context const& ctx = {}) {
  if (gram.rows() != x.cols() || gram.cols() != x.cols())
    throw shape_error(message("add_gram: X has ", x.cols(), " columns, the Gram matrix is ", gram.rows(), " x ", gram.cols()));
  index_t done = 0;
  if (ctx.sgemm && ctx.gram_block > 0 && !x.empty() && x.rows() >= ctx.gram_block) {
    matrix<float> product(x.cols(), x.cols(), uninitialized);
    for (; x.rows() - done >= ctx.gram_block; done += ctx.gram_block) {
      matrix_view<float const> const block = x.middle_rows(done, ctx.gram_block);
      if (!detail::multiply_by_hook(ctx.sgemm, transposed(block), block, product.view(), destination::overwrite)) break;
      detail::add_upper_triangle(product.view(), gram, share, ctx);
    }
  }
  detail::add_gram_of<double>(x.middle_rows(done, x.rows() - done), gram, ctx, share);
}

/// The whole.
inline void add_gram(matrix_view<float const> x, matrix_view<double> gram, context const& ctx = {}) {
  add_gram(x, gram, all_work, ctx);
}

/// C += X^T Y, X (tokens, d), Y (tokens, n), C (d, n). **Numerics** as add_gram: float products inside blocks of 256 tokens,
/// blocks of 512 added in double. With a share of several, only its rows of C are added, with the bits that one call for all
/// would give them. @throws shape_error
inline void add_cross(matrix_view<float const> x, matrix_view<float const> y, matrix_view<double> c, work_share share,
                      context const& ctx = {}) {
  if (x.rows() != y.rows() || c.rows() != x.cols() || c.cols() != y.cols())
    throw shape_error(message("add_cross: X is ", x.rows(), " x ", x.cols(), ", Y ", y.rows(), " x ", y.cols(), ", C ",
                              c.rows(), " x ", c.cols()));
  constexpr index_t panel = 512;
  constexpr index_t together = 64; // rows of C that stay in one share: products with a few rows are summed in another order
  index_t const blocks = std::max<index_t>(1, c.rows() / together);
  auto const edge = [&](index_t block) { return block == blocks ? c.rows() : block * together; };
  index_t const first = edge(share.first(blocks)), rows = edge(share.first(blocks) + share.size(blocks)) - first;
  matrix<float> product(rows, c.cols(), uninitialized);
  for (index_t t = 0; t < x.rows(); t += panel) {
    index_t const count = std::min(panel, x.rows() - t);
    gemm_into(transposed(x.block(t, first, count, rows)), y.middle_rows(t, count), product.view(), ctx);
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < c.cols(); ++j) c(first + i, j) += static_cast<double>(product(i, j));
    });
  }
}

/// The whole.
inline void add_cross(matrix_view<float const> x, matrix_view<float const> y, matrix_view<double> c, context const& ctx = {}) {
  add_cross(x, y, c, all_work, ctx);
}

} // namespace SLIM_ABI
} // namespace slim
