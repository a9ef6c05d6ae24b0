#include "slim/linalg/low_rank.hpp"

#include "linalg/executors.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace {

using slim::index_t;

slim::matrix<float> gaussian(index_t rows, index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (index_t i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<float>(slim::random_normal(seed, static_cast<std::uint64_t>(i)));
  return out;
}

/// U V with `rank` decaying directions, plus noise.
slim::matrix<float> low_rank_plus_noise(index_t rows, index_t cols, index_t rank, float noise, float decay) {
  auto const u = gaussian(rows, rank, 11), v = gaussian(rank, cols, 12), e = gaussian(rows, cols, 13);
  slim::matrix<float> out(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      float sum = 0;
      for (index_t k = 0; k < rank; ++k) sum += u(i, k) * v(k, j) * std::pow(decay, static_cast<float>(k));
      out(i, j) = sum + noise * e(i, j);
    }
  return out;
}

/// Sparse as can be: random combinations of its rows must still find every direction.
slim::matrix<float> diagonal(index_t n) {
  slim::matrix<float> out(n, n);
  for (index_t i = 0; i < n; ++i) out(i, (i * 7) % n) = 1 / std::sqrt(static_cast<float>(i + 1));
  return out;
}

slim::matrix<float> with_column_scales(slim::matrix<float> a) {
  for (index_t j = 0; j < a.cols(); ++j) {
    auto const scale = static_cast<float>(std::exp(0.5 * slim::random_normal(14, static_cast<std::uint64_t>(j))));
    for (index_t i = 0; i < a.rows(); ++i) a(i, j) *= scale;
  }
  return a;
}

/// Singular values in double by one-sided Jacobi rotations: no Gram matrix, no code of ours or Eigen's. Descending.
std::vector<double> jacobi_singular_values(slim::matrix<float> const& a) {
  bool const wide = a.rows() < a.cols();
  index_t const n = wide ? a.rows() : a.cols(), m = wide ? a.cols() : a.rows();
  std::vector<std::vector<double>> column(static_cast<std::size_t>(n), std::vector<double>(static_cast<std::size_t>(m)));
  for (index_t j = 0; j < n; ++j)
    for (index_t i = 0; i < m; ++i)
      column[static_cast<std::size_t>(j)][static_cast<std::size_t>(i)] = static_cast<double>(wide ? a(j, i) : a(i, j));
  auto const dot = [](std::vector<double> const& x, std::vector<double> const& y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
  };
  for (bool rotated = true; rotated;) {
    rotated = false;
    for (std::size_t p = 0; p + 1 < column.size(); ++p)
      for (std::size_t q = p + 1; q < column.size(); ++q) {
        double const alpha = dot(column[p], column[p]), beta = dot(column[q], column[q]), gamma = dot(column[p], column[q]);
        if (std::abs(gamma) <= 1e-10 * std::sqrt(alpha * beta) || gamma == 0.0) continue;
        rotated = true;
        double const zeta = (beta - alpha) / (2 * gamma);
        double const t = (zeta < 0 ? -1.0 : 1.0) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        double const c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (std::size_t i = 0; i < column[p].size(); ++i) {
          double const x = column[p][i], y = column[q][i];
          column[p][i] = c * x - s * y;
          column[q][i] = s * x + c * y;
        }
      }
  }
  std::vector<double> out;
  for (auto const& x : column) out.push_back(std::sqrt(dot(x, x)));
  std::sort(out.rbegin(), out.rend());
  return out;
}

double optimal_residual(std::vector<double> const& singular_values, index_t rank) {
  double sum = 0;
  for (auto k = static_cast<std::size_t>(rank); k < singular_values.size(); ++k) sum += singular_values[k] * singular_values[k];
  return std::sqrt(sum);
}

/// ||A - basis coefficients||_F by definition, in double.
template <class T>
double residual(slim::matrix<T> const& a, slim::low_rank_factors<T> const& f) {
  double sum = 0;
  std::vector<double> row(static_cast<std::size_t>(a.cols()));
  for (index_t i = 0; i < a.rows(); ++i) {
    for (index_t j = 0; j < a.cols(); ++j) row[static_cast<std::size_t>(j)] = static_cast<double>(a(i, j));
    for (index_t k = 0; k < f.basis.cols(); ++k)
      for (index_t j = 0; j < a.cols(); ++j)
        row[static_cast<std::size_t>(j)] -= static_cast<double>(f.basis(i, k)) * static_cast<double>(f.coefficients(k, j));
    for (double const x : row) sum += x * x;
  }
  return std::sqrt(sum);
}

/// What every pair of factors promises: shapes, orthonormal basis, coefficients = basis^T A, values in order and captured.
template <class T>
void require_laws(slim::matrix<T> const& a, slim::low_rank_factors<T> const& f, index_t rank) {
  REQUIRE(f.basis.rows() == a.rows());
  REQUIRE(f.basis.cols() == rank);
  REQUIRE(f.coefficients.rows() == rank);
  REQUIRE(f.coefficients.cols() == a.cols());
  REQUIRE(f.singular_values.size() == static_cast<std::size_t>(rank));
  double const largest = rank > 0 ? static_cast<double>(f.singular_values[0]) : 0.0;
  for (index_t k = 0; k < rank; ++k) {
    for (index_t l = 0; l < rank; ++l) {
      double overlap = 0;
      for (index_t i = 0; i < a.rows(); ++i) overlap += static_cast<double>(f.basis(i, k)) * static_cast<double>(f.basis(i, l));
      REQUIRE(std::abs(overlap - (k == l ? 1.0 : 0.0)) < 1e-5); // float rounding of two rotations
    }
    double norm = 0;
    for (index_t j = 0; j < a.cols(); ++j) {
      double projection = 0;
      for (index_t i = 0; i < a.rows(); ++i) projection += static_cast<double>(f.basis(i, k)) * static_cast<double>(a(i, j));
      REQUIRE(std::abs(projection - static_cast<double>(f.coefficients(k, j))) <= 1e-5 * largest);
      norm += static_cast<double>(f.coefficients(k, j)) * static_cast<double>(f.coefficients(k, j));
    }
    auto const value = static_cast<double>(f.singular_values[static_cast<std::size_t>(k)]);
    REQUIRE(std::abs(std::sqrt(norm) - value) <= 1e-5 * largest);
    if (k > 0)
      REQUIRE(value <= static_cast<double>(f.singular_values[static_cast<std::size_t>(k) - 1]) * (1 + 1e-4) + 1e-5 * largest);
  }
}

struct named_matrix {
  char const* name;
  slim::matrix<float> a;
  index_t rank;
};

/// Wide, square and tall; flat, decaying, steep and noisy.
std::vector<named_matrix> spectra() {
  return {{"gaussian, square", gaussian(256, 256, 1), 26},
          {"gaussian, wide", gaussian(200, 330, 2), 20},
          {"gaussian, tall", gaussian(330, 200, 3), 20},
          {"decaying rank 64, column scales", with_column_scales(low_rank_plus_noise(256, 300, 64, 1.0f, 0.95f)), 26},
          {"exact rank 16 and noise", low_rank_plus_noise(220, 200, 16, 0.3f, 1.0f), 30},
          {"exact rank 8 and little noise", low_rank_plus_noise(200, 220, 8, 0.01f, 1.0f), 12},
          {"exact rank 8 and very little noise, tall", low_rank_plus_noise(220, 200, 8, 0.0003f, 1.0f), 12},
          {"exact rank 12 and noise below a hundred thousandth", low_rank_plus_noise(200, 220, 12, 0.00005f, 1.0f), 12},
          {"geometric down to little noise", low_rank_plus_noise(200, 220, 60, 0.003f, 0.8f), 30},
          {"geometric, more of it wanted", low_rank_plus_noise(230, 240, 120, 0.003f, 0.9f), 40},
          {"geometric", low_rank_plus_noise(210, 200, 90, 0.0f, 0.9f), 40},
          {"diagonal", diagonal(240), 24},
          {"rank 1", gaussian(180, 160, 4), 1}};
}

} // namespace

