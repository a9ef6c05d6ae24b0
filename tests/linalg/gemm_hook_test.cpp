#include "slim/linalg/gemm.hpp"

#include "linalg/products.hpp"
#include "slim/joint/error_feedback.hpp"
#include "support/skip.hpp"

#ifdef SLIM_TEST_CBLAS
#include "slim/interop/cblas.hpp"
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace {

using slim::index_t;
using test::operand;

std::atomic<int> calls{0};
std::atomic<int> broken_rules{0};
thread_local bool in_task = false;

/// What a BLAS would do, by brute force; it counts its calls, and those that a BLAS would refuse.
void counting_sgemm(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                    index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  ++calls;
  bool const extents = m > 0 && n > 0 && k > 0;
  bool const strides = lda >= (transpose_a ? m : k) && ldb >= (transpose_b ? k : n) && ldc >= n;
  if (!extents || !strides || in_task) ++broken_rules;
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      double sum = 0;
      for (index_t p = 0; p < k; ++p)
        sum += static_cast<double>(transpose_a ? a[p * lda + i] : a[i * lda + p]) *
               static_cast<double>(transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
      float& to = c[i * ldc + j];
      double const old = beta == 0 ? 0.0 : static_cast<double>(beta) * static_cast<double>(to);
      to = static_cast<float>(static_cast<double>(alpha) * sum + old);
    }
}

slim::context hooked(slim::sgemm_function* hook = counting_sgemm) {
  slim::context ctx;
  ctx.sgemm = hook;
  return ctx;
}

/// Calls of the counting hook while f runs, none of them against the rules.
template <class F>
int calls_during(F const& f) {
  int const before = calls;
  f();
  REQUIRE(broken_rules == 0);
  return calls - before;
}

constexpr slim::destination all_modes[] = {slim::destination::overwrite, slim::destination::add, slim::destination::subtract};

void check_product(index_t m, index_t n, index_t k, int a_layout, int b_layout, slim::destination mode,
                   slim::context const& ctx) {
  CAPTURE(m, n, k, a_layout, b_layout, static_cast<int>(mode));
  operand const a(m, k, a_layout, 1), b(k, n, b_layout, 2);
  index_t const stride = n + 5; // the gap behind each row must stay as it is
  float const fill = mode == slim::destination::overwrite ? std::numeric_limits<float>::quiet_NaN() : 0.75f;
  std::vector<float> storage(static_cast<std::size_t>(m * stride + 5), fill);
  slim::matrix_view<float> const c(storage.data(), m, n, stride);
  for (index_t i = 0; i < m; ++i) std::fill_n(storage.data() + i * stride + n, 5, -3.0f);
  slim::matrix<float> before(m, n);
  for (index_t i = 0; i < before.size(); ++i) before.data()[i] = 0.75f;
  slim::gemm_into(a.matrix, b.matrix, c, mode, ctx);
  test::require_product(a.matrix, b.matrix, before, c, mode);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = n; j < stride; ++j) REQUIRE(storage[static_cast<std::size_t>(i * stride + j)] == -3.0f);
}

/// All layouts, all all_modes, sizes with 0 and 1 among them.
void check_products(slim::context const& ctx) {
  constexpr index_t sizes[][3] = {{0, 3, 4}, {3, 0, 4}, {3, 4, 0},    {1, 1, 1},   {1, 7, 5},
                                  {7, 1, 5}, {7, 5, 1}, {33, 17, 65}, {70, 64, 9}, {13, 300, 257}};
  for (auto const& [m, n, k] : sizes)
    for (int a_layout = 0; a_layout < 4; ++a_layout)
      for (int b_layout = 0; b_layout < 4; ++b_layout)
        for (auto const mode : all_modes) check_product(m, n, k, a_layout, b_layout, mode, ctx);
}

/// Says of each task that it is one.
struct telling_executor {
  void for_each(index_t count, slim::task_ref task) const {
    in_task = true;
    for (index_t k = 0; k < count; ++k) task(k);
    in_task = false;
  }
};

} // namespace

