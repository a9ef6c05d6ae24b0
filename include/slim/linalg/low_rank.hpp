#pragma once
/// @file
/// The best approximation of a matrix by one of rank r: A ~ basis * coefficients. `exact_low_rank` solves the full symmetric
/// eigenproblem of the Gram matrix; `truncated_low_rank` iterates a subspace of r + oversampling vectors and costs a fraction.
/// The error matrices of compression have flat spectra, where one or two power iterations of a randomised SVD
/// [Halko, Martinsson, Tropp 2011] stop 2 to 4% above the optimal residual; Chebyshev filters of the Gram matrix
/// [Zhou, Saad, Tiago, Chelikowsky 2006] reach 0.3% with fewer products.

#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/eigh.hpp"

#include "slim/core/random.hpp"

#include <Eigen/QR>

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

namespace slim::inline SLIM_ABI {

/// A ~ basis * coefficients, in order of decreasing singular value.
template <class T>
struct low_rank_factors {
  matrix<T> basis;                ///< (m, r), orthonormal columns (zero for a zero matrix)
  matrix<T> coefficients;         ///< (r, n) = basis^T A
  std::vector<T> singular_values; ///< r numbers, descending: the norms of the rows of `coefficients`
  index_t multiplies = 0;         ///< products of the subspace with the Gram matrix
  std::string fallbacks;          ///< what did not go the usual way, in words; empty if all did
};

/// When the subspace iteration ends.
struct truncated_config {
  index_t oversampling = 32; ///< vectors beyond the rank
  double tolerance = 1e-2;   ///< stop once a product adds less than this share of the energy left to what the subspace captures
  index_t max_multiplies = 40;
};

namespace detail {

inline void note(std::string& notes, std::string const& text) {
  if (notes.find(text) != std::string::npos) return;
  notes += (notes.empty() ? "" : "; ") + text;
}

/// Largest magnitude in A. @throws nonfinite_error at the first NaN or infinity.
template <class T>
[[nodiscard]] T finite_absmax(matrix_view<T const> a) {
  T largest = 0;
  for (index_t i = 0; i < a.rows(); ++i) {
    T row_largest = 0;
    bool finite = true;
    for (index_t j = 0; j < a.cols(); ++j) {
      T const magnitude = std::abs(a(i, j));
      finite = finite && magnitude <= std::numeric_limits<T>::max();
      row_largest = magnitude > row_largest ? magnitude : row_largest;
    }
    if (!finite) {
      index_t j = 0;
      while (std::isfinite(a(i, j))) ++j;
      throw nonfinite_error(message("low-rank factors: the matrix is not finite at row ", i, ", column ", j));
    }
    largest = std::max(largest, row_largest);
  }
  return largest;
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
  for (index_t i = 0; i < a.rows(); ++i) {
    double sum = 0;
    for (index_t j = 0; j < a.cols(); ++j) sum += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
    out[static_cast<std::size_t>(i)] = static_cast<T>(std::sqrt(sum));
  }
  return out;
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
  Eigen::HouseholderQR<columns> const qr(image);
  as_eigen(basis.view()) = qr.householderQ() * columns::Identity(a.rows(), rank);
  return basis;
}

} // namespace detail

/// Best approximation of rank min(rank, m, n), from all eigenvectors of the smaller Gram matrix in double. For tests, for small
/// matrices, and for those who ask by name: O(min(m, n)^3) on the calling thread, minutes at 4096.
/// **Numerics** directions with singular values below 1e-8 of the largest are arbitrary. Rank 0 or an empty matrix gives empty
/// factors, a zero matrix zero ones. @throws config_error if rank < 0; nonfinite_error on NaN or infinity.
template <class T = float>
[[nodiscard]] low_rank_factors<T> exact_low_rank(matrix_view<std::type_identity_t<T> const> a, index_t rank,
                                                 context const& ctx = {}) {
  if (rank < 0) throw config_error(message("exact_low_rank: rank ", rank, " is negative"));
  rank = std::min({rank, a.rows(), a.cols()});
  double const scale = static_cast<double>(detail::finite_absmax<T>(a));
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

/// The rows of Q made orthonormal, by Cholesky factors of Q Q^T in double, applied in float, until one is close to the
/// identity [Yamamoto et al. 2015]; a shift where the rows are dependent to rounding [Fukaya et al. 2020].
template <class T>
class row_orthonormalizer {
public:
  row_orthonormalizer(context const& ctx, std::string& notes) : ctx_(ctx), notes_(notes) {}

  /// `accurate` asks for orthonormality to float rounding; without it one pass is enough if the rows are well conditioned.
  void operator()(matrix<T>& q, bool accurate) {
    for (int pass = 0; pass < 10; ++pass) {
      double const smallest_pivot = one_pass(q);
      if (smallest_pivot > (accurate ? 0.5 : 0.02)) return;
    }
    note(notes_, "orthonormalisation stopped after 10 passes");
  }

private:
  /// Smallest pivot relative to the length of its row: 1 if the rows were orthogonal, 0 if another pass is needed anyway.
  double one_pass(matrix<T>& q) {
    index_t const count = q.rows();
    matrix<double> gram(count, count);
    add_gram_of(transposed(matrix_view<T const>(q)), gram, ctx_);
    bool dependent = false;
    for (index_t i = 0; i < count; ++i)
      if (!(gram(i, i) > 1e-60)) {
        replace_row(q, i);
        dependent = true;
      }
    if (dependent) return 0.0;
    normalize_rows(q, gram);
    matrix<double> factor = gram;
    double shift = 0;
    while (!cholesky_inplace(factor.view())) {
      note(notes_, "shifted Cholesky");
      shift = std::max(10 * shift, 1e-6); // the rounding of a float Gram matrix, with room
      factor = gram;
      for (index_t i = 0; i < count; ++i) factor(i, i) += shift;
    }
    matrix<T> const lower(factor.view());
    solve_lower_inplace<T>(lower, q.view(), ctx_);
    double smallest = 1.0;
    for (index_t i = 0; i < count; ++i) {
      smallest = std::min(smallest, factor(i, i));
      if (factor(i, i) * factor(i, i) < 4 * shift) replace_row(q, i);
    }
    return shift > 0 ? 0.0 : smallest;
  }

  /// A row that depends on those before it holds no direction of its own: a fresh random one takes its place.
  void replace_row(matrix<T>& q, index_t i) {
    note(notes_, "dependent directions replaced");
    for (index_t j = 0; j < q.cols(); ++j) q(i, j) = static_cast<T>(random_normal(ctx_.seed + 1, fresh_++));
  }

  static void normalize_rows(matrix<T>& q, matrix<double>& gram) {
    index_t const count = q.rows();
    std::vector<double> inverse(static_cast<std::size_t>(count));
    for (index_t i = 0; i < count; ++i) inverse[static_cast<std::size_t>(i)] = 1.0 / std::sqrt(gram(i, i));
    for (index_t i = 0; i < count; ++i) {
      double const scale = inverse[static_cast<std::size_t>(i)];
      for (index_t j = 0; j < count; ++j) gram(i, j) *= scale * inverse[static_cast<std::size_t>(j)];
      for (index_t j = 0; j < q.cols(); ++j) q(i, j) = static_cast<T>(static_cast<double>(q(i, j)) * scale);
    }
  }

  context const& ctx_;
  std::string& notes_;
  std::uint64_t fresh_ = 0;
};

/// Gram matrix of the shorter side, as float: A A^T for a wide A.
template <class T>
[[nodiscard]] matrix<T> shorter_gram(matrix_view<T const> a, context const& ctx) {
  index_t const side = std::min(a.rows(), a.cols());
  matrix<double> gram(side, side);
  add_gram_of(a.rows() <= a.cols() ? transposed(a) : matrix_view<float const, strided>(a), gram, ctx);
  return matrix<T>(gram.view());
}

/// Sum over all elements of x .* y in double, one partial sum per row: the same for any executor.
template <class T>
[[nodiscard]] double inner_product(matrix<T> const& x, matrix<T> const& y) {
  double total = 0;
  for (index_t i = 0; i < x.rows(); ++i) {
    double sum = 0;
    for (index_t j = 0; j < x.cols(); ++j) sum += static_cast<double>(x(i, j)) * static_cast<double>(y(i, j));
    total += sum;
  }
  return total;
}

/// out = alpha * x + beta * y + gamma * z, elementwise.
template <class T>
void combine_into(matrix<T>& out, T alpha, matrix<T> const& x, T beta, matrix<T> const& y, T gamma, matrix<T> const& z,
                  context const& ctx) {
  ctx.parallel_for(out.size(), 1 << 16, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) out.data()[k] = alpha * x.data()[k] + beta * y.data()[k] + gamma * z.data()[k];
  });
}

