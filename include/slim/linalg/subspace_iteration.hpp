#pragma once
/// @file
/// Finds the leading eigenvectors of a Gram matrix, for linalg/low_rank.hpp: a sparse sketch as the start, products with the
/// Gram matrix or with its factors, Chebyshev filters, Cholesky orthonormalisation.

#include "slim/core/finite.hpp"
#include "slim/core/norms.hpp"
#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/eigh.hpp"

#include "slim/core/random.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

inline void note(std::string& notes, std::string const& text) {
  if (notes.find(text) != std::string::npos) return;
  notes += (notes.empty() ? "" : "; ") + text;
}

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
    for (index_t i = 0; i < count; ++i) bound_row(q, i);
    matrix<double> gram(count, count);
    add_gram_of<double>(transposed(matrix_view<T const>(q)), gram, ctx_.in_fp32());
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

  /// A filter may leave numbers so large or small that their squares are none in float: such a row is scaled by a power of 2,
  /// and one that overflowed itself is replaced.
  void bound_row(matrix<T>& q, index_t i) {
    T largest = 0;
    bool finite = true;
    for (index_t j = 0; j < q.cols(); ++j) {
      finite = finite && is_finite(q(i, j));
      largest = std::max(largest, std::abs(q(i, j)));
    }
    if (!finite) return replace_row(q, i);
    if (largest == T(0) || (largest > T(0x1p-40) && largest < T(0x1p40))) return;
    int const exponent = -std::ilogb(largest);
    for (index_t j = 0; j < q.cols(); ++j) q(i, j) = std::ldexp(q(i, j), exponent);
  }

  /// A row that depends linearly on earlier rows adds no direction: a random row replaces it.
  void replace_row(matrix<T>& q, index_t i) {
    for (index_t j = 0; j < q.cols(); ++j) q(i, j) = static_cast<T>(random_normal(ctx_.seed + 1, fresh_++));
  }

  void normalize_rows(matrix<T>& q, matrix<double>& gram) const {
    index_t const count = q.rows();
    std::vector<double> inverse(static_cast<std::size_t>(count));
    for (index_t i = 0; i < count; ++i) inverse[static_cast<std::size_t>(i)] = 1.0 / std::sqrt(gram(i, i));
    ctx_.parallel_for(count, rows_per_task(q.cols()), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        double const scale = inverse[static_cast<std::size_t>(i)];
        for (index_t j = 0; j < count; ++j) gram(i, j) *= scale * inverse[static_cast<std::size_t>(j)];
        for (index_t j = 0; j < q.cols(); ++j) q(i, j) = static_cast<T>(static_cast<double>(q(i, j)) * scale);
      }
    });
  }

  context const& ctx_;
  std::string& notes_;
  std::uint64_t fresh_ = 0;
};

/// Sparse signs [Tropp, Yurtsever, Udell, Cevher 2019]: S (count, n), eight entries +-1 per column in random rows. S X is as
/// good a start as the product with a Gaussian matrix and costs little more than reading X.
class sparse_signs {
public:
  sparse_signs(index_t count, index_t n, std::uint64_t seed)
      : count_(count), entries_(static_cast<std::size_t>(n * per_column)) {
    for (std::size_t k = 0; k < entries_.size(); ++k) {
      std::uint64_t const bits = random_bits(seed, k);
      entries_[k] = {static_cast<index_t>((bits >> 1) % static_cast<std::uint64_t>(count)), (bits & 1) != 0 ? 1.0f : -1.0f};
    }
  }

  /// S X. Tasks are blocks of columns.
  [[nodiscard]] matrix<float> times(matrix_view<float const, strided> x, context const& ctx) const {
    constexpr index_t width = 256;
    matrix<float> out(count_, x.cols());
    ctx.parallel_for(x.cols(), width, [&](index_t begin, index_t end) {
      float row[width];
      for (index_t i = 0; i < x.rows(); ++i) {
        for (index_t j = begin; j < end; ++j) row[j - begin] = x(i, j);
        for (index_t k = i * per_column; k < (i + 1) * per_column; ++k) {
          auto const [where, sign] = entries_[static_cast<std::size_t>(k)];
          float* const sum = out.row(where) + begin;
          for (index_t j = 0; j < end - begin; ++j) sum[j] += sign * row[j];
        }
      }
    });
    return out;
  }

private:
  static constexpr index_t per_column = 8;
  struct entry {
    index_t row;
    float sign;
  };
  index_t count_;
  std::vector<entry> entries_;
};

/// G = B B^T, where B is A or, if A is tall, A^T. Rows are multiplied by G, or by B^T and B: whichever costs less for the
/// expected number of products. If more products are needed, G is formed later.
template <class T>
class gram_operator {
public:
  /// @param count rows that are multiplied at a time
  gram_operator(matrix_view<T const> a, index_t count, index_t expected, context const& ctx)
      : wide_(a.rows() <= a.cols() ? matrix_view<T const, strided>(a) : transposed(a)), count_(count), expected_(expected),
        energy_(squared_norm(a, ctx)), ctx_(ctx) {}

