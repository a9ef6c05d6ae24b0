#pragma once
/// @file
/// Cholesky factor of a symmetric positive definite matrix, and the triangular solves that go with it. Templates on the
/// scalar (float, double): Eigen's kernels cost nothing until used. Float is blocked over our parallel products; double runs
/// its right-hand sides in parallel and its factorisation on one thread. No result depends on the number of threads.

#include "slim/core/finite.hpp"
#include "slim/linalg/structured_products.hpp"

#include <Eigen/Cholesky>

#include <cmath>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

template <class T>
using eigen_rows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A view as an Eigen::Map. Nothing is copied.
template <class T>
[[nodiscard]] auto as_eigen(matrix_view<T> view) {
  using value = std::remove_const_t<T>;
  using mapped = std::conditional_t<std::is_const_v<T>, eigen_rows<value> const, eigen_rows<value>>;
  return Eigen::Map<mapped, 0, Eigen::OuterStride<>>(view.data(), view.rows(), view.cols(),
                                                     Eigen::OuterStride<>(view.row_stride()));
}

/// Size of the diagonal blocks, which Eigen factors. Everything off the diagonal blocks is a product.
inline constexpr index_t cholesky_block = 128;
/// Right-hand sides per task.
inline constexpr index_t solve_cols = 128;

/// Factors one block on the calling thread. Eigen accepts a NaN pivot as positive, so this function checks for NaN.
template <class T>
[[nodiscard]] bool cholesky_small(matrix_view<T> a) {
  auto mapped = as_eigen(a);
  Eigen::LLT<Eigen::Ref<eigen_rows<T>, 0, Eigen::OuterStride<>>, Eigen::Lower> const factor(mapped);
  if (factor.info() != Eigen::ComputationInfo{}) return false; // Eigen::Success, which X11 makes a macro
  for (index_t i = 0; i < a.rows(); ++i)
    if (!(a(i, i) > T(0)) || !is_finite(a(i, i))) return false;
  return true;
}

/// X <- X L^-T for rows below a diagonal block; tasks are blocks of rows.
template <class T>
void solve_rows_below(matrix_view<T const> l, matrix_view<T> x, context const& ctx) {
  ctx.parallel_for(x.rows(), 64, [&](index_t begin, index_t end) {
    auto rows = as_eigen(x.middle_rows(begin, end - begin));
    as_eigen(l).transpose().template triangularView<Eigen::Upper>().template solveInPlace<Eigen::OnTheRight>(rows);
  });
}

/// A22 -= L21 L21^T on and below the diagonal, in strips of columns. (Some tiles above the diagonal are written, too; they are
/// not read.)
inline void update_trailing(matrix_view<float const> l21, matrix_view<float> a22, context const& ctx) {
  constexpr index_t strip = 512;
  for (index_t j = 0; j < a22.cols(); j += strip) {
    index_t const cols = std::min(strip, a22.cols() - j), rows = a22.rows() - j;
    gemm_into(l21.middle_rows(j, rows), transposed(l21.middle_rows(j, cols)), a22.block(j, j, rows, cols),
              destination::subtract, ctx.in_fp32());
  }
}

/// op(L) X = B for one diagonal block, in place; tasks are blocks of columns.
template <bool Transposed, class T>
void solve_diagonal_block(matrix_view<T const> l, matrix_view<T> b, context const& ctx) {
  ctx.parallel_for(b.cols(), solve_cols, [&](index_t begin, index_t end) {
    auto cols = as_eigen(b.block(0, begin, b.rows(), end - begin));
    if constexpr (Transposed)
      as_eigen(l).transpose().template triangularView<Eigen::Upper>().solveInPlace(cols);
    else
      as_eigen(l).template triangularView<Eigen::Lower>().solveInPlace(cols);
  });
}

template <class T>
void require_solve_shapes(char const* who, matrix_view<T const> l, matrix_view<T> b) {
  if (l.rows() != l.cols() || l.rows() != b.rows())
    throw shape_error(
        message(who, ": the factor is ", l.rows(), " x ", l.cols(), ", the right-hand side ", b.rows(), " x ", b.cols()));
}

} // namespace detail

