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
  Eigen::SelfAdjointEigenSolver<square> const solver(lower);
  out.converged = solver.info() == Eigen::ComputationInfo{}; // Eigen::Success, which X11 makes a macro
  for (index_t i = 0; i < n; ++i) {
    out.values[static_cast<std::size_t>(i)] = solver.eigenvalues()(i);
    for (index_t j = 0; j < n; ++j) out.vectors(i, j) = solver.eigenvectors()(i, j);
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
