// The part of cuBLAS that slim/interop/cublas.hpp calls: matrices are stored by columns.
#pragma once

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
using cublasHandle_t = int*;

inline int fake_cublas_calls = 0;
inline cublasMath_t fake_cublas_math = CUBLAS_DEFAULT_MATH;

inline char const* cublasGetStatusName(cublasStatus_t) { return ""; }
inline char const* cublasGetStatusString(cublasStatus_t) { return ""; }
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
