#pragma once
/// @file
/// What the headers for cuBLAS share: failures of its calls as exceptions. Needs the CUDA toolkit's headers.

#include "slim/core/error.hpp"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

inline void require_cuda(cudaError_t code, char const* call) {
  if (code != cudaSuccess) throw error(message(call, ": ", cudaGetErrorName(code), ", ", cudaGetErrorString(code)));
}
inline void require_cublas(cublasStatus_t code, char const* call) {
  if (code != CUBLAS_STATUS_SUCCESS)
    throw error(message(call, ": ", cublasGetStatusName(code), ", ", cublasGetStatusString(code)));
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