TEST_CASE("the exact factors leave the residual that the singular values say") {
  for (auto const& [name, a, rank] : spectra()) {
    CAPTURE(name);
    auto const singular_values = jacobi_singular_values(a);
    auto const f = slim::exact_low_rank(a, rank);
    require_laws(a, f, rank);
    CHECK(residual(a, f) <= 1.00001 * optimal_residual(singular_values, rank));
    for (std::size_t k = 0; k < f.singular_values.size(); ++k)
      CHECK(static_cast<double>(f.singular_values[k]) == Approx(singular_values[k]).epsilon(1e-5));
  }
}

TEST_CASE("the truncated factors stay within 1.003 of the optimal residual on flat, decaying and steep spectra") {
  for (auto const& [name, a, rank] : spectra()) {
    CAPTURE(name);
    auto const f = slim::truncated_low_rank(a, rank);
    CAPTURE(f.multiplies, f.fallbacks);
    require_laws(a, f, rank);
    CHECK(f.multiplies > 0); // not the exact way in disguise
    double const ratio = residual(a, f) / optimal_residual(jacobi_singular_values(a), rank);
    CHECK(ratio <= 1.003);
    CHECK(ratio >= 0.9999); // nothing beats the optimum
  }
}

TEST_CASE("few vectors are multiplied by the matrix itself, and find as much") {
  for (auto const& a : {gaussian(230, 260, 20), gaussian(260, 230, 21), low_rank_plus_noise(240, 250, 30, 1.0f, 0.95f)}) {
    auto const f = slim::truncated_low_rank(a, 8, {.oversampling = 12}); // 20 of 230: a Gram matrix would not pay
    require_laws(a, f, 8);
    CHECK(residual(a, f) <= 1.003 * optimal_residual(jacobi_singular_values(a), 8));
  }
}

