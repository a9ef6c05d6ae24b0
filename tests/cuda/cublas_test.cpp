// slim/interop/cublas.hpp with a cuBLAS that computes on the host (fake_cuda/): which operands are transposed and how far apart
// their rows are, what stays on the CPU, and what a failure says.

#include "slim/interop/cublas.hpp"

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
