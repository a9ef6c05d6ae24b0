/// @file
/// Llama and what follows its plan: Mistral, SmolLM, Qwen2, Qwen3, SmolLM3. RMSNorm, rotary positions, a gated MLP.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

namespace slim_llm {
namespace {

std::vector<stage> stages(model_config const&) {
  return {{.linears = {"q", "k", "v"},
           .input = common::attention_input,
           .combine = common::attend,
           .adjoint = {common::attention_input_adjoint, common::attend_adjoint}},
          {.linears = {"o"}, .input = common::mixed_input, .adjoint = {common::mixed_input_adjoint}},
          {.linears = {"gate", "up"},
           .input = common::mlp_input,
           .combine = common::gate,
           .adjoint = {common::mlp_input_adjoint, common::gate_adjoint}},
          {.linears = {"down"}, .input = common::mixed_input, .adjoint = {common::mixed_input_adjoint}}};
}

void add_norms(tensor_layout& layout, model_config const& c, std::vector<std::string> const& names) {
  layout.norms = {{"attention_norm", names[0], c.hidden}, {"mlp_norm", names[1], c.hidden}};
  if (!c.has.head_norms) return;
  layout.norms.push_back({"q_norm", names[2], c.head_dim});
  layout.norms.push_back({"k_norm", names[3], c.head_dim});
}

/// llama.cpp uses every bias that a file of these architectures has.
tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = common::gguf_names();
  add_norms(layout, c, {"attn_norm.weight", "ffn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight"});
  common::add_attention_linears(layout, c, c.has.qkv_bias ? bias_rule::required : bias_rule::allowed, bias_rule::allowed,
                                common::gguf_attention);
  common::add_mlp_linears(layout, c, bias_rule::allowed, common::gguf_mlp);
  return layout;
}

bias_rule rule_of(bool biased) { return biased ? bias_rule::required : bias_rule::none; }

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = common::hugging_face_names(root);
  add_norms(
      layout, c,
      {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight"});
  common::add_attention_linears(layout, c, rule_of(c.has.qkv_bias), rule_of(c.has.o_bias), common::hugging_face_attention);
  common::add_mlp_linears(layout, c, rule_of(c.has.mlp_bias), common::hugging_face_mlp);
  return layout;
}

/// Every fourth block of SmolLM3 knows no positions. `rotates` says which do; empty: all but every `interval`-th.
void set_rotating_blocks(config_reader& file, model_config& c, std::vector<bool> rotates, index_t interval) {
  if (rotates.empty() && interval < 1) return file.fail("'no_rope_layer_interval' must be positive");
  if (rotates.empty())
    for (index_t n = 0; n < c.layers; ++n) rotates.push_back((n + 1) % interval != 0);
  if (static_cast<index_t>(rotates.size()) < c.layers)
    return file.fail(slim::message("'no_rope_layers' names ", rotates.size(), " blocks, the model has ", c.layers));
  c.attention.resize(static_cast<std::size_t>(c.layers));
  for (std::size_t n = 0; n < c.attention.size(); ++n)
    if (!rotates[n]) c.attention[n].rotary = block_attention::no_rotary;
}

/// Keys: gguf-py/gguf/constants.py of llama.cpp; rows of q and k: LlamaModel.permute of its converter.
void read_gguf(config_reader& file, model_config& c, rope_defaults&) {
  std::string const p = c.name + ".";
  bool const permuted = c.name == "llama" || c.name == "smollm3";
  c.rope = permuted ? rope_style::adjacent_pairs : rope_style::rotate_half;
  c.norm_epsilon = file.number(p + "attention.layer_norm_rms_epsilon");
  if (index_t const window = file.whole(p + "attention.sliding_window", 0); window > 0)
    c.attention.assign(static_cast<std::size_t>(c.layers), {.window = window});
  if (c.name == "smollm3") set_rotating_blocks(file, c, {}, 4);
  c.has.qkv_bias = c.name == "qwen2";
  c.has.head_norms = c.name == "qwen3";
}

/// LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults& rope) {
  struct type {
    char const* name;
    common::class_defaults defaults;
  };
  static constexpr type types[] = {{"llama", {.max_positions = 2048}},
                                   {"mistral", {.kv_heads = 8, .max_positions = 131072}},
                                   {"qwen2", {.kv_heads = 32, .max_positions = 32768}},
                                   {"qwen3", {.kv_heads = 32, .head_dim = 128, .max_positions = 32768}},
                                   {"smollm3", {.kv_heads = 4, .max_positions = 32768, .tied = true}}};
  for (type const& t : types)
    if (c.name == t.name) common::read_common(file, c, t.defaults);
  bool const qwen2 = c.name == "qwen2", smollm3 = c.name == "smollm3";
  bool const biased = c.name != "mistral" && !qwen2 && file.flag("attention_bias", false);
  c.has.qkv_bias = qwen2 || biased;
  c.has.o_bias = biased;
  c.has.mlp_bias = (c.name == "llama" || smollm3) && file.flag("mlp_bias", false);
  c.has.head_norms = c.name == "qwen3";
  if (c.name == "mistral") // all blocks; the class does not read layer_types
    if (auto const window = file.whole_or_none("sliding_window", 4096)) common::set_window(file, c, *window);
  if (qwen2 || c.name == "qwen3") {
    bool const slides = file.flag("use_sliding_window", false);
    auto const window = file.whole_or_none("sliding_window", 4096);
    index_t const whole = file.whole("max_window_layers", 28);
    common::read_windows(file, c, slides ? window : std::nullopt, [&](index_t n) { return n >= whole; });
  }
  if (smollm3) {
    rope.theta = 2000000;
    file.used("max_window_layers"); // its folders hold the key, its class does not know it
    set_rotating_blocks(file, c, file.flags("no_rope_layers"), file.whole("no_rope_layer_interval", 4));
    bool const slides = file.flag("use_sliding_window", false);
    auto const window = file.whole_or_none("sliding_window", std::nullopt);
    common::read_windows(file, c, slides ? window : std::nullopt,
                         [&](index_t n) { return c.attention_of(n).rotary == block_attention::no_rotary; });
  }
}

} // namespace

model_family const llama_family = {
    .name = "llama",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"llama", "qwen2", "qwen3", "smollm3"}, .read_config = read_gguf, .tensors = gguf_tensors},
    .hugging_face = {.names = {"llama", "mistral", "qwen2", "qwen3", "smollm3"},
                     .read_config = read_hugging_face,
                     .tensors = hugging_face_tensors,
                     .roots = {"model.", ""}}};

} // namespace slim_llm