/// Estimates of the extreme eigenvalues of a symmetric positive semidefinite matrix.
struct eigenvalue_range {
  double smallest; ///< from above; 0 if the matrix is singular to rounding
  double largest;  ///< from below
};

[[nodiscard]] inline double normalize(matrix<double>& x) {
  double sum = 0;
  for (index_t i = 0; i < x.size(); ++i) sum += x.data()[i] * x.data()[i];
  double const length = std::sqrt(sum);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] /= length;
  return length;
}

/// Power and inverse iteration, a dozen steps each from a fixed start: enough to tell where a spectrum ends.
template <class Real>
[[nodiscard]] eigenvalue_range range_of_eigenvalues(matrix<Real> h) {
  constexpr int steps = 12;
  index_t const n = h.rows();
  matrix<Real> x(n, 1), y(n, 1);
  for (index_t i = 0; i < n; ++i) y(i, 0) = random_normal(2, static_cast<std::uint64_t>(i));
  eigenvalue_range out{0, normalize(y)};
  for (int step = 0; step < steps && out.largest > 0; ++step) {
    std::swap(x, y);
    for (index_t i = 0; i < n; ++i) {
      y(i, 0) = 0;
      for (index_t j = 0; j < n; ++j) y(i, 0) += h(i, j) * x(j, 0);
    }
    out.largest = normalize(y);
  }
  if (!(out.largest > 0) || !cholesky_inplace(h.view())) return out;
  for (index_t i = 0; i < n; ++i) x(i, 0) = random_normal(3, static_cast<std::uint64_t>(i));
  (void)normalize(x);
  for (int step = 0; step < steps; ++step) {
    solve_lower_inplace<Real>(h, x.view());
    double const length = normalize(x); // squared: the Rayleigh quotient x^T H^-1 x
    out.smallest = 1 / (length * length);
    solve_lower_transposed_inplace<Real>(h, x.view());
    (void)normalize(x);
  }
  return out;
}