  [[nodiscard]] index_t side() const { return wide_.rows(); }
  /// The trace of G.
  [[nodiscard]] double energy() const { return energy_; }
  [[nodiscard]] index_t multiplies() const { return multiplies_; }

  /// out = rows G.
  void multiply(matrix<T> const& rows, matrix<T>& out) {
    if (gram_.empty() && worth_forming(multiplies_ < expected_ ? expected_ - multiplies_ : 4)) form();
    ++multiplies_;
    if (!gram_.empty()) return gemm_into(rows.view(), gram_.view(), out, ctx_.in_fp32());
    matrix<T> images(rows.rows(), wide_.cols(), uninitialized);
    gemm_into(rows.view(), wide_, images, ctx_.in_fp32());
    gemm_into(images.view(), transposed(wide_), out, ctx_.in_fp32());
  }

  /// `rows` random combinations of the rows of G: as a start they save one product.
  [[nodiscard]] matrix<T> sketch(index_t rows) {
    sparse_signs const signs(rows, side(), ctx_.seed);
    if (gram_.empty() && worth_forming(expected_, rows)) form();
    if (!gram_.empty()) return signs.times(gram_.view(), ctx_);
    auto const images = signs.times(wide_, ctx_);
    matrix<T> out(rows, side(), uninitialized);
    gemm_into(images.view(), transposed(wide_), out, ctx_.in_fp32());
    return out;
  }

private:
  /// Compares the operations that G costs with those that it saves in `products` products and in a sketch.
  [[nodiscard]] bool worth_forming(index_t products, index_t sketched = 0) const {
    double const length = static_cast<double>(wide_.cols()), n = static_cast<double>(side());
    double const saved =
        static_cast<double>(products * count_) * (4 * length - 2 * n) + static_cast<double>(sketched) * 2 * length;
    return n * length < saved;
  }

  void form() {
    gram_ = matrix<T>(side(), side());
    add_gram_of<T>(transposed(wide_), gram_, ctx_); // may read bf16: that turns the subspace, what is in it is found exactly
  }

  matrix_view<T const, strided> wide_;
  index_t count_, expected_;
  double energy_;
  context const& ctx_;
  matrix<T> gram_;
  index_t multiplies_ = 0;
};

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

/// Power and inverse iteration, a dozen steps each from a fixed start: enough for the extent of a spectrum.
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
  /// The best `rank` directions inside `count` are wanted. `start`: (k, side) rows to begin with; random ones fill up.
  subspace_iteration(gram_operator<T>& gram, index_t rank, index_t count, matrix<T> const& start, context const& ctx)
      : gram_(gram), ctx_(ctx), rank_(rank), started_(start.rows() > 0), basis_(count, gram.side()), image_(count, gram.side()),
        next_(count, gram.side()) {
    index_t const given = std::min(start.rows(), count);
    std::copy_n(start.data(), given * gram.side(), basis_.data());
    if (given < count) {
      auto const sketch = gram_.sketch(count - given);
      std::copy_n(sketch.data(), sketch.size(), basis_.row(given));
    }
    orthonormalize_(basis_, false);
  }

  /// Iterates until another product would add less than `tolerance`, as a share of the energy left, or until a few directions
  /// are far larger than the others.
  matrix<T> run(double tolerance, index_t max_multiplies) {
    for (;;) {
      gram_.multiply(basis_, image_);
      state const now = look();
      index_t const room = max_multiplies - gram_.multiplies();
      if (now.dominant > 0 && room > 0) return take_dominant(now.dominant);
      index_t const closing = closing_degree(now, tolerance);
      if (room < 1 && closing == 0) note(notes_, "subspace iteration stopped at max_multiplies");
      bool const settled = room < 1 || (closing > 0 && closing <= room + 1);
      filter(settled ? std::min(std::max<index_t>(closing, 1), room + 1) : std::min<index_t>(2, room), now);
      orthonormalize_(next_, settled);
      if (settled) return std::move(next_);
      std::swap(basis_, next_);
    }
  }

  /// Number of leading rows of the result of `run` that are so much larger than the others that float rounding hides those.
  /// They have to be removed from the matrix first.
  [[nodiscard]] index_t dominant() const { return dominant_; }
  [[nodiscard]] std::string const& notes() const { return notes_; }

