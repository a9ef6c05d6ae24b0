#pragma once
/// @file
/// The factor that error feedback runs on, and the Hessian that is left when an adapter will absorb part of the error.

#include "slim/linalg/cholesky.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// U upper triangular with H^-1 = U^T U.
struct feedback_factor {
  matrix<float> upper;
  double damping = 0; ///< added to the diagonal, relative to its mean, before the factorisation succeeded; 0 if at once
};

/// Factor of H (n x n, symmetric positive definite): with J the reversal, J H J = L L^T gives U = J L^-1 J, one Cholesky
/// factorisation and one triangular inverse where GPTQ takes three steps. Not positive definite to rounding: tried again with
/// a ten times larger shift of the diagonal from 1e-4 of its mean. n^3 / 3 multiply-adds.
/// @throws shape_error; nonfinite_error if H holds NaN or infinity, so that no shift helps.
///
/// A template, like everything here that takes a decomposition, so that it is compiled only where it is used.
template <std::same_as<float> T = float>
[[nodiscard]] feedback_factor factor_for_feedback(matrix_view<float const> h, context const& ctx = {}) {
  if (h.rows() != h.cols()) throw shape_error(message("factor_for_feedback: H is ", h.rows(), " x ", h.cols()));
  index_t const n = h.rows();
  double mean = 0;
  for (index_t j = 0; j < n; ++j) mean += static_cast<double>(h(j, j)) / static_cast<double>(n);
  feedback_factor found;
  for (int attempt = 0;; ++attempt) {
    matrix<T> reversed(n, n, uninitialized);
    ctx.parallel_for(n, 64, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < n; ++j) reversed(i, j) = h(n - 1 - i, n - 1 - j);
    });
    for (index_t j = 0; j < n; ++j) reversed(j, j) += static_cast<float>(found.damping * mean);
    if (cholesky_inplace(reversed.view(), ctx)) {
      invert_lower_inplace(reversed.view(), ctx);
      std::reverse(reversed.data(), reversed.data() + reversed.size()); // J A J
      found.upper = std::move(reversed);
      return found;
    }
    if (attempt == 8) throw nonfinite_error("factor_for_feedback: H is not finite, or not positive definite by far");
    found.damping = attempt == 0 ? 1e-4 : 10 * found.damping;
  }
}

/// H - H P (P^T H P)^-1 P^T H: the Hessian left to errors E when the best multiple of the directions P (n x r) is taken off
/// each row of E afterwards (CALDERA, arXiv 2405.18886). Positive semidefinite; add damping before factoring it. Dependent
/// directions count once. O(n^2 r). @throws shape_error
template <std::same_as<float> T = float>
[[nodiscard]] matrix<float> without_directions(matrix_view<float const> h, matrix_view<float const> p,
                                               context const& ctx = {}) {
  index_t const n = h.rows(), r = p.cols();
  if (h.cols() != n || p.rows() != n)
    throw shape_error(message("without_directions: H is ", n, " x ", h.cols(), ", P ", p.rows(), " x ", r));
  matrix<float> left(h);
  if (r == 0) return left;
  matrix<float> hp(n, r), inner(r, r), unit(p); // only the span of P matters: lengths could overflow
  for (index_t k = 0; k < r; ++k) {
    double largest = 0;
    for (index_t j = 0; j < n; ++j) largest = std::max(largest, std::abs(static_cast<double>(p(j, k))));
    for (index_t j = 0; j < n && largest > 0.0; ++j) unit(j, k) = static_cast<float>(static_cast<double>(p(j, k)) / largest);
  }
  gemm_into(h, unit.view(), hp.view(), ctx.in_fp32());
  gemm_into(transposed(unit.view()), hp.view(), inner.view(), ctx.in_fp32());
  using wide = std::conditional_t<std::same_as<T, float>, double, T>;
  matrix<wide> normal(r, r);
  std::vector<double> scale(static_cast<std::size_t>(r));
  for (index_t k = 0; k < r; ++k) {
    double const length = static_cast<double>(inner(k, k));
    scale[static_cast<std::size_t>(k)] = length > 0.0 ? 1.0 / std::sqrt(length) : 0.0;
  }
  double shift = 1e-7;
  matrix<wide> factor;
  do {
    for (index_t k = 0; k < r; ++k)
      for (index_t l = 0; l < r; ++l) {
        double const mean = 0.5 * (static_cast<double>(inner(k, l)) + static_cast<double>(inner(l, k)));
        normal(k, l) = k == l ? 1.0 + shift : mean * scale[static_cast<std::size_t>(k)] * scale[static_cast<std::size_t>(l)];
      }
    factor = normal;
    shift *= 10;
  } while (!cholesky_inplace(factor.view(), ctx) && shift < 1.0);
  matrix<T> const lower(factor.view());
  matrix<T> rows(r, n);
  for (index_t k = 0; k < r; ++k)
    for (index_t j = 0; j < n; ++j)
      rows(k, j) = static_cast<float>(static_cast<double>(hp(j, k)) * scale[static_cast<std::size_t>(k)]);
  solve_lower_inplace<T>(lower.view(), rows.view(), ctx);
  gemm_into(transposed(rows.view()), rows.view(), left.view(), destination::subtract, ctx.in_fp32());
  return left;
}

} // namespace SLIM_ABI
} // namespace slim
