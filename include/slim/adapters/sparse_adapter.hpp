#pragma once
/// @file
/// Sparse adapters: L pruned (2:4 runs on the sparse kernel), R fitted again to the pruned L.

#include "slim/adapters/diagonal_norm.hpp"
#include "slim/core/norms.hpp"
#include "slim/linalg/cholesky.hpp"
#include "slim/pruning/pruner.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Solves, prunes left^T (r x d_in, so N:M groups run along d_in) with the given pruner, then solves the least squares
/// R = argmin ||(E - (L R)^T) D||_F, D the solver's channel weights, in closed form: (L^T D^2 L) R = L^T D^2 E^T.
/// The reference runs 1000 Adam steps on both factors instead (slim/lora.py, prune_and_optimize_lora).
///
/// **Numerics** The r x r normal matrix is built and factorised in double, with 1e-8 of its mean diagonal added; if that fails
/// the unrefitted R stays, with a note.
template <diagonal_norm Solver, pruner Pruner>
class sparse_adapter : public detail::wraps_solver<Solver> {
public:
  sparse_adapter(Solver solver, Pruner thinning)
      : detail::wraps_solver<Solver>(std::move(solver)), thinning_(std::move(thinning)) {}

  template <std::same_as<float> T>
  [[nodiscard]] adapter solve(matrix_view<T const> e, calibration const& calib, context const& ctx = {}) const {
    adapter found = this->inner().solve(e, calib, ctx);
    if (found.rank() == 0) return found;
    matrix<float> left_rows(transposed(found.left.view()));
    found.left_mask = thinning_.select(matrix_view<float const>(left_rows.view()), calib, ctx);
    found.left_mask->apply_to(left_rows.view());
    found.left = matrix<float>(transposed(left_rows.view()));
    found.left_codes.reset(); // the refit leaves the grid of a quantized adapter: quantize after pruning, not before
    found.right_codes.reset();
    std::vector<float> const weights = this->channel_weights(calib);
    if (!refit_right(found, e, weights))
      found.notes.push_back("sparse adapter: normal matrix not positive definite, right factor not refitted");
    return unless_worse_than_none(std::move(found), e, ctx,
                                  [&](matrix_view<float const> rest) { return weighted_squared_norm(rest, weights); });
  }

  [[nodiscard]] std::string describe() const {
    return message(std::string(this->inner().describe()), ", left ", std::string(thinning_.describe()));
  }

private:
  template <class T>
  static bool refit_right(adapter& found, matrix_view<T const> e, std::vector<float> const& weights) {
    index_t const r = found.rank(), d_in = e.cols(), d_out = e.rows();
    matrix<double> normal(r, r), right(r, d_out);
    for (index_t j = 0; j < d_in; ++j) {
      double const square =
          static_cast<double>(weights[static_cast<std::size_t>(j)]) * static_cast<double>(weights[static_cast<std::size_t>(j)]);
      for (index_t k = 0; k < r; ++k) {
        double const scaled = square * static_cast<double>(found.left(j, k));
        if (scaled == 0.0) continue;
        for (index_t l = 0; l < r; ++l) normal(k, l) += scaled * static_cast<double>(found.left(j, l));
        for (index_t i = 0; i < d_out; ++i) right(k, i) += scaled * static_cast<double>(e(i, j));
      }
    }
    double trace = 0;
    for (index_t k = 0; k < r; ++k) trace += normal(k, k);
    double const damping = 1e-8 * trace / static_cast<double>(r);
    for (index_t k = 0; k < r; ++k) normal(k, k) += damping;
    if (!(trace > 0.0) || !cholesky_inplace(normal.view())) return false;
    solve_lower_inplace(matrix_view<double const>(normal.view()), right.view());
    solve_lower_transposed_inplace(matrix_view<double const>(normal.view()), right.view());
    for (index_t k = 0; k < r; ++k)
      for (index_t i = 0; i < d_out; ++i) found.right(k, i) = rounded_to(found.format, static_cast<float>(right(k, i)));
    return true;
  }

  Pruner thinning_;
};

} // namespace SLIM_ABI
} // namespace slim
