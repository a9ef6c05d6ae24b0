#pragma once
/// @file
/// The best approximation of a matrix by one of rank r: A ~ basis * coefficients. `exact_low_rank` solves the full symmetric
/// eigenproblem of the Gram matrix; `truncated_low_rank` iterates a subspace of r + oversampling vectors and costs a fraction.
/// The error matrices of compression have flat spectra, where one or two power iterations of a randomised SVD
/// [Halko, Martinsson, Tropp 2011] stop 2 to 4% above the optimal residual; Chebyshev filters of the Gram matrix
/// [Zhou, Saad, Tiago, Chelikowsky 2006] reach 0.3% with fewer products.

#include "slim/linalg/subspace_iteration.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A ~ basis * coefficients, in order of decreasing singular value.
template <class T>
struct low_rank_factors {
  matrix<T> basis;                ///< (m, r), orthonormal columns (zero for a zero matrix)
  matrix<T> coefficients;         ///< (r, n) = basis^T A
  std::vector<T> singular_values; ///< r numbers, descending: the norms of the rows of `coefficients`
  index_t multiplies = 0;         ///< products of the subspace with A A^T or A^T A
  std::string fallbacks;          ///< sentences about fallbacks that were taken; empty if there were none
};

/// Size of the subspace, start and stopping rule of `truncated_low_rank`.
struct truncated_config {
  index_t oversampling = 32; ///< vectors beyond the rank
  double tolerance = 1e-2;   ///< stop once a product adds less than this share of the energy left to what the subspace captures
  index_t max_multiplies = 40; ///< products of the subspace with A A^T or A^T A, at most
  /// Columns (m, any number) that nearly span the solution, such as the `basis` found for a similar matrix: fewer products.
  matrix_view<float const> start = {};
};

namespace detail {

/// Largest magnitude in A. @throws nonfinite_error at the first NaN or infinity.
template <class T>
[[nodiscard]] T finite_absmax(matrix_view<T const> a, context const& ctx) {
  using bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>; // magnitudes are in the order of their bits
  constexpr bits sign = std::numeric_limits<bits>::min(), infinity = std::bit_cast<bits>(std::numeric_limits<T>::infinity());
  auto const magnitude = [&](index_t i, index_t j) { return static_cast<bits>(std::bit_cast<bits>(a(i, j)) & ~sign); };
  std::vector<bits> row_largest(static_cast<std::size_t>(a.rows()));
  ctx.parallel_for(a.rows(), rows_per_task(a.cols()), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      bits largest = 0;
      for (index_t j = 0; j < a.cols(); ++j) largest = std::max(largest, magnitude(i, j));
      row_largest[static_cast<std::size_t>(i)] = largest;
      if (largest < infinity) continue;
      index_t j = 0;
      while (magnitude(i, j) < infinity) ++j;
      throw nonfinite_error(message("low-rank factors: the matrix is not finite at row ", i, ", column ", j));
    }
  });
  bits const largest = row_largest.empty() ? 0 : *std::max_element(row_largest.begin(), row_largest.end());
  return std::bit_cast<T>(largest);
}

/// Rank 0, an empty matrix, a matrix of zeros: nothing to compute.
template <class T>
[[nodiscard]] low_rank_factors<T> zero_factors(index_t rows, index_t cols, index_t rank) {
  return {matrix<T>(rows, rank), matrix<T>(rank, cols), std::vector<T>(static_cast<std::size_t>(rank)), 0, {}};
}

/// Norms of the rows, accumulated in double.
template <class T>
[[nodiscard]] std::vector<T> row_norms(matrix<T> const& a) {
  std::vector<T> out(static_cast<std::size_t>(a.rows()));
  for (index_t i = 0; i < a.rows(); ++i)
    out[static_cast<std::size_t>(i)] = static_cast<T>(std::sqrt(squared_norm(a.row(i), a.cols())));
  return out;
}

/// Q of A = Q R, A (m, r) with m >= r, by a reflection per column. (Eigen's class blocks its reflections, which costs a
/// compiler as much as all else here, and gains little next to the eigenproblem before it.)
template <class Columns>
[[nodiscard]] Columns orthonormal_columns(Columns a) {
  index_t const m = a.rows(), r = a.cols();
  std::vector<double> coefficients(static_cast<std::size_t>(r)), workspace(coefficients);
  for (index_t k = 0; k < r; ++k) {
    double beta = 0; // of R, which nobody asks for
    double& coefficient = coefficients[static_cast<std::size_t>(k)];
    a.col(k).tail(m - k).makeHouseholderInPlace(coefficient, beta);
    a.bottomRightCorner(m - k, r - k - 1).applyHouseholderOnTheLeft(a.col(k).tail(m - k - 1), coefficient, workspace.data());
  }
  Columns q = Columns::Identity(m, r);
  for (index_t k = r - 1; k >= 0; --k)
    q.bottomRightCorner(m - k, r - k)
        .applyHouseholderOnTheLeft(a.col(k).tail(m - k - 1), coefficients[static_cast<std::size_t>(k)], workspace.data());
  return q;
}

