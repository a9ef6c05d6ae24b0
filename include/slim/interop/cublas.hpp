#pragma once
/// @file
/// Float products of compression by cuBLAS. Needs the CUDA toolkit's headers, cuBLAS and the CUDA runtime to link with, and no
/// nvcc.
///
///     slim::context ctx;
///     ctx.sgemm = slim::sgemm_by_cublas;
///     auto layer = slim::compress(w, calib, recipe, ctx);
///
/// Operands travel to the current device and back with every product; small ones stay on the CPU.

#include "slim/core/context.hpp"
#include "slim/interop/cublas_calls.hpp"
#include "slim/linalg/gemm.hpp"

#include <algorithm>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// A handle and three buffers that grow, of one thread and the device that was current when it first multiplied.
class cublas_products {
public:
  cublas_products() { require_cublas(cublasCreate(&handle_), "cublasCreate"); }
  cublas_products(cublas_products const&) = delete;
  cublas_products& operator=(cublas_products const&) = delete;
  ~cublas_products() {
    for (buffer const& b : buffers_) static_cast<void>(cudaFree(b.data));
    static_cast<void>(cublasDestroy(handle_));
  }

  /// As sgemm_function.
  void multiply(cublasMath_t math, bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha,
                float const* a, index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
    float* const left = uploaded(0, a, transpose_a ? k : m, transpose_a ? m : k, lda);
    float* const right = uploaded(1, b, transpose_b ? n : k, transpose_b ? k : n, ldb);
    float* const out = beta == 0.0f ? room(2, m * n) : uploaded(2, c, m, n, ldc);
    require_cublas(cublasSetMathMode(handle_, math), "cublasSetMathMode");
    // cuBLAS stores by columns: what it sees are the transposes, C^T = B^T A^T.
    auto const operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    auto const narrow = [](index_t extent) { return static_cast<int>(extent); };
    require_cublas(cublasSgemm(handle_, operation(transpose_b), operation(transpose_a), narrow(n), narrow(m), narrow(k), &alpha,
                               right, narrow(transpose_b ? k : n), left, narrow(transpose_a ? m : k), &beta, out, narrow(n)),
                   "cublasSgemm");
    require_cuda(cudaMemcpy2D(c, bytes(ldc), out, bytes(n), bytes(n), static_cast<std::size_t>(m), cudaMemcpyDeviceToHost),
                 "cudaMemcpy2D");
  }

private:
  struct buffer {
    float* data = nullptr;
    index_t size = 0;
  };

  [[nodiscard]] static std::size_t bytes(index_t numbers) { return sizeof(float) * static_cast<std::size_t>(numbers); }

  [[nodiscard]] float* room(std::size_t which, index_t size) {
    buffer& b = buffers_[which];
    if (b.size >= size) return b.data;
    require_cuda(cudaFree(b.data), "cudaFree");
    b = {};
    void* fresh = nullptr;
    require_cuda(cudaMalloc(&fresh, bytes(size)), "cudaMalloc");
    b = {static_cast<float*>(fresh), size};
    return b.data;
  }

  /// Rows without gaps.
  [[nodiscard]] float* uploaded(std::size_t which, float const* from, index_t rows, index_t cols, index_t stride) {
    float* const to = room(which, rows * cols);
    require_cuda(
        cudaMemcpy2D(to, bytes(cols), from, bytes(stride), bytes(cols), static_cast<std::size_t>(rows), cudaMemcpyHostToDevice),
        "cudaMemcpy2D");
    return to;
  }

  cublasHandle_t handle_ = nullptr;
  buffer buffers_[3];
};

/// Below, a product takes less time here than its operands take to travel.
inline constexpr double least_cublas_flops = 2e9;

inline void sgemm_on_device(cublasMath_t math, bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha,
                            float const* a, index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  bool const plain = (alpha == 1.0f && (beta == 0.0f || beta == 1.0f)) || (alpha == -1.0f && beta == 1.0f);
  if (plain && 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) < least_cublas_flops) {
    auto const operand = [](float const* data, bool transpose, index_t rows, index_t cols, index_t stride) {
      return transpose ? matrix_view<float const, strided>(data, rows, cols, 1, stride)
                       : matrix_view<float const, strided>(data, rows, cols, stride, 1);
    };
    destination const mode = beta == 0.0f ? destination::overwrite : alpha == 1.0f ? destination::add : destination::subtract;
    gemm_into(operand(a, transpose_a, m, k, lda), operand(b, transpose_b, k, n, ldb), matrix_view<float>(c, m, n, ldc), mode);
    return;
  }
  thread_local cublas_products products;
  products.multiply(math, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

} // namespace detail

/// An sgemm_function in fp32. Products of less than 2 GFLOP are computed by gemm_into on the CPU.
/// @throws slim::error if a call of CUDA or cuBLAS fails, which it names
inline void sgemm_by_cublas(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                            index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  detail::sgemm_on_device(CUBLAS_DEFAULT_MATH, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/// The same with operands rounded to TF32, 11 bits of mantissa: faster, and enough for forward passes.
/// @throws slim::error if a call of CUDA or cuBLAS fails, which it names
inline void sgemm_by_cublas_tf32(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha,
                                 float const* a, index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  detail::sgemm_on_device(CUBLAS_TF32_TENSOR_OP_MATH, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

} // namespace SLIM_ABI
} // namespace slim