/// Orthonormal rows that span nearly the leading eigenvectors of a Gram matrix.
template <class T>
class subspace_iteration {
public:
  subspace_iteration(matrix<T> const& gram, index_t count, context const& ctx)
      : gram_(gram), ctx_(ctx), basis_(count, gram.rows()), image_(count, gram.rows()), next_(count, gram.rows()) {}

  /// Iterates until the captured energy stands still. `total` is the trace of the Gram matrix.
  matrix<T> run(double total, truncated_config const& config) {
    start();
    double captured = 0;
    for (;;) {
      index_t const before = multiplies_;
      multiply(basis_, image_);
      double const now = inner_product(basis_, image_);
      double const left = std::max(total - now, 1e-6 * total); // below that, float products are noise
      bool const settled = now - captured < config.tolerance * left * static_cast<double>(last_cost_);
      double const edge = lower_edge();
      if (settled || multiplies_ >= config.max_multiplies) {
        if (!settled) note(notes_, "subspace iteration stopped at max_multiplies");
        filter_once(edge);
        orthonormalize_(next_, true);
        return std::move(next_);
      }
      captured = now;
      filter_twice(edge);
      orthonormalize_(next_, false);
      std::swap(basis_, next_);
      last_cost_ = multiplies_ - before;
    }
  }