/// Orthonormal basis (m, r) of the best subspace: eigenvectors of A A^T, or Q of A V if A is tall.
template <class T>
[[nodiscard]] matrix<double> exact_basis(matrix<double> const& a, index_t rank) {
  using columns = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;
  auto const mapped = as_eigen(a.view());
  bool const wide = a.rows() <= a.cols();
  index_t const side = std::min(a.rows(), a.cols());
  eigen_rows<double> gram = eigen_rows<double>::Zero(side, side);
  if (wide)
    gram.template selfadjointView<Eigen::Lower>().rankUpdate(mapped);
  else
    gram.template selfadjointView<Eigen::Lower>().rankUpdate(mapped.transpose());
  auto const eigen = symmetric_eigen(matrix_view<double const>(gram.data(), side, side));
  if (!eigen.converged) throw error("exact_low_rank: the eigenvalue iteration did not converge");
  matrix<double> basis(a.rows(), rank);
  if (wide) {
    for (index_t i = 0; i < side; ++i)
      for (index_t k = 0; k < rank; ++k) basis(i, k) = eigen.vectors(i, side - 1 - k);
    return basis;
  }
  columns image(a.rows(), rank);
  for (index_t k = 0; k < rank; ++k) image.col(k).noalias() = mapped * as_eigen(eigen.vectors.view()).col(side - 1 - k);
  as_eigen(basis.view()) = orthonormal_columns(std::move(image));
  return basis;
}

} // namespace detail

/// Best approximation of rank min(rank, m, n), from all eigenvectors of the smaller Gram matrix in double. For tests
/// and small matrices: O(min(m, n)^3) on the calling thread, minutes at 4096.
/// **Numerics** directions with singular values below 1e-8 of the largest are arbitrary. Rank 0 or an empty matrix gives empty
/// factors, a zero matrix zero ones. @throws config_error if rank < 0; nonfinite_error on NaN or infinity.
template <class T = float>
[[nodiscard]] low_rank_factors<T> exact_low_rank(matrix_view<std::type_identity_t<T> const> a, index_t rank,
                                                 context const& ctx = {}) {
  if (rank < 0) throw config_error(message("exact_low_rank: rank ", rank, " is negative"));
  rank = std::min({rank, a.rows(), a.cols()});
  double const scale = static_cast<double>(detail::finite_absmax<T>(a, ctx));
  auto out = detail::zero_factors<T>(a.rows(), a.cols(), rank);
  if (rank == 0 || scale == 0.0) return out;
  matrix<double> scaled(a);
  for (index_t i = 0; i < scaled.size(); ++i) scaled.data()[i] /= scale;
  auto const basis = detail::exact_basis<T>(scaled, rank);
  matrix<double> coefficients(rank, a.cols());
  ctx.parallel_for(rank, 4, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k)
      for (index_t i = 0; i < a.rows(); ++i)
        for (index_t j = 0; j < a.cols(); ++j) coefficients(k, j) += basis(i, k) * scaled(i, j) * scale;
  });
  out.basis = matrix<T>(basis.view());
  out.coefficients = matrix<T>(coefficients.view());
  out.singular_values = detail::row_norms(out.coefficients);
  return out;
}

