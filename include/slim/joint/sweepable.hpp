#pragma once
/// @file
/// The concept of a set of admissible weights that solvers can move in: what joint_slr needs of a grid and a pattern.

#include "slim/calibration/calibration.hpp"
#include "slim/core/elementwise.hpp"
#include "slim/joint/row_sweep.hpp"
#include "slim/linalg/structured_products.hpp"
#include "slim/quantization/sparse_codes.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A set of (d_out x d_in) weight matrices, each given by codes on a mask. Concretely, S satisfies `sweepable` if
///
///  * `S::mask_type` (slim::mask or none) and `S::codes_type` (a quantized_matrix) name the parts; an element of the set is a
///    `sparse_codes<mask_type, codes_type>`, below p, whose matrix is `p.values(ctx)`;
///  * `start(V, calibration, ctx)` is a first element near V;
///  * `sweep(V, U, p, options, ctx)` replaces p by an element found with error feedback, U as in linalg/feedback_factor.hpp;
///  * `refine(gradient, H, p, ctx)` and `refit(gradient, H, p, ctx)` move codes and scales without ever raising ||V - S||_H
///    beyond rounding; `gradient` is (V - S) H on entry and on return, to float rounding;
///  * `group()`: input channels that the mask ties together, M of N:M, else 1.
template <class S>
concept sweepable = requires(S const& s, matrix_view<float const> v, matrix_view<float> gradient, calibration const& calib,
                             feedback_options const& options, context const& ctx,
                             sparse_codes<typename S::mask_type, typename S::codes_type>& p) {
  requires quantized_matrix<typename S::codes_type>;
  { s.start(v, calib, ctx) } -> std::same_as<sparse_codes<typename S::mask_type, typename S::codes_type>>;
  s.sweep(v, v, p, options, ctx);
  s.refine(gradient, v, p, ctx);
  s.refit(gradient, v, p, ctx);
  { s.group() } -> std::same_as<index_t>;
  { s.describe() } -> std::convertible_to<std::string>;
};

/// An element of a set.
template <class Set>
using element_of = sparse_codes<typename Set::mask_type, typename Set::codes_type>;

/// (V - S) H, what refine and refit begin with. d_out d_in^2 multiply-adds. @throws shape_error
template <class Mask, class Codes>
[[nodiscard]] matrix<float> error_gradient(matrix_view<float const> v, sparse_codes<Mask, Codes> const& p,
                                           matrix_view<float const> h, context const& ctx = {}) {
  matrix<float> rest = p.values(ctx), gradient(v.rows(), v.cols(), uninitialized);
  subtract_into(v, rest.view(), rest.view(), ctx);
  gemm_into(rest.view(), h, gradient.view(), ctx);
  return gradient;
}

/// ||V - S||_H^2 from its gradient (V - S) H. Double sums of float products. @throws shape_error
template <class Mask, class Codes>
[[nodiscard]] double error_energy(matrix_view<float const> v, sparse_codes<Mask, Codes> const& p,
                                  matrix_view<float const> gradient, context const& ctx = {}) {
  matrix<float> rest = p.values(ctx);
  subtract_into(v, rest.view(), rest.view(), ctx);
  std::vector<double> rows(static_cast<std::size_t>(v.rows()));
  detail::add_row_products(gradient, rest.view(), 1.0, rows, ctx);
  return std::max(std::accumulate(rows.begin(), rows.end(), 0.0), 0.0); // rounding may fall below zero
}

namespace detail {

/// Rounds of refine and refit on ||V - S||_H, from its gradient on.
template <sweepable Set>
void descend(Set const& set, matrix<float>& gradient, matrix_view<float const> h, element_of<Set>& p, int rounds,
             context const& ctx) {
  for (int k = 0; k < rounds; ++k) {
    set.refine(gradient.view(), h, p, ctx);
    set.refit(gradient.view(), h, p, ctx);
  }
}

/// The same for any V and S.
template <sweepable Set>
void descend(Set const& set, matrix_view<float const> v, matrix_view<float const> h, element_of<Set>& p, int rounds,
             context const& ctx) {
  if (rounds == 0) return;
  matrix<float> gradient = error_gradient(v, p, h, ctx);
  descend(set, gradient, h, p, rounds, ctx);
}

} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
