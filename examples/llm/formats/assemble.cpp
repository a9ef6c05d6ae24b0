#include "formats/assemble.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace slim_llm {
namespace {

/// "a.b.weight" -> "a.b.bias".
std::string bias_name(std::string const& weight) {
  constexpr std::string_view suffix = "weight";
  return weight.substr(0, weight.size() - suffix.size()) + "bias";
}

/// A linear without its weight.
linear describe_linear(tensor_source& source, linear_tensor const& tensor, std::string const& prefix) {
  linear l;
  l.role = tensor.role;
  l.name = prefix + tensor.name;
  std::string const bias = bias_name(l.name);
  if (tensor.biased || source.has(bias)) l.bias = source.read_vector(bias, tensor.d_out);
  return l;
}

linear read_linear(tensor_source& source, linear_tensor const& tensor) {
  linear l = describe_linear(source, tensor, {});
  l.weight = source.read(l.name, tensor.d_out, tensor.d_in);
  return l;
}

norm read_norm(tensor_source& source, model_config const& c, norm_tensor const& tensor, std::string const& prefix) {
  norm n;
  n.role = tensor.role;
  n.name = prefix + tensor.name;
  bool const biased = c.family->norm == norm_kind::layer;
  auto const size = static_cast<std::size_t>(tensor.size);
  if (!c.has.norm_weights) {
    n.weight.assign(size, 1.0f);
    n.bias.assign(size, 0.0f);
    return n;
  }
  n.weight = source.read_vector(n.name, tensor.size);
  if (biased) n.bias = source.read_vector(bias_name(n.name), tensor.size);
  return n;
}

/// The blocks of a model in its file. Norms and biases are in memory, weights are not.
struct stored_blocks {
  std::shared_ptr<void const> file;
  std::vector<block> described;                        ///< without weights
  std::vector<std::vector<slim::tensor_info>> weights; ///< of the linears of each block

  [[nodiscard]] block read(index_t number, context const& ctx) const {
    auto const n = static_cast<std::size_t>(number);
    block b = described[n];
    for (std::size_t k = 0; k < b.linears.size(); ++k) b.linears[k].weight = read_parallel(weights[n][k], ctx);
    return b;
  }
};

void add_block(stored_blocks& blocks, std::vector<linear_info>& linears, tensor_source& source, model_config const& c,
               tensor_layout const& layout, index_t number) {
  std::string const prefix = layout.block_prefix + std::to_string(number) + ".";
  block& b = blocks.described.emplace_back();
  auto& weights = blocks.weights.emplace_back();
  for (norm_tensor const& tensor : layout.norms) b.norms.push_back(read_norm(source, c, tensor, prefix));
  for (linear_tensor const& tensor : layout.linears) {
    b.linears.push_back(describe_linear(source, tensor, prefix));
    weights.push_back(source.find(b.linears.back().name, tensor.d_out, tensor.d_in));
    linears.push_back({b.linears.back().name, tensor.role, tensor.d_out, tensor.d_in});
  }
}

} // namespace

