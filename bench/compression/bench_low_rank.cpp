// Compression of one layer against the way it is usually done, in one run: paired rounds, medians.
// Usage: bench_low_rank [--quick] [threads = 2] [rounds = 3]. --quick takes 1024 x 1024 instead of 4096 x 4096.
#include "slim/linalg/low_rank.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
void openblas_set_num_threads(int);
void sgesdd_(char const* job, int const* m, int const* n, float* a, int const* lda, float* s, float* u, int const* ldu, float* vt,
             int const* ldvt, float* work, int const* lwork, int* iwork, int* info);
}

namespace {

using slim::index_t;

/// One line of the table: the same task done by a named peer and by us.
struct row {
  std::string what, peer, ours;
  std::vector<double> peer_seconds, our_seconds;
  std::string remark;
};

template <class F>
double seconds_of(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(std::vector<row> const& table) {
  std::printf("| %-34s | %-24s | %-26s | %9s | %9s | %6s | %s\n", "what", "peer", "ours", "peer s", "ours s", "ratio", "remark");
  for (auto const& r : table) {
    double const peer = median(r.peer_seconds), ours = median(r.our_seconds);
    std::printf("| %-34s | %-24s | %-26s | %9.4f | %9.4f | %5.1fx | %s\n", r.what.c_str(), r.peer.c_str(), r.ours.c_str(), peer, ours,
                peer / ours, r.remark.c_str());
  }
}

slim::matrix<float> gaussian(index_t rows, index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return out;
}

/// Like the error of a compressed layer: noise, 64 decaying directions, channels of different scale.
slim::matrix<float> error_matrix(index_t n) {
  auto out = gaussian(n, n, 1);
  auto u = gaussian(n, 64, 2), v = gaussian(64, n, 3);
  for (index_t k = 0; k < 64; ++k)
    for (index_t j = 0; j < n; ++j) v(k, j) *= 0.5f * std::pow(0.95f, static_cast<float>(k));
  slim::gemm_into(u.view(), v.view(), out, {}, slim::destination::add);
  for (index_t j = 0; j < n; ++j) {
    auto const scale = static_cast<float>(std::exp(0.3 * slim::random_normal(4, static_cast<std::uint64_t>(j))));
    for (index_t i = 0; i < n; ++i) out(i, j) *= scale;
  }
  return out;
}

/// Full thin SVD by LAPACK, as the reference does it. Returns the singular values.
std::vector<float> full_svd(slim::matrix<float> a) {
  int const n = static_cast<int>(a.rows());
  slim::matrix<float> u(n, n), vt(n, n);
  std::vector<float> s(static_cast<std::size_t>(n));
  std::vector<int> iwork(static_cast<std::size_t>(8 * n));
  int info = 0, query = -1;
  float size = 0;
  sgesdd_("S", &n, &n, a.data(), &n, s.data(), u.data(), &n, vt.data(), &n, &size, &query, iwork.data(), &info);
  int const lwork = static_cast<int>(size) + n;
  std::vector<float> work(static_cast<std::size_t>(lwork));
  sgesdd_("S", &n, &n, a.data(), &n, s.data(), u.data(), &n, vt.data(), &n, work.data(), &lwork, iwork.data(), &info);
  return s;
}

double energy(slim::matrix<float> const& a) {
  double sum = 0;
  for (index_t k = 0; k < a.size(); ++k) sum += static_cast<double>(a.data()[k]) * static_cast<double>(a.data()[k]);
  return sum;
}

/// Rank-0.1 factors: the adapter of SLiM-LoRA.
row low_rank_row(char const* name, slim::matrix<float> const& a, int rounds, slim::context const& ctx) {
  index_t const n = a.rows(), rank = n / 10;
  row out{slim::message(name, " ", n, "^2, rank ", rank), "sgesdd (OpenBLAS)", "truncated_low_rank", {}, {}, {}};
  std::vector<float> s;
  slim::low_rank_factors<float> f;
  for (int round = 0; round < rounds; ++round) {
    out.our_seconds.push_back(seconds_of([&] { f = slim::truncated_low_rank(a, rank, {}, ctx); }));
    out.peer_seconds.push_back(seconds_of([&] { s = full_svd(a); }));
  }
  double best = 0;
  for (auto k = static_cast<std::size_t>(rank); k < s.size(); ++k) best += static_cast<double>(s[k]) * static_cast<double>(s[k]);
  slim::matrix<float> rest = a; // by subtraction, not by the energies the solver reports
  slim::gemm_into(f.basis.view(), f.coefficients.view(), rest, ctx, slim::destination::subtract);
  char text[96];
  std::snprintf(text, sizeof text, "residual/optimal %.4f, %td products%s%s", std::sqrt(energy(rest) / best), f.multiplies,
                f.fallbacks.empty() ? "" : ", ", f.fallbacks.c_str());
  out.remark = text;
  return out;
}

} // namespace

int main(int argc, char** argv) {
  bool const quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  int const skip = quick ? 1 : 0;
  int const threads = argc > 1 + skip ? std::atoi(argv[1 + skip]) : 2, rounds = argc > 2 + skip ? std::atoi(argv[2 + skip]) : 3;
  openblas_set_num_threads(threads);
  slim::context ctx;
#if defined(_OPENMP)
  slim::openmp_executor const executor{threads};
  ctx.where = executor;
#endif
  index_t const n = quick ? 1024 : 4096;
  std::printf("%d threads, medians of %d paired rounds\n", threads, rounds);
  std::vector<row> table;
  table.push_back(low_rank_row("error-like", error_matrix(n), rounds, ctx));
  table.push_back(low_rank_row("gaussian", gaussian(n, n, 5), quick ? rounds : 1, ctx));
  print(table);
}
