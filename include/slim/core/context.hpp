#pragma once
/// @file
/// `context`: how to run, as opposed to what to compute. Last argument of every algorithm, with a default.

#include "slim/core/executor.hpp"

#include <cstdint>

namespace slim::inline SLIM_ABI {

namespace detail {
/// The executor behind a default-made context; stateless, so one object serves every thread.
inline constexpr default_executor shared_default_executor{};
} // namespace detail

/// What to do about NaN and infinity in weights and activations.
enum class nonfinite {
  reject,    ///< throw nonfinite_error, naming the first row and column
  zero,      ///< treat as 0, count them in the report
  propagate, ///< do not look: the caller vouches for the data
};

/// Instruction set of the hand-written kernels. `automatic` asks the CPU once.
enum class simd_level { automatic, scalar, avx2, avx512 };

/// Executor, policies and seed. Cheap to copy; refers to the executor, does not own it.
struct context {
  executor_ref where = detail::shared_default_executor;
  nonfinite on_nonfinite = nonfinite::reject;
  std::uint64_t seed = 0;
  simd_level simd = simd_level::automatic;

  /// slim::parallel_for on this context's executor.
  template <class F>
  void parallel_for(index_t n, index_t grain, F const& f) const {
    slim::parallel_for(where, n, grain, f);
  }

  /// slim::run_in_turn on this context's executor.
  template <class F, class G>
  void run_in_turn(index_t n, F const& f, index_t m, G const& g) const {
    slim::run_in_turn(where, n, f, m, g);
  }
};

} // namespace slim::inline SLIM_ABI
