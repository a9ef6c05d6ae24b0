/// An ablation grid on one layer: recipes that are put together at run time, one row each.
///
/// `any_chain` holds any chain, with one virtual call per matrix. The layer is synthetic: heavy-tailed weights, input channels
/// whose sizes differ by a factor of a hundred. On a real model the same is `slim-llm ablate`.

#include <slim/slim.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

struct row {
  char const* name;
  slim::any_chain recipe;
};

int main() {
  constexpr slim::index_t d_out = 128, d_in = 256, tokens = 1024;
  slim::matrix<float> W(d_out, d_in), X(tokens, d_in);
  for (slim::index_t k = 0; k < W.size(); ++k) {
    double const x = slim::random_normal(1, static_cast<std::uint64_t>(k));
    W.data()[k] = static_cast<float>(0.02 * x * std::abs(x));
  }
  for (slim::index_t k = 0; k < X.size(); ++k) {
    double const size = std::exp(1.2 * slim::random_normal(2, static_cast<std::uint64_t>(k % d_in))); // of the channel
    X.data()[k] = static_cast<float>(size * slim::random_normal(3, static_cast<std::uint64_t>(k)));
  }
  slim::calibration calib(d_in, {.gram = true});
  calib.observe(X);

  slim::absmax_quantizer const absmax({.bits = 4, .block = slim::per_tensor});
  slim::slim_quantizer const slim_quant({.bits = 4});
  auto const by_magnitude = slim::nm_pruner<2, 4>(slim::magnitude{});
  auto const by_wanda = slim::nm_pruner<2, 4>(slim::wanda{});
  slim::lora_config const tenth{.rank = {.ratio = 0.1}, .format = slim::number_format::bf16};

  std::vector<row> const grid = {
      {"absmax", slim::chain(absmax)},
      {"slim-quant", slim::chain(slim_quant)},
      {"2:4 by magnitude", slim::chain(by_magnitude)},
      {"2:4 by Wanda", slim::chain(by_wanda)},
      {"slim-quant, then Wanda", slim::chain(slim_quant, by_wanda)},
      {"Wanda, then slim-quant", slim::chain(by_wanda, slim_quant)},
      {"... + naive adapter", slim::chain(slim_quant, by_wanda, slim::naive_lora(tenth))},
      {"... + SLiM-LoRA", slim::chain(slim_quant, by_wanda, slim::slim_lora(tenth))},
  };

  std::vector<double> error;
  std::printf("%-24s %12s %12s %8s\n", "recipe", "weight error", "output error", "bits");
  for (row const& r : grid) {
    slim::any_layer const layer = r.recipe.compress(W, calib);
    slim::step_report const last = layer.report.last();
    std::printf("%-24s %12.4f %12.4f %8.3f\n", r.name, last.relative_error, last.output_error, last.bits_per_weight);
    error.push_back(last.output_error);
  }
  // Better steps than absmax's, better positions than magnitude's, better directions than the plain SVD's.
  bool const ordered = error[1] < error[0] && error[3] < error[2] && error[7] < error[6] && error[6] < error[4];
  return ordered ? 0 : 1;
}
