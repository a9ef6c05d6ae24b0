#pragma once
/// @file
/// Least squares on a mask in double, a row at a time, by elimination; and plain errors. No code of the library's solvers.

#include "slim/pruning/mask.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <cmath>
#include <utility>
#include <vector>

namespace slim_test {

using slim::index_t;

/// X^T X + damping * mean diagonal, from a calibration with a Gram matrix.
inline slim::matrix<double> damped_gram(slim::calibration const& calib, double damping) {
  slim::matrix<double> c(calib.gram());
  double mean = 0;
  for (index_t j = 0; j < c.rows(); ++j) mean += c(j, j) / static_cast<double>(c.rows());
  for (index_t j = 0; j < c.rows(); ++j) c(j, j) += damping * mean;
  return c;
}

/// tr((W - S) C (W - S)^T) of one row.
template <class A, class B>
double row_error(slim::matrix<A> const& w, slim::matrix<B> const& s, slim::matrix<double> const& c, index_t i) {
  double error = 0;
  for (index_t a = 0; a < c.rows(); ++a)
    for (index_t b = 0; b < c.rows(); ++b)
      error += (static_cast<double>(w(i, a)) - static_cast<double>(s(i, a))) * c(a, b) *
               (static_cast<double>(w(i, b)) - static_cast<double>(s(i, b)));
  return error;
}

template <class A, class B>
double total_error(slim::matrix<A> const& w, slim::matrix<B> const& s, slim::matrix<double> const& c) {
  double error = 0;
  for (index_t i = 0; i < w.rows(); ++i) error += row_error(w, s, c, i);
  return error;
}

/// A x = b with partial pivoting; columns without a pivot get 0.
inline std::vector<double> solved(slim::matrix<double> a, std::vector<double> b) {
  index_t const n = a.rows();
  for (index_t k = 0; k < n; ++k) {
    index_t pivot = k;
    for (index_t i = k + 1; i < n; ++i)
      if (std::abs(a(i, k)) > std::abs(a(pivot, k))) pivot = i;
    for (index_t j = 0; j < n; ++j) std::swap(a(k, j), a(pivot, j));
    std::swap(b[static_cast<std::size_t>(k)], b[static_cast<std::size_t>(pivot)]);
    if (a(k, k) == 0.0) continue;
    for (index_t i = k + 1; i < n; ++i) {
      double const f = a(i, k) / a(k, k);
      for (index_t j = k; j < n; ++j) a(i, j) -= f * a(k, j);
      b[static_cast<std::size_t>(i)] -= f * b[static_cast<std::size_t>(k)];
    }
  }
  for (index_t k = n - 1; k >= 0; --k) {
    auto const at = static_cast<std::size_t>(k);
    for (index_t j = k + 1; j < n; ++j) b[at] -= a(k, j) * b[static_cast<std::size_t>(j)];
    b[at] = a(k, k) == 0.0 ? 0.0 : b[at] / a(k, k);
  }
  return b;
}

/// The minimiser over rows supported on the mask: C_kk s_k = C_k: w.
inline slim::matrix<double> least_squares(slim::matrix<float> const& w, slim::mask const& kept, slim::matrix<double> const& c) {
  slim::matrix<double> out(w.rows(), w.cols());
  for (index_t i = 0; i < w.rows(); ++i) {
    std::vector<index_t> support;
    for (index_t j = 0; j < w.cols(); ++j)
      if (kept.kept(i, j)) support.push_back(j);
    auto const n = static_cast<index_t>(support.size());
    slim::matrix<double> a(n, n);
    std::vector<double> b(support.size());
    for (index_t p = 0; p < n; ++p) {
      index_t const row = support[static_cast<std::size_t>(p)];
      for (index_t q = 0; q < n; ++q) a(p, q) = c(row, support[static_cast<std::size_t>(q)]);
      for (index_t j = 0; j < w.cols(); ++j) b[static_cast<std::size_t>(p)] += c(row, j) * static_cast<double>(w(i, j));
    }
    std::vector<double> const s = solved(std::move(a), std::move(b));
    for (index_t p = 0; p < n; ++p) out(i, support[static_cast<std::size_t>(p)]) = s[static_cast<std::size_t>(p)];
  }
  return out;
}

/// Activations with correlated channels: a few common factors, noise, channels of different loudness.
inline slim::matrix<float> correlated_activations(index_t tokens, index_t channels, std::uint64_t seed) {
  index_t const factors = std::max<index_t>(channels / 4, 1);
  slim::matrix<float> const common = slim::testing::normal_matrix(tokens, factors, seed),
                            loading = slim::testing::normal_matrix(factors, channels, seed + 1),
                            noise = slim::testing::normal_matrix(tokens, channels, seed + 2);
  slim::matrix<float> x(tokens, channels);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < channels; ++j) {
      double value = 0.7 * static_cast<double>(noise(t, j));
      for (index_t k = 0; k < factors; ++k)
        value +=
            static_cast<double>(common(t, k)) * static_cast<double>(loading(k, j)) / std::sqrt(static_cast<double>(factors));
      x(t, j) = static_cast<float>(value * std::exp(slim::random_normal(seed + 3, static_cast<std::uint64_t>(j))));
    }
  return x;
}

} // namespace slim_test
