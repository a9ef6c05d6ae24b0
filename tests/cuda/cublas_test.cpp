// slim/interop/cublas*.hpp with a cuBLAS that computes on the host (fake_cuda/): which operands are transposed and how far
// apart their rows are, what stays on the CPU, and what a failure says.

#include "slim/interop/cublas.hpp"
#include "slim/interop/cublas_dense.hpp"

#include "slim/core/random.hpp"

#include <catch2/catch.hpp>

namespace {

/// Small integers, so that sums are exact in any order.
slim::matrix<float> integers(slim::index_t rows, slim::index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (slim::index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(slim::random_bits(seed, static_cast<std::uint64_t>(k)) % 7) - 3.0f;
  return out;
}

} // namespace

TEST_CASE("sgemm_by_cublas is our own product, whatever is transposed and however far rows are apart") {
  for (bool const ta : {false, true})
    for (bool const tb : {false, true})
      for (bool const small : {true, false}) {
        slim::index_t const m = small ? 5 : 3, n = small ? 7 : 2, k = small ? 6 : 4;
        slim::matrix<float> const a = integers(ta ? k : m, (ta ? m : k) + 2, 1), b = integers(tb ? n : k, (tb ? k : n) + 3, 2);
        for (auto const& [alpha, beta] :
             {std::pair(1.0f, 0.0f), std::pair(1.0f, 1.0f), std::pair(-1.0f, 1.0f), std::pair(2.0f, 3.0f)}) {
          slim::matrix<float> c = integers(m, n + 1, 3), want = c;
          for (slim::index_t i = 0; i < m; ++i)
            for (slim::index_t j = 0; j < n; ++j) {
              float sum = 0;
              for (slim::index_t p = 0; p < k; ++p) sum += (ta ? a(p, i) : a(i, p)) * (tb ? b(j, p) : b(p, j));
              want(i, j) = alpha * sum + beta * want(i, j);
            }
          int const before = fake_cublas_calls;
          if (small) // through the hook: on the CPU where alpha and beta are those of gemm_into
            slim::sgemm_by_cublas(ta, tb, m, n, k, alpha, a.data(), a.cols(), b.data(), b.cols(), beta, c.data(), c.cols());
          else
            slim::detail::cublas_products().multiply(CUBLAS_DEFAULT_MATH, ta, tb, m, n, k, alpha, a.data(), a.cols(), b.data(),
                                                     b.cols(), beta, c.data(), c.cols());
          CHECK(c == want);
          CHECK(fake_cublas_calls - before == (small && alpha != 2.0f ? 0 : 1));
        }
      }
}

TEST_CASE("large products go to cuBLAS, in fp32 or TF32 by name, and a failure names the call") {
  // 2 GFLOP would take the fake a second: the factor 2 alone sends a small product there.
  slim::matrix<float> const a = integers(4, 4, 1);
  slim::matrix<float> c(4, 4);
  slim::sgemm_by_cublas_tf32(false, false, 4, 4, 4, 2.0f, a.data(), 4, a.data(), 4, 0.0f, c.data(), 4);
  CHECK(fake_cublas_math == CUBLAS_TF32_TENSOR_OP_MATH);
  slim::sgemm_by_cublas(false, false, 4, 4, 4, 2.0f, a.data(), 4, a.data(), 4, 0.0f, c.data(), 4);
  CHECK(fake_cublas_math == CUBLAS_DEFAULT_MATH);
  fake_cuda_is_full = true;
  std::string said;
  try {
    slim::detail::cublas_products().multiply(CUBLAS_DEFAULT_MATH, false, false, 4, 4, 4, 1.0f, a.data(), 4, a.data(), 4, 0.0f,
                                             c.data(), 4);
  } catch (slim::error const& e) {
    said = e.what();
  }
  fake_cuda_is_full = false;
  CHECK(said == "cudaMalloc: cudaErrorMemoryAllocation, out of memory");
}

TEST_CASE("gemm_by_cublas multiplies row-major 16-bit matrices, on the stream that it is told") {
  using slim::number_format;
  constexpr slim::index_t m = 3, n = 4, k = 5;
  std::vector<std::uint16_t> a(m * 7), b(8 * 8), c(m * 6), want;
  for (number_format const numbers : {number_format::fp16, number_format::bf16})
    for (bool const transposed : {false, true})
      for (bool const add : {false, true}) {
        auto const bits = [&](float v) { return numbers == number_format::fp16 ? slim::fp16(v).bits : slim::bf16(v).bits; };
        auto const number = [](slim::index_t at, int salt) { return static_cast<float>((7 * at + salt) % 5 - 2); };
        for (std::size_t i = 0; i < a.size(); ++i) a[i] = bits(number(static_cast<slim::index_t>(i), 1));
        for (std::size_t i = 0; i < b.size(); ++i) b[i] = bits(number(static_cast<slim::index_t>(i), 3));
        for (std::size_t i = 0; i < c.size(); ++i) c[i] = bits(number(static_cast<slim::index_t>(i), 2));
        want = c;
        for (slim::index_t i = 0; i < m; ++i)
          for (slim::index_t j = 0; j < n; ++j) {
            float sum = add ? number(6 * i + j, 2) : 0.0f;
            for (slim::index_t p = 0; p < k; ++p) sum += number(7 * i + p, 1) * number(transposed ? 8 * j + p : 8 * p + j, 3);
            want[static_cast<std::size_t>(6 * i + j)] = bits(sum);
          }
        fake_handle handle;
        slim::cuda::dense_gemm const gemm = slim::cuda::gemm_by_cublas(&handle);
        int stream = 0;
        int const before = fake_streams_set;
        slim::cuda::dense_product const product{numbers, transposed, add, m, n, k, a.data(), 7, b.data(), 8, c.data(), 6};
        gemm.multiply(gemm.state, &stream, product);
        CHECK(c == want);
        CHECK(handle.stream == reinterpret_cast<cudaStream_t>(&stream));
        gemm.multiply(gemm.state, &stream, product); // the stream is not set again: that would cost the handle its workspace
        CHECK(fake_streams_set == before + 1);
      }
  fake_handle handle;
  slim::cuda::dense_gemm const gemm = slim::cuda::gemm_by_cublas(&handle);
  std::string said;
  fake_cublas_fails = true;
  try {
    gemm.multiply(gemm.state, nullptr, {.m = 1, .n = 1, .k = 1});
  } catch (slim::error const& e) {
    said = e.what();
  }
  fake_cublas_fails = false;
  CHECK(said == "cublasGemmEx: CUBLAS_STATUS_EXECUTION_FAILED, it failed");
}
