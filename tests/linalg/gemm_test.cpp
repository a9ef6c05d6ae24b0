#include "slim/linalg/gemm.hpp"

#include "linalg/executors.hpp"
#include "linalg/products.hpp"
#include "slim/core/matrix.hpp"
#include "slim/core/random.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace {

using slim::index_t;
using test::element;
using test::operand;
using test::require_product;

std::vector<slim::simd_level> levels() {
  std::vector<slim::simd_level> out{slim::simd_level::scalar};
  if (slim::best_simd_level() >= slim::simd_level::avx2) out.push_back(slim::simd_level::avx2);
  if (slim::best_simd_level() >= slim::simd_level::avx512) out.push_back(slim::simd_level::avx512);
  return out;
}

slim::context context_at(slim::simd_level level) {
  slim::context ctx;
  ctx.simd = level;
  return ctx;
}

void check_product(index_t m, index_t n, index_t k, int a_layout, int b_layout, slim::destination mode,
                   slim::simd_level level) {
  CAPTURE(m, n, k, a_layout, b_layout, static_cast<int>(mode), static_cast<int>(level));
  operand const a(m, k, a_layout, 1), b(k, n, b_layout, 2);
  index_t const stride = n + 5; // the gap behind each row must stay as it is
  std::vector<float> storage(static_cast<std::size_t>(m * stride + 5), 0.75f);
  slim::matrix_view<float> const c(storage.data(), m, n, stride);
  slim::matrix<float> before(m, n);
  for (index_t i = 0; i < before.size(); ++i) before.data()[i] = 0.75f;
  slim::gemm_into(a.matrix, b.matrix, c, mode, context_at(level));
  require_product(a.matrix, b.matrix, before, c, mode);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = n; j < stride; ++j) REQUIRE(storage[static_cast<std::size_t>(i * stride + j)] == 0.75f);
}

slim::matrix<float> random_matrix(index_t rows, index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (index_t i = 0; i < out.size(); ++i) out.data()[i] = element(seed, i);
  return out;
}

slim::matrix<float> product(slim::matrix<float> const& a, slim::matrix<float> const& b_transposed, slim::context const& ctx) {
  slim::matrix<float> c(a.rows(), b_transposed.rows());
  slim::gemm_into(a.view(), slim::transposed(b_transposed.view()), c, ctx);
  return c;
}

} // namespace

TEST_CASE("a product equals the brute-force one for every size from 0 to 70, any strides, any level") {
  slim::destination const modes[] = {slim::destination::overwrite, slim::destination::add, slim::destination::subtract};
  for (auto const level : levels())
    for (index_t size = 0; size <= 70; ++size)
      for (std::uint64_t draw = 0; draw < 12; ++draw) {
        auto const pick = [&](std::uint64_t which, std::uint64_t count) {
          return static_cast<index_t>(slim::random_bits(99, (draw * 71 + static_cast<std::uint64_t>(size)) * 8 + which) %
                                      count);
        };
        index_t extent[3] = {pick(0, 71), pick(1, 71), pick(2, 71)};
        extent[draw % 3] = size;
        check_product(extent[0], extent[1], extent[2], static_cast<int>(pick(3, 4)), static_cast<int>(pick(4, 4)),
                      modes[pick(5, 3)], level);
      }
}

TEST_CASE("a product is right across the borders of blocks, tiles and strips") {
  for (auto const level : levels()) {
    for (index_t const k : {255, 256, 257, 513}) check_product(13, 33, k, 0, 1, slim::destination::add, level);
    for (index_t const m : {191, 193, 385}) check_product(m, 17, 19, 1, 0, slim::destination::subtract, level);
    check_product(200, 1100, 40, 0, 0, slim::destination::overwrite, level);
    check_product(9, 2100, 300, 2, 3, slim::destination::overwrite, level);
  }
}

TEST_CASE("matrices with one row or one column multiply right at any inner size") {
  for (auto const level : levels())
    for (index_t const k : {1, 7, 8, 16, 31, 1000})
      for (int a_layout = 0; a_layout < 4; ++a_layout)
        for (int b_layout = 0; b_layout < 4; ++b_layout) {
          check_product(1, 70, k, a_layout, b_layout, slim::destination::overwrite, level);
          check_product(70, 1, k, a_layout, b_layout, slim::destination::add, level);
          check_product(1, 1, k, a_layout, b_layout, slim::destination::subtract, level);
          check_product(3, 513, k, a_layout, b_layout, slim::destination::overwrite, level);
        }
}

TEST_CASE("a B larger than what is packed at a time is multiplied strip by strip") {
  index_t const k = slim::detail::gemm_packed_floats / 128, n = 300, m = 9; // 128 columns fit, 300 take three strips
  slim::matrix<float> a(m, k), b(n, k), c(m, n);
  for (index_t i = 0; i < m; ++i)
    for (index_t p = 0; p < k; p += 1021) a(i, p) = static_cast<float>(i + 1);
  for (index_t j = 0; j < n; ++j)
    for (index_t p = 0; p < k; ++p) b(j, p) = static_cast<float>(j % 7);
  slim::gemm_into(a.view(), slim::transposed(b.view()), c);
  for (index_t i = 0; i < m; ++i) // small integers: exact
    for (index_t j = 0; j < n; ++j)
      if (c(i, j) != static_cast<float>((i + 1) * (j % 7) * ((k + 1020) / 1021)))
        FAIL("element " << i << ", " << j << " is " << c(i, j));
}