namespace detail {

/// Factors of rank r from orthonormal rows that span more: the best r directions inside [Rayleigh, Ritz].
template <class T>
[[nodiscard]] low_rank_factors<T> best_inside(matrix_view<T const> a, matrix<T> const& rows, index_t rank, context const& ctx) {
  index_t const count = rows.rows();
  matrix<T> projected(count, a.cols(), uninitialized);
  gemm_into(rows.view(), a, projected, ctx.in_fp32());
  matrix<double> gram(count, count);
  add_gram_of<double>(transposed(matrix_view<T const>(projected)), gram, ctx.in_fp32());
  auto const eigen = symmetric_eigen<double>(matrix_view<double const>(gram));
  if (!eigen.converged) throw error("truncated_low_rank: the eigenvalue iteration did not converge");
  matrix<T> rotation(count, rank);
  for (index_t i = 0; i < count; ++i)
    for (index_t k = 0; k < rank; ++k) rotation(i, k) = static_cast<T>(eigen.vectors(i, count - 1 - k));
  low_rank_factors<T> out{matrix<T>(a.rows(), rank), matrix<T>(rank, a.cols()), {}, 0, {}};
  gemm_into(transposed(rows.view()), rotation.view(), out.basis, ctx.in_fp32());
  gemm_into(transposed(rotation.view()), projected.view(), out.coefficients, ctx.in_fp32());
  out.singular_values = row_norms(out.coefficients);
  return out;
}

/// The start as rows of the space that is iterated in, at most `count`: its columns, or, if A is tall, their products with A.
template <class T>
[[nodiscard]] matrix<T> start_rows(matrix_view<T const> a, matrix_view<T const> start, index_t count, context const& ctx) {
  (void)finite_absmax(start, ctx);
  matrix<T> rows(std::min(count, start.cols()), start.rows());
  for (index_t k = 0; k < rows.rows(); ++k) {
    double sum = 0;
    for (index_t i = 0; i < start.rows(); ++i) sum += static_cast<double>(start(i, k)) * static_cast<double>(start(i, k));
    double const scale = sum > 0 ? 1 / std::sqrt(sum) : 0.0;
    for (index_t i = 0; i < start.rows(); ++i) rows(k, i) = static_cast<T>(static_cast<double>(start(i, k)) * scale);
  }
  if (a.rows() <= a.cols() || rows.rows() == 0) return rows;
  matrix<T> images(rows.rows(), a.cols(), uninitialized);
  gemm_into(rows.view(), a, images, ctx.in_fp32());
  return images;
}

/// A without its components along orthonormal rows of its shorter side.
template <class T>
[[nodiscard]] matrix<T> without(matrix_view<T const> a, matrix<T> const& rows, context const& ctx) {
  matrix<T> rest(a);
  bool const wide = a.rows() <= a.cols();
  matrix<T> images(wide ? rows.rows() : a.rows(), wide ? a.cols() : rows.rows(), uninitialized);
  if (wide) {
    gemm_into(rows.view(), a, images, ctx.in_fp32());
    gemm_into(transposed(rows.view()), images.view(), rest, destination::subtract, ctx.in_fp32());
  } else {
    gemm_into(a, transposed(rows.view()), images, ctx.in_fp32());
    gemm_into(images.view(), rows.view(), rest, destination::subtract, ctx.in_fp32());
  }
  return rest;
}

/// The rows of y and, below them, those of x.
template <class T>
[[nodiscard]] matrix<T> stacked(matrix<T> const& y, matrix_view<std::type_identity_t<T> const> x) {
  matrix<T> out(y.rows() + x.rows(), x.cols());
  std::copy_n(y.data(), y.size(), out.data());
  std::copy_n(x.data(), x.size(), out.data() + y.size());
  return out;
}

/// Result of the search for a subspace.
template <class T>
struct subspace {
  matrix<T> rows; ///< (count, side), orthonormal
  index_t multiplies = 0;
  std::string notes;
};

/// Orthonormal rows that nearly span the leading singular vectors of the shorter side. Directions that dwarf the others are
/// found first and taken out of A: the Gram matrix of the rest has no rounding as large as what is looked for.
template <class T>
[[nodiscard]] subspace<T> leading_subspace(matrix_view<T const> a, index_t rank, index_t count, truncated_config config,
                                           context const& ctx) {
  subspace<T> out{matrix<T>(0, std::min(a.rows(), a.cols())), 0, {}};
  row_orthonormalizer<T> orthonormalize(ctx, out.notes);
  auto rows = start_rows(a, config.start, count, ctx);
  matrix<T> rest;
  matrix_view<T const> now = a;
  double energy = 0;
  for (;;) {
    index_t const wanted = count - out.rows.rows();
    gram_operator<T> gram(now, wanted, 2 * rows.rows() < wanted ? 4 : 2, ctx);
    energy = std::max(energy, gram.energy());
    bool const rounding = gram.energy() <= 1e-12 * energy; // nothing is left but that of A
    if (rounding || out.rows.rows() >= rank) break;
    subspace_iteration<T> iteration(gram, rank - out.rows.rows(), wanted, rows, ctx);
    rows = iteration.run(config.tolerance, config.max_multiplies);
    note(out.notes, iteration.notes());
    out.multiplies += gram.multiplies();
    config.max_multiplies -= gram.multiplies();
    index_t const taken = iteration.dominant();
    if (taken == 0) break;
    out.rows = stacked(out.rows, rows.view().middle_rows(0, taken));
    orthonormalize(out.rows, true);
    rows = matrix<T>(rows.view().middle_rows(taken, wanted - taken));
    rest = without(a, out.rows, ctx);
    now = rest;
  }
  if (out.rows.empty()) {
    out.rows = std::move(rows);
  } else {
    out.rows = stacked(out.rows, rows);
    orthonormalize(out.rows, true);
  }
  return out;
}

/// truncated_low_rank for a matrix whose squares neither overflow nor vanish.
template <class T>
[[nodiscard]] low_rank_factors<T> truncated_scaled(matrix_view<T const> a, index_t rank, index_t count,
                                                   truncated_config const& config, context const& ctx) {
  auto found = leading_subspace(a, rank, count, config, ctx);
  if (a.rows() > a.cols()) { // right singular directions: their images span the left ones
    matrix<T> images(count, a.rows(), uninitialized);
    gemm_into(found.rows.view(), transposed(a), images, ctx.in_fp32());
    row_orthonormalizer<T>(ctx, found.notes)(images, true);
    found.rows = std::move(images);
  }
  auto out = best_inside(a, found.rows, rank, ctx);
  out.multiplies = found.multiplies;
  out.fallbacks = std::move(found.notes);
  return out;
}

} // namespace detail

