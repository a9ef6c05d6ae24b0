// Compression of one layer against the way SLiM's published code does it, in one run: paired rounds, medians.
// Usage: bench_layer [--quick] [threads = 2] [rounds = 3]. --quick takes 1024 x 1024 instead of 4096 x 4096.
#include "slim/slim.hpp"

#include "../timing.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" { // lapack and threads, as OpenBLAS ships them: it has no header for LAPACK here
void openblas_set_num_threads(int);
void sgesdd_(char const* job, int const* m, int const* n, float* a, int const* lda, float* s, float* u, int const* ldu,
             float* vt, int const* ldvt, float* work, int const* lwork, int* iwork, int* info);
}

namespace {

using bench::median;
using bench::seconds_of;
using slim::index_t;

/// One line of the table: the same task done by a named peer and by us.
struct row {
  std::string what, peer, ours;
  std::vector<double> peer_seconds, our_seconds;
  std::string remark;
};

void print(std::vector<row> const& table) {
  std::printf("| %-34s | %-24s | %-26s | %9s | %9s | %6s | %s\n", "what", "peer", "ours", "peer s", "ours s", "ratio",
              "remark");
  for (auto const& r : table) {
    double const peer = median(r.peer_seconds), ours = median(r.our_seconds);
    std::printf("| %-34s | %-24s | %-26s | %9.4f | %9.4f | %5.1fx | %s\n", r.what.c_str(), r.peer.c_str(), r.ours.c_str(), peer,
                ours, peer / ours, r.remark.c_str());
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
  slim::gemm_into(u.view(), v.view(), out, slim::destination::add);
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
  for (auto k = static_cast<std::size_t>(rank); k < s.size(); ++k)
    best += static_cast<double>(s[k]) * static_cast<double>(s[k]);
  slim::matrix<float> rest = a; // by subtraction, not by the energies the solver reports
  slim::gemm_into(f.basis.view(), f.coefficients.view(), rest, slim::destination::subtract, ctx);
  char text[96];
  std::snprintf(text, sizeof text, "residual/optimal %.4f, %td products%s%s", std::sqrt(energy(rest) / best), f.multiplies,
                f.fallbacks.empty() ? "" : ", ", f.fallbacks.c_str());
  out.remark = text;
  return out;
}

/// A linear layer's weights: Gaussian, channels of different scale, a few large ones.
slim::matrix<float> weight_matrix(index_t n) {
  auto out = error_matrix(n);
  for (index_t k = 0; k < n; ++k) out((k * 7919) % n, (k * 104729) % n) *= 6.0f;
  return out;
}

/// The step search alone, on histograms that are already there: 11 coarse and some thousand fine candidates of a surrogate
/// error, each a pass over the bins (the reference), against every candidate of the true error by prefix sums.
row search_row(slim::matrix<float> const& w, int rounds, slim::context const& ctx) {
  index_t const bins = std::max<index_t>(512, std::min<index_t>(w.size() / 1000, 20000)); // as the reference chooses them
  float const largest = slim::largest_magnitude(w.view());
  double const width = static_cast<double>(largest) / static_cast<double>(bins);
  std::vector<double> density(static_cast<std::size_t>(bins)), centers;
  for (index_t b = 0; b < bins; ++b) centers.push_back((static_cast<double>(b) + 0.5) * width);
  for (index_t k = 0; k < w.size(); ++k)
    density[static_cast<std::size_t>(
        std::min(bins - 1, static_cast<index_t>(static_cast<double>(std::abs(w.data()[k])) / width)))] += 1.0;
  auto const binned = slim::histogram_moments(w.view(), largest, bins, {}, ctx);
  row out{
      slim::message("scale search, ", bins, " bins"), "11 points + linear scan", "search_scale, all candidates", {}, {}, {}};
  double alpha = 0;
  slim::scale_choice best;
  for (int round = 0; round < rounds; ++round) {
    out.peer_seconds.push_back(seconds_of([&] { alpha = slim::reference_search_alpha(density, centers, 4); }));
    out.our_seconds.push_back(seconds_of([&] {
      slim::prefix_moments moments; // building the prefix sums is part of the method
      moments.reserve(binned.size());
      for (index_t b = 0; b < binned.size(); ++b) {
        auto const bin = binned.between(b, b + 1);
        moments.push_back(bin.weight, bin.first, bin.second);
      }
      best = slim::search_scale(moments, static_cast<double>(largest) / 7, -8, 7, bins);
    }));
  }
  double const theirs = slim::error_of_scale(binned, alpha / 7, -8, 7).error;
  char text[64];
  std::snprintf(text, sizeof text, "squared error %.4f of the peer's", best.error / theirs);
  out.remark = text;
  return out;
}

/// SLiM on one layer: quantize, prune, adapter. The peer's quantizer searches as the reference does and its adapter comes from
/// a full SVD; mask and rounding are the same code on both sides.
row layer_row(slim::matrix<float> const& w, int rounds, slim::context const& ctx) {
  index_t const n = w.cols();
  slim::calibration calib(n);
  calib.observe(gaussian(256, n, 9), ctx);
  row out{slim::message("whole slim layer ", n, "^2"), "reference search + sgesdd", "compress", {}, {}, {}};
  auto const weights = slim::slim_saliency{}.channel_weights(calib);
  for (int round = 0; round < rounds; ++round) {
    out.our_seconds.push_back(seconds_of([&] {
      (void)slim::compress(w, calib,
                           slim::chain(slim::slim_quantizer{}, slim::nm_pruner<2, 4>(slim::wanda{}), slim::slim_lora()), ctx);
    }));
    out.peer_seconds.push_back(seconds_of([&] {
      auto const lossy = slim::compress(
          w, calib,
          slim::chain(slim::slim_quantizer({.search = slim::scale_search::reference}), slim::nm_pruner<2, 4>(slim::wanda{})),
          ctx);
      slim::matrix<float> error = w;
      slim::matrix<float> const kept = lossy.weight.values();
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < n; ++j) error(i, j) = (error(i, j) - kept(i, j)) * weights[static_cast<std::size_t>(j)];
      (void)full_svd(std::move(error));
    }));
  }
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
  auto const w = weight_matrix(n);
  table.push_back(search_row(w, 5 * rounds, ctx));
  table.push_back(layer_row(w, rounds, ctx));
  table.push_back(low_rank_row("error-like", error_matrix(n), rounds, ctx));
  table.push_back(low_rank_row("gaussian", gaussian(n, n, 5), quick ? rounds : 1, ctx));
  print(table);
}
