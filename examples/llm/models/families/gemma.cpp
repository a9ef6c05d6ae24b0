/// @file
/// Gemma 2 and Gemma 3 (text, also that of the multimodal models): norms before and behind attention and MLP, scaled
/// embeddings, windows that alternate with full attention. Gemma 2 caps scores and logits softly; Gemma 3 normalizes heads and
/// turns positions of blocks with a window by a second table.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

#include <cmath>

namespace slim_llm {
namespace {

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
           .input = common::attention_input,
           .combine = common::attend,
           .adjoint = {common::attention_input_adjoint, common::attend_adjoint}},
          {.linears = {"o"},
           .input = common::mixed_input,
           .combine = add_attention,
           .adjoint = {common::mixed_input_adjoint, add_attention_adjoint}},
          {.linears = {"gate", "up"},
           .input = common::mlp_input,
           .combine = common::gate,
           .adjoint = {common::mlp_input_adjoint, common::gate_adjoint}},
          {.linears = {"down"},
           .input = common::mixed_input,
           .combine = add_mlp,
           .adjoint = {common::mixed_input_adjoint, add_mlp_adjoint}}};
}

void add_norms(tensor_layout& layout, model_config const& c, std::vector<std::string> const& names) {
  layout.norms = {{"attention_norm", names[0], c.hidden},
                  {"after_attention_norm", names[1], c.hidden},
                  {"mlp_norm", names[2], c.hidden},
                  {"after_mlp_norm", names[3], c.hidden}};
  if (!c.has.head_norms) return;
  layout.norms.push_back({"q_norm", names[4], c.head_dim});
  layout.norms.push_back({"k_norm", names[5], c.head_dim});
}

/// llama.cpp's converter adds the 1 to the norms.
tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = common::gguf_names();
  add_norms(layout, c,
            {"attn_norm.weight", "post_attention_norm.weight", "ffn_norm.weight", "post_ffw_norm.weight", "attn_q_norm.weight",
             "attn_k_norm.weight"});
  common::add_attention_linears(layout, c, bias_rule::none, bias_rule::none, common::gguf_attention);
  common::add_mlp_linears(layout, c, bias_rule::none, common::gguf_mlp);
  return layout;
}

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = common::hugging_face_names(root);
  layout.norm_offset = 1;
  if (root.starts_with("language_model.")) layout.head = "language_model.lm_head.weight";
  if (root.find("language_model.") != std::string::npos)
    layout.left_out = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."};
  add_norms(layout, c,
            {"input_layernorm.weight", "post_attention_layernorm.weight", "pre_feedforward_layernorm.weight",
             "post_feedforward_layernorm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight"});
  bias_rule const rule = c.has.qkv_bias ? bias_rule::required : bias_rule::none;
  common::add_attention_linears(layout, c, rule, rule, common::hugging_face_attention);
  common::add_mlp_linears(layout, c, bias_rule::none, common::hugging_face_mlp);
  return layout;
}

/// Blocks with a window turn positions by the second table.
void set_local_tables(model_config& c) {
  for (block_attention& attention : c.attention) attention.rotary = attention.window > 0 ? 1 : 0;
}

void set_common(model_config& c) {
  c.embedding_scale = std::sqrt(static_cast<double>(c.hidden));
  c.has.head_norms = c.name != "gemma2";
}

