/// @file
/// Qwen3-MoE and OLMoE: as Qwen3 and as Llama, with many small MLPs, the experts, of which a router chooses some for each
/// token. The router's linear stays as it is. Each expert is two stages, which see the tokens that the router sends to it.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace slim_llm {
namespace {

/// Carried values beyond common::mixed: what all experts read, and how much each token takes of each expert.
enum carried : std::size_t { expert_input = common::mixed + 1, expert_weights };

/// Softmax of the router's logits; all but the largest `experts_per_token` become 0. Ties go to the lower expert.
void choose_experts(model_config const& c, float* row) {
  auto const count = static_cast<std::size_t>(c.experts);
  float const largest = *std::max_element(row, row + count);
  double sum = 0;
  for (std::size_t e = 0; e < count; ++e) sum += std::exp(static_cast<double>(row[e] - largest));
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  std::vector<double> weights(count, 0.0);
  double chosen = 0;
  for (index_t k = 0; k < c.experts_per_token; ++k) {
    std::size_t const e = order[static_cast<std::size_t>(k)];
    weights[e] = std::exp(static_cast<double>(row[e] - largest)) / sum;
    chosen += weights[e];
  }
  for (std::size_t e = 0; e < count; ++e)
    row[e] = static_cast<float>(c.normalize_expert_weights ? weights[e] / chosen : weights[e]);
}

void route(forward_pass const& pass, block const& b, block_state& state) {
  matrix<float> x = common::mlp_input(pass, b, state);
  matrix<float> weights = apply(b.find_kept("router"), x);
  for (index_t t = 0; t < weights.rows(); ++t) choose_experts(pass.config(), weights.row(t));
  state.carry(expert_weights) = std::move(weights);
  state.carry(expert_input) = std::move(x);
}

/// Tokens that the router sends to an expert, by the weights that it gives.
std::vector<index_t> tokens_of(matrix<float> const& weights, index_t expert) {
  std::vector<index_t> tokens;
  for (index_t t = 0; t < weights.rows(); ++t)
    if (weights(t, expert) != 0) tokens.push_back(t);
  return tokens;
}

matrix<float> input_of(block_state& state, index_t expert) {
  auto const& x = state.carry(expert_input);
  auto const tokens = tokens_of(state.carry(expert_weights), expert);
  matrix<float> rows(static_cast<index_t>(tokens.size()), x.cols());
  for (std::size_t k = 0; k < tokens.size(); ++k) std::copy_n(x.row(tokens[k]), x.cols(), rows.row(static_cast<index_t>(k)));
  return rows;
}

void add_weighted(block_state& state, index_t expert, matrix<float> const& down) {
  auto const tokens = tokens_of(state.carry(expert_weights), expert);
  for (std::size_t k = 0; k < tokens.size(); ++k) {
    float const weight = state.carry(expert_weights)(tokens[k], expert);
    for (index_t j = 0; j < down.cols(); ++j) state.hidden(tokens[k], j) += weight * down(static_cast<index_t>(k), j);
  }
}

/// Gradient of the router's logits from that of the weights w it gives the chosen experts. w_e are probabilities p_e, and then
/// dl_j = p_j (dw_j [j is chosen] - sum_e w_e dw_e); or the probabilities among the chosen, and then only these have gradients.
void choose_experts_adjoint(model_config const& c, float const* logits, float const* weights, float* d) {
  auto const count = static_cast<std::size_t>(c.experts);
  double mean = 0, sum = 0;
  float const largest = *std::max_element(logits, logits + count);
  for (std::size_t e = 0; e < count; ++e) {
    if (weights[e] != 0) mean += static_cast<double>(weights[e]) * static_cast<double>(d[e]);
    sum += std::exp(static_cast<double>(logits[e] - largest));
  }
  for (std::size_t e = 0; e < count; ++e) {
    double const own = weights[e] != 0 ? static_cast<double>(d[e]) : 0.0;
    double const share =
        c.normalize_expert_weights ? static_cast<double>(weights[e]) : std::exp(static_cast<double>(logits[e] - largest)) / sum;
    d[e] = static_cast<float>(share * (own - mean));
  }
}

/// The choice itself has no gradient; the weights of the chosen have one.
void route_adjoint(adjoint_scope const& at, block_gradient& g) {
  auto const& c = at.pass.forward().config();
  linear const& router = at.b.find_kept("router");
  auto const& x = at.carried[expert_input];
  auto const& weights = at.carried[expert_weights];
  matrix<float> d = common::take_carried(g, expert_weights, weights.rows(), weights.cols());
  matrix<float> const logits = apply(router, x);
  for (index_t t = 0; t < d.rows(); ++t) choose_experts_adjoint(c, logits.row(t), weights.row(t), d.row(t));
  matrix<float> dx = common::take_carried(g, expert_input, x.rows(), x.cols());
  slim::gemm_into(matrix_view<float const>(d), router.weight.view(), dx.view(), slim::destination::add);
  at.pass.add_norm_adjoint(at, "mlp_norm", at.record.added, dx, g.hidden.view(), g);
}

void input_of_adjoint(adjoint_scope const& at, index_t expert, matrix<float> const& dx, block_gradient& g) {
  auto const& x = at.carried[expert_input];
  auto const tokens = tokens_of(at.carried[expert_weights], expert);
  matrix<float>& sum = g.carry(expert_input, x.rows(), x.cols());
  for (std::size_t k = 0; k < tokens.size(); ++k)
    for (index_t j = 0; j < dx.cols(); ++j) sum(tokens[k], j) += dx(static_cast<index_t>(k), j);
}

std::vector<matrix<float>> add_weighted_adjoint(adjoint_scope const& at, index_t expert, block_gradient& g) {
  auto const& weights = at.carried[expert_weights];
  auto const& down = at.record.outputs[0];
  auto const tokens = tokens_of(weights, expert);
  matrix<float>& d_weights = g.carry(expert_weights, weights.rows(), weights.cols());
  std::vector<matrix<float>> d(1, matrix<float>(down.rows(), down.cols()));
  for (std::size_t k = 0; k < tokens.size(); ++k) {
    auto const row = static_cast<index_t>(k);
    double sum = 0;
    for (index_t j = 0; j < down.cols(); ++j) {
      sum += static_cast<double>(g.hidden(tokens[k], j)) * static_cast<double>(down(row, j));
      d[0](row, j) = weights(tokens[k], expert) * g.hidden(tokens[k], j);
    }
    d_weights(tokens[k], expert) = static_cast<float>(sum);
  }
  return d;
}

std::string role_of(char const* part, index_t expert) { return slim::message("expert", expert, ".", part); }

std::vector<stage> stages(model_config const& c) {
  std::vector<stage> all = {{.linears = {"q", "k", "v"},
                             .input = common::attention_input,
                             .combine = common::attend,
                             .adjoint = {common::attention_input_adjoint, common::attend_adjoint}},
                            {.linears = {"o"},
                             .input = common::mixed_input,
                             .after_addition = route,
                             .adjoint = {common::mixed_input_adjoint, {}, route_adjoint}}};
  for (index_t e = 0; e < c.experts; ++e) {
    all.push_back(
        {.linears = {role_of("gate", e), role_of("up", e)},
         .input = [e](forward_pass const&, block const&, block_state& state) { return input_of(state, e); },
         .combine = common::gate,
         .decided_by = {expert_weights},
         .adjoint = {[e](adjoint_scope const& at, matrix<float> dx, block_gradient& g) { input_of_adjoint(at, e, dx, g); },
                     common::gate_adjoint}});
    all.push_back({.linears = {role_of("down", e)},
                   .input = common::mixed_input,
                   .combine = [e](forward_pass const&, block const&, block_state& state,
                                  std::vector<matrix<float>> down) { add_weighted(state, e, down[0]); },
                   .decided_by = {expert_weights},
                   .adjoint = {common::mixed_input_adjoint,
                               [e](adjoint_scope const& at, block_gradient& g) { return add_weighted_adjoint(at, e, g); }}});
  }
  return all;
}

/// Whole rows of q and k are normalized in OLMoE, single heads in Qwen3-MoE.
void add_norms(tensor_layout& layout, model_config const& c, std::vector<std::string> const& names) {
  layout.norms = {{"attention_norm", names[0], c.hidden},
                  {"mlp_norm", names[1], c.hidden},
                  {"q_norm", names[2], c.has.head_norms ? c.head_dim : c.q_size()},
                  {"k_norm", names[3], c.has.head_norms ? c.head_dim : c.kv_size()}};
}

/// The matrices of all experts are stacked in one tensor each.
tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = common::gguf_names();
  add_norms(layout, c, {"attn_norm.weight", "ffn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight"});
  common::add_attention_linears(layout, c, bias_rule::none, bias_rule::none, common::gguf_attention);
  layout.kept = {{"router", "ffn_gate_inp.weight", c.experts, c.hidden}};
  for (index_t e = 0; e < c.experts; ++e) {
    auto const slice = [&](char const* part, char const* name, index_t d_out, index_t d_in) {
      layout.linears.push_back({role_of(part, e), name, d_out, d_in, bias_rule::none, e, c.experts});
    };
    slice("gate", "ffn_gate_exps.weight", c.intermediate, c.hidden);
    slice("up", "ffn_up_exps.weight", c.intermediate, c.hidden);
    slice("down", "ffn_down_exps.weight", c.hidden, c.intermediate);
  }
  return layout;
}

