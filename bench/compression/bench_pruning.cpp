// Ways to prune a layer to 2:4 (and to half, unstructured), by error of the output on held-out tokens, relative to that of
// Wanda: the mask's choice, the order of channels, and the weights on the mask. The layer is synthetic: correlated channels of
// power-law spectrum with outliers, heavy-tailed weights with a low-rank part.
// Usage: bench_pruning [d_out = 512] [d_in = 512] [seeds = 3] [tokens per channel = 32]
#include "slim/slim.hpp"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

using slim::index_t;
using slim::matrix;

struct layer {
  matrix<float> w;
  slim::calibration seen, held_out;
};

/// Numbers drawn one after the other.
class source {
public:
  explicit source(std::uint64_t seed) : seed_(seed) {}
  double normal() { return slim::random_normal(seed_, next_++); }
  double uniform() { return slim::random_uniform(seed_, next_++); }
  double student4() {
    double const chi2 = -2.0 * std::log((1.0 - uniform()) * (1.0 - uniform()));
    return normal() / std::sqrt(chi2 / 4.0);
  }

private:
  std::uint64_t seed_, next_ = 0;
};

matrix<float> normal_matrix(index_t rows, index_t cols, source& draw) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k) m.data()[k] = static_cast<float>(draw.normal());
  return m;
}

/// (d, d) mixing of independent numbers: power-law spectrum in a random basis, log-normal channel gains, some outlier channels.
matrix<float> mixing(index_t d, source& draw) {
  matrix<double> symmetric(d, d);
  for (index_t i = 0; i < d; ++i)
    for (index_t j = 0; j <= i; ++j) symmetric(i, j) = symmetric(j, i) = draw.normal();
  matrix<float> const basis(slim::symmetric_eigen(symmetric.view()).vectors.view());
  matrix<float> weighted = basis;
  for (index_t k = 0; k < d; ++k)
    for (index_t i = 0; i < d; ++i) weighted(i, k) *= static_cast<float>(std::pow(static_cast<double>(k + 1), -0.45));
  matrix<float> mix(d, d);
  slim::gemm_into(weighted.view(), transposed(basis.view()), mix.view());
  for (index_t j = 0; j < d; ++j) {
    double gain = 10 * std::exp(0.5 * draw.normal());
    if (j % 128 == 77) gain *= 8 + 12 * draw.uniform();
    for (index_t i = 0; i < d; ++i) mix(i, j) *= static_cast<float>(gain);
  }
  return mix;
}

slim::calibration observed(index_t tokens, matrix<float> const& mix, source& draw) {
  slim::calibration seen(mix.rows(), {.gram = true});
  constexpr index_t batch = 1024;
  matrix<float> x(batch, mix.cols());
  for (index_t t = 0; t < tokens; t += batch) {
    slim::gemm_into(normal_matrix(batch, mix.rows(), draw).view(), mix.view(), x.view());
    for (index_t i = 0; i < batch; ++i) {
      auto const loudness = static_cast<float>(std::exp(0.4 * draw.normal()));
      for (index_t j = 0; j < x.cols(); ++j) x(i, j) *= loudness;
    }
    seen.observe(x.view());
  }
  return seen;
}

layer make_layer(index_t d_out, index_t d_in, index_t tokens, std::uint64_t seed) {
  source draw(seed);
  matrix<float> const mix = mixing(d_in, draw);
  slim::calibration seen = observed(tokens, mix, draw), held_out = observed(tokens / 2, mix, draw);
  matrix<float> w(d_out, d_in);
  std::vector<double> column_gain;
  for (index_t j = 0; j < d_in; ++j) column_gain.push_back(std::exp(0.25 * draw.normal()));
  for (index_t i = 0; i < d_out; ++i) {
    double const gain = std::exp(0.25 * draw.normal());
    for (index_t j = 0; j < d_in; ++j)
      w(i, j) = static_cast<float>(gain * column_gain[static_cast<std::size_t>(j)] * draw.student4());
  }
  index_t const rank = std::max<index_t>(d_in / 8, 1);
  matrix<float> left = normal_matrix(d_out, rank, draw);
  for (index_t i = 0; i < d_out; ++i)
    for (index_t k = 0; k < rank; ++k) left(i, k) *= static_cast<float>(0.5 * std::pow(static_cast<double>(k + 1), -0.7));
  slim::gemm_into(left.view(), normal_matrix(rank, d_in, draw).view(), w.view(), {}, slim::destination::add);
  return {std::move(w), std::move(seen), std::move(held_out)};
}

/// sqrt of the energy of X (W - S)^T on held-out tokens, relative to that of X W^T.
double error_of(layer const& l, matrix<float> const& s) {
  matrix<float> change = l.w;
  for (index_t k = 0; k < change.size(); ++k) change.data()[k] -= s.data()[k];
  return std::sqrt(slim::output_energy(change.view(), l.held_out) / slim::output_energy(l.w.view(), l.held_out));
}

