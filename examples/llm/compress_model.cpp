#include "compress_model.hpp"

#include "file_output.hpp"
#include "table.hpp"

#include <chrono>
#include <cmath>

namespace slim_llm {
namespace {

/// A block's walk over all calibration windows, one window at a time.
class block_compressor {
public:
  block_compressor(forward_pass const& pass, recipe const& how, context const& ctx, std::vector<layer_result>& layers)
      : pass_(pass), how_(how), ctx_(ctx), layers_(layers) {}

  /// Compresses the linears of b and moves the hidden states of all windows through it.
  void run(index_t number, block& b, matrix<float>& hidden) {
    number_ = number;
    auto const groups = linear_groups(b);
    windows_ = hidden.rows() / pass_.window();
    auto const hidden_of = [&](index_t w) { return hidden.view().middle_rows(w * pass_.window(), pass_.window()); };

    compress_group(b, groups[0], [&](index_t w) { return pass_.attention_input(b, hidden_of(w)); });

    matrix<float> mixes(hidden.rows(), b.o.d_in());
    compress_group(b, groups[1], [&](index_t w) {
      auto const x = pass_.attention_input(b, hidden_of(w));
      return stored(mixes, w, pass_.attention_mix(b, apply(b.q, x, ctx_), apply(b.k, x, ctx_), apply(b.v, x, ctx_)));
    });

    compress_group(b, groups[2], [&](index_t w) {
      pass_.add_attention_output(b, window_of(mixes, w), hidden_of(w));
      return pass_.mlp_input(b, hidden_of(w));
    });

    mixes = matrix<float>(hidden.rows(), b.down.d_in());
    compress_group(b, groups[3], [&](index_t w) {
      auto const x = pass_.mlp_input(b, hidden_of(w));
      return stored(mixes, w, pass_.mlp_mix(b, apply(b.gate, x, ctx_), apply(b.up, x, ctx_)));
    });
    for (index_t w = 0; w < windows_; ++w) pass_.add_mlp_output(b, window_of(mixes, w), hidden_of(w));
  }

private:
  matrix_view<float const> window_of(matrix<float> const& all, index_t w) const {
    return all.view().middle_rows(w * pass_.window(), pass_.window());
  }

  /// Keeps what a window's stage gave, for the stage after the next compression.
  matrix<float> stored(matrix<float>& all, index_t w, matrix<float> part) const {
    std::copy_n(part.data(), part.size(), all.row(w * pass_.window()));
    return part;
  }

  template <class InputOfWindow>
  void compress_group(block const& b, linear_group const& group, InputOfWindow const& input) {
    slim::calibration seen(group.members.front()->d_in(), {.gram = true});
    for (index_t w = 0; w < windows_; ++w) {
      matrix<float> const x = input(w);
      seen.observe(slim::matrix_view<float const>(x.view()), ctx_);
    }
    for (linear* member : group.members) {
      auto const compressed = how_.chain->compress(member->weight.view(), seen, ctx_);
      member->weight = slim::decompress(compressed, ctx_);
      member->round_input = how_.round_input;
      layers_.push_back({number_, member->name, role_of(b, *member), compressed.report});
    }
  }

  forward_pass const& pass_;
  recipe const& how_;
  context const& ctx_;
  std::vector<layer_result>& layers_;
  index_t number_ = 0;
  index_t windows_ = 0;
};

/// Inputs are rounded, weights are not.
void round_inputs_only(model& m, recipe const& how) {
  for (block& b : m.blocks)
    for (auto const& group : linear_groups(b))
      for (linear* member : group.members) member->round_input = how.round_input;
}

void summarise(compression& result) {
  double bits = 0, weights = 0, errors = 0;
  for (auto const& layer : result.layers) {
    auto const last = layer.report.last();
    auto const size = static_cast<double>(layer.report.rows * layer.report.cols);
    bits += last.bits_per_weight * size;
    weights += size;
    errors += last.output_error;
    for (auto const& note : layer.report.notes) result.notes.push_back(layer.name + ": " + note);
    for (auto const& step : layer.report.steps)
      for (auto const& note : step.notes) result.notes.push_back(layer.name + ": " + note);
  }
  result.bits_per_weight = bits / weights;
  result.layer_error = errors / static_cast<double>(result.layers.size());
}

} // namespace

compression compress_model(model& m, std::span<int const> tokens, recipe const& how, compress_config const& config,
                           double source_bits, context const& ctx, progress const& report) {
  compression result;
  if (!how.chain) {
    round_inputs_only(m, how);
    result.bits_per_weight = source_bits;
    return result;
  }
  if (tokens.size() < 2)
    throw slim::config_error(slim::message("compress: ", tokens.size(), " calibration tokens, needs 2 or more"));
  if (config.context < 1 || config.calib_tokens < 1)
    throw slim::config_error(slim::message("compress: context ", config.context, ", calib_tokens ", config.calib_tokens));
  auto const start = std::chrono::steady_clock::now();
  index_t const available = std::min(static_cast<index_t>(tokens.size()), config.calib_tokens);
  index_t const window = std::min(config.context, available);
  forward_pass const pass(m, window, ctx);
  result.calib_tokens = available / window * window;
  auto hidden = pass.embed(tokens.first(static_cast<std::size_t>(result.calib_tokens)));
  block_compressor compressor(pass, how, ctx, result.layers);
  for (index_t b = 0; b < m.config.layers; ++b) {
    compressor.run(b, m.blocks[static_cast<std::size_t>(b)], hidden);
    if (report) report(b + 1, m.config.layers);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  summarise(result);
  return result;
}

void write_layer_csv(std::vector<layer_result> const& layers, std::filesystem::path const& file) {
  table rows({"block", "role", "tensor", "d_out", "d_in", "step", "relative_error", "output_error", "sparsity",
              "bits_per_weight", "rank", "seconds", "notes"});
  for (auto const& layer : layers)
    for (auto const& step : layer.report.steps) {
      std::string notes;
      for (auto const& note : step.notes) notes += (notes.empty() ? "" : "; ") + note;
      rows.add({std::to_string(layer.block), layer.role, layer.name, std::to_string(layer.report.rows),
                std::to_string(layer.report.cols), step.step, fixed(step.relative_error, 6), fixed(step.output_error, 6),
                fixed(step.sparsity, 6), fixed(step.bits_per_weight, 4), std::to_string(step.rank), fixed(step.seconds, 4),
                notes});
    }
  write_file(file, rows.csv());
}

} // namespace slim_llm