  [[nodiscard]] index_t multiplies() const { return multiplies_; }
  [[nodiscard]] std::string const& notes() const { return notes_; }

private:
  void multiply(matrix<T> const& rows, matrix<T>& out) {
    gemm_into(rows.view(), gram_.view(), out, ctx_);
    ++multiplies_;
  }

  /// A random subspace, multiplied once.
  void start() {
    index_t const cols = next_.cols();
    ctx_.parallel_for(next_.rows(), 8, [&](index_t begin, index_t end) {
      for (index_t k = begin * cols; k < end * cols; ++k)
        next_.data()[k] = static_cast<T>(random_normal(ctx_.seed, static_cast<std::uint64_t>(k)));
    });
    multiply(next_, basis_);
    orthonormalize_(basis_, false);
  }

  /// Eigenvalues of the Gram matrix below this one belong to directions to be damped: the smallest Ritz value. Where the
  /// spectrum is steep, the basis turns to the Ritz vectors first: every row is then dominated by its own direction, and
  /// float rounding of the large ones does not bury the small ones.
  [[nodiscard]] double lower_edge() {
    matrix<T> projected(basis_.rows(), basis_.rows());
    gemm_into(image_.view(), transposed(basis_.view()), projected, ctx_);
    matrix<double> const h(projected.view());
    auto const range = range_of_eigenvalues(h);
    if (range.largest < 30 * range.smallest) return range.smallest;
    auto const eigen = symmetric_eigen(h.view());
    if (!eigen.converged) return range.smallest;
    matrix<T> const rotation(eigen.vectors.view());
    gemm_into(transposed(rotation.view()), basis_.view(), next_, ctx_);
    std::swap(basis_, next_);
    gemm_into(transposed(rotation.view()), image_.view(), next_, ctx_);
    std::swap(image_, next_);
    return std::max(eigen.values.front(), 0.0);
  }

  /// Chebyshev polynomial of degree one on [0, edge]: next = (2 G / edge - 1) basis, from the image at hand; a plain power step
  /// without an edge.
  void filter_once(double edge) {
    if (edge > 0)
      combine_into(next_, static_cast<T>(2 / edge), image_, T(-1), basis_, T(0), basis_, ctx_);
    else
      next_ = image_;
  }

  /// Degree two: T_2(x) = 2 x T_1(x) - 1 grows four times as steeply beyond the edge as x^2 and stays in [-1, 1] inside.
  void filter_twice(double edge) {
    filter_once(edge);
    if (!(edge > 0)) return;
    multiply(next_, image_);
    combine_into(next_, static_cast<T>(4 / edge), image_, T(-2), next_, T(-1), basis_, ctx_);
  }

  matrix<T> const& gram_;
  context const& ctx_;
  matrix<T> basis_, image_, next_; // (count, side) each
  std::string notes_;
  row_orthonormalizer<T> orthonormalize_{ctx_, notes_};
  index_t multiplies_ = 0;
  index_t last_cost_ = 1;
};

