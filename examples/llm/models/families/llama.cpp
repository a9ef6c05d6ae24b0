/// @file
/// Llama and what follows its plan: Mistral, SmolLM, Qwen2, Qwen3. RMSNorm, rotary positions, a gated MLP.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

namespace slim_llm {
namespace {

matrix<float> attention_input(forward_pass const& pass, block const& b, block_state& state) {
  return pass.normalized(*b.find_norm("attention_norm"), state.hidden);
}

matrix<float> mlp_input(forward_pass const& pass, block const& b, block_state& state) {
  return pass.normalized(*b.find_norm("mlp_norm"), state.hidden);
}

void gate(forward_pass const& pass, block const&, block_state& state, std::vector<matrix<float>> both) {
  state.carry(common::mixed) = pass.gated_by_silu(both[0], std::move(both[1]));
}

std::vector<stage> stages(model_config const&) {
  return {{.linears = {"q", "k", "v"}, .input = attention_input, .combine = common::attend},
          {.linears = {"o"}, .input = common::mixed_input},
          {.linears = {"gate", "up"}, .input = mlp_input, .combine = gate},
          {.linears = {"down"}, .input = common::mixed_input}};
}

/// Sizes and biases, the same in all formats; names are given by the caller.
tensor_layout layout_of(model_config const& c, std::vector<std::string> const& norm_names,
                        std::vector<std::string> const& linear_names) {
  tensor_layout layout;
  layout.norms = {{"attention_norm", norm_names[0], c.hidden}, {"mlp_norm", norm_names[1], c.hidden}};
  if (c.has.head_norms) {
    layout.norms.push_back({"q_norm", norm_names[2], c.head_dim});
    layout.norms.push_back({"k_norm", norm_names[3], c.head_dim});
  }
  layout.linears = {{"q", linear_names[0], c.q_size(), c.hidden, c.has.qkv_bias},
                    {"k", linear_names[1], c.kv_size(), c.hidden, c.has.qkv_bias},
                    {"v", linear_names[2], c.kv_size(), c.hidden, c.has.qkv_bias},
                    {"o", linear_names[3], c.hidden, c.q_size(), c.has.o_bias},
                    {"gate", linear_names[4], c.intermediate, c.hidden, c.has.mlp_bias},
                    {"up", linear_names[5], c.intermediate, c.hidden, c.has.mlp_bias},
                    {"down", linear_names[6], c.hidden, c.intermediate, c.has.mlp_bias}};
  return layout;
}

tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = layout_of(c, {"attn_norm.weight", "ffn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight"},
                                   {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight", "ffn_gate.weight",
                                    "ffn_up.weight", "ffn_down.weight"});
  layout.embedding = "token_embd.weight";
  layout.final_norm = "output_norm.weight";
  layout.head = "output.weight";
  layout.block_prefix = "blk.";
  return layout;
}

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = layout_of(
      c, {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight"},
      {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
       "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"});
  layout.embedding = root + "embed_tokens.weight";
  layout.final_norm = root + "norm.weight";
  layout.head = "lm_head.weight";
  layout.block_prefix = root + "layers.";
  return layout;
}

/// Keys: gguf-py/gguf/constants.py of llama.cpp.
void read_gguf(config_reader& file, model_config& c) {
  std::string const p = c.name + ".";
  c.rope = c.name == "llama" ? rope_style::adjacent_pairs : rope_style::rotate_half;
  c.norm_epsilon = file.number(p + "attention.layer_norm_rms_epsilon");
  c.sliding_window = file.whole(p + "attention.sliding_window", 0);
  if (file.whole(p + "expert_count", 0) > 0) file.fail("models with experts are not supported");
  c.has.qkv_bias = c.name == "qwen2";
  c.has.head_norms = c.name == "qwen3";
}

void read_hugging_face(config_reader& file, model_config& c) {
  c.embedding_dim = c.hidden;
  c.intermediate = file.whole("intermediate_size");
  c.kv_heads = file.whole("num_key_value_heads", c.heads);
  c.head_dim = file.whole("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  c.norm_epsilon = file.number("rms_norm_eps", 1e-6);
  c.tied_embeddings = file.flag("tie_word_embeddings", false);
  if (std::string const act = file.text("hidden_act", "silu"); act != "silu")
    file.fail("activation '" + act + "' is not known; silu is");
  if (file.number("partial_rotary_factor", 1.0) != 1.0) file.fail("partial_rotary_factor other than 1 is not supported");
  bool const slides = c.name == "mistral" || file.flag("use_sliding_window", false);
  if (slides) c.sliding_window = file.whole("sliding_window", 0);
  c.has.qkv_bias = c.name == "qwen2" || file.flag("attention_bias", false);
  c.has.o_bias = c.name != "qwen2" && file.flag("attention_bias", false);
  c.has.mlp_bias = file.flag("mlp_bias", false);
  c.has.head_norms = c.name == "qwen3";
}

} // namespace

model_family const llama_family = {
    .name = "llama",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"llama", "qwen2", "qwen3"}, .read_config = read_gguf, .tensors = gguf_tensors},
    .hugging_face = {.names = {"llama", "mistral", "qwen2", "qwen3"},
                     .read_config = read_hugging_face,
                     .tensors = hugging_face_tensors,
                     .roots = {"model.", ""}}};

} // namespace slim_llm