/// All but the experts.
tensor_layout folder_without_experts(model_config const& c, std::string const& root) {
  tensor_layout layout = common::hugging_face_names(root);
  add_norms(
      layout, c,
      {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight"});
  bias_rule const rule = c.has.qkv_bias ? bias_rule::required : bias_rule::none;
  common::add_attention_linears(layout, c, rule, rule, common::hugging_face_attention);
  layout.kept = {{"router", "mlp.gate.weight", c.experts, c.hidden}};
  return layout;
}

/// As on the Hub, and as transformers writes them: a tensor for each matrix of each expert.
tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = folder_without_experts(c, root);
  for (index_t e = 0; e < c.experts; ++e) {
    std::string const prefix = slim::message("mlp.experts.", e, ".");
    layout.linears.push_back({role_of("gate", e), prefix + "gate_proj.weight", c.intermediate, c.hidden});
    layout.linears.push_back({role_of("up", e), prefix + "up_proj.weight", c.intermediate, c.hidden});
    layout.linears.push_back({role_of("down", e), prefix + "down_proj.weight", c.hidden, c.intermediate});
  }
  return layout;
}

/// As the classes of transformers 5 hold them (Qwen3MoeExperts, OlmoeExperts): gate_up_proj (experts, 2 intermediate, hidden),
/// where the rows of gate lie above those of up, and down_proj (experts, hidden, intermediate).
tensor_layout stacked_hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = folder_without_experts(c, root);
  for (index_t e = 0; e < c.experts; ++e) {
    auto const slice = [&](char const* part, char const* name, index_t d_out, index_t d_in, index_t place, index_t below) {
      layout.linears.push_back({role_of(part, e), name, d_out, d_in, bias_rule::none, place, below * c.experts, below});
    };
    slice("gate", "mlp.experts.gate_up_proj", c.intermediate, c.hidden, 2 * e, 2);
    slice("up", "mlp.experts.gate_up_proj", c.intermediate, c.hidden, 2 * e + 1, 2);
    slice("down", "mlp.experts.down_proj", c.hidden, c.intermediate, e, 1);
  }
  return layout;
}