TEST_CASE("from the solution one product is enough, from that of a similar matrix two") {
  for (auto const& [name, a, rank] : spectra()) {
    CAPTURE(name);
    double const optimal = optimal_residual(jacobi_singular_values(a), rank);
    auto const exact = slim::exact_low_rank(a, rank);
    auto const again = slim::truncated_low_rank(a, rank, {.start = exact.basis});
    CAPTURE(again.multiplies, again.fallbacks);
    require_laws(a, again, rank);
    CHECK(residual(a, again) <= 1.0005 * optimal);
    CHECK(again.multiplies <= slim::truncated_low_rank(a, rank).multiplies);
  }
  auto const a = gaussian(300, 320, 22);
  auto const exact = slim::exact_low_rank(a, 30);
  CHECK(slim::truncated_low_rank(a, 30, {.start = exact.basis}).multiplies == 1);
  auto changed = a;
  for (index_t k = 0; k < a.size(); ++k) changed.data()[k] += 0.05f * gaussian(1, 1, static_cast<std::uint64_t>(k)).data()[0];
  auto const f = slim::truncated_low_rank(changed, 30, {.start = exact.basis});
  CHECK(f.multiplies <= 2);
  CHECK(residual(changed, f) <= 1.003 * optimal_residual(jacobi_singular_values(changed), 30));
}

TEST_CASE("from garbage the factors are no worse than from nothing") {
  auto const wide = gaussian(200, 230, 23), tall = gaussian(230, 200, 24),
             steep = low_rank_plus_noise(200, 220, 8, 0.01f, 1.0f);
  for (auto const* a : {&wide, &tall, &steep}) {
    index_t const m = a->rows();
    double const optimal = optimal_residual(jacobi_singular_values(*a), 20);
    slim::matrix<float> same(m, 20), smallest(m, 20);
    for (index_t k = 0; k < same.size(); ++k) same.data()[k] = 1.0f;
    auto const all = slim::exact_low_rank(*a, 200); // invariant, and as wrong as can be
    for (index_t i = 0; i < m; ++i)
      for (index_t k = 0; k < 20; ++k) smallest(i, k) = all.basis(i, 199 - k);
    for (auto const& start :
         {gaussian(m, 20, 25), gaussian(m, 3, 26), gaussian(m, 150, 27), slim::matrix<float>(m, 20), same, smallest}) {
      CAPTURE(a->rows(), start.cols());
      auto const f = slim::truncated_low_rank(*a, 20, {.start = start});
      CAPTURE(f.multiplies, f.fallbacks);
      require_laws(*a, f, 20);
      CHECK(residual(*a, f) <= 1.003 * optimal);
    }
  }
  auto bad = gaussian(200, 5, 28);
  CHECK_THROWS_AS(slim::truncated_low_rank(tall, 5, {.start = bad}), slim::shape_error);
  bad(3, 4) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(slim::truncated_low_rank(wide, 5, {.start = bad}), slim::nonfinite_error);
}

