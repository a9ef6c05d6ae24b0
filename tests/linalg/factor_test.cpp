#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/eigh.hpp"

#include "linalg/executors.hpp"
#include "slim/core/random.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

namespace {

using slim::index_t;

template <class T>
slim::matrix<T> random_matrix(index_t rows, index_t cols, std::uint64_t seed) {
  slim::matrix<T> out(rows, cols);
  for (index_t i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<T>(slim::random_normal(seed, static_cast<std::uint64_t>(i)));
  return out;
}

/// B^T B / n + identity / 2: eigenvalues between 0.5 and about 4.5, whatever n.
template <class T>
slim::matrix<T> positive_definite(index_t n, std::uint64_t seed) {
  auto const b = random_matrix<double>(n, n, seed);
  slim::matrix<double> sum(n, n);
  for (index_t k = 0; k < n; ++k)
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) sum(i, j) += b(k, i) * b(k, j) / static_cast<double>(n);
  slim::matrix<T> out(sum.view());
  for (index_t i = 0; i < n; ++i) out(i, i) += T(0.5);
  return out;
}

/// max |x - y| in double.
template <class T>
double distance(slim::matrix<T> const& x, slim::matrix<T> const& y) {
  double largest = 0;
  for (index_t i = 0; i < x.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(x.data()[i]) - static_cast<double>(y.data()[i])));
  return largest;
}

/// L X or L^T X by definition, in double, from the lower triangle only.
template <class T>
slim::matrix<T> apply_lower(slim::matrix<T> const& l, slim::matrix<T> const& x, bool transpose) {
  slim::matrix<double> sum(x.rows(), x.cols());
  for (index_t i = 0; i < l.rows(); ++i)
    for (index_t k = 0; k <= i; ++k)
      for (index_t j = 0; j < x.cols(); ++j) {
        if (transpose)
          sum(k, j) += static_cast<double>(l(i, k)) * static_cast<double>(x(i, j));
        else
          sum(i, j) += static_cast<double>(l(i, k)) * static_cast<double>(x(k, j));
      }
  return slim::matrix<T>(sum.view());
}

template <class T>
void check_factor(index_t n) {
  CAPTURE(n, sizeof(T));
  auto const a = positive_definite<T>(n, 1);
  auto l = a;
  for (index_t i = 0; i < n; ++i) // the upper triangle is not read
    for (index_t j = i + 1; j < n; ++j) l(i, j) = std::numeric_limits<T>::quiet_NaN();
  REQUIRE(slim::cholesky_inplace(l.view()));
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j) REQUIRE(l(i, j) == T(0));
  slim::matrix<T> l_transposed(slim::transposed(l.view()));
  // Backward stable: |L L^T - A| <= (n + 1) eps |L| |L^T|, whose elements are below 5; rounding is random, so sqrt(n) fits.
  double const eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  double const bound = 10 * std::sqrt(static_cast<double>(n) + 1) * eps;
  REQUIRE(distance(apply_lower(l, l_transposed, false), a) < bound);

  auto garbage = l; // the solves do not read above the diagonal either
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j) garbage(i, j) = std::numeric_limits<T>::quiet_NaN();
  for (index_t const cols : {0, 1, 3, 150}) {
    auto const x = random_matrix<T>(n, cols, 2);
    auto forward = apply_lower(l, x, false), backward = apply_lower(l, x, true);
    slim::solve_lower_inplace<T>(garbage, forward.view());
    slim::solve_lower_transposed_inplace<T>(garbage, backward.view());
    REQUIRE(distance(forward, x) < 40 * bound); // condition number of L below 3
    REQUIRE(distance(backward, x) < 40 * bound);
  }
}

} // namespace

TEST_CASE("a Cholesky factor times its transpose is the matrix, and the solves undo the factor") {
  for (index_t const n : {0, 1, 2, 17, 127, 128, 129, 300}) {
    check_factor<float>(n);
    check_factor<double>(n);
  }
}

TEST_CASE("a Cholesky factor across strips of the trailing update is right") { check_factor<float>(700); }