TEST_CASE("a product is right with a hook, whatever the strides and whoever computes it") {
  CHECK(calls_during([] { check_products(hooked()); }) > 0);
}

TEST_CASE("a hook computes once what a BLAS can read: neighbours in rows or in columns, strides forwards") {
  for (int a_layout = 0; a_layout < 4; ++a_layout)
    for (int b_layout = 0; b_layout < 4; ++b_layout)
      for (auto const mode : all_modes) {
        bool const readable = a_layout < 2 && b_layout < 2; // 2 has gaps both ways, 3 runs backwards
        CAPTURE(a_layout, b_layout);
        CHECK(calls_during([&] { check_product(5, 6, 7, a_layout, b_layout, mode, hooked()); }) == (readable ? 1 : 0));
      }
}

TEST_CASE("an empty product never reaches a hook") {
  CHECK(calls_during([] {
          for (auto const mode : all_modes) {
            check_product(0, 3, 4, 0, 0, mode, hooked());
            check_product(3, 0, 4, 0, 0, mode, hooked());
            check_product(3, 4, 0, 0, 0, mode, hooked());
          }
        }) == 0);
}

TEST_CASE("rows that overlap in memory are multiplied by our own kernels") {
  std::vector<float> const values{1, 2, 3, 4}, unit{1, 0, 0, 1};
  test::view const repeated(values.data(), 3, 2, 0, 1), sliding(values.data(), 3, 2, 1, 1), identity(unit.data(), 2, 2);
  slim::matrix<float> c(3, 2);
  for (auto const& a : {repeated, sliding}) {
    CHECK(calls_during([&] { slim::gemm_into(a, identity, c.view(), hooked()); }) == 0);
    CHECK(c == slim::matrix<float>(a));
  }
}

TEST_CASE("strides and extents beyond an int are not handed to a BLAS") { // nothing here is read
  float const value = 0;
  index_t const largest = std::numeric_limits<int>::max();
  CHECK(slim::detail::as_blas_operand(test::view(&value, 2, 2, largest, 1)).has_value());
  CHECK_FALSE(slim::detail::as_blas_operand(test::view(&value, 2, 2, largest + 1, 1)).has_value());
  CHECK_FALSE(slim::detail::as_blas_operand(test::view(&value, 2, 2, 1, largest + 1)).has_value());
  float result = 7;
  test::view const row(&value, 1, largest + 1), column(&value, largest + 1, 1);
  slim::matrix_view<float> const to(&result, 1, 1);
  CHECK(calls_during([&] {
          CHECK_FALSE(slim::detail::multiply_by_hook(counting_sgemm, row, column, to, slim::destination::add));
        }) == 0);
  CHECK(result == 7);
}

TEST_CASE("Gram matrices stay ours unless asked, cross products go to the hook") {
  operand const x(600, 20, 0, 1), y(600, 9, 0, 2);
  slim::matrix<float> const inputs(x.matrix), outputs(y.matrix);
  slim::matrix<double> gram(20, 20), cross(20, 9);
  CHECK(calls_during([&] { slim::add_gram(inputs, gram, hooked()); }) == 0);
  CHECK(calls_during([&] { slim::add_cross(inputs, outputs, cross, hooked()); }) == 2); // panels of 512 tokens
}

namespace {

/// Sums in float, one after the other; and below the diagonal of a square product, something else.
void careless_sgemm(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                    index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  counting_sgemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      float sum = 0;
      for (index_t p = 0; p < k; ++p) sum += a[p * lda + i] * b[p * ldb + j];
      c[i * ldc + j] = i > j ? -1.0f : sum;
    }
}

slim::context with_gram_block(index_t tokens) {
  slim::context ctx = hooked(careless_sgemm);
  ctx.gram_block = tokens;
  return ctx;
}

} // namespace