struct result {
  double error = 0, seconds = 0;
};

class table {
public:
  template <class F>
  void measure(std::string const& what, layer const& l, F const& weights) {
    if (!sums_.contains(what)) order_.push_back(what);
    auto const start = std::chrono::steady_clock::now();
    matrix<float> const s = weights();
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    sums_[what].error += error_of(l, s);
    sums_[what].seconds += seconds;
  }
  void print(int seeds) const {
    double const peer = sums_.at("2:4 wanda").error;
    std::printf("| %-46s | %8s | %8s | %7s\n", "what", "error", "to wanda", "seconds");
    for (std::string const& what : order_) {
      result const& r = sums_.at(what);
      std::printf("| %-46s | %8.4f | %7.3fx | %7.3f\n", what.c_str(), r.error / seeds, r.error / peer, r.seconds / seeds);
    }
  }

private:
  std::map<std::string, result> sums_;
  std::vector<std::string> order_;
};

template <slim::pruner P>
matrix<float> pruned(matrix<float> w, slim::calibration const& seen, P const& p) {
  p.select(slim::matrix_view<float const>(w.view()), seen).apply_to(w.view());
  return w;
}

template <slim::pruner P>
matrix<float> solved(matrix<float> const& w, slim::calibration const& seen, P const& p) {
  return slim::masked_least_squares(w.view(), p.select(w.view(), seen), seen).weights;
}

/// Prune under a permutation, and back.
template <slim::saliency S, class F>
matrix<float> permuted(layer const& l, S const& ranking, F const& prune) {
  auto const found = slim::permutation_for_nm(l.w.view(), l.seen, ranking);
  matrix<float> const s = prune(found.permutation.apply(l.w.view()), found.permutation.apply_to(l.seen));
  return found.permutation.invert(s.view());
}

void measure_nm(table& out, layer const& l) {
  auto const magnitude = slim::nm_pruner<2, 4>(slim::magnitude());
  auto const wanda = slim::nm_pruner<2, 4>(slim::wanda());
  auto const ria = slim::nm_pruner<2, 4>(slim::ria());
  out.measure("2:4 magnitude", l, [&] { return pruned(l.w, l.seen, magnitude); });
  out.measure("2:4 wanda", l, [&] { return pruned(l.w, l.seen, wanda); });
  out.measure("2:4 ria", l, [&] { return pruned(l.w, l.seen, ria); });
  out.measure("2:4 wanda, permuted", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& seen) { return pruned(w, seen, wanda); });
  });
  out.measure("2:4 ria, permuted", l,
              [&] { return permuted(l, slim::ria(), [&](auto const& w, auto const& seen) { return pruned(w, seen, ria); }); });
  out.measure("2:4 wanda, least squares", l, [&] { return solved(l.w, l.seen, wanda); });
  out.measure("2:4 ria, least squares", l, [&] { return solved(l.w, l.seen, ria); });
  out.measure("2:4 wanda, permuted, least squares", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& seen) { return solved(w, seen, wanda); });
  });
  out.measure("2:4 alps", l, [&] { return slim::alps(magnitude).solve(l.w.view(), l.seen).solved.weights; });
  out.measure("2:4 alps, permuted by wanda", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& seen) {
      return slim::alps(magnitude).solve(w.view(), seen).solved.weights;
    });
  });
}

void measure_half(table& out, layer const& l) {
  slim::unstructured_config const whole{.sparsity = 0.5, .scope = slim::prune_scope::matrix};
  auto const wanda = slim::unstructured_pruner({.sparsity = 0.5}, slim::wanda());
  out.measure("half wanda", l, [&] { return pruned(l.w, l.seen, wanda); });
  out.measure("half wanda, least squares", l, [&] { return solved(l.w, l.seen, wanda); });
  out.measure("half alps", l, [&] {
    return slim::alps(slim::unstructured_pruner(whole, slim::magnitude())).solve(l.w.view(), l.seen).solved.weights;
  });
}

} // namespace

int main(int argc, char** argv) {
  auto const argument = [&](int k, long fallback) { return argc > k ? std::atol(argv[k]) : fallback; };
  index_t const d_out = argument(1, 512), d_in = argument(2, 512), share = argument(4, 32);
  int const seeds = static_cast<int>(argument(3, 3));
  table out;
  for (int seed = 0; seed < seeds; ++seed) {
    layer const l = make_layer(d_out, d_in, share * d_in, static_cast<std::uint64_t>(seed + 1));
    measure_nm(out, l);
    measure_half(out, l);
  }
  std::printf("%d x %d, %d tokens, mean of %d seeds\n", static_cast<int>(d_out), static_cast<int>(d_in),
              static_cast<int>(share * d_in), seeds);
  out.print(seeds);
}