void check_experts(config_reader& file, model_config const& c) {
  if (c.experts < 1 || c.experts > 4096)
    file.fail(slim::message("number of experts is ", c.experts, ", allowed are 1 .. 4096"));
  if (c.experts_per_token < 1 || c.experts_per_token > c.experts)
    file.fail(slim::message("a token goes to ", c.experts_per_token, " of ", c.experts, " experts"));
}

/// llama.cpp knows from the architecture whether weights of the chosen experts sum to 1.
void read_gguf(config_reader& file, model_config& c, rope_defaults&) {
  std::string const p = c.name + ".";
  bool const qwen = c.name == "qwen3moe";
  c.norm_epsilon = file.number(p + "attention.layer_norm_rms_epsilon");
  c.has.head_norms = c.normalize_expert_weights = qwen;
  c.experts = file.whole(p + "expert_count");
  c.experts_per_token = file.whole(p + "expert_used_count");
  if (qwen) c.intermediate = file.whole(p + "expert_feed_forward_length");
  check_experts(file, c);
}

/// Qwen3MoeConfig and OlmoeConfig of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults&) {
  bool const qwen = c.name == "qwen3_moe";
  if (qwen)
    common::read_common(file, c, {.kv_heads = 4, .max_positions = 32768});
  else
    common::read_common(file, c, {.norm_epsilon = 1e-5, .max_positions = 4096});
  c.has.head_norms = qwen;
  c.has.qkv_bias = file.flag("attention_bias", false);
  c.normalize_expert_weights = file.flag("norm_topk_prob", false);
  c.experts = file.whole("num_experts", file.whole("num_local_experts", qwen ? 128 : 64));
  c.experts_per_token = file.whole("num_experts_per_tok", 8);
  check_experts(file, c);
  if (!qwen) return;
  c.intermediate = file.whole("moe_intermediate_size", 768);
  file.used("max_window_layers"); // its folders hold the key, its class does not know it
  bool const slides = file.flag("use_sliding_window", false);
  if (auto const window = file.whole_or_none("sliding_window", 4096); slides && window) common::set_window(file, c, *window);
  if (file.whole("decoder_sparse_step", 1) != 1) file.fail("blocks without experts ('decoder_sparse_step') are not supported");
  if (!file.numbers("mlp_only_layers").empty()) file.fail("blocks without experts ('mlp_only_layers') are not supported");
}

} // namespace

model_family const mixture_family = {
    .name = "mixture",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"qwen3moe", "olmoe"}, .read_config = read_gguf, .tensors = gguf_tensors},
    .hugging_face = {.names = {"qwen3_moe", "olmoe"},
                     .read_config = read_hugging_face,
                     .tensors = hugging_face_tensors,
                     .roots = {"model.", ""},
                     .stacked_tensors = stacked_hugging_face_tensors}};

} // namespace slim_llm