TEST_CASE("whole blocks of a Gram matrix go to the hook if asked, and are added in double") {
  // Sums are exact inside a block; added in float, the last blocks would be lost.
  slim::matrix<float> x(25, 3);
  x(2, 0) = 4096.0f;
  for (index_t t = 10; t < 25; ++t) x(t, 0) = x(t, 1) = 1.0f;
  slim::matrix<double> gram(3, 3);
  CHECK(calls_during([&] { slim::add_gram(x, gram, with_gram_block(10)); }) == 2); // 5 tokens are left over
  CHECK(gram(0, 0) == 16777216.0 + 15.0);
  CHECK(gram(0, 1) == 15.0);
  CHECK(gram(1, 0) == 15.0); // not what the hook says below the diagonal
  CHECK(gram(2, 2) == 0.0);
  CHECK(calls_during([&] { slim::add_gram(x, gram, with_gram_block(26)); }) == 0); // no whole block
  CHECK(calls_during([&] { slim::add_gram(slim::matrix<float>(25, 0), slim::matrix<double>(0, 0), with_gram_block(10)); }) ==
        0);
  std::vector<float> const values(8, 1.0f);
  slim::matrix<double> small(3, 3);
  slim::matrix_view<float const> const overlapping(values.data(), 5, 3, 1); // rows that no BLAS reads
  CHECK(calls_during([&] { slim::add_gram(overlapping, small, with_gram_block(2)); }) == 0);
  CHECK(small(2, 0) == 5.0);
}

TEST_CASE("a Gram matrix by the hook is within its bound of the one in double") {
  index_t const tokens = 700, d = 200, block = 300; // tiles of 96
  operand const made(tokens, d, 0, 3);
  slim::matrix<float> const x(made.matrix);
  slim::matrix<double> gram(d, d);
  CHECK(calls_during([&] { slim::add_gram(x, gram, with_gram_block(block)); }) == 2);
  for (index_t i = 0; i < d; ++i)
    for (index_t j = i; j < d; ++j) {
      double exact = 0, left = 0, right = 0;
      for (index_t t = 0; t < tokens; ++t) {
        double const a = static_cast<double>(x(t, i)), b = static_cast<double>(x(t, j));
        exact += a * b;
        left += a * a;
        right += b * b;
      }
      REQUIRE(std::abs(gram(i, j) - exact) <= static_cast<double>(block) * 0x1p-23 * std::sqrt(left * right));
      REQUIRE(gram(i, j) == gram(j, i));
    }
}

TEST_CASE("inside a parallel task products are our own") {
  CHECK(hooked().inside_task().sgemm == nullptr);
  operand const rows(300, 300, 0, 1), tokens(400, 300, 0, 2);
  slim::calibration calib(300, {.gram = true});
  calib.observe(slim::matrix<float>(tokens.matrix).view());
  telling_executor const where;
  slim::context ctx = hooked(); // a call inside a task breaks the rules that the hook checks
  ctx.where = where;
  slim::matrix<float> const w(rows.matrix);
  slim::error_feedback const compressor(slim::quantized_set(slim::uniform_grid{}, slim::dense_pattern{}), {.descents = 1});
  CHECK(calls_during([&] { CHECK(compressor.compress(w.view(), calib, ctx).weight.rows() == 300); }) > 0);
}

#ifdef SLIM_TEST_CBLAS
TEST_CASE("a product through CBLAS equals the brute-force one") { check_products(hooked(slim::sgemm_by_cblas)); }

TEST_CASE("NaN and infinity pass through CBLAS to the rows and columns that read them, and nowhere else") {
  operand const a(30, 41, 0, 1), b(41, 37, 1, 2);
  slim::matrix<float> left(a.matrix), right(b.matrix), c(30, 37);
  left(1, 40) = std::numeric_limits<float>::quiet_NaN();
  right(3, 36) = std::numeric_limits<float>::infinity();
  slim::gemm_into(left.view(), right.view(), c.view(), hooked(slim::sgemm_by_cblas));
  for (index_t i = 0; i < 30; ++i)
    for (index_t j = 0; j < 37; ++j) {
      CAPTURE(i, j);
      REQUIRE(std::isnan(c(i, j)) == (i == 1));
      if (i != 1) REQUIRE(std::isinf(c(i, j)) == (j == 36));
    }
}
#else
TEST_CASE("a product through CBLAS equals the brute-force one") {
  slim_test::skip("OpenBLAS is not installed (libopenblas-dev)");
}
#endif
