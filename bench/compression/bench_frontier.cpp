// Every method from rounding to the joint solver on synthetic layers, beside what a NumPy prototype of the same methods
// measured (mean and deviation of 3 seeds; its layers have the same distribution and other random numbers). The prototype is
// not part of the repository, its numbers are in the table below. Error: ||X (W - W')^T|| / ||X W^T|| on held-out tokens.
// Usage: bench_frontier [seeds = 3] [d = 512] [tokens = 16384]; the prototype's numbers are for the defaults.
#include "synthetic_layer.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using slim::index_t;
using slim::matrix;
using slim_bench::layer;

/// One line of the table.
struct row {
  std::string what;
  double prototype, prototype_deviation;
  std::vector<double> errors;

  [[nodiscard]] double mean() const {
    double sum = 0;
    for (double const e : errors) sum += e;
    return sum / static_cast<double>(errors.size());
  }
  [[nodiscard]] double deviation() const {
    double sum = 0, middle = mean();
    for (double const e : errors) sum += (e - middle) * (e - middle);
    return std::sqrt(sum / static_cast<double>(errors.size()));
  }
};

class ladder {
public:
  explicit ladder(layer const& l, std::vector<row>& rows) : layer_(l), rows_(rows) {}

  void put(char const* what, double prototype, double prototype_deviation, matrix<float> const& approximation) {
    if (next_ == rows_.size()) rows_.push_back({what, prototype, prototype_deviation, {}});
    rows_[next_++].errors.push_back(slim_bench::held_out_error(layer_, approximation));
  }
  template <class... Steps>
  void chain(char const* what, double prototype, double prototype_deviation, Steps const&... steps) {
    put(what, prototype, prototype_deviation, slim::decompress(slim::compress(layer_.w, layer_.calib, slim::chain(steps...))));
  }

private:
  layer const& layer_;
  std::vector<row>& rows_;
  std::size_t next_ = 0;
};

slim::quantized_set<slim::uniform_grid, slim::dense_pattern> dense(slim::scale_block block) {
  return slim::quantized_set({.block = block, .scale_format = slim::number_format::fp32}, slim::dense_pattern{});
}

void quantization(ladder& out) {
  out.chain("4 bit: absmax, per tensor", 0.9407, 0.0376, slim::absmax_quantizer({.block = slim::per_tensor}));
  out.chain("4 bit: SLiM's published search, per tensor", 0.2038, 0.0158,
            slim::slim_quantizer({.search = slim::scale_search::reference}));
  out.chain("4 bit: exact step, per tensor", 0.1963, 0.0115, slim::slim_quantizer());
  out.chain("4 bit: exact step weighted by H_jj, per tensor", 0.1920, 0.0080, slim::slim_quantizer({.output_weighted = true}));
  out.chain("4 bit: exact step, per channel", 0.1795, 0.0138, slim::slim_quantizer({.block = slim::per_channel}));
  out.chain("4 bit: exact step weighted by H_jj, per channel", 0.1435, 0.0080,
            slim::slim_quantizer({.block = slim::per_channel, .output_weighted = true}));
  out.chain("4 bit: absmax, groups of 128", 0.1779, 0.0185, slim::absmax_quantizer());
  out.chain("4 bit: exact step, groups of 128", 0.1478, 0.0107, slim::slim_quantizer({.block = slim::per_group(128)}));
  out.chain("4 bit: GPTQ, per tensor", 0.1389, 0.0057, slim::error_feedback(dense(slim::per_tensor)));
  out.chain("4 bit: GPTQ, per channel", 0.1278, 0.0042, slim::error_feedback(dense(slim::per_channel)));
  out.chain("4 bit: GPTQ, groups of 128", 0.1056, 0.0039, slim::error_feedback(dense(slim::per_group(128))));
}

