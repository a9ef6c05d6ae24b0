/// @file
/// OLMo 2: as Llama, but norms stand behind attention and MLP, and q and k are normalized over all their heads together.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

namespace slim_llm {
namespace {

matrix<float> hidden_input(forward_pass const&, block const&, block_state& state) { return state.hidden; }

void add_attention(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> o) {
  common::add_normalized(pass, b, state, "after_attention_norm", std::move(o));
}

void add_mlp(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> down) {
  common::add_normalized(pass, b, state, "after_mlp_norm", std::move(down));
}

std::vector<matrix<float>> add_attention_adjoint(adjoint_scope const& at, block_gradient& g) {
  return common::add_normalized_adjoint(at, "after_attention_norm", g);
}

std::vector<matrix<float>> add_mlp_adjoint(adjoint_scope const& at, block_gradient& g) {
  return common::add_normalized_adjoint(at, "after_mlp_norm", g);
}

std::vector<stage> stages(model_config const&) {
  return {{.linears = {"q", "k", "v"},
           .input = hidden_input,
           .combine = common::attend,
           .adjoint = {common::hidden_input_adjoint, common::attend_adjoint}},
          {.linears = {"o"},
           .input = common::mixed_input,
           .combine = add_attention,
           .adjoint = {common::mixed_input_adjoint, add_attention_adjoint}},
          {.linears = {"gate", "up"},
           .input = hidden_input,
           .combine = common::gate,
           .adjoint = {common::hidden_input_adjoint, common::gate_adjoint}},
          {.linears = {"down"},
           .input = common::mixed_input,
           .combine = add_mlp,
           .adjoint = {common::mixed_input_adjoint, add_mlp_adjoint}}};
}

void add_norms(tensor_layout& layout, model_config const& c, std::vector<std::string> const& names) {
  layout.norms = {{"q_norm", names[0], c.q_size()},
                  {"k_norm", names[1], c.kv_size()},
                  {"after_attention_norm", names[2], c.hidden},
                  {"after_mlp_norm", names[3], c.hidden}};
}

tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = common::gguf_names();
  add_norms(layout, c, {"attn_q_norm.weight", "attn_k_norm.weight", "post_attention_norm.weight", "post_ffw_norm.weight"});
  common::add_attention_linears(layout, c, bias_rule::none, bias_rule::none, common::gguf_attention);
  common::add_mlp_linears(layout, c, bias_rule::none, common::gguf_mlp);
  return layout;
}

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = common::hugging_face_names(root);
  add_norms(layout, c,
            {"self_attn.q_norm.weight", "self_attn.k_norm.weight", "post_attention_layernorm.weight",
             "post_feedforward_layernorm.weight"});
  bias_rule const rule = c.has.qkv_bias ? bias_rule::required : bias_rule::none;
  common::add_attention_linears(layout, c, rule, rule, common::hugging_face_attention);
  common::add_mlp_linears(layout, c, bias_rule::none, common::hugging_face_mlp);
  return layout;
}

/// OLMo 3 goes by the same architecture; its windows give it away.
void read_gguf(config_reader& file, model_config& c, rope_defaults&) {
  c.norm_epsilon = file.number("olmo2.attention.layer_norm_rms_epsilon");
  if (file.whole("olmo2.attention.sliding_window", 0) > 0) file.fail("an OLMo with sliding windows (OLMo 3) is not supported");
}

/// Olmo2Config of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults&) {
  common::read_common(file, c, {.norm_epsilon = 1e-5, .max_positions = 2048});
  c.has.qkv_bias = file.flag("attention_bias", false);
}

} // namespace

model_family const olmo2_family = {
    .name = "olmo2",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"olmo2"}, .read_config = read_gguf, .tensors = gguf_tensors},
    .hugging_face = {
        .names = {"olmo2"}, .read_config = read_hugging_face, .tensors = hugging_face_tensors, .roots = {"model.", ""}}};

} // namespace slim_llm