std::vector<double> rope_frequencies(rope_settings const& rope, index_t head_dim) {
  std::vector<double> frequencies;
  for (index_t j = 0; j < head_dim / 2; ++j) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
    if (rope.kind == rope_settings::scaling::linear) frequency /= rope.factor;
    if (rope.kind == rope_settings::scaling::llama3) {
      // Turns within the context the model was first trained on: many are kept, few are slowed down, a ramp in between.
      double const turns = rope.original_context * frequency / (2 * std::numbers::pi);
      double const ramp = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
      double const kept = std::clamp(ramp, 0.0, 1.0);
      frequency = (1 - kept) * frequency / rope.factor + kept * frequency;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

void tensor_source::add(std::span<slim::tensor_info const> tensors) {
  for (auto const& tensor : tensors)
    if (!tensors_.emplace(tensor.name, tensor).second) fail("tensor '" + tensor.name + "' occurs twice");
}

std::vector<index_t> tensor_source::shape_of(std::string const& name) const {
  auto const at = tensors_.find(name);
  return at == tensors_.end() ? std::vector<index_t>{} : at->second.shape;
}

void tensor_source::fail(std::string const& reason) {
  if (why_.empty()) why_ = file_ + ": " + reason;
}

slim::tensor_info const* tensor_source::require(std::string const& name) {
  if (!why_.empty()) return nullptr;
  used_.insert(name);
  auto const at = tensors_.find(name);
  if (at != tensors_.end()) return &at->second;
  fail("there is no tensor '" + name + "'");
  return nullptr;
}

slim::tensor_info tensor_source::find(std::string const& name, index_t rows, index_t cols) {
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  if (tensor->shape != std::vector<index_t>{rows, cols}) {
    std::string shape;
    for (index_t const extent : tensor->shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    fail(slim::message("tensor '", name, "' is ", shape.empty() ? "a single number" : shape, ", the configuration asks for ",
                       rows, " x ", cols));
    return {};
  }
  if (auto const read = slim::dequantize_rows_into(*tensor, 0, {nullptr, 0, cols}); !read) { // no rows: only checks
    fail(read.why());
    return {};
  }
  return *tensor;
}

matrix<float> tensor_source::read(std::string const& name, index_t rows, index_t cols) {
  auto const tensor = find(name, rows, cols);
  return failed() ? matrix<float>() : read_parallel(tensor, {});
}

std::vector<float> tensor_source::read_vector(std::string const& name, index_t size) {
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  if (tensor->shape != std::vector<index_t>{size}) {
    fail(slim::message("tensor '", name, "' has ", tensor->shape.size(), " dimensions and ", tensor->size(),
                       " elements, the configuration asks for a vector of ", size));
    return {};
  }
  auto const read = slim::read_matrix(*tensor);
  if (!read) {
    fail(read.why());
    return {};
  }
  return {read->data(), read->data() + size};
}

std::string tensor_source::why() const {
  if (!why_.empty()) return why_;
  std::string left; // the alphabetically first, so that the message does not depend on hashing
  for (auto const& entry : tensors_)
    if (!used_.contains(entry.first) && (left.empty() || entry.first < left)) left = entry.first;
  if (left.empty()) return {};
  return file_ + ": tensor '" + left + "' has no place in a model of this architecture; its result would be wrong without it";
}

std::string why_not_valid(model_config const& c) {
  struct bound {
    char const* name;
    index_t value, most;
  };
  constexpr index_t wide = index_t{1} << 24;
  for (bound const& b : {bound{"layers", c.layers, 4096}, bound{"hidden size", c.hidden, wide},
                         bound{"attention heads", c.heads, wide}, bound{"key-value heads", c.kv_heads, wide},
                         bound{"head size", c.head_dim, wide}, bound{"intermediate size", c.intermediate, wide},
                         bound{"vocabulary", c.vocab, wide}, bound{"embedding size", c.embedding_dim, wide}})
    if (b.value < 1 || b.value > b.most)
      return slim::message("number of ", b.name, " is ", b.value, ", allowed are 1 .. ", b.most);
  if (c.max_positions < 0 || c.max_positions > wide)
    return slim::message("number of positions is ", c.max_positions, ", allowed are 0 .. ", wide);
  if (c.heads % c.kv_heads != 0)
    return slim::message(c.heads, " attention heads cannot share ", c.kv_heads, " key-value heads evenly");
  if (c.family->positions == position_kind::rotary && c.head_dim % 2 != 0)
    return slim::message("heads of odd size ", c.head_dim, " have no rotary positions");
  if (!(c.norm_epsilon >= 0) || c.norm_epsilon > 1)
    return slim::message("norm epsilon is ", c.norm_epsilon, ", allowed are 0 .. 1");
  return {};
}

slim::result<model> assemble(model_config config, tensor_layout const& layout, tensor_source& source,
                             std::shared_ptr<void const> file) {
  model m;
  m.embedding = {source.find(layout.embedding, config.vocab, config.embedding_dim), file};
  if (!layout.positions.empty()) m.positions = source.read(layout.positions, config.max_positions + 2, config.hidden);
  if (config.embedding_dim != config.hidden) {
    m.project_in = read_linear(source, {"project_in", layout.project_in, config.hidden, config.embedding_dim});
    m.project_out = read_linear(source, {"project_out", layout.project_out, config.embedding_dim, config.hidden});
  }
  auto const blocks = std::make_shared<stored_blocks>();
  blocks->file = file;
  for (index_t number = 0; number < config.layers && !source.failed(); ++number)
    add_block(*blocks, m.file_linears, source, config, layout, number);
  m.read_block = [blocks](index_t number, context const& ctx) { return blocks->read(number, ctx); };
  if (config.has.final_norm) m.final_norm = read_norm(source, config, {"final_norm", layout.final_norm, config.hidden}, {});
  if (!config.tied_embeddings)
    m.head = {source.find(layout.head, config.vocab, config.embedding_dim), file};
  else
    source.ignore(layout.head); // some writers store the shared matrix twice
  m.config = std::move(config);
  if (std::string why = source.why(); !why.empty()) return slim::failure{std::move(why)};
  return m;
}

} // namespace slim_llm
