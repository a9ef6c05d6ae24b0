#pragma once
/// @file
/// Dense products of forward_into by cuBLAS, for .cu files. Link with cuBLAS.
///
///     slim::cuda::workspace room(stream);
///     room.set_gemm(slim::cuda::gemm_by_cublas(handle)); // your cublasHandle_t
///
/// **No GPU has run it yet**: docs/benchmarks-gpu.md.

#include "slim/interop/cublas_calls.hpp"
#include "slim/kernels/cuda/dense_product.cuh"

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {
namespace detail {

inline void multiply_by_cublas(void* state, void* stream, dense_product const& p) {
  using slim::detail::require_cublas;
  auto const handle = static_cast<cublasHandle_t>(state);
  auto const wanted = static_cast<cudaStream_t>(stream);
  cudaStream_t current = nullptr;
  require_cublas(cublasGetStream(handle, &current), "cublasGetStream");
  // Setting a stream takes the handle's own workspace away, so it is not done in vain.
  if (current != wanted) require_cublas(cublasSetStream(handle, wanted), "cublasSetStream");
  float const alpha = 1.0f, beta = p.add ? 1.0f : 0.0f;
  cudaDataType_t const type = p.numbers == number_format::fp16 ? CUDA_R_16F : CUDA_R_16BF;
  auto const narrow = [](std::int64_t extent) { return static_cast<int>(extent); };
  // cuBLAS stores by columns: what it sees are the transposes, C^T = op(B)^T A^T.
  require_cublas(cublasGemmEx(handle, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, narrow(p.n), narrow(p.m),
                              narrow(p.k), &alpha, p.b, type, narrow(p.ldb), p.a, type, narrow(p.lda), &beta, p.c, type,
                              narrow(p.ldc), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx");
}

} // namespace detail

/// Products by cuBLAS with a handle of yours, which has to live as long as it is used. It is put onto the workspace's stream
/// where it is on another; its math mode stays (CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION keeps sums in float).
/// forward_into throws slim::error if a call of cuBLAS fails, which it names.
[[nodiscard]] inline dense_gemm gemm_by_cublas(cublasHandle_t handle) {
  return {.multiply = detail::multiply_by_cublas, .state = handle};
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
