// Our sgemm, and the same with operands in bf16, against OpenBLAS (through context.sgemm) and Eigen, in one run: paired rounds,
// medians. Arguments: [threads = 2] [rounds = 7]
#include "slim/linalg/gemm.hpp"

#include "../timing.hpp"

#include "slim/core/matrix.hpp"
#include "slim/core/random.hpp"
#include "slim/interop/cblas.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" void openblas_set_num_threads(int);

namespace {

using bench::median;
using bench::seconds_of;

using rows_t = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

slim::matrix<float> random_matrix(slim::index_t rows, slim::index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (slim::index_t i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<float>(slim::random_uniform(seed, static_cast<std::uint64_t>(i)) - 0.5);
  return out;
}

/// C (m, n) = A (m, k) W^T, W (n, k): the product of a linear layer.
void compare(slim::index_t m, slim::index_t k, slim::index_t n, int threads, int rounds) {
  auto const a = random_matrix(m, k, 1), w = random_matrix(n, k, 2);
  slim::matrix<float> ours(m, n), rounded(m, n), blas(m, n), eigen(m, n);
  slim::context ctx;
#if defined(_OPENMP)
  slim::openmp_executor const executor{threads};
  ctx.where = executor;
#endif
  slim::context hooked = ctx;
  hooked.sgemm = slim::sgemm_by_cblas;
  slim::context bf16 = ctx;
  bf16.products = slim::product_inputs::bf16;
  std::vector<double> t_ours, t_bf16, t_blas, t_eigen;
  for (int round = 0; round < rounds; ++round) {
    t_ours.push_back(seconds_of([&] { slim::gemm_into(a.view(), slim::transposed(w.view()), ours, ctx); }));
    t_bf16.push_back(seconds_of([&] { slim::gemm_into(a.view(), slim::transposed(w.view()), rounded, bf16); }));
    t_blas.push_back(seconds_of([&] { slim::gemm_into(a.view(), slim::transposed(w.view()), blas, hooked); }));
    t_eigen.push_back(seconds_of([&] {
      Eigen::Map<rows_t const> const left(a.data(), m, k), right(w.data(), n, k);
      Eigen::Map<rows_t>(eigen.data(), m, n).noalias() = left * right.transpose();
    }));
  }
  double const gflop = 2e-9 * static_cast<double>(m * n * k);
  double const ours_s = median(t_ours), bf16_s = median(t_bf16), blas_s = median(t_blas), eigen_s = median(t_eigen);
  std::printf("%5td x%5td x%5td  ours %8.2f ms %6.1f GF/s, bf16 %.2fx of it | OpenBLAS %8.2f ms %6.1f GF/s, ours %.2fx | Eigen "
              "%6.1f GF/s, ours %.2fx\n",
              m, k, n, 1e3 * ours_s, gflop / ours_s, ours_s / bf16_s, 1e3 * blas_s, gflop / blas_s, blas_s / ours_s,
              gflop / eigen_s, eigen_s / ours_s);
}

} // namespace

int main(int argc, char** argv) {
  int const threads = argc > 1 ? std::atoi(argv[1]) : 2, rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  openblas_set_num_threads(threads);
  Eigen::setNbThreads(threads);
  std::printf("C = A W^T, %d threads, medians of %d paired rounds (m x k x n)\n", threads, rounds);
  for (slim::index_t const tokens : {1, 2, 4, 8, 16, 32, 128}) compare(tokens, 1536, 1536, threads, 5 * rounds);
  compare(1024, 1024, 1024, threads, rounds);
  compare(2048, 576, 1536, threads, rounds);
  compare(2048, 1536, 576, threads, rounds);
  compare(4096, 4096, 441, threads, rounds);
  if (rounds > 2) compare(4096, 4096, 4096, threads, std::min(rounds, 3));
}