private:
  /// Rows are turned to Ritz vectors above this ratio of Ritz values: each is then dominated by its own direction, and float
  /// rounding of the large ones does not bury the small ones under the filter of degree two (for three, much earlier).
  static constexpr double steep = 450, steep_for_three = 16;
  /// Above this ratio, rounding hides the small ones even in Ritz vectors.
  static constexpr double too_steep = 2e4;

  /// State of the subspace after a product.
  struct state {
    double edge;      ///< smallest Ritz value
    double ratio;     ///< largest Ritz value in units of the smallest
    double gain;      ///< what one more product adds, as a share of the energy left: ||R||^2 / edge, R = G Q - Q (Q^T G Q)
    index_t dominant; ///< number of leading rows that have to be removed from the matrix
  };

  [[nodiscard]] state look() {
    matrix<T> projected(basis_.rows(), basis_.rows());
    gemm_into(image_.view(), transposed(basis_.view()), projected, ctx_.in_fp32());
    double captured = 0;
    for (index_t i = 0; i < projected.rows(); ++i) captured += static_cast<double>(projected(i, i));
    double const left = std::max(gram_.energy() - captured, 1e-6 * gram_.energy());
    matrix<double> const h(projected.view());
    auto const range = range_of_eigenvalues(h);
    bool const first_of_start = std::exchange(started_, false);
    if (first_of_start || !(range.largest < steep * range.smallest)) return look_at_ritz_vectors(h, left);
    next_ = image_;
    gemm_into(projected.view(), basis_.view(), next_, destination::subtract, ctx_.in_fp32());
    double const residual = squared_norm(matrix_view<T const>(next_), ctx_);
    return {range.smallest, range.largest / range.smallest, residual / (range.smallest * left), 0};
  }

  /// The same after the rows have become Ritz vectors, in order of decreasing Ritz value: then the residuals of those that are
  /// wanted count alone, and it shows which dwarf the others.
  [[nodiscard]] state look_at_ritz_vectors(matrix<double> const& h, double left) {
    index_t const count = h.rows();
    auto const eigen = symmetric_eigen(h.view());
    if (!eigen.converged) throw error("truncated_low_rank: the eigenvalue iteration did not converge");
    matrix<T> rotation(count, count);
    for (index_t k = 0; k < count; ++k)
      for (index_t i = 0; i < count; ++i) rotation(k, i) = static_cast<T>(eigen.vectors(i, count - 1 - k));
    for (auto* const rows : {&basis_, &image_}) {
      gemm_into(rotation.view(), rows->view(), next_, ctx_.in_fp32());
      std::swap(*rows, next_);
    }
    double const largest = eigen.values.back(), edge = std::max(eigen.values.front(), 0.0);
    // Rounding of G moves the captured energy by about count * epsilon * largest. Steps of a filter need a factor of 16.
    double const buried = std::max(std::min(too_steep * edge, 2e-3 * left / (6e-8 * static_cast<double>(count))), 16 * edge);
    double const cut = largest > buried ? std::max({buried / 4, 16 * edge, 1e-5 * largest}) : largest;
    double total_residual = 0, missing = 0; // missing: energy that the rows above the cut have outside of the subspace
    index_t above = 0;
    for (index_t k = 0; k < rank_; ++k) {
      double const value = eigen.values[static_cast<std::size_t>(count - 1 - k)];
      double residual = 0;
      for (index_t j = 0; j < basis_.cols(); ++j) {
        double const r = static_cast<double>(image_(k, j)) - value * static_cast<double>(basis_(k, j));
        residual += r * r;
      }
      total_residual += residual;
      if (value <= cut) continue;
      ++above;
      missing += std::max(0.0, residual - 1e-12 * largest * largest) / value; // below, it is the rounding of the image
    }
    return {edge, largest / edge, total_residual / (edge * left), missing < 1e-3 * left ? above : 0};
  }

  /// Multiplies the leading rows once more, and keeps the others.
  matrix<T> take_dominant(index_t count) {
    dominant_ = count;
    std::copy_n(image_.data(), count * image_.cols(), basis_.data());
    return std::move(basis_);
  }

  /// Degree of the filter after which the subspace is good enough; 0 if none is. A filter leaves about 1/2, 1/4 or 1/8 of what
  /// was missing, which is up to four times `gain`.
  [[nodiscard]] static index_t closing_degree(state const& now, double tolerance) {
    if (now.gain < 0.1 * tolerance) return 1;
    if (now.gain < 0.55 * tolerance) return 2;
    return now.gain < tolerance && now.ratio < steep_for_three ? 3 : 0;
  }

  /// next = T_degree(2 G / edge - 1) basis, Chebyshev polynomials on [0, edge], from the image at hand: inside they stay in
  /// [-1, 1], beyond they grow as steeply as a polynomial can. The edge is moved a little beyond the smallest Ritz value, which
  /// is too small as long as the subspace has much to gain. A plain power step if the edge is 0.
  void filter(index_t degree, state const& now) {
    double const edge = now.edge * (1 + std::min(0.25, 20 * now.gain) / (degree == 3 ? 2 : 1));
    if (!(edge > 0)) {
      next_ = image_;
      return;
    }
    combine_into(next_, static_cast<T>(2 / edge), image_, T(-1), basis_, T(0), basis_, ctx_);
    for (index_t k = 1; k < degree; ++k) {
      gram_.multiply(next_, image_);
      combine_into(basis_, static_cast<T>(4 / edge), image_, T(-2), next_, T(-1), basis_, ctx_);
      std::swap(basis_, next_);
    }
  }

  gram_operator<T>& gram_;
  context const& ctx_;
  index_t rank_;
  bool started_;                   // from given rows that were not examined yet
  matrix<T> basis_, image_, next_; // (count, side) each
  std::string notes_;
  row_orthonormalizer<T> orthonormalize_{ctx_, notes_};
  index_t dominant_ = 0;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
