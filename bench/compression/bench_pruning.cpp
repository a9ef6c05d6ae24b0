// Ways to prune a layer to 2:4 (and to half, unstructured), by error of the output on held-out tokens, relative to that of
// Wanda: the mask's choice, the order of channels, and the weights on the mask. The layers are those of synthetic_layer.hpp.
// Usage: bench_pruning [d_out = 512] [d_in = 512] [seeds = 3] [tokens per channel = 32]
#include "synthetic_layer.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

using slim::matrix;
using slim_bench::layer;

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
    sums_[what].error += slim_bench::held_out_error(l, s);
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
matrix<float> pruned(matrix<float> w, slim::calibration const& calib, P const& p) {
  p.select(slim::matrix_view<float const>(w.view()), calib).apply_to(w.view());
  return w;
}

template <slim::pruner P>
matrix<float> solved(matrix<float> const& w, slim::calibration const& calib, P const& p) {
  return slim::masked_least_squares(w.view(), p.select(w.view(), calib), calib).weights;
}

/// Prune under a permutation, and back.
template <slim::saliency S, class F>
matrix<float> permuted(layer const& l, S const& ranking, F const& prune) {
  auto const found = slim::permutation_for_nm(l.w.view(), l.calib, ranking);
  matrix<float> const s = prune(found.permutation.apply(l.w.view()), found.permutation.apply_to(l.calib));
  return found.permutation.invert(s.view());
}

void measure_nm(table& out, layer const& l) {
  auto const magnitude = slim::nm_pruner<2, 4>(slim::magnitude());
  auto const wanda = slim::nm_pruner<2, 4>(slim::wanda());
  auto const ria = slim::nm_pruner<2, 4>(slim::ria());
  out.measure("2:4 magnitude", l, [&] { return pruned(l.w, l.calib, magnitude); });
  out.measure("2:4 wanda", l, [&] { return pruned(l.w, l.calib, wanda); });
  out.measure("2:4 ria", l, [&] { return pruned(l.w, l.calib, ria); });
  out.measure("2:4 wanda, permuted", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& calib) { return pruned(w, calib, wanda); });
  });
  out.measure("2:4 ria, permuted", l, [&] {
    return permuted(l, slim::ria(), [&](auto const& w, auto const& calib) { return pruned(w, calib, ria); });
  });
  out.measure("2:4 wanda, least squares", l, [&] { return solved(l.w, l.calib, wanda); });
  out.measure("2:4 ria, least squares", l, [&] { return solved(l.w, l.calib, ria); });
  out.measure("2:4 wanda, permuted, least squares", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& calib) { return solved(w, calib, wanda); });
  });
  out.measure("2:4 alps", l, [&] { return slim::alps(magnitude).solve(l.w.view(), l.calib).solved.weights; });
  out.measure("2:4 alps, permuted by wanda", l, [&] {
    return permuted(l, slim::wanda(), [&](auto const& w, auto const& calib) {
      return slim::alps(magnitude).solve(w.view(), calib).solved.weights;
    });
  });
}

void measure_half(table& out, layer const& l) {
  slim::unstructured_config const whole{.sparsity = 0.5, .scope = slim::prune_scope::matrix};
  auto const wanda = slim::unstructured_pruner(slim::wanda(), {.sparsity = 0.5});
  out.measure("half wanda", l, [&] { return pruned(l.w, l.calib, wanda); });
  out.measure("half wanda, least squares", l, [&] { return solved(l.w, l.calib, wanda); });
  out.measure("half alps", l, [&] {
    return slim::alps(slim::unstructured_pruner(slim::magnitude(), whole)).solve(l.w.view(), l.calib).solved.weights;
  });
}

} // namespace

int main(int argc, char** argv) {
  auto const argument = [&](int k, long fallback) { return argc > k ? std::atol(argv[k]) : fallback; };
  slim::index_t const d_out = argument(1, 512), d_in = argument(2, 512), share = argument(4, 32);
  int const seeds = static_cast<int>(argument(3, 3));
  table out;
  for (int seed = 0; seed < seeds; ++seed) {
    layer const l = slim_bench::synthetic_layer(d_out, d_in, share * d_in, static_cast<std::uint64_t>(seed + 1));
    measure_nm(out, l);
    measure_half(out, l);
  }
  std::printf("%d x %d, %d tokens, mean of %d seeds\n", static_cast<int>(d_out), static_cast<int>(d_in),
              static_cast<int>(share * d_in), seeds);
  out.print(seeds);
}
