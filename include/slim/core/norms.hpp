#pragma once
/// @file
/// Squared Frobenius norms, in double. They differ in the order of summation, hence in bits; none depends on the executor.

#include "slim/core/elementwise.hpp"

#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Sum of squares of consecutive numbers, in eight interleaved partial sums.
template <class T>
[[nodiscard]] double squared_norm(T const* x, index_t size) {
  double lane[8] = {};
  index_t j = 0;
  for (; j + 8 <= size; j += 8)
    for (index_t l = 0; l < 8; ++l) lane[l] += static_cast<double>(x[j + l]) * static_cast<double>(x[j + l]);
  for (; j < size; ++j) lane[0] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/// ||A||_F^2: rows as above, in parallel, then added in order.
template <class T>
[[nodiscard]] double squared_norm(matrix_view<T const> a, context const& ctx) {
  std::vector<double> of_row(static_cast<std::size_t>(a.rows()));
  ctx.parallel_for(a.rows(), detail::rows_per_task(a.cols()), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) of_row[static_cast<std::size_t>(i)] = squared_norm(a.row(i), a.cols());
  });
  double total = 0;
  for (double const row : of_row) total += row;
  return total;
}

/// ||A diag(w)||_F^2, one weight per column; one sum over all elements in row-major order.
[[nodiscard]] inline double weighted_squared_norm(matrix_view<float const> a, std::vector<float> const& weights) {
  double sum = 0;
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) {
      double const x = static_cast<double>(a(i, j)) * static_cast<double>(weights[static_cast<std::size_t>(j)]);
      sum += x * x;
    }
  return sum;
}

namespace detail {

/// Largest |a|; NaN is passed over.
[[nodiscard]] inline float largest_of(matrix_view<float const> a) noexcept {
  float largest = 0.0f;
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) largest = std::max(largest, std::abs(a(i, j)));
  return largest;
}

} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
