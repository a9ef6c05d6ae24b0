// SparseGPT with 4-bit codes on one layer: factor and sweep against the reference's structure written with the same Eigen, in
// one run: paired rounds, medians.
// Usage: bench_feedback [--quick] [threads = 2] [rounds = 3]. --quick takes 1024 x 1024 instead of 4096 x 4096.
#include "slim/slim.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using slim::index_t;
using columns = Eigen::MatrixXf;
using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr float step = 0.1f;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The published code's order of work (sparsegpt.py, fasterprune): Cholesky of H, inverse of H, Cholesky of the inverse, all
/// dense; then blocks of 128 columns, one column of all rows at a time, groups of four masked when they are reached.
struct timed {
  double factor = 0, sweep = 0;
  rows quantized;
};

columns inverse_factor(columns const& h) {
  Eigen::LLT<columns> const first(h);
  columns const inverse = first.solve(columns::Identity(h.rows(), h.cols()));
  return Eigen::LLT<columns>(inverse).matrixU();
}

timed as_published(rows w, columns const& h) {
  timed out;
  auto start = std::chrono::steady_clock::now();
  columns const u = inverse_factor(h);
  out.factor = seconds_since(start);
  start = std::chrono::steady_clock::now();
  Eigen::Index const d = w.cols(), block = 128;
  out.quantized = rows::Zero(w.rows(), d);
  for (Eigen::Index b = 0; b < d; b += block) {
    Eigen::Index const count = std::min(block, d - b);
    columns part = w.middleCols(b, count), errors = columns::Zero(w.rows(), count);
    columns pruned = columns::Zero(w.rows(), count);
    columns const local = u.block(b, b, count, count);
    for (Eigen::Index j = 0; j < count; ++j) {
      if (j % 4 == 0)
        for (Eigen::Index i = 0; i < w.rows(); ++i) {
          float score[4];
          int order[4] = {0, 1, 2, 3};
          for (int k = 0; k < 4; ++k) {
            float const x = part(i, j + k), q = step * std::clamp(std::nearbyint(x / step), -8.0f, 7.0f);
            score[k] = (x * x - (x - q) * (x - q)) / (local(j + k, j + k) * local(j + k, j + k));
          }
          std::stable_sort(order, order + 4, [&](int a, int c) { return score[a] < score[c]; });
          pruned(i, j + order[0]) = pruned(i, j + order[1]) = 1.0f;
        }
      Eigen::VectorXf const x = part.col(j);
      Eigen::VectorXf q = x.unaryExpr([](float v) { return step * std::clamp(std::nearbyint(v / step), -8.0f, 7.0f); });
      q = q.cwiseProduct(Eigen::VectorXf::Ones(w.rows()) - pruned.col(j));
      out.quantized.col(b + j) = q;
      errors.col(j) = (x - q) / local(j, j);
      part.rightCols(count - j).noalias() -= errors.col(j) * local.row(j).tail(count - j);
    }
    w.rightCols(d - b - count).noalias() -= errors * u.block(b, b + count, count, d - b - count);
  }
  out.sweep = seconds_since(start);
  return out;
}

timed ours(slim::matrix<float> w, slim::matrix<float> const& h) {
  timed out;
  auto start = std::chrono::steady_clock::now();
  auto const factor = slim::factor_for_feedback(h.view());
  out.factor = seconds_since(start);
  slim::uniform_grid const grid{.scale_format = slim::number_format::fp32};
  slim::integer_codes codes = grid.empty(w.rows(), w.cols());
  codes.scales(0, 0) = step;
  slim::mask kept(w.rows(), w.cols(), {2, 4});
  start = std::chrono::steady_clock::now();
  slim::feed_back(w.view(), factor.upper.view(), grid, codes, &kept, {.choose = {2, 4}});
  out.sweep = seconds_since(start);
  out.quantized = Eigen::Map<rows>(w.data(), w.rows(), w.cols());
  return out;
}

} // namespace

int main(int argc, char** argv) {
  bool const quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  int const threads = argc > 1 + quick ? std::atoi(argv[1 + quick]) : 2,
            rounds = argc > 2 + quick ? std::atoi(argv[2 + quick]) : 3;
#if defined(_OPENMP)
  omp_set_num_threads(threads);
#endif
  Eigen::setNbThreads(threads);
  index_t const n = quick ? 1024 : 4096;
  slim::matrix<float> w(n, n), x(n + 512, n);
  for (index_t k = 0; k < w.size(); ++k)
    w.data()[k] = 0.5f * static_cast<float>(slim::random_normal(1, static_cast<std::uint64_t>(k)));
  for (index_t k = 0; k < x.size(); ++k)
    x.data()[k] = static_cast<float>(slim::random_normal(2, static_cast<std::uint64_t>(k)));
  slim::calibration calib(n, {.gram = true});
  calib.observe(x.view());
  auto const h = slim::hessian(calib, 0.01);
  rows const w_eigen = Eigen::Map<rows>(w.data(), n, n);
  columns const h_eigen = Eigen::Map<rows const>(h.data(), n, n);

  std::vector<double> peer_factor, peer_sweep, our_factor, our_sweep, ratio;
  double loss_ratio = 0;
  for (int r = 0; r < rounds; ++r) {
    auto const peer = as_published(w_eigen, h_eigen);
    auto const mine = ours(w, h);
    peer_factor.push_back(peer.factor);
    peer_sweep.push_back(peer.sweep);
    our_factor.push_back(mine.factor);
    our_sweep.push_back(mine.sweep);
    ratio.push_back((peer.factor + peer.sweep) / (mine.factor + mine.sweep));
    rows const e = w_eigen - mine.quantized, p = w_eigen - peer.quantized;
    loss_ratio = static_cast<double>((e * h_eigen).cwiseProduct(e).sum() / (p * h_eigen).cwiseProduct(p).sum());
  }
  std::printf("SparseGPT 2:4 + 4 bit, %td x %td, %d threads, medians of %d paired rounds\n", n, n, threads, rounds);
  std::printf("| part   | as published, Eigen, s | ours, s | ratio |\n|:--|--:|--:|--:|\n");
  std::printf("| factor | %.3f | %.3f | %.2fx |\n", median(peer_factor), median(our_factor),
              median(peer_factor) / median(our_factor));
  std::printf("| sweep  | %.3f | %.3f | %.2fx |\n", median(peer_sweep), median(our_sweep),
              median(peer_sweep) / median(our_sweep));
  std::printf("| both   | %.3f | %.3f | %.2fx |\n", median(peer_factor) + median(peer_sweep),
              median(our_factor) + median(our_sweep), median(ratio));
  std::printf("loss of ours / loss of theirs: %.6f\n", loss_ratio);
}
