// The part of the CUDA runtime that slim/interop/cublas*.hpp call, with the memory of the host.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaDataType_t { CUDA_R_16F, CUDA_R_16BF };
using cudaStream_t = struct CUstream_st*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

inline bool fake_cuda_is_full = false;

inline char const* cudaGetErrorName(cudaError_t) { return "cudaErrorMemoryAllocation"; }
inline char const* cudaGetErrorString(cudaError_t) { return "out of memory"; }
inline cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  if (fake_cuda_is_full) return cudaErrorMemoryAllocation;
  *to = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, void const* from, std::size_t from_pitch, std::size_t width,
                                std::size_t height, cudaMemcpyKind) {
  for (std::size_t i = 0; i < height; ++i)
    std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<char const*>(from) + i * from_pitch, width);
  return cudaSuccess;
}