TEST_CASE("the solves need no dense right-hand side") {
  auto l = positive_definite<float>(150, 3);
  REQUIRE(slim::cholesky_inplace(l.view()));
  auto const x = random_matrix<float>(150, 7, 4);
  auto const image = apply_lower(l, x, false);
  slim::matrix<float> wide(150, 20);
  for (index_t i = 0; i < 150; ++i)
    for (index_t j = 0; j < 20; ++j) wide(i, j) = j < 7 ? image(i, j) : 3.0f;
  slim::solve_lower_inplace<float>(l, wide.view().block(0, 0, 150, 7));
  for (index_t i = 0; i < 150; ++i)
    for (index_t j = 0; j < 20; ++j) {
      if (j < 7)
        REQUIRE(std::abs(wide(i, j) - x(i, j)) < 1e-3f);
      else
        REQUIRE(wide(i, j) == 3.0f);
    }
}

TEST_CASE("matrices that are not positive definite are refused without an exception") {
  for (index_t const n : {1, 50, 200})
    for (double const bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      CAPTURE(n, bad);
      auto a = positive_definite<double>(n, 5);
      a(n - 1, n - 1) = bad;
      slim::matrix<float> b(a.view());
      CHECK_FALSE(slim::cholesky_inplace(a.view()));
      CHECK_FALSE(slim::cholesky_inplace(b.view()));
    }
}

TEST_CASE("the bits of a Cholesky factor and of its solves are the same for any executor") {
  auto const a = positive_definite<float>(400, 6);
  auto const b = random_matrix<float>(400, 300, 7);
  slim::serial_executor const serial;
  test::thread_pool const pool;
  slim::context one, many;
  one.where = serial;
  many.where = pool;
  auto l1 = a, l2 = a;
  REQUIRE(slim::cholesky_inplace(l1.view(), one));
  REQUIRE(slim::cholesky_inplace(l2.view(), many));
  CHECK(l1 == l2);
  auto x1 = b, x2 = b;
  slim::solve_lower_inplace<float>(l1, x1.view(), one);
  slim::solve_lower_inplace<float>(l1, x2.view(), many);
  CHECK(x1 == x2);
  slim::solve_lower_transposed_inplace<float>(l1, x1.view(), one);
  slim::solve_lower_transposed_inplace<float>(l1, x2.view(), many);
  CHECK(x1 == x2);
}

TEST_CASE("shapes that do not fit are named") {
  slim::matrix<float> a(2, 3), b(4, 1), l(3, 3);
  CHECK_THROWS_WITH(slim::cholesky_inplace(a.view()), Catch::Contains("2 x 3"));
  CHECK_THROWS_WITH(slim::solve_lower_inplace<float>(l, b.view()), Catch::Contains("3 x 3") && Catch::Contains("4 x 1"));
  CHECK_THROWS_AS(slim::symmetric_eigen(a.view()), slim::shape_error);
}

TEST_CASE("eigenvalues ascend, eigenvectors are orthonormal, and together they are the matrix") {
  for (index_t const n : {0, 1, 2, 33, 90}) {
    CAPTURE(n);
    auto a = positive_definite<double>(n, 8);
    auto const expected = a;
    for (index_t i = 0; i < n; ++i)
      for (index_t j = i + 1; j < n; ++j) a(i, j) = 1e9; // only the lower triangle is read
    auto const eigen = slim::symmetric_eigen(a.view());
    REQUIRE(eigen.converged);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) {
        double product = 0, overlap = 0;
        for (index_t k = 0; k < n; ++k) {
          product += eigen.values[static_cast<std::size_t>(k)] * eigen.vectors(i, k) * eigen.vectors(j, k);
          overlap += eigen.vectors(k, i) * eigen.vectors(k, j);
        }
        REQUIRE(std::abs(product - expected(i, j)) < 1e-12);
        REQUIRE(std::abs(overlap - (i == j ? 1.0 : 0.0)) < 1e-12);
      }
    for (std::size_t k = 1; k < eigen.values.size(); ++k) REQUIRE(eigen.values[k - 1] <= eigen.values[k]);
  }
}

TEST_CASE("an eigenproblem with NaN in it says that it did not converge") {
  auto a = positive_definite<float>(5, 9);
  a(3, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(slim::symmetric_eigen(a.view()).converged);
}
