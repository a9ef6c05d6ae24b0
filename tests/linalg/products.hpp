#pragma once
// Operands in odd places of memory, and the product of two by brute force.

#include "slim/core/matrix.hpp"
#include "slim/core/random.hpp"
#include "slim/linalg/gemm.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

namespace test {

using slim::index_t;
using view = slim::matrix_view<float const, slim::strided>;

/// Signed numbers of magnitude 0.5 .. 1.5: no element is negligible, so no term can be forgotten unnoticed.
inline float element(std::uint64_t seed, index_t k) {
  double const u = slim::random_uniform(seed, static_cast<std::uint64_t>(k));
  return static_cast<float>(u < 0.5 ? 0.5 + 2 * u : 0.5 - 2 * u);
}

/// A matrix in an odd place of a larger buffer. Layouts: 0 row-major with a gap, 1 its transpose (neighbouring rows),
/// 2 both strides above 1, 3 both negative.
struct operand {
  operand(index_t rows, index_t cols, int layout, std::uint64_t seed)
      : buffer(static_cast<std::size_t>(6 * (rows + 3) * (cols + 3) + 64)) {
    for (std::size_t k = 0; k < buffer.size(); ++k) buffer[k] = element(seed, static_cast<index_t>(k));
    float const* const first = buffer.data() + 1;
    float const* const last = buffer.data() + buffer.size() - 2;
    if (layout == 0) matrix = view(first, rows, cols, cols + 3, 1);
    if (layout == 1) matrix = view(first, rows, cols, 1, rows + 2);
    if (layout == 2) matrix = view(first, rows, cols, 2 * cols + 3, 2);
    if (layout == 3) matrix = view(last, rows, cols, -(cols + 1), -1);
  }
  std::vector<float> buffer;
  view matrix;
};

/// Brute force in double, and the bound of the docstring: an error of one rounding for each of the k products and sums,
/// one more for adding to C.
inline void require_product(view a, view b, slim::matrix<float> const& before, slim::matrix_view<float const> c,
                            slim::destination mode) {
  for (index_t i = 0; i < c.rows(); ++i)
    for (index_t j = 0; j < c.cols(); ++j) {
      double sum = 0, magnitude = 0;
      for (index_t k = 0; k < a.cols(); ++k) {
        double const term = static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
        sum += term;
        magnitude += std::abs(term);
      }
      double const old = mode == slim::destination::overwrite ? 0.0 : static_cast<double>(before(i, j));
      double const expected = mode == slim::destination::subtract ? old - sum : old + sum;
      double const bound = static_cast<double>(a.cols() + 2) * 0x1p-24 * 1.01 * (magnitude + std::abs(old));
      double const error = std::abs(static_cast<double>(c(i, j)) - expected);
      if (!(error <= bound)) {
        CAPTURE(i, j, a.rows(), a.cols(), b.cols(), static_cast<double>(c(i, j)), expected, bound);
        FAIL("element differs");
      }
    }
}

} // namespace test