void pruning(ladder& out, layer const& l) {
  auto const by_wanda = slim::nm_pruner<2, 4>(slim::wanda());
  out.chain("2:4: magnitude", 0.3287, 0.0418, slim::nm_pruner<2, 4>(slim::magnitude()));
  out.chain("2:4: Wanda", 0.1778, 0.0119, by_wanda);
  out.chain("2:4: RIA", 0.1912, 0.0131, slim::nm_pruner<2, 4>(slim::ria()));
  matrix<float> pruned = l.w;
  slim::mask chosen(l.w.rows(), l.w.cols(), {2, 4});
  slim::feed_back(pruned.view(), slim::factor_for_feedback(slim::hessian(l.calib, 0.01).view()).upper.view(), chosen,
                  {.choose = {2, 4}});
  out.put("2:4: SparseGPT", 0.1287, 0.0085, pruned);
  auto const solved = [&](slim::mask const& kept) { return slim::masked_least_squares(l.w.view(), kept, l.calib).weights; };
  out.put("2:4: Wanda's mask, least squares", 0.1204, 0.0075, solved(by_wanda.select(l.w.view(), l.calib)));
  out.put("2:4: SparseGPT's mask, least squares", 0.1169, 0.0074, solved(chosen));
}

void together(ladder& out, index_t rank_number) {
  slim::adapter_rank const rank{.number = rank_number};
  slim::quantized_set const set({.scale_format = slim::number_format::fp32}, slim::nm<2, 4>{});
  slim::slim_quantizer const codes({.search = slim::scale_search::reference});
  auto const by_wanda = slim::nm_pruner<2, 4>(slim::wanda());
  out.chain("Wanda + SLiM-Quant", 0.2637, 0.0178, codes, by_wanda);
  out.chain("SparseGPT + GPTQ", 0.1893, 0.0082, slim::error_feedback(set));
  out.chain("Wanda + SLiM-Quant, naive adapter", 0.2205, 0.0190, codes, by_wanda, slim::naive_lora({.rank = rank}));
  out.chain("Wanda + SLiM-Quant, SLiM-LoRA", 0.1616, 0.0094, codes, by_wanda,
            slim::saliency_lora<slim::rms_saliency>({.rank = rank}));
  out.chain("Wanda + SLiM-Quant, exact adapter (QERA)", 0.1176, 0.0058, codes, by_wanda,
            slim::exact_lora({.rank = rank, .damping = 0.01}));
  out.chain("SparseGPT + GPTQ, exact adapter (EoRA)", 0.1166, 0.0061, slim::error_feedback(set),
            slim::exact_lora({.rank = rank, .damping = 0.01}));

  slim::joint_config config = slim::alternating_config(rank);
  auto const joint = [&](char const* what, double prototype, double deviation) {
    out.chain(what, prototype, deviation, slim::joint_slr(set, config));
  };
  config.guard = false;
  joint("alternating, 5 iterations", 0.0888, 0.0046);
  config.down_date = true;
  joint("... H down-dated, 5", 0.0773, 0.0036);
  config.start = slim::low_rank_start::weight;
  config.iterations = 1;
  joint("... starting from W, 1", 0.0783, 0.0038);
  config.iterations = 5;
  joint("... starting from W, 5", 0.0662, 0.0031);
  config.iterations = 10;
  joint("... starting from W, 10", 0.0632, 0.0030);
  config.descents = 2;
  joint("... and 2 descents", 0.0622, 0.0029);

  config.iterations = 5;
  config.stored = {.bits = 4};
  joint("joint, 4-bit adapters", 0.0956, 0.0035);
  config.stored = {.bits = 8};
  joint("joint, 8-bit adapters", 0.0671, 0.0032);
  config.rank = {.number = rank_number / 2};
  joint("joint, 8-bit adapters of half the rank", 0.0904, 0.0050);
}

} // namespace

int main(int argc, char** argv) {
  auto const argument = [&](int k, long fallback) { return argc > k ? std::atol(argv[k]) : fallback; };
  int const seeds = static_cast<int>(argument(1, 3));
  index_t const d = argument(2, 512), tokens = argument(3, 16384);
  std::vector<row> rows;
  for (int seed = 1; seed <= seeds; ++seed) {
    layer const l = slim_bench::synthetic_layer(d, d, tokens, static_cast<std::uint64_t>(seed));
    ladder out(l, rows);
    quantization(out);
    pruning(out, l);
    together(out, d / 10);
    std::fprintf(stderr, "layer %d of %d\n", seed, seeds);
  }
  std::printf("%td x %td, %td tokens, %d layers\n", d, d, tokens, seeds);
  std::printf("| %-50s | %15s | %15s | %5s |\n", "what", "error", "prototype", "ratio");
  for (row const& r : rows)
    std::printf("| %-50s | %.4f +- %.4f | %.4f +- %.4f | %.3f |\n", r.what.c_str(), r.mean(), r.deviation(), r.prototype,
                r.prototype_deviation, r.mean() / r.prototype);
}
