#pragma once
/// @file
/// Eigenvalues and eigenvectors of symmetric matrices. A template, so that Eigen's solver costs nothing until it is used.

#include "slim/core/matrix.hpp"

#include <Eigen/Eigenvalues>

#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A = vectors * diag(values) * vectors^T.
template <class T>
struct eigh_result {
  std::vector<T> values;  ///< ascending
  matrix<T> vectors;      ///< (n, n), column k belongs to values[k]; orthonormal
  bool converged = false; ///< false if A holds NaN or infinity, or the iteration ran out; then values and vectors are undefined
};

namespace detail {

/// Q of a tridiagonalisation A = Q T Q^T from Householder vectors below the subdiagonal of `q`, in place. Eigen's own
/// assignment of the sequence does the same steps, and compiles a product of blocks that it never runs in place: most of what
/// its solver costs a compiler.
template <class T>
void expand_reflections(Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>& q,
                        Eigen::Matrix<T, Eigen::Dynamic, 1> const& coefficients) {
  index_t const n = q.rows();
  std::vector<T> workspace(static_cast<std::size_t>(n));
  q.diagonal().setOnes();
  for (index_t k = n - 1; k >= 0; --k) q.col(k).head(k).setZero();
  for (index_t k = n - 2; k >= 0; --k) {
    index_t const below = n - k - 1;
    q.bottomRightCorner(below, below).applyHouseholderOnTheLeft(q.col(k).tail(below - 1), coefficients(k), workspace.data());
    q.col(k).tail(below).setZero();
  }
}

} // namespace detail

/// Eigendecomposition of a symmetric (n, n) matrix; only the lower triangle is read. Tridiagonalisation and implicit QR in T,
/// on the calling thread, O(n^3) (0.1 s at n = 440). @throws shape_error if A is not square.
template <class T>
[[nodiscard]] eigh_result<T> symmetric_eigen(matrix_view<T const> a) {
  if (a.rows() != a.cols()) throw shape_error(message("symmetric_eigen: the matrix is ", a.rows(), " x ", a.cols()));
  index_t const n = a.rows();
  eigh_result<T> out{std::vector<T>(static_cast<std::size_t>(n)), matrix<T>(n, n), true};
  if (n == 0) return out;
  using square = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  square lower(n, n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) lower(i, j) = a(std::max(i, j), std::min(i, j));
  if (!lower.allFinite()) {
    out.converged = false;
    return out;
  }
  T const largest = lower.cwiseAbs().maxCoeff(), scale = largest == T(0) ? T(1) : largest; // no square over- or underflows
  lower /= scale;
  Eigen::Tridiagonalization<square> const reduced(lower);
  Eigen::Matrix<T, Eigen::Dynamic, 1> diagonal = reduced.diagonal(), subdiagonal = reduced.subDiagonal();
  square vectors = reduced.packedMatrix();
  detail::expand_reflections<T>(vectors, reduced.householderCoefficients());
  constexpr index_t most_iterations = 30; // per eigenvalue, as Eigen's solver and LAPACK
  auto const info = Eigen::internal::computeFromTridiagonal_impl(diagonal, subdiagonal, most_iterations, true, vectors);
  out.converged = info == Eigen::ComputationInfo{}; // Eigen::Success, which X11 makes a macro
  for (index_t i = 0; i < n; ++i) {
    out.values[static_cast<std::size_t>(i)] = diagonal(i) * scale;
    for (index_t j = 0; j < n; ++j) out.vectors(i, j) = vectors(i, j);
  }
  return out;
}

/// The same for a matrix that is not const, so that `T` is deduced.
template <class T>
  requires(!std::is_const_v<T>)
[[nodiscard]] eigh_result<T> symmetric_eigen(matrix_view<T> a) {
  return symmetric_eigen(matrix_view<T const>(a));
}

} // namespace SLIM_ABI
} // namespace slim
