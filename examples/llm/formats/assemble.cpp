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

linear take_linear(tensor_source& source, std::string const& name, index_t d_out, index_t d_in, bool needs_bias) {
  linear l;
  l.name = name;
  l.weight = source.take(name, d_out, d_in);
  std::string const bias = bias_name(name);
  if (needs_bias || source.has(bias)) l.bias = source.take_vector(bias, d_out);
  return l;
}

norm take_norm(tensor_source& source, std::string const& name, index_t size, architecture family, bool has_weights = true) {
  norm n;
  n.name = name;
  if (!has_weights) {
    n.weight.assign(static_cast<std::size_t>(size), 1.0f);
    n.bias.assign(static_cast<std::size_t>(size), 0.0f);
    return n;
  }
  n.weight = source.take_vector(name, size);
  if (family == architecture::opt) n.bias = source.take_vector(bias_name(name), size);
  return n;
}

block take_block(tensor_source& source, model_config const& c, tensor_names const& names, expectations const& expected,
                 index_t number) {
  std::string const prefix = names.block_prefix + std::to_string(number) + ".";
  block b;
  b.attention_norm = take_norm(source, prefix + names.attention_norm, c.hidden, c.family, expected.norms_have_weights);
  b.mlp_norm = take_norm(source, prefix + names.mlp_norm, c.hidden, c.family, expected.norms_have_weights);
  if (expected.head_norms) {
    b.q_norm = take_norm(source, prefix + names.q_norm, c.head_dim, c.family);
    b.k_norm = take_norm(source, prefix + names.k_norm, c.head_dim, c.family);
  }
  b.q = take_linear(source, prefix + names.q, c.q_size(), c.hidden, expected.qkv_bias);
  b.k = take_linear(source, prefix + names.k, c.kv_size(), c.hidden, expected.qkv_bias);
  b.v = take_linear(source, prefix + names.v, c.kv_size(), c.hidden, expected.qkv_bias);
  b.o = take_linear(source, prefix + names.o, c.hidden, c.q_size(), expected.o_bias);
  if (!names.gate.empty()) b.gate = take_linear(source, prefix + names.gate, c.intermediate, c.hidden, expected.mlp_bias);
  b.up = take_linear(source, prefix + names.up, c.intermediate, c.hidden, expected.mlp_bias);
  b.down = take_linear(source, prefix + names.down, c.hidden, c.intermediate, expected.mlp_bias);
  return b;
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

matrix<float> tensor_source::take(std::string const& name, index_t rows, index_t cols) {
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  if (tensor->shape != std::vector<index_t>{rows, cols}) {
    std::string shape;
    for (index_t const extent : tensor->shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    fail(slim::message("tensor '", name, "' is ", shape.empty() ? "a single number" : shape, ", the configuration asks for ",
                       rows, " x ", cols));
    return {};
  }
  auto read = slim::read_matrix(*tensor);
  if (read) return std::move(*read);
  fail(read.why());
  return {};
}

std::vector<float> tensor_source::take_vector(std::string const& name, index_t size) {
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
  if (c.family == architecture::llama && c.head_dim % 2 != 0)
    return slim::message("heads of odd size ", c.head_dim, " have no rotary positions");
  if (!(c.norm_epsilon >= 0) || c.norm_epsilon > 1)
    return slim::message("norm epsilon is ", c.norm_epsilon, ", allowed are 0 .. 1");
  return {};
}

slim::result<model> assemble(model_config config, tensor_names const& names, expectations const& expected,
                             tensor_source& source) {
  model m;
  bool const projected = config.embedding_dim != config.hidden;
  m.embedding_name = names.embedding;
  m.embedding = source.take(names.embedding, config.vocab, config.embedding_dim);
  if (!names.positions.empty()) m.positions = source.take(names.positions, config.max_positions + 2, config.hidden);
  if (projected) {
    m.project_in = take_linear(source, names.project_in, config.hidden, config.embedding_dim, false);
    m.project_out = take_linear(source, names.project_out, config.embedding_dim, config.hidden, false);
  }
  for (index_t number = 0; number < config.layers && !source.failed(); ++number)
    m.blocks.push_back(take_block(source, config, names, expected, number));
  if (expected.final_norm)
    m.final_norm = take_norm(source, names.final_norm, config.hidden, config.family, expected.norms_have_weights);
  if (!config.tied_embeddings)
    m.head = take_linear(source, names.head, config.vocab, config.embedding_dim, false);
  else
    source.ignore(names.head); // some writers store the shared matrix twice
  m.config = std::move(config);
  if (std::string why = source.why(); !why.empty()) return slim::failure{std::move(why)};
  return m;
}

} // namespace slim_llm
