#pragma once
/// @file
/// Products of dense matrices on the device, by somebody's function: how forward_into multiplies many tokens.

#include "slim/core/scalar.hpp"

#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

/// C = A op(B), or C +=, op the transpose where the flag says so: row-major 16-bit numbers in the memory of the device, sums in
/// float. A is (m, k), op(B) is (k, n), C is (m, n), none is empty; lda, ldb, ldc are the distances of rows in numbers. All fit
/// an int.
struct dense_product {
  number_format numbers = number_format::fp16; ///< fp16 or bf16
  bool transpose_b = false, add = false;
  std::int64_t m = 0, n = 0, k = 0;
  std::uint16_t const* a = nullptr;
  std::int64_t lda = 0;
  std::uint16_t const* b = nullptr;
  std::int64_t ldb = 0;
  std::uint16_t* c = nullptr;
  std::int64_t ldc = 0;
};

/// Somebody's dense products; cuBLAS's are in interop/cublas_dense.hpp.
struct dense_gemm {
  /// Puts a product into `stream`, a cudaStream_t. What it throws, forward_into throws.
  using function = void(void* state, void* stream, dense_product const& product);
  function* multiply = nullptr; ///< null: there is none
  void* state = nullptr;        ///< its first argument
  /// From so many tokens on it is used. An estimate, not measured: docs/benchmarks-gpu.md.
  int least_tokens = 1024;
};

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
