#include "compress/compress_model.hpp"

#include "run/file_output.hpp"
#include "run/table.hpp"

#include <chrono>
#include <cmath>

namespace slim_llm {
namespace {

/// What a window's stage gives: the input X of a group of linears and, where the recipe aims at the dense model's outputs, the
/// outputs Y (tokens x outputs of all members side by side) that they should give.
struct stage_data {
  matrix<float> x, y;
};

/// A block's walk over all calibration windows, one window at a time. The last `held_out` windows are only measured on. With a
/// recipe that aims at the dense model, a second walk through the uncompressed block runs beside the first.
class block_compressor {
public:
  block_compressor(forward_pass const& pass, recipe const& how, index_t held_out, packed_weights* packed, context const& ctx,
                   std::vector<layer_result>& layers)
      : pass_(pass), how_(how), held_out_(held_out), packed_(packed), ctx_(ctx), layers_(layers) {}

  /// Compresses the linears of b and moves the hidden states of all windows through it; `dense_hidden` those of the
  /// uncompressed model, empty if nobody asks for them.
  void run(index_t number, block& b, matrix<float>& hidden, matrix<float>& dense_hidden) {
    number_ = number;
    auto const groups = linear_groups(b);
    windows_ = hidden.rows() / pass_.window();
    bool const aims = !dense_hidden.empty();
    block const dense = aims ? b : block{};
    matrix<float> mixes(hidden.rows(), b.o.d_in());
    matrix<float> dense_mixes(aims ? hidden.rows() : 0, b.o.d_in()), dense_mlp_mixes(dense_mixes.rows(), b.down.d_in());

    compress_group(b, groups[0], [&](index_t w) {
      stage_data out{pass_.attention_input(b, window_of(hidden, w)), {}};
      if (!aims) return out;
      auto const x = pass_.attention_input(dense, window_of(dense_hidden, w));
      auto q = apply(dense.q, x, ctx_), k = apply(dense.k, x, ctx_), v = apply(dense.v, x, ctx_);
      out.y = side_by_side({{&q, &dense.q}, {&k, &dense.k}, {&v, &dense.v}});
      keep(dense_mixes, w, pass_.attention_mix(dense, std::move(q), std::move(k), std::move(v)));
      return out;
    });

    compress_group(b, groups[1], [&](index_t w) {
      auto const x = pass_.attention_input(b, window_of(hidden, w));
      stage_data out{pass_.attention_mix(b, apply(b.q, x, ctx_), apply(b.k, x, ctx_), apply(b.v, x, ctx_)), {}};
      keep(mixes, w, out.x);
      if (aims) out.y = output_and_drift(dense.o, window_of(dense_mixes, w), window_of(dense_hidden, w), window_of(hidden, w));
      return out;
    });

    compress_group(b, groups[2], [&](index_t w) {
      pass_.add_attention_output(b, window_of(mixes, w), window_of(hidden, w));
      stage_data out{pass_.mlp_input(b, window_of(hidden, w)), {}};
      if (!aims) return out;
      pass_.add_attention_output(dense, window_of(dense_mixes, w), window_of(dense_hidden, w));
      auto const x = pass_.mlp_input(dense, window_of(dense_hidden, w));
      auto gate = apply(dense.gate, x, ctx_), up = apply(dense.up, x, ctx_);
      out.y = side_by_side({{&gate, &dense.gate}, {&up, &dense.up}});
      keep(dense_mlp_mixes, w, pass_.mlp_mix(dense, std::move(gate), std::move(up)));
      return out;
    });

    mixes = matrix<float>(hidden.rows(), b.down.d_in());
    compress_group(b, groups[3], [&](index_t w) {
      auto const x = pass_.mlp_input(b, window_of(hidden, w));
      stage_data out{pass_.mlp_mix(b, apply(b.gate, x, ctx_), apply(b.up, x, ctx_)), {}};
      keep(mixes, w, out.x);
      if (aims)
        out.y = output_and_drift(dense.down, window_of(dense_mlp_mixes, w), window_of(dense_hidden, w), window_of(hidden, w));
      return out;
    });
    for (index_t w = 0; w < windows_; ++w) {
      pass_.add_mlp_output(b, window_of(mixes, w), window_of(hidden, w));
      if (aims) pass_.add_mlp_output(dense, window_of(dense_mlp_mixes, w), window_of(dense_hidden, w));
    }
  }

private:
  matrix_view<float> window_of(matrix<float>& all, index_t w) const {
    return all.view().middle_rows(w * pass_.window(), pass_.window());
  }

  /// Keeps what a window's stage gave, for the stage after the next compression.
  void keep(matrix<float>& all, index_t w, matrix<float> const& part) const {
    std::copy_n(part.data(), part.size(), all.row(w * pass_.window()));
  }

  /// Outputs without their biases, which compression leaves alone.
  static matrix<float> side_by_side(std::vector<std::pair<matrix<float> const*, linear const*>> const& parts) {
    index_t cols = 0, rows = 0;
    for (auto const& [y, from] : parts) {
      cols += y->cols();
      rows = std::max(rows, y->rows());
    }
    matrix<float> all(rows, cols);
    index_t first = 0;
    for (auto const& [y, from] : parts) {
      for (index_t t = 0; t < y->rows(); ++t)
        for (index_t j = 0; j < y->cols(); ++j)
          all(t, first + j) = (*y)(t, j) - (from->bias.empty() ? 0.0f : from->bias[static_cast<std::size_t>(j)]);
      first += y->cols();
    }
    return all;
  }