/// Keys and what follows from their absence: llama.cpp's models gemma2 and gemma3.
void read_gguf(config_reader& file, model_config& c, rope_defaults& rope) {
  std::string const p = c.name + ".";
  bool const second = c.name == "gemma2";
  set_common(c);
  c.norm_epsilon = file.number(p + "attention.layer_norm_rms_epsilon");
  // The 27B models, which llama.cpp tells by their number of blocks, divide by hidden / heads instead of the size of a head.
  index_t const large = second ? 46 : 62;
  double const scalar = static_cast<double>(c.layers == large && c.heads > 0 ? c.hidden / c.heads : c.head_dim);
  c.attention_scale = 1 / std::sqrt(scalar);
  c.attention_soft_cap = second ? file.number(p + "attn_logit_softcapping", 50.0) : 0.0;
  c.logit_soft_cap = file.number(p + "final_logit_softcapping", second ? 30.0 : 0.0);
  index_t const window = file.whole(p + "attention.sliding_window", second ? 4096 : 0);
  if (window < 1) return;
  rope.local_theta = file.number(p + "rope.freq_base_swa", second ? 0.0 : 10000.0); // Gemma 2 has one table
  c.attention.resize(static_cast<std::size_t>(c.layers));
  auto const listed = file.flags(p + "attention.sliding_window_pattern");
  if (!listed.empty() && listed.size() != c.attention.size())
    return file.fail(
        slim::message("'attention.sliding_window_pattern' names ", listed.size(), " blocks, the model has ", c.layers));
  index_t const by_default = second ? 2 : 6;
  index_t const pattern = listed.empty() ? file.whole(p + "attention.sliding_window_pattern", by_default) : by_default;
  if (pattern < 1) return file.fail("'attention.sliding_window_pattern' must be positive");
  for (index_t n = 0; n < c.layers; ++n) {
    auto const at = static_cast<std::size_t>(n);
    if (listed.empty() ? n % pattern < pattern - 1 : listed[at]) c.attention[at].window = window;
  }
  if (rope.local_theta > 0) set_local_tables(c);
}

/// Gemma2Config and Gemma3TextConfig of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults& rope) {
  bool const second = c.name == "gemma2";
  common::read_common(file, c,
                      {.kv_heads = 4,
                       .head_dim = 256,
                       .max_positions = second ? 8192 : 131072,
                       .tied = true,
                       .activation_key = "hidden_activation",
                       .activation = "gelu_pytorch_tanh"});
  file.used("hidden_act");              // of older folders; the class reads the other key
  file.used("_sliding_window_pattern"); // written by transformers 5, which reads layer_types beside it
  set_common(c);
  c.has.qkv_bias = file.flag("attention_bias", false);
  double const scalar = file.number("query_pre_attn_scalar", 256.0);
  if (!(scalar > 0)) return file.fail(slim::message("'query_pre_attn_scalar' is ", scalar, "; it must be positive"));
  c.attention_scale = 1 / std::sqrt(scalar);
  auto const cap = [&](char const* key, double fallback) {
    double const value = file.number_or_none(key, fallback).value_or(0.0);
    if (value < 0) file.fail(slim::message("'", key, "' is ", value, "; it must be positive"));
    return value;
  };
  // Gemma3Attention of 5.24 does not cap scores. Nobody asks for the key there, so a model that has it is refused.
  c.attention_soft_cap = second ? cap("attn_logit_softcapping", 50.0) : 0.0;
  c.logit_soft_cap = cap("final_logit_softcapping", second ? 30.0 : 0.0);
  index_t const pattern = second ? 2 : file.whole("sliding_window_pattern", 6);
  if (pattern < 1) return file.fail("'sliding_window_pattern' must be positive");
  common::read_windows(file, c, file.whole_or_none("sliding_window", 4096), [&](index_t n) { return (n + 1) % pattern != 0; });
  if (second) return;
  rope.theta = 1000000;
  rope.local_theta = 10000;
  set_local_tables(c);
}

} // namespace

model_family const gemma_family = {
    .name = "gemma",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"gemma2", "gemma3"},
             .read_config = read_gguf,
             .tensors = gguf_tensors,
             .activation = activation_kind::gelu_tanh},
    .hugging_face = {.names = {"gemma2", "gemma3_text", "gemma3"}, // whose text is gemma3_text
                     .read_config = read_hugging_face,
                     .tensors = hugging_face_tensors,
                     // as on the Hub, and as Gemma3ForConditionalGeneration and Gemma3Model hold them
                     .roots = {"model.", "language_model.model.", "model.language_model.", "language_model.", ""}}};

} // namespace slim_llm
