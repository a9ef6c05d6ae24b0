#include "models/families/common_stages.hpp"

#include <utility>

namespace slim_llm::common {

matrix<float> attention_input(forward_pass const& pass, block const& b, block_state& state) {
  return pass.normalized(*b.find_norm("attention_norm"), state.hidden);
}

matrix<float> mlp_input(forward_pass const& pass, block const& b, block_state& state) {
  return pass.normalized(*b.find_norm("mlp_norm"), state.hidden);
}

matrix<float> mixed_input(forward_pass const&, block const&, block_state& state) { return state.carry(mixed); }

void attend(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> qkv) {
  state.carry(mixed) = pass.attention(b, state, std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2]));
}

void gate(forward_pass const& pass, block const&, block_state& state, std::vector<matrix<float>> both) {
  state.carry(mixed) = pass.gated(both[0], std::move(both[1]));
}

void add_normalized(forward_pass const& pass, block const& b, block_state& state, char const* norm_role,
                    std::vector<matrix<float>> outputs) {
  pass.normalize_inplace(*b.find_norm(norm_role), outputs[0]);
  add_to(state.hidden, outputs[0]);
}

void add_to(matrix<float>& sum, matrix<float> const& part) {
  for (index_t k = 0; k < part.size(); ++k) sum.data()[k] += part.data()[k];
}

void attention_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g) {
  at.pass.add_norm_adjoint(at, "attention_norm", at.record.hidden, dx, g.hidden.view(), g);
}

void mlp_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g) {
  at.pass.add_norm_adjoint(at, "mlp_norm", at.record.hidden, dx, g.hidden.view(), g);
}

void mixed_input_adjoint(adjoint_scope const&, matrix<float> dx, block_gradient& g) {
  add_to(g.carry(mixed, dx.rows(), dx.cols()), dx);
}

void hidden_input_adjoint(adjoint_scope const&, matrix<float> dx, block_gradient& g) { add_to(g.hidden, dx); }

matrix<float> take_carried(block_gradient& g, std::size_t k, index_t rows, index_t cols) {
  return std::exchange(g.carry(k, rows, cols), matrix<float>());
}

std::vector<matrix<float>> attend_adjoint(adjoint_scope const& at, block_gradient& g) {
  auto const& q = at.record.outputs[0];
  auto d = at.pass.attention_adjoint(at, q, at.record.outputs[1], at.record.outputs[2],
                                     take_carried(g, mixed, q.rows(), q.cols()), g);
  std::vector<matrix<float>> all;
  for (matrix<float>* part : {&d.q, &d.k, &d.v}) all.push_back(std::move(*part));
  return all;
}

std::vector<matrix<float>> gate_adjoint(adjoint_scope const& at, block_gradient& g) {
  auto const& gate = at.record.outputs[0];
  return at.pass.gated_adjoint(gate, at.record.outputs[1], take_carried(g, mixed, gate.rows(), gate.cols()));
}

std::vector<matrix<float>> add_normalized_adjoint(adjoint_scope const& at, char const* norm_role, block_gradient& g) {
  auto const& y = at.record.outputs[0];
  std::vector<matrix<float>> d(1, matrix<float>(y.rows(), y.cols()));
  at.pass.add_norm_adjoint(at, norm_role, y, g.hidden, d[0].view(), g);
  return d;
}

tensor_layout gguf_names() {
  tensor_layout layout;
  layout.embedding = "token_embd.weight";
  layout.final_norm = "output_norm.weight";
  layout.head = "output.weight";
  layout.block_prefix = "blk.";
  return layout;
}

tensor_layout hugging_face_names(std::string const& root) {
  tensor_layout layout;
  layout.embedding = root + "embed_tokens.weight";
  layout.final_norm = root + "norm.weight";
  layout.head = "lm_head.weight";
  layout.block_prefix = root + "layers.";
  return layout;
}

void add_attention_linears(tensor_layout& layout, model_config const& c, bias_rule qkv, bias_rule o,
                           std::vector<std::string> const& names) {
  layout.linears.push_back({"q", names[0], c.q_size(), c.hidden, qkv});
  layout.linears.push_back({"k", names[1], c.kv_size(), c.hidden, qkv});
  layout.linears.push_back({"v", names[2], c.kv_size(), c.hidden, qkv});
  layout.linears.push_back({"o", names[3], c.hidden, c.q_size(), o});
}

void add_mlp_linears(tensor_layout& layout, model_config const& c, bias_rule rule, std::vector<std::string> const& names) {
  layout.linears.push_back({"gate", names[0], c.intermediate, c.hidden, rule});
  layout.linears.push_back({"up", names[1], c.intermediate, c.hidden, rule});
  layout.linears.push_back({"down", names[2], c.hidden, c.intermediate, rule});
}

activation_kind read_activation(config_reader& file, char const* key, char const* fallback) {
  static constexpr std::pair<std::string_view, activation_kind> known[] = {
      {"silu", activation_kind::silu},
      {"swish", activation_kind::silu},
      {"gelu", activation_kind::gelu},
      {"gelu_python", activation_kind::gelu},
      {"gelu_new", activation_kind::gelu_tanh},
      {"gelu_fast", activation_kind::gelu_tanh},
      {"gelu_pytorch_tanh", activation_kind::gelu_tanh},
      {"gelu_python_tanh", activation_kind::gelu_tanh},
      {"gelu_accurate", activation_kind::gelu_tanh},
      {"relu", activation_kind::relu},
  };
  std::string const name = file.text(key, fallback);
  std::string names;
  for (auto const& [theirs, ours] : known) {
    if (name == theirs) return ours;
    names.append(names.empty() ? "" : ", ").append(theirs);
  }
  file.fail(slim::message("activation '", name, "' ('", key, "') is not known; ", names, " are"));
  return {};
}

void read_common(config_reader& file, model_config& c, class_defaults const& defaults) {
  c.intermediate = file.whole("intermediate_size");
  auto const kv_heads = file.whole_or_none("num_key_value_heads", defaults.kv_heads > 0 ? defaults.kv_heads : c.heads);
  c.kv_heads = kv_heads.value_or(c.heads);
  index_t const even = c.heads > 0 ? c.hidden / c.heads : 0;
  auto const head_dim = file.whole_or_none("head_dim", defaults.head_dim > 0 ? defaults.head_dim : even);
  c.head_dim = head_dim.value_or(even);
  c.max_positions = file.whole("max_position_embeddings", defaults.max_positions);
  c.norm_epsilon = file.number("rms_norm_eps", defaults.norm_epsilon);
  c.tied_embeddings = file.flag("tie_word_embeddings", defaults.tied);
  c.activation = read_activation(file, defaults.activation_key, defaults.activation);
}

void set_window(config_reader& file, model_config& c, index_t window) {
  if (window < 1) return file.fail(slim::message("a sliding window of ", window, " tokens"));
  c.attention.assign(static_cast<std::size_t>(c.layers), {.window = window});
}

} // namespace slim_llm::common
