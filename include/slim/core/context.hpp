#pragma once
/// @file
/// `context`: how to run, as opposed to what to compute. Last argument of every algorithm, with a default.

#include "slim/core/executor.hpp"

#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {
/// The executor behind a default-made context; stateless, so one object serves every thread.
inline constexpr default_executor shared_default_executor{};
/// The one of work inside a parallel task.
inline constexpr serial_executor shared_serial_executor{};
} // namespace detail

/// What to do about NaN and infinity in weights and activations.
enum class nonfinite {
  reject,    ///< throw nonfinite_error, naming the first row and column
  zero,      ///< treat as 0, count them in the report
  propagate, ///< do not look: the caller vouches for the data
};

/// Instruction set of the hand-written kernels. `automatic` asks the CPU once.
enum class simd_level { automatic, scalar, avx2, avx512 };

/// Somebody's product of row-major float matrices: C = alpha op(A) op(B) + beta C, op the transpose where the flag says so.
/// op(A) is (m, k), op(B) is (k, n), C is (m, n); lda, ldb, ldc are the distances of rows in memory. C is not read where beta
/// is 0. It may be called from any thread, and by several at a time.
using sgemm_function = void(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                            index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc);

/// Executor, policies and seed. Cheap to copy; refers to the executor, does not own it.
struct context {
  executor_ref where = detail::shared_default_executor;
  nonfinite on_nonfinite = nonfinite::reject;
  std::uint64_t seed = 0;
  simd_level simd = simd_level::automatic;
  /// Float products through someone else's BLAS (interop/cblas.hpp). Null: our own, whose bits do not depend on the number of
  /// threads. Not used inside parallel tasks, nor for Gram matrices.
  sgemm_function* sgemm = nullptr;

  /// slim::parallel_for on this context's executor.
  template <class F>
  void parallel_for(index_t n, index_t grain, F const& f) const {
    slim::parallel_for(where, n, grain, f);
  }

  /// slim::run_in_turn on this context's executor, of one loop or of two.
  template <class F>
  void run_in_turn(index_t n, F const& f) const {
    run_in_turn(n, f, 0, f);
  }
  template <class F, class G>
  void run_in_turn(index_t n, F const& f, index_t m, G const& g) const {
    slim::run_in_turn(where, n, f, m, g);
  }

  /// The context of work inside a parallel task: it stays on its thread.
  [[nodiscard]] context inside_task() const {
    context inner = *this;
    inner.where = detail::shared_serial_executor;
    inner.sgemm = nullptr;
    return inner;
  }
};

} // namespace SLIM_ABI
} // namespace slim