/// Nearly the best approximation of rank min(rank, m, n): Chebyshev-filtered subspace iteration on the shorter side with
/// rank + oversampling vectors, from a start that depends on `ctx.seed` (and `config.start`) only, and the best `rank`
/// directions inside. With the default tolerance the residual stays within 1.003 of the optimal one on flat, decaying and steep
/// spectra (tests/linalg), as long as it is above float rounding, 1e-5 of ||A||_F.
/// If the subspace would be most of the space, exact_low_rank does it (reported in `fallbacks`). Operations: a product of the
/// subspace costs 2 (rank + oversampling) min(m, n)^2 after max(m, n) min(m, n)^2 for the Gram matrix, or 4 (rank +
/// oversampling) m n without it, whichever is less for the products expected. Bits do not depend on the number of threads.
/// Rank 0 or an empty matrix gives empty factors, a zero matrix zero ones. @throws config_error if rank < 0 or the
/// configuration makes no sense; shape_error if `config.start` has not m rows; nonfinite_error on NaN or infinity.
template <class T = float>
[[nodiscard]] low_rank_factors<T> truncated_low_rank(matrix_view<std::type_identity_t<T> const> a, index_t rank,
                                                     truncated_config config = {}, context const& ctx = {}) {
  static_assert(std::is_same_v<T, float>, "truncated_low_rank works on float; exact_low_rank also takes double");
  if (rank < 0) throw config_error(message("truncated_low_rank: rank ", rank, " is negative"));
  if (config.oversampling < 0 || !(config.tolerance >= 0) || config.max_multiplies < 1)
    throw config_error(message("truncated_low_rank: oversampling ", config.oversampling, ", tolerance ", config.tolerance,
                               ", max_multiplies ", config.max_multiplies, "; needed are >= 0, >= 0 and >= 1"));
  if (config.start.cols() > 0 && config.start.rows() != a.rows())
    throw shape_error(message("truncated_low_rank: the start has ", config.start.rows(), " rows, the matrix ", a.rows()));
  index_t const side = std::min(a.rows(), a.cols());
  rank = std::min(rank, side);
  float const largest = detail::finite_absmax<float>(a, ctx);
  if (rank == 0 || largest == 0.0f) return detail::zero_factors<float>(a.rows(), a.cols(), rank);
  index_t const count = rank + config.oversampling;
  if (5 * count > 4 * side) {
    auto out = exact_low_rank<T>(a, rank, ctx);
    detail::note(out.fallbacks, "exact: the subspace is most of the space");
    return out;
  }
  if (largest > 0x1p-30f && largest < 0x1p30f) return detail::truncated_scaled<T>(a, rank, count, config, ctx);
  int exponent = 0;
  (void)std::frexp(largest, &exponent);
  matrix<float> scaled(a);
  for (index_t k = 0; k < scaled.size(); ++k) scaled.data()[k] = std::ldexp(scaled.data()[k], -exponent);
  auto out = detail::truncated_scaled<T>(scaled, rank, count, config, ctx);
  for (index_t k = 0; k < out.coefficients.size(); ++k)
    out.coefficients.data()[k] = std::ldexp(out.coefficients.data()[k], exponent);
  for (auto& value : out.singular_values) value = std::ldexp(value, exponent);
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
