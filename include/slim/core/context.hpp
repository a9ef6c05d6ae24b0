#pragma once
/// @file
/// `context`: how to run, as opposed to what to compute. Last argument of every algorithm, with a default.

#include "slim/core/executor.hpp"
#include "slim/core/progress.hpp"

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

/// Instruction set of the hand-written kernels. `automatic` asks the CPU once. `amx` is avx512 with Intel's tiles for products
/// of packed codes with 8 tokens and more, which `automatic` does not choose: they have run in an emulator only.
enum class simd_level { automatic, scalar, avx2, avx512, amx };

/// How products of float matrices (gemm_into, add_gram, add_cross) read their operands. Sums are in float either way, and what
/// must be exact (decompositions, adapters, targets) is computed in float anyway.
enum class product_inputs {
  fp32,
  bf16, ///< rounded to bf16, relative error 2^-9, by CPUs that multiply those faster (AVX512-BF16: up to twice); elsewhere fp32
};

/// Somebody's product of row-major float matrices: C = alpha op(A) op(B) + beta C, op the transpose where the flag says so.
/// op(A) is (m, k), op(B) is (k, n), C is (m, n); lda, ldb, ldc are the distances of rows in memory. C is not read where beta
/// is 0. It may be called from any thread, and by several at a time.
using sgemm_function = void(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                            index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc);

/// Executor, policies, seed, and what the caller wants to know and to stop. Cheap to copy; refers to the executor and to the
/// progress callable, does not own them.
struct context {
  executor_ref where = detail::shared_default_executor;
  nonfinite on_nonfinite = nonfinite::reject;
  std::uint64_t seed = 0;
  simd_level simd = simd_level::automatic;
  product_inputs products = product_inputs::fp32;
  /// Float products through someone else's BLAS (interop/cblas.hpp). Null: our own, whose bits do not depend on the number of
  /// threads. Not used inside parallel tasks.
  sgemm_function* sgemm = nullptr;
  /// Tokens of the blocks in which `sgemm` computes Gram matrices too, for a BLAS so fast that both triangles and float sums
  /// over some thousand tokens are worth it (interop/cublas.hpp). 0: Gram matrices are our own.
  index_t gram_block = 0;
  /// A request to stop is honoured before every task: tasks that run end, the others do not begin, and the function throws
  /// slim::cancelled. Components and calibrations are then as they were before the call; a matrix that the caller handed over
  /// to be written (`..._into`, `apply_to`, `add_to`) may be half written. Without a request results do not depend on it.
  std::stop_token stop = {};
  /// Told how far compress() is: before each step and after the last, on the thread that called compress(), never twice at a
  /// time for one call of compress(), `done` never falling. What it throws ends the computation as it is. Nothing else calls
  /// it.
  progress_ref progress = {};

  /// slim::parallel_for on this context's executor, until it is stopped.
  template <class F>
  void parallel_for(index_t n, index_t grain, F const& f) const {
    slim::parallel_for(where, n, grain, f, stop);
  }

  /// slim::run_in_turn on this context's executor, of one loop or of two.
  template <class F>
  void run_in_turn(index_t n, F const& f) const {
    run_in_turn(n, f, 0, f);
  }
  template <class F, class G>
  void run_in_turn(index_t n, F const& f, index_t m, G const& g) const {
    slim::run_in_turn(where, n, f, m, g, stop);
  }

  /// For long work on one thread. @throws cancelled if the caller asked to stop.
  void throw_if_stopped() const {
    if (stop.stop_requested()) throw cancelled();
  }

  /// Between the steps of a computation: throw_if_stopped(), then tells `progress` that `done` of `total` steps are done and
  /// which one begins. After the last step (done == total) it does not throw: the result is there.
  void between_steps(std::string_view next, index_t done, index_t total) const {
    if (done < total) throw_if_stopped();
    progress({next, done, total});
  }

  /// The context of work inside a parallel task: it stays on its thread, stops with the others, and reports nothing.
  [[nodiscard, gnu::noinline]] context inside_task() const {
    context inner = *this;
    inner.where = detail::shared_serial_executor;
    inner.sgemm = nullptr;
    inner.progress = {};
    return inner;
  }

  /// The context of products that must not round what they read.
  [[nodiscard, gnu::noinline]] context in_fp32() const {
    context exact = *this;
    exact.products = product_inputs::fp32;
    return exact;
  }

  /// The context of work that is done to the end once it has begun, because half of it would be worse than none.
  [[nodiscard, gnu::noinline]] context to_the_end() const {
    context whole = *this;
    whole.stop = {};
    return whole;
  }
};

} // namespace SLIM_ABI
} // namespace slim
