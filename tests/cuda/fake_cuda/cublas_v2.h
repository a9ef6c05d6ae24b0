// The part of cuBLAS that slim/interop/cublas*.hpp call: matrices are stored by columns.
#pragma once

#include "slim/core/scalar.hpp"

#include <cstdint>
#include <cuda_runtime_api.h>

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_EXECUTION_FAILED };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
struct fake_handle {
  cudaStream_t stream = nullptr;
};
using cublasHandle_t = fake_handle*;

inline int fake_cublas_calls = 0;
inline int fake_streams_set = 0;
inline bool fake_cublas_fails = false;
inline cublasMath_t fake_cublas_math = CUBLAS_DEFAULT_MATH;

inline char const* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS_EXECUTION_FAILED"; }
inline char const* cublasGetStatusString(cublasStatus_t) { return "it failed"; }
inline cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t* stream) {
  *stream = handle->stream;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  ++fake_streams_set;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasCreate(cublasHandle_t*) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t math) {
  fake_cublas_math = math;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSgemm(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                  float const* alpha, float const* a, int lda, float const* b, int ldb, float const* beta,
                                  float* c, int ldc) {
  ++fake_cublas_calls;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int p = 0; p < k; ++p)
        sum +=
            (op_a == CUBLAS_OP_N ? a[i + p * lda] : a[p + i * lda]) * (op_b == CUBLAS_OP_N ? b[p + j * ldb] : b[j + p * ldb]);
      c[i + j * ldc] = *alpha * sum + (*beta == 0.0f ? 0.0f : *beta * c[i + j * ldc]);
    }
  return CUBLAS_STATUS_SUCCESS;
}
/// 16-bit numbers: fp16 or bf16, by type.
inline cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                   void const* alpha, void const* a, cudaDataType_t a_type, int lda, void const* b,
                                   cudaDataType_t b_type, int ldb, void const* beta, void* c, cudaDataType_t c_type, int ldc,
                                   cublasComputeType_t, cublasGemmAlgo_t) {
  if (fake_cublas_fails || a_type != b_type || a_type != c_type) return CUBLAS_STATUS_EXECUTION_FAILED;
  auto const number = [&](void const* from, int at) {
    std::uint16_t const bits = static_cast<std::uint16_t const*>(from)[at];
    return a_type == CUDA_R_16F ? static_cast<float>(slim::fp16::from_bits(bits))
                                : static_cast<float>(slim::bf16::from_bits(bits));
  };
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int p = 0; p < k; ++p)
        sum += number(a, op_a == CUBLAS_OP_N ? i + p * lda : p + i * lda) *
               number(b, op_b == CUBLAS_OP_N ? p + j * ldb : j + p * ldb);
      float const scale = *static_cast<float const*>(beta);
      sum = *static_cast<float const*>(alpha) * sum + (scale == 0.0f ? 0.0f : scale * number(c, i + j * ldc));
      static_cast<std::uint16_t*>(c)[i + j * ldc] = a_type == CUDA_R_16F ? slim::fp16(sum).bits : slim::bf16(sum).bits;
    }
  return CUBLAS_STATUS_SUCCESS;
}