/// Factors of rank r from orthonormal rows that span more: the best r directions inside [Rayleigh, Ritz].
template <class T>
[[nodiscard]] low_rank_factors<T> best_inside(matrix_view<T const> a, matrix<T> const& rows, index_t rank, context const& ctx) {
  index_t const count = rows.rows();
  matrix<T> projected(count, a.cols());
  gemm_into(rows.view(), a, projected, ctx);
  matrix<double> gram(count, count);
  add_gram_of(transposed(matrix_view<T const>(projected)), gram, ctx);
  auto const eigen = symmetric_eigen<double>(matrix_view<double const>(gram));
  if (!eigen.converged) throw error("truncated_low_rank: the eigenvalue iteration did not converge");
  matrix<T> rotation(count, rank);
  for (index_t i = 0; i < count; ++i)
    for (index_t k = 0; k < rank; ++k) rotation(i, k) = static_cast<T>(eigen.vectors(i, count - 1 - k));
  low_rank_factors<T> out{matrix<T>(a.rows(), rank), matrix<T>(rank, a.cols()), {}, 0, {}};
  gemm_into(transposed(rows.view()), rotation.view(), out.basis, ctx);
  gemm_into(transposed(rotation.view()), projected.view(), out.coefficients, ctx);
  out.singular_values = row_norms(out.coefficients);
  return out;
}

/// truncated_low_rank for a matrix whose squares neither overflow nor vanish.
template <class T>
[[nodiscard]] low_rank_factors<T> truncated_scaled(matrix_view<T const> a, index_t rank, index_t count,
                                                   truncated_config const& config, context const& ctx) {
  auto const gram = shorter_gram<T>(a, ctx);
  double total = 0;
  for (index_t i = 0; i < gram.rows(); ++i) total += static_cast<double>(gram(i, i));
  subspace_iteration<T> iteration(gram, count, ctx);
  auto rows = iteration.run(total, config);
  auto notes = iteration.notes();
  if (a.rows() > a.cols()) { // found right singular directions: their images span the left ones
    matrix<T> images(count, a.rows());
    gemm_into(rows.view(), transposed(a), images, ctx);
    row_orthonormalizer<T>(ctx, notes)(images, true);
    rows = std::move(images);
  }
  auto out = best_inside(a, rows, rank, ctx);
  out.multiplies = iteration.multiplies();
  out.fallbacks = std::move(notes);
  return out;
}

} // namespace detail

/// Nearly the best approximation of rank min(rank, m, n): the Gram matrix of the shorter side, Chebyshev-filtered subspace
/// iteration with rank + oversampling vectors from a start that depends on `ctx.seed` only, and the best `rank` directions
/// inside. With the default tolerance the residual stays within 1.003 of the optimal one, also on flat spectra (tests/linalg).
/// Below 0.5% of ||A||_F the float Gram matrix limits it (1.004 measured at 0.35%): there, ask for exact_low_rank.
/// If the subspace would be most of the space, exact_low_rank does it (reported in `fallbacks`). 2 max(m, n) min(m, n)^2 +
/// 2 multiplies (rank + oversampling) min(m, n)^2 operations; bits do not depend on the number of threads.
/// Rank 0 or an empty matrix gives empty factors, a zero matrix zero ones. @throws config_error if rank < 0 or the
/// configuration makes no sense; nonfinite_error on NaN or infinity.
template <class T = float>
[[nodiscard]] low_rank_factors<T> truncated_low_rank(matrix_view<std::type_identity_t<T> const> a, index_t rank,
                                                     truncated_config config = {}, context const& ctx = {}) {
  static_assert(std::is_same_v<T, float>, "truncated_low_rank works on float; exact_low_rank also takes double");
  if (rank < 0) throw config_error(message("truncated_low_rank: rank ", rank, " is negative"));
  if (config.oversampling < 0 || !(config.tolerance >= 0) || config.max_multiplies < 1)
    throw config_error(message("truncated_low_rank: oversampling ", config.oversampling, ", tolerance ", config.tolerance,
                               ", max_multiplies ", config.max_multiplies, "; needed are >= 0, >= 0 and >= 1"));
  index_t const side = std::min(a.rows(), a.cols());
  rank = std::min(rank, side);
  float const largest = detail::finite_absmax<float>(a);
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

} // namespace slim::inline SLIM_ABI
