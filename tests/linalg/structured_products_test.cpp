#include "linalg/executors.hpp"
#include "linalg/products.hpp"

#include "slim/linalg/structured_products.hpp"

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>

using namespace slim;

namespace {

matrix<float> normals(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> out(rows, cols);
  for (index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(random_normal(seed, static_cast<std::uint64_t>(k)));
  return out;
}

matrix<float> lower_triangle(index_t n, std::uint64_t seed) {
  matrix<float> out = normals(n, n, seed);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j) out(i, j) = 0.0f;
  return out;
}

struct shape {
  index_t rows, n;
};
// No row, one row, one strip, a strip and a column, strips and a rest, and shapes that take the paths for thin products.
constexpr shape shapes[] = {{0, 7}, {3, 0}, {1, 1}, {5, 511}, {1, 512}, {9, 513}, {70, 1100}, {130, 1024}};

} // namespace

TEST_CASE("a product with a lower triangle is the product") {
  for (auto const [rows, n] : shapes) {
    auto const a = normals(rows, n, 1);
    auto const l = lower_triangle(n, 2);
    matrix<float> c(rows, n);
    for (index_t k = 0; k < c.size(); ++k) c.data()[k] = 7.0f;
    multiply_lower_into(a, l.view(), c.view());
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (index_t k = 0; k < n; ++k) {
          double const term = static_cast<double>(a(i, k)) * static_cast<double>(l(k, j));
          sum += term;
          size += std::abs(term);
        }
        INFO(rows << " x " << n << " at " << i << ", " << j);
        REQUIRE(std::abs(static_cast<double>(c(i, j)) - sum) <= 1e-6 * size);
      }
  }
}

TEST_CASE("energies of rows under a symmetric matrix are those of the definition") {
  for (auto const [rows, n] : shapes) {
    auto const e = normals(rows, n, 3);
    matrix<float> h(n, n);
    auto const g = normals(n, n, 4);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) h(i, j) = g(std::max(i, j), std::min(i, j));
    auto const found = row_energies(e.view(), h.view());
    REQUIRE(found.size() == static_cast<std::size_t>(rows));
    for (index_t i = 0; i < rows; ++i) {
      double sum = 0, size = 0;
      for (index_t j = 0; j < n; ++j)
        for (index_t k = 0; k < n; ++k) {
          double const term = static_cast<double>(e(i, j)) * static_cast<double>(h(j, k)) * static_cast<double>(e(i, k));
          sum += term;
          size += std::abs(term);
        }
      INFO(rows << " x " << n << " row " << i);
      REQUIRE(std::abs(found[static_cast<std::size_t>(i)] - sum) <= 1e-6 * size);
    }
  }
}

TEST_CASE("structured products: bits do not depend on threads, NaN is not lost, shapes are checked") {
  auto const e = normals(70, 1100, 5), l = lower_triangle(1100, 6);
  matrix<float> one(70, 1100), many(70, 1100);
  test::thread_pool const pool;
  context pooled;
  pooled.where = pool;
  multiply_lower_into(e, l.view(), one.view(), {});
  multiply_lower_into(e, l.view(), many.view(), pooled);
  for (index_t k = 0; k < one.size(); ++k) REQUIRE(std::bit_cast<int>(one.data()[k]) == std::bit_cast<int>(many.data()[k]));
  CHECK(row_energies(e.view(), l.view(), {}) == row_energies(e.view(), l.view(), pooled));

  matrix<float> broken = e;
  broken(3, 900) = std::nanf("");
  multiply_lower_into(broken, l.view(), one.view(), {});
  CHECK(std::isnan(one(3, 0)));
  CHECK(!std::isnan(one(4, 0)));
  auto const energies = row_energies(broken.view(), l.view());
  CHECK(std::isnan(energies[3]));
  CHECK(!std::isnan(energies[4]));

  matrix<float> narrow(70, 1099);
  CHECK_THROWS_AS(multiply_lower_into(e, l.view(), narrow.view()), shape_error);
  CHECK_THROWS_AS(row_energies(narrow.view(), l.view()), shape_error);
}
