// context.products = bf16: operands are rounded, sums are not; and what must be exact is computed in float anyway.

#include "slim/core/random.hpp"
#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::destination, slim::index_t, slim::matrix;

slim::context rounding() {
  slim::context ctx;
  ctx.products = slim::product_inputs::bf16;
  return ctx;
}

matrix<float> normal(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> out(rows, cols);
  for (index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return out;
}

/// Integers of at most 8 bits, which bf16 holds, so that products and their sums are exact.
matrix<float> integers(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> out = normal(rows, cols, seed);
  for (index_t k = 0; k < out.size(); ++k) out.data()[k] = std::round(10 * out.data()[k]);
  return out;
}

matrix<float> rounded(matrix<float> a) {
  if (slim::detail::has_bf16_products())
    for (index_t k = 0; k < a.size(); ++k) a.data()[k] = static_cast<float>(slim::bf16(a.data()[k]));
  return a;
}

} // namespace

TEST_CASE("products in bf16 are exact where bf16 holds the operands: any extents, strides and destination") {
  for (index_t const m : {50, 97, 200})
    for (index_t const n : {49, 64, 1100})
      for (index_t const k : {1, 2, 77, 255, 256, 257, 513}) {
        matrix<float> const a = integers(m, k, 1), b = integers(k, n, 2), b_columns(slim::transposed(b.view()));
        for (auto const mode : {destination::overwrite, destination::add, destination::subtract}) {
          CAPTURE(m, n, k, static_cast<int>(mode));
          matrix<float> expected = integers(m, n, 3), found = expected, by_columns = expected;
          slim::gemm_into(a.view(), b.view(), expected.view(), mode);
          slim::gemm_into(a.view(), b.view(), found.view(), mode, rounding());
          slim::gemm_into(a.view(), slim::transposed(b_columns.view()), by_columns.view(), mode, rounding());
          REQUIRE(slim::testing::same_bits(found, expected));
          REQUIRE(slim::testing::same_bits(by_columns, expected));
        }
      }
}

TEST_CASE("products in bf16 are those of the rounded operands, with sums in float, and used where the machine has them") {
  index_t const m = 60, n = 130, k = 700;
  matrix<float> const a = normal(m, k, 1), b = normal(k, n, 2), ra = rounded(a), rb = rounded(b);
  matrix<float> exact(m, n), found(m, n), other(m, n);
  slim::gemm_into(a.view(), b.view(), exact.view());
  slim::gemm_into(a.view(), b.view(), found.view(), rounding());
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (index_t t = 0; t < k; ++t) {
        double const product = static_cast<double>(ra(i, t)) * static_cast<double>(rb(t, j));
        sum += product;
        size += std::abs(product);
      }
      REQUIRE(std::abs(static_cast<double>(found(i, j)) - sum) <= 40 * 1.2e-7 * size);
    }
  CHECK(slim::testing::same_bits(found, exact) != slim::detail::has_bf16_products());
  slim::testing::thread_team_executor const team;
  slim::gemm_into(a.view(), b.view(), other.view(), slim::testing::on(team, rounding()));
  CHECK(slim::testing::same_bits(other, found));

  slim::context scalar = rounding();
  scalar.simd = slim::simd_level::scalar; // a level without such products multiplies floats
  slim::context plain;
  plain.simd = slim::simd_level::scalar;
  slim::gemm_into(a.view(), b.view(), other.view(), scalar);
  slim::gemm_into(a.view(), b.view(), exact.view(), plain);
  CHECK(slim::testing::same_bits(other, exact));
}

TEST_CASE("a Gram matrix of bf16 products is that of the rounded inputs, symmetric to the last bit") {
  matrix<float> const x = normal(900, 203, 4), rx = rounded(x);
  matrix<double> found(203, 203), expected(203, 203);
  slim::add_gram(x.view(), found.view(), rounding());
  slim::add_gram(rx.view(), expected.view());
  for (index_t i = 0; i < 203; ++i)
    for (index_t j = 0; j < 203; ++j) {
      REQUIRE(found(i, j) == found(j, i));
      REQUIRE(std::abs(found(i, j) - expected(i, j)) < 2e-3);
    }
}

TEST_CASE("decompositions ignore that products may round") {
  matrix<float> const x = normal(900, 300, 5);
  matrix<double> gram(300, 300);
  slim::add_gram(x.view(), gram.view());
  matrix<float> plain(300, 300);
  for (index_t k = 0; k < plain.size(); ++k) plain.data()[k] = static_cast<float>(gram.data()[k]);
  matrix<float> other = plain, right = normal(300, 70, 6), right_again = right;
  REQUIRE(slim::cholesky_inplace(plain.view()));
  REQUIRE(slim::cholesky_inplace(other.view(), rounding()));
  CHECK(slim::testing::same_bits(plain, other));
  slim::solve_lower_inplace<float>(plain.view(), right.view());
  slim::solve_lower_inplace<float>(plain.view(), right_again.view(), rounding());
  CHECK(slim::testing::same_bits(right, right_again));
}
