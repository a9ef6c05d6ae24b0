#pragma once
/// @file
/// Adapters in few bits without losing what an exact solver found: its factors are ill-conditioned and must not be rounded one
/// by one. Rows of R are normalised (their lengths go to L, whose steps are per component), L is rounded with error feedback
/// under H, R is solved anew for that L, and rounded with error feedback under L^T H L (compare LPLR inside CALDERA,
/// arXiv 2405.18886).

#include "slim/adapters/adapter.hpp"
#include "slim/joint/row_sweep.hpp"
#include "slim/linalg/feedback_factor.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// Rows of A (any x n) in codes, with error feedback under the factor.
[[nodiscard]] inline integer_codes feed_back_rows(matrix<float>& a, matrix_view<float const> upper, adapter_format const& how,
                                                  context const& ctx) {
  uniform_grid const grid{.bits = how.bits,
                          .block = per_group(std::min(how.group, std::max<index_t>(a.cols(), 1))),
                          .scale_format = how.scale_format};
  integer_codes codes = grid.empty(a.rows(), a.cols());
  grid.fit(codes, a.view(), ctx);
  feed_back(a.view(), upper, grid, codes, nullptr, {}, ctx);
  return codes;
}

/// Rows of `left_rows` (r x d_in) take over the lengths of the rows of `right` (r x d_out), which become 1; the scales of
/// `codes`, if there are any, follow.
inline void normalize_right(matrix<float>& right, matrix<float>& left_rows, integer_codes* codes) {
  for (index_t k = 0; k < right.rows(); ++k) {
    double square = 0;
    for (index_t i = 0; i < right.cols(); ++i) square += static_cast<double>(right(k, i)) * static_cast<double>(right(k, i));
    if (!(square > 0.0)) continue;
    auto const length = static_cast<float>(std::sqrt(square));
    for (index_t i = 0; i < right.cols(); ++i) right(k, i) /= length;
    for (index_t j = 0; j < left_rows.cols(); ++j) left_rows(k, j) *= length;
    if (codes)
      for (index_t g = 0; g < codes->scales.cols(); ++g)
        codes->scales(k, g) = stored_scale(codes->scales.format(), codes->scales(k, g) * length);
  }
  if (codes) codes->dequantize_into(left_rows.view());
}

/// L^T H L for rows L^T (r x d_in), and L^T H.
struct projected_hessian {
  matrix<float> left_h; ///< r x d_in
  matrix<float> normal; ///< r x r
};
[[nodiscard]] inline projected_hessian project(matrix<float> const& left_rows, matrix_view<float const> h, context const& ctx) {
  projected_hessian out{matrix<float>(left_rows.rows(), left_rows.cols()), matrix<float>(left_rows.rows(), left_rows.rows())};
  gemm_into(left_rows.view(), h, out.left_h.view(), ctx.in_fp32());
  gemm_into(out.left_h.view(), transposed(left_rows.view()), out.normal.view(), ctx.in_fp32());
  return out;
}

/// R = (L^T H L)^-1 L^T H E^T; false if the normal matrix is singular to rounding.
template <std::same_as<float> T>
[[nodiscard]] bool solve_right(matrix<T>& right, matrix<float> const& left_rows, matrix_view<float const> e,
                               matrix_view<float const> h, context const& ctx) {
  auto const p = project(left_rows, h, ctx);
  index_t const r = left_rows.rows();
  double trace = 0;
  for (index_t k = 0; k < r; ++k) trace += static_cast<double>(p.normal(k, k));
  using wide = std::conditional_t<std::same_as<T, float>, double, T>;
  matrix<wide> normal(p.normal.view());
  for (index_t k = 0; k < r; ++k) normal(k, k) += 1e-7 * trace / static_cast<double>(r);
  if (!(trace > 0.0) || !cholesky_inplace(normal.view(), ctx)) return false;
  matrix<float> product(r, e.rows());
  gemm_into(p.left_h.view(), transposed(e), product.view(), ctx.in_fp32());
  matrix<wide> solution(product.view());
  solve_lower_inplace(matrix_view<wide const>(normal.view()), solution.view(), ctx);
  solve_lower_transposed_inplace(matrix_view<wide const>(normal.view()), solution.view(), ctx);
  right = matrix<float>(solution.view());
  return true;
}

/// A power of two that brings the entries of A near 1 if their products could overflow or vanish; else 1.
[[nodiscard]] inline float safe_scale(matrix_view<float const> a) {
  float const largest = largest_magnitude(a);
  if (!(largest > 0.0f) || (largest > 0x1p-20f && largest < 0x1p20f)) return 1.0f;
  return std::ldexp(1.0f, std::clamp(-std::ilogb(largest), -126, 126));
}

} // namespace detail

/// Rounds `a`, an adapter for the error E (d_out x d_in), into codes. `upper` is the feedback factor of H (d_in x d_in).
/// 2 r d_in^2 + r d_in d_out multiply-adds. @throws shape_error
template <std::same_as<float> T = float>
[[nodiscard]] adapter round_with_feedback(adapter a, matrix_view<float const> e, matrix_view<float const> h,
                                          matrix_view<float const> upper, adapter_format const& how, context const& ctx = {}) {
  if (a.rank() == 0) return a;
  if (float const scale = detail::safe_scale(e); scale != 1.0f) {
    matrix<float> near_one(e);
    for (index_t k = 0; k < near_one.size(); ++k) near_one.data()[k] *= scale;
    for (index_t k = 0; k < a.left.size(); ++k) a.left.data()[k] *= scale;
    adapter rounded = round_with_feedback<T>(std::move(a), near_one.view(), h, upper, how, ctx);
    if (!rounded.left_codes) return rounded;
    for (index_t k = 0; k < rounded.left_codes->scales.size(); ++k) {
      float& step = rounded.left_codes->scales.data()[k];
      step = detail::stored_scale(how.scale_format, step / scale);
    }
    rounded.left_codes->dequantize_into(rounded.left.view(), ctx);
    return rounded;
  }
  matrix<T> left_rows(transposed(a.left.view())), right = std::move(a.right);
  detail::normalize_right(right, left_rows, nullptr);
  integer_codes left = detail::feed_back_rows(left_rows, upper, how, ctx);
  if (!detail::solve_right(right, left_rows, e, h, ctx))
    a.notes.push_back("adapter: normal matrix not positive definite, right factor not solved anew");
  detail::normalize_right(right, left_rows, &left);
  auto p = detail::project(left_rows, h, ctx);
  double mean = 0;
  for (index_t k = 0; k < right.rows(); ++k) mean += static_cast<double>(p.normal(k, k)) / static_cast<double>(right.rows());
  for (index_t k = 0; k < right.rows(); ++k) p.normal(k, k) += static_cast<float>(mean > 0.0 ? 0.01 * mean : 1.0);
  matrix<float> right_rows(transposed(right.view()));
  auto const factor = factor_for_feedback<T>(p.normal.view(), ctx);
  if (factor.damping > 0.0) a.notes.push_back(message("adapter: damping of L^T H L raised by ", factor.damping));
  integer_codes const right_codes = detail::feed_back_rows(right_rows, factor.upper.view(), how, ctx);
  a.left = matrix<float>(transposed(left_rows.view()));
  a.right = matrix<float>(transposed(right_rows.view()));
  a.left_codes = transposed(left);
  a.right_codes = transposed(right_codes);
  return a;
}

} // namespace SLIM_ABI
} // namespace slim