TEST_CASE("the bits of a product are the same for 1, 2 and 4 threads and for a user's pool") {
  slim::serial_executor const serial;
  test::thread_pool const pool;
  for (auto const level : levels())
    for (index_t const m : {3, 100, 500}) {
      auto const a = random_matrix(m, 700, 3), b = random_matrix(600, 700, 4);
      auto ctx = context_at(level);
      ctx.where = serial;
      auto const expected = product(a, b, ctx);
      ctx.where = pool;
      CHECK(product(a, b, ctx) == expected);
#if defined(_OPENMP)
      for (int const threads : {1, 2, 4}) {
        slim::openmp_executor const team{threads};
        ctx.where = team;
        CHECK(product(a, b, ctx) == expected);
      }
#endif
    }
}

TEST_CASE("NaN and infinity reach exactly the rows and columns that read them") {
  for (auto const level : levels())
    for (index_t const m : {2, 30}) {
      auto a = random_matrix(m, 41, 5), b = random_matrix(37, 41, 6);
      a(1, 40) = std::numeric_limits<float>::quiet_NaN();
      b(36, 3) = std::numeric_limits<float>::infinity();
      auto const c = product(a, b, context_at(level));
      for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < 37; ++j) {
          CAPTURE(i, j);
          REQUIRE(std::isnan(c(i, j)) == (i == 1));
          if (i != 1) REQUIRE(std::isinf(c(i, j)) == (j == 36));
        }
    }
}

TEST_CASE("a product of matrices that do not fit names all shapes, and a level the machine lacks is refused") {
  slim::matrix<float> a(2, 3), b(4, 5), c(2, 5);
  CHECK_THROWS_WITH(slim::gemm_into(a.view(), b.view(), c), Catch::Contains("(2 x 3) (4 x 5) -> 2 x 5"));
  if (slim::best_simd_level() < slim::simd_level::avx512)
    CHECK_THROWS_AS(slim::resolve(slim::simd_level::avx512), slim::config_error);
  CHECK(slim::resolve(slim::simd_level::scalar) == slim::simd_level::scalar);
  CHECK(slim::resolve(slim::simd_level::automatic) == slim::best_simd_level());
}

TEST_CASE("a Gram matrix equals the brute-force one, is symmetric to the last bit, and adds to what is there") {
  for (auto const level : levels())
    for (index_t const d : {1, 5, 31, 96, 97, 200})
      for (index_t const tokens : {0, 1, 40, 256, 600}) {
        CAPTURE(d, tokens, static_cast<int>(level));
        auto const x = random_matrix(tokens, d, 7);
        slim::matrix<double> gram(d, d);
        for (index_t i = 0; i < d; ++i) gram(i, i) = 1000.0;
        slim::add_gram(x, gram, context_at(level));
        for (index_t i = 0; i < d; ++i)
          for (index_t j = 0; j < d; ++j) {
            double expected = i == j ? 1000.0 : 0.0, magnitude = 0;
            for (index_t t = 0; t < tokens; ++t) {
              double const term = static_cast<double>(x(t, i)) * static_cast<double>(x(t, j));
              expected += term;
              magnitude += std::abs(term);
            }
            // Each float sum has at most 256 terms, each rounded once.
            REQUIRE(gram(i, j) == gram(j, i));
            REQUIRE(std::abs(gram(i, j) - expected) <= 256 * 0x1p-24 * 1.01 * magnitude + 1e-10);
          }
      }
}

TEST_CASE("panels of a Gram matrix are added in double") {
  // 2^24 + 1 is no float: a float accumulator would stand still after the first block of 256 rows of 256.
  slim::matrix<float> x(512, 1);
  for (index_t t = 0; t < 512; ++t) x(t, 0) = t < 256 ? 256.0f : 0.0625f;
  slim::matrix<double> gram(1, 1);
  slim::add_gram(x, gram);
  CHECK(gram(0, 0) == 256.0 * 65536.0 + 1.0);
}

TEST_CASE("the bits of a Gram matrix are the same for any executor") {
  auto const x = random_matrix(700, 300, 8);
  slim::serial_executor const serial;
  test::thread_pool const pool;
  slim::matrix<double> expected(300, 300), again(300, 300);
  slim::context ctx;
  ctx.where = serial;
  slim::add_gram(x, expected, ctx);
  ctx.where = pool;
  slim::add_gram(x, again, ctx);
  CHECK(again == expected);
  slim::matrix<double> by_default(300, 300);
  slim::add_gram(x, by_default);
  CHECK(by_default == expected);
}