  /// What a linear that writes into the residual stream should add: its dense output and what the stream lacks already.
  matrix<float> output_and_drift(linear const& dense, matrix_view<float const> x, matrix_view<float const> dense_hidden,
                                 matrix_view<float const> hidden) const {
    matrix<float> y(x.rows(), dense.d_out());
    slim::gemm_into(x, slim::transposed(dense.weight.view()), y.view(), ctx_);
    for (index_t t = 0; t < y.rows(); ++t)
      for (index_t j = 0; j < y.cols(); ++j) y(t, j) += dense_hidden(t, j) - hidden(t, j);
    return y;
  }

  template <class DataOfWindow>
  void compress_group(block const& b, linear_group const& group, DataOfWindow const& data_of) {
    index_t outputs = 0;
    if (how_.towards_dense)
      for (linear const* member : group.members) outputs += member->d_out();
    index_t const d_in = group.members.front()->d_in();
    slim::calibration seen(d_in, {.gram = true, .outputs = outputs}), held_out(d_in, {.gram = true});
    for (index_t w = 0; w < windows_; ++w) {
      stage_data const data = data_of(w);
      if (w >= windows_ - held_out_)
        held_out.observe(slim::matrix_view<float const>(data.x.view()), ctx_);
      else if (outputs > 0)
        seen.observe(slim::matrix_view<float const>(data.x.view()), slim::matrix_view<float const>(data.y.view()), ctx_);
      else
        seen.observe(slim::matrix_view<float const>(data.x.view()), ctx_);
    }
    if (held_out_ > 0) seen.hold_out(std::move(held_out));
    index_t first = 0;
    for (linear* member : group.members) {
      std::string const role = role_of(b, *member);
      auto const chain = how_.chain(how_.rank_of(member->name, role));
      auto const compressed = outputs > 0
                                  ? chain.compress(member->weight.view(), seen.for_outputs(first, member->d_out()), ctx_)
                                  : chain.compress(member->weight.view(), seen, ctx_);
      first += member->d_out();
      member->weight = slim::decompress(compressed, ctx_);
      if (packed_) packed_->emplace(member->name, pack(member->name, compressed, ctx_));
      member->round_input = how_.round_input;
      layers_.push_back({number_, member->name, role, compressed.report});
    }
  }

  forward_pass const& pass_;
  recipe const& how_;
  index_t held_out_;
  packed_weights* packed_;
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
  double bits = 0, weights = 0, errors = 0, held_out = 0;
  for (auto const& layer : result.layers) {
    auto const last = layer.report.last();
    auto const size = static_cast<double>(layer.report.rows * layer.report.cols);
    bits += last.bits_per_weight * size;
    weights += size;
    errors += last.output_error;
    held_out += last.held_out_error;
    for (auto const& note : layer.report.notes) result.notes.push_back(layer.name + ": " + note);
    for (auto const& step : layer.report.steps)
      for (auto const& note : step.notes) result.notes.push_back(layer.name + ": " + note);
  }
  result.bits_per_weight = bits / weights;
  result.layer_error = errors / static_cast<double>(result.layers.size());
  result.held_out_error = held_out / static_cast<double>(result.layers.size());
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
  if (config.context < 1 || config.calib_tokens < 1 || config.held_out_tokens < 0)
    throw slim::config_error(slim::message("compress: context ", config.context, ", calib_tokens ", config.calib_tokens,
                                           ", held_out_tokens ", config.held_out_tokens));
  auto const start = std::chrono::steady_clock::now();
  index_t const available = static_cast<index_t>(tokens.size());
  index_t const window = std::min({config.context, config.calib_tokens, available});
  index_t const windows = std::min(config.calib_tokens, available) / window;
  index_t const held_out = std::min(config.held_out_tokens, available - windows * window) / window;
  forward_pass const pass(m, window, ctx);
  result.calib_tokens = windows * window;
  auto hidden = pass.embed(tokens.first(static_cast<std::size_t>((windows + held_out) * window)));
  matrix<float> dense_hidden = how.towards_dense ? hidden : matrix<float>();
  block_compressor compressor(pass, how, held_out, config.keep_packed ? &result.packed : nullptr, ctx, result.layers);
  for (index_t b = 0; b < m.config.layers; ++b) {
    compressor.run(b, m.blocks[static_cast<std::size_t>(b)], hidden, dense_hidden);
    if (report) report(b + 1, m.config.layers);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  summarise(result);
  return result;
}

void write_layer_csv(std::vector<layer_result> const& layers, std::filesystem::path const& file) {
  table rows({"block", "role", "tensor", "d_out", "d_in", "step", "relative_error", "output_error", "held_out_error",
              "sparsity", "bits_per_weight", "rank", "seconds", "notes"});
  for (auto const& layer : layers)
    for (auto const& step : layer.report.steps) {
      std::string notes;
      for (auto const& note : step.notes) notes += (notes.empty() ? "" : "; ") + note;
      rows.add({std::to_string(layer.block), layer.role, layer.name, std::to_string(layer.report.rows),
                std::to_string(layer.report.cols), step.step, fixed(step.relative_error, 6), fixed(step.output_error, 6),
                fixed(step.held_out_error, 6), fixed(step.sparsity, 6), fixed(step.bits_per_weight, 4),
                std::to_string(step.rank), fixed(step.seconds, 4), notes});
    }
  write_file(file, rows.csv());
}

} // namespace slim_llm