/// A = L L^T in place: reads the lower triangle, writes L there and zeros above it. False, without an exception, if a pivot is
/// not a positive finite number (A not positive definite, or NaN in it); A is then garbage. n^3 / 6 multiply-adds.
/// @throws shape_error if A is not square.
template <class T>
[[nodiscard]] bool cholesky_inplace(matrix_view<T> a, context const& ctx = {}) {
  if (a.rows() != a.cols()) throw shape_error(message("cholesky_inplace: the matrix is ", a.rows(), " x ", a.cols()));
  index_t const n = a.rows();
  if (n == 0) return true;
  index_t const block = std::is_same_v<T, float> ? detail::cholesky_block : n;
  for (index_t k = 0; k < n; k += block) {
    index_t const size = std::min(block, n - k), rest = n - k - size;
    auto const diagonal = a.block(k, k, size, size);
    if (!detail::cholesky_small(diagonal)) return false;
    if constexpr (std::is_same_v<T, float>) {
      auto const below = a.block(k + size, k, rest, size);
      detail::solve_rows_below(matrix_view<T const>(diagonal), below, ctx);
      detail::update_trailing(below, a.block(k + size, k + size, rest, rest), ctx);
    }
  }
  for (index_t i = 0; i < n; ++i) std::fill(a.row(i) + i + 1, a.row(i) + n, T(0));
  return true;
}

/// L X = B in place, L (n, n) lower triangular (its upper triangle is not read), B (n, any). @throws shape_error.
template <class T>
void solve_lower_inplace(matrix_view<std::type_identity_t<T> const> l, matrix_view<T> b, context const& ctx = {}) {
  detail::require_solve_shapes<T>("solve_lower_inplace", l, b);
  if (b.empty()) return;
  if constexpr (!std::is_same_v<T, float>) {
    detail::solve_diagonal_block<false, T>(l, b, ctx);
  } else {
    index_t const n = l.rows();
    for (index_t k = 0; k < n; k += detail::cholesky_block) {
      index_t const size = std::min(detail::cholesky_block, n - k), rest = n - k - size;
      auto const solved = b.middle_rows(k, size);
      detail::solve_diagonal_block<false, T>(l.block(k, k, size, size), solved, ctx);
      gemm_into(l.block(k + size, k, rest, size), matrix_view<float const>(solved), b.middle_rows(k + size, rest),
                destination::subtract, ctx.in_fp32());
    }
  }
}

/// L^T X = B in place, as solve_lower_inplace. @throws shape_error.
template <class T>
void solve_lower_transposed_inplace(matrix_view<std::type_identity_t<T> const> l, matrix_view<T> b, context const& ctx = {}) {
  detail::require_solve_shapes<T>("solve_lower_transposed_inplace", l, b);
  if (b.empty()) return;
  if constexpr (!std::is_same_v<T, float>) {
    detail::solve_diagonal_block<true, T>(l, b, ctx);
  } else {
    index_t const n = l.rows();
    for (index_t k = (n - 1) / detail::cholesky_block * detail::cholesky_block; k >= 0; k -= detail::cholesky_block) {
      index_t const size = std::min(detail::cholesky_block, n - k);
      auto const solved = b.middle_rows(k, size);
      detail::solve_diagonal_block<true, T>(l.block(k, k, size, size), solved, ctx);
      gemm_into(transposed(l.block(k, 0, size, k)), matrix_view<float const>(solved), b.middle_rows(0, k),
                destination::subtract, ctx.in_fp32());
    }
  }
}

/// L <- L^-1, L (n, n) lower triangular with zeros above the diagonal. n^3 / 6 multiply-adds. @throws shape_error.
template <std::same_as<float> T = float>
void invert_lower_inplace(matrix_view<T> l, context const& ctx = {}) {
  if (l.rows() != l.cols()) throw shape_error(message("invert_lower_inplace: the matrix is ", l.rows(), " x ", l.cols()));
  index_t const n = l.rows();
  for (index_t k = 0; k < n; k += detail::cholesky_block) { // rows above block k are inverted already
    index_t const size = std::min(detail::cholesky_block, n - k);
    matrix<float> const diagonal(matrix_view<float const>(l.block(k, k, size, size)));
    matrix<float> const left(matrix_view<float const>(l.block(k, 0, size, k)));
    auto const here = l.middle_rows(k, size).block(0, 0, size, k + size);
    multiply_lower_into(left.view(), matrix_view<float const>(l.block(0, 0, k, k)), here.block(0, 0, size, k), ctx.in_fp32());
    for (index_t i = 0; i < size; ++i) {
      for (index_t j = 0; j < k; ++j) here(i, j) = -here(i, j);
      for (index_t j = 0; j < size; ++j) here(i, k + j) = i == j ? 1.0f : 0.0f;
    }
    detail::solve_diagonal_block<false, T>(diagonal.view(), here, ctx);
  }
}

} // namespace SLIM_ABI
} // namespace slim