TEST_CASE("a looser tolerance costs fewer products, and the limit of products is kept and reported") {
  auto const a = gaussian(300, 300, 5);
  auto const loose = slim::truncated_low_rank(a, 20, {.tolerance = 0.2});
  auto const tight = slim::truncated_low_rank(a, 20, {.tolerance = 1e-4});
  CHECK(loose.multiplies < tight.multiplies);
  CHECK(residual(a, tight) < residual(a, loose));
  auto const limited = slim::truncated_low_rank(a, 20, {.tolerance = 0, .max_multiplies = 4});
  CHECK(limited.multiplies <= 4);
  CHECK_THAT(limited.fallbacks, Catch::Contains("max_multiplies"));
}

TEST_CASE("rank 0, empty, zero, and ranks above the sides give what they should, without NaN") {
  auto const a = gaussian(7, 5, 6);
  for (bool const exact : {true, false}) {
    auto const solve = [exact](slim::matrix<float> const& x, index_t rank) {
      return exact ? slim::exact_low_rank(x, rank) : slim::truncated_low_rank(x, rank);
    };
    CAPTURE(exact);
    CHECK(solve(a, 0).basis.cols() == 0);
    auto const whole = solve(a, 100);
    require_laws(a, whole, 5);
    CHECK(residual(a, whole) < 1e-5);
    for (index_t const rows : {0, 1, 40})
      for (index_t const cols : {0, 1, 200}) {
        auto const f = solve(slim::matrix<float>(rows, cols), 3);
        index_t const rank = std::min({rows, cols, index_t{3}});
        CHECK(f.basis == slim::matrix<float>(rows, rank));
        CHECK(f.coefficients == slim::matrix<float>(rank, cols));
      }
    require_laws(gaussian(1, 90, 7), solve(gaussian(1, 90, 7), 2), 1);
    require_laws(gaussian(90, 1, 7), solve(gaussian(90, 1, 7), 2), 1);
    CHECK_THROWS_AS(solve(a, -1), slim::config_error);
  }
  CHECK_THROWS_AS(slim::truncated_low_rank(a, 1, {.oversampling = -1}), slim::config_error);
  CHECK_THROWS_AS(slim::truncated_low_rank(a, 1, {.max_multiplies = 0}), slim::config_error);
}

TEST_CASE("matrices whose rank is below the rank asked for are factored to rounding, with an orthonormal basis") {
  auto const a = low_rank_plus_noise(210, 190, 9, 0.0f, 1.0f);
  auto duplicates = gaussian(200, 200, 8); // small integers, two distinct rows: dependences are exact
  for (index_t i = 0; i < 200; ++i)
    for (index_t j = 0; j < 200; ++j) duplicates(i, j) = static_cast<float>((j % 3) * (i % 2 + 1) + (i % 2));
  slim::matrix<float> single(150, 170);
  single(149, 3) = -2.5f;
  for (auto const* x :
       {&a, static_cast<slim::matrix<float> const*>(&duplicates), static_cast<slim::matrix<float> const*>(&single)})
    for (bool const exact : {true, false}) {
      CAPTURE(exact, x->rows());
      auto const f = exact ? slim::exact_low_rank(*x, 20) : slim::truncated_low_rank(*x, 20);
      CAPTURE(f.fallbacks);
      require_laws(*x, f, 20);
      double norm = 0;
      for (index_t i = 0; i < x->size(); ++i) norm += static_cast<double>(x->data()[i]) * static_cast<double>(x->data()[i]);
      CHECK(residual(*x, f) <= 1e-5 * std::sqrt(norm));
    }
}

