#pragma once
/// @file
/// Low-rank solvers whose norm is diagonal, and the norm of a solver that wraps another.

#include "slim/adapters/adapter.hpp"

#include <utility>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A low-rank solver that minimises ||E diag(w)||_F with one weight per input channel: `channel_weights(calibration)` returns
/// these d_in positive finite numbers, and `energy(E, calibration, ctx)` is the square of that norm. Solvers for a full Hessian
/// (exact_lora) have no such weights.
template <class S>
concept diagonal_norm = low_rank_solver<S> && requires(S const& s, calibration const& calib) {
  { s.channel_weights(calib) } -> std::same_as<std::vector<float>>;
};

namespace detail {

/// Base of a solver that wraps another one and measures errors as that one does.
template <low_rank_solver Solver>
class wraps_solver {
public:
  explicit wraps_solver(Solver solver) : solver_(std::move(solver)) {}

  [[nodiscard]] double energy(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) const {
    return solver_.energy(e, calib, ctx);
  }
  /// The inner solver's, if its norm is diagonal.
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const
    requires diagonal_norm<Solver>
  {
    return solver_.channel_weights(calib);
  }

protected:
  [[nodiscard]] Solver const& inner() const noexcept { return solver_; }

private:
  Solver solver_;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
