#include "slim/core/norms.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("squared norms are sums of squares, the same on every executor") {
  for (named_matrix const& m : hard_matrices()) {
    INFO(m.name);
    matrix_view<float const> const a = m.values.view();
    std::vector<float> weights;
    for (index_t j = 0; j < a.cols(); ++j)
      weights.push_back(0.5f + static_cast<float>(random_uniform(1, static_cast<std::uint64_t>(j))));
    long double plain = 0, weighted = 0;
    for (index_t i = 0; i < a.rows(); ++i)
      for (index_t j = 0; j < a.cols(); ++j) {
        auto const x = static_cast<long double>(a(i, j)), w = static_cast<long double>(weights[static_cast<std::size_t>(j)]);
        plain += x * x;
        weighted += x * w * x * w;
      }
    double const norm = squared_norm(a, on(serial_executor{}));
    CHECK(norm == Approx(static_cast<double>(plain)).epsilon(1e-12).margin(1e-300));
    CHECK(weighted_squared_norm(a, weights) == Approx(static_cast<double>(weighted)).epsilon(1e-12).margin(1e-300));
    CHECK(norm == squared_norm(a, on(thread_team_executor{4})));
    CHECK(norm == squared_norm(a, on(backwards_executor{})));
    CHECK(squared_norm(m.values.data(), m.values.size()) == Approx(norm).epsilon(1e-12));
  }
  matrix<float> wide = normal_matrix(5, 9, 2); // rows further apart than they are long
  double sum = 0;
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 4; ++j) sum += std::pow(static_cast<double>(wide(i, j + 3)), 2);
  CHECK(squared_norm(matrix_view<float const>(wide.view().block(0, 3, 5, 4)), context{}) == Approx(sum).epsilon(1e-14));
  wide(2, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(squared_norm(matrix_view<float const>(wide.view()), context{})));
}

TEST_CASE("differences go where they are told, onto an operand too") {
  for (named_matrix const& m : hard_shapes()) {
    INFO(m.name);
    matrix<float> const a = m.values, b = normal_matrix(a.rows(), a.cols(), 3);
    matrix<float> expected(a.rows(), a.cols()), c(a.rows(), a.cols()), onto_a = a, onto_b = b;
    for (index_t k = 0; k < a.size(); ++k) expected.data()[k] = a.data()[k] - b.data()[k];
    subtract_into(a, b, c, on(thread_team_executor{3}));
    subtract_into(onto_a, b, onto_a, on(backwards_executor{}));
    subtract_into(a, onto_b, onto_b);
    CHECK(same_bits(c, expected));
    CHECK(same_bits(onto_a, expected));
    CHECK(same_bits(onto_b, expected));
  }
  matrix<float> a(2, 3), b(3, 2), c(2, 3);
  CHECK_THROWS_AS(subtract_into(a, b, c), shape_error);
  CHECK_THROWS_AS(subtract_into(a, c, b), shape_error);
}

TEST_CASE("a power of two brings the largest number below one, and is 0 where there is none") {
  for (float const x : {1.0f, 0.5f, 0.999f, 1.5f, 2.0f, 3e38f, 1e-38f, 1e-44f, 7.0f}) {
    INFO(x);
    double const scaled = std::ldexp(static_cast<double>(x), power_below(x));
    CHECK(scaled >= 0.5);
    CHECK(scaled < 1.0);
    CHECK(power_below(x, 3) == power_below(x) + 3);
    CHECK(power_below(static_cast<double>(x)) == power_below(x));
  }
  for (float const x : {0.0f, -0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    CHECK(power_below(x, 5) == 0);
}