TEST_CASE("a tail that drowns in the rounding of the Gram matrix neither stops the iteration nor spoils what is above it") {
  // The edge of the filter is then noise, next to 0 for some of these matrices: squares of filtered rows overflow.
  index_t const n = 96, rank = 32;
  for (std::uint64_t const seed : {25u, 62u, 133u, 149u, 158u}) {
    INFO(seed);
    slim::matrix<float> a(n, n);
    auto const draw = [&](std::uint64_t of, index_t k) {
      return slim::random_normal(of + seed, static_cast<std::uint64_t>(k));
    };
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) {
        double value = 3.5e-4 * draw(0, i * n + j);
        for (index_t k = 0; k < rank; ++k)
          value +=
              (k == 0 ? 15.0 : 2.0 / (1 + static_cast<double>(k) * 0.4)) / 96 * draw(1000, k * n + i) * draw(2000, k * n + j);
        a(i, j) = static_cast<float>(value);
      }
    auto const found = slim::truncated_low_rank(a.view(), rank), best = slim::exact_low_rank(a.view(), rank);
    auto const left = [&](slim::low_rank_factors<float> const& f) {
      slim::matrix<float> rest(a);
      slim::gemm_into(f.basis.view(), f.coefficients.view(), rest.view(), slim::destination::subtract);
      return slim::squared_norm(slim::matrix_view<float const>(rest.view()), slim::context{});
    };
    CHECK(left(found) <= 1.003 * left(best));
  }
}

TEST_CASE("factors scale with the matrix, also where its squares overflow or vanish") {
  auto const a = gaussian(150, 160, 9);
  auto const f = slim::truncated_low_rank(a, 12);
  for (int const exponent : {-100, -50, 50, 100}) {
    auto scaled = a;
    for (index_t k = 0; k < a.size(); ++k) scaled.data()[k] = std::ldexp(a.data()[k], exponent);
    for (auto const& g : {slim::truncated_low_rank(scaled, 12), slim::exact_low_rank(scaled, 12)})
      for (std::size_t k = 0; k < 12; ++k)
        CHECK(std::ldexp(g.singular_values[k], -exponent) == Approx(f.singular_values[k]).epsilon(2e-3));
  }
}

TEST_CASE("NaN and infinity are refused with their place") {
  auto a = gaussian(100, 90, 10);
  a(17, 4) = std::numeric_limits<float>::infinity();
  a(18, 0) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(slim::truncated_low_rank(a, 3), Catch::Contains("row 17, column 4"));
  CHECK_THROWS_AS(slim::exact_low_rank(a, 3), slim::nonfinite_error);
}

TEST_CASE("the bits of low-rank factors are the same for 1, 2 and 4 threads and for a user's pool") {
  for (auto const& a : {gaussian(300, 240, 15), low_rank_plus_noise(200, 260, 8, 0.001f, 1.0f), gaussian(600, 500, 17)}) {
    slim::serial_executor const serial;
    test::thread_pool const pool;
    slim::context ctx;
    ctx.where = serial;
    auto const expected = slim::truncated_low_rank(a, 20, {}, ctx);
    auto const start = gaussian(a.rows(), 20, 18);
    auto const warm = slim::truncated_low_rank(a, 20, {.start = start}, ctx);
    auto const exact = slim::exact_low_rank(a, 20, ctx);
    auto const require_same = [&](slim::context const& other) {
      auto const again = slim::truncated_low_rank(a, 20, {}, other);
      CHECK(again.basis == expected.basis);
      CHECK(again.coefficients == expected.coefficients);
      CHECK(slim::truncated_low_rank(a, 20, {.start = start}, other).coefficients == warm.coefficients);
      CHECK(slim::exact_low_rank(a, 20, other).coefficients == exact.coefficients);
    };
    ctx.where = pool;
    require_same(ctx);
#if defined(_OPENMP)
    for (int const threads : {1, 2, 4}) {
      slim::openmp_executor const team{threads};
      ctx.where = team;
      require_same(ctx);
    }
#endif
  }
}

TEST_CASE("the seed moves the start and, up to the tolerance, not the result") {
  auto const a = gaussian(250, 260, 16);
  slim::context ctx;
  auto const first = slim::truncated_low_rank(a, 20, {}, ctx);
  ctx.seed = 1;
  auto const second = slim::truncated_low_rank(a, 20, {}, ctx);
  CHECK_FALSE(first.basis == second.basis);
  CHECK(residual(a, first) == Approx(residual(a, second)).epsilon(1e-3));
}
