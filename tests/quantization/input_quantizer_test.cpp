#include "slim/quantization/input_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

#include <set>

using namespace slim;
using namespace slim::testing;

namespace {

template <class Q>
matrix<float> rounded(Q const& q, matrix<float> x) {
  q.round_inplace(x.view());
  return x;
}

float largest_of(matrix<float> const& x) {
  float largest = 0;
  for (index_t k = 0; k < x.size(); ++k) largest = std::max(largest, std::abs(x.data()[k]));
  return largest;
}

/// All values of an 8-bit float with `mantissa` bits whose largest number is `largest`, from the definition of the format.
std::vector<double> grid_of_fp8(int mantissa, int bias, double largest) {
  std::vector<double> grid;
  for (int exponent = 0; exponent < (1 << (7 - mantissa)); ++exponent)
    for (int m = 0; m < (1 << mantissa); ++m) {
      double const value =
          exponent == 0 ? std::ldexp(m, 1 - bias - mantissa) : std::ldexp((1 << mantissa) + m, exponent - bias - mantissa);
      if (value <= largest) grid.push_back(value);
    }
  return grid;
}

} // namespace

TEST_CASE("FP8 inputs are the nearest numbers of the format, scaled so that max|x| is the largest") {
  struct format {
    fp8_format which;
    int mantissa, bias;
    double largest;
  };
  format const f = GENERATE(format{fp8_format::e4m3, 3, 7, 448.0}, format{fp8_format::e5m2, 2, 15, 57344.0});
  std::vector<double> const grid = grid_of_fp8(f.mantissa, f.bias, f.largest);
  CHECK(grid.back() == f.largest);
  matrix<float> const x = mapped(normal_matrix(13, 29, 1), [](float v) { return v * v * v; });
  matrix<float> const y = rounded(fp8_input(f.which), x);
  double const up = f.largest / static_cast<double>(largest_of(x));
  for (index_t k = 0; k < x.size(); ++k) {
    double const scaled = std::abs(static_cast<double>(x.data()[k])) * up,
                 got = std::abs(static_cast<double>(y.data()[k])) * up;
    double closest = grid[0];
    for (double const g : grid)
      if (std::abs(g - scaled) < std::abs(closest - scaled)) closest = g;
    CHECK(std::abs(got - scaled) <= std::abs(closest - scaled) + 1e-6 * scaled); // as near as any
    CHECK(*std::min_element(grid.begin(), grid.end(), [&](double a, double b) {
      return std::abs(a - got) < std::abs(b - got);
    }) == Approx(got).epsilon(1e-6)); // on the grid
    CHECK(std::signbit(x.data()[k]) == std::signbit(y.data()[k]));
  }
  CHECK(largest_of(y) == Approx(largest_of(x)).epsilon(1e-6));
}

TEST_CASE("by range means e4m3 below 448 and e5m2 from there on") {
  matrix<float> x = mapped(normal_matrix(3, 40, 2), [](float v) { return std::clamp(v * 50, -400.0f, 400.0f); });
  x(0, 0) = 447.0f;
  CHECK(same_bits(rounded(fp8_input(), x), rounded(fp8_input(fp8_format::e4m3), x)));
  x(0, 0) = -448.0f;
  CHECK(same_bits(rounded(fp8_input(), x), rounded(fp8_input(fp8_format::e5m2), x)));
  CHECK_FALSE(same_bits(rounded(fp8_input(fp8_format::e4m3), x), rounded(fp8_input(fp8_format::e5m2), x)));
}

TEST_CASE("int8 inputs are multiples of max|x| / 127, each the nearest") {
  matrix<float> const x = normal_matrix(17, 31, 3);
  matrix<float> const y = rounded(int8_input(), x);
  double const scale = static_cast<double>(largest_of(x)) / 127;
  for (index_t k = 0; k < x.size(); ++k) {
    double const steps = static_cast<double>(y.data()[k]) / scale;
    CHECK(std::abs(steps - std::round(steps)) < 1e-4);
    CHECK(std::abs(static_cast<double>(x.data()[k] - y.data()[k])) <= scale / 2 * (1 + 1e-5));
  }
}

TEST_CASE("inputs of zeros, tiny inputs and inputs with infinity stay as they are; NaN stays NaN") {
  auto const check = [](auto const& q) {
    CHECK(rounded(q, matrix<float>(2, 3)) == matrix<float>(2, 3));
    matrix<float> tiny = mapped(normal_matrix(2, 3, 4), [](float v) { return v * 1e-41f; });
    tiny(0, 0) = 0.0f;
    CHECK(rounded(q, tiny) == tiny);
    matrix<float> x = normal_matrix(2, 3, 5);
    x(1, 1) = std::numeric_limits<float>::quiet_NaN();
    matrix<float> const y = rounded(q, x);
    CHECK(std::isnan(y(1, 1)));
    CHECK(std::isfinite(y(0, 0)));
    x(1, 1) = std::numeric_limits<float>::infinity();
    CHECK(same_bits(rounded(q, x), x));
  };
  check(fp8_input());
  check(fp8_input(fp8_format::e5m2));
  check(int8_input());
}

TEST_CASE("rows of a wider matrix are rounded alone") {
  matrix<float> x = normal_matrix(6, 8, 6);
  matrix<float> const before = x;
  int8_input().round_inplace(x.view().block(1, 2, 3, 4));
  matrix<float> const part = rounded(int8_input(), matrix<float>(before.view().block(1, 2, 3, 4)));
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = 0; j < 8; ++j) {
      bool const inside = i >= 1 && i < 4 && j >= 2 && j < 6;
      CHECK(x(i, j) == (inside ? part(i - 1, j - 2) : before(i, j)));
    }
}
