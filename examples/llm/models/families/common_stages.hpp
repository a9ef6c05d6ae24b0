#pragma once
/// @file
/// Parts of stages, of tensor lists and of configurations that several families share.

#include "models/backward.hpp"

namespace slim_llm::common {

/// Carried value: what attention or the MLP's activation makes of the text, the input of the linear that ends the branch.
inline constexpr std::size_t mixed = 0;

/// Hidden states normalized by "attention_norm" or "mlp_norm".
[[nodiscard]] matrix<float> attention_input(forward_pass const& pass, block const& b, block_state& state);
[[nodiscard]] matrix<float> mlp_input(forward_pass const& pass, block const& b, block_state& state);
/// The input of a linear that ends a branch.
[[nodiscard]] matrix<float> mixed_input(forward_pass const& pass, block const& b, block_state& state);

/// Attention on the outputs of q, k and v.
void attend(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> qkv);
/// activation(gate) * up on the outputs of gate and up.
void gate(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> both);
/// Normalizes the only output by the norm of that role and adds it to the hidden states.
void add_normalized(forward_pass const& pass, block const& b, block_state& state, char const* norm_role,
                    std::vector<matrix<float>> outputs);
void add_to(matrix<float>& sum, matrix<float> const& part);

/// The adjoints of those.
void attention_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g);
void mlp_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g);
void mixed_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g);
/// Of an input that is the hidden states themselves.
void hidden_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g);
[[nodiscard]] std::vector<matrix<float>> attend_adjoint(adjoint_scope const& at, block_gradient& g);
[[nodiscard]] std::vector<matrix<float>> gate_adjoint(adjoint_scope const& at, block_gradient& g);
[[nodiscard]] std::vector<matrix<float>> add_normalized_adjoint(adjoint_scope const& at, char const* norm_role,
                                                                block_gradient& g);
/// The gradient of a carried value, for the function that computed the value: it is 0 before that.
[[nodiscard]] matrix<float> take_carried(block_gradient& g, std::size_t k, index_t rows, index_t cols);

/// Names of the tensors that nearly all families of one format have: embedding, final norm, head, blocks.
[[nodiscard]] tensor_layout gguf_names();
[[nodiscard]] tensor_layout hugging_face_names(std::string const& root);

/// Linears of q, k, v and o, and of a gated MLP. `names` are those of the tensors, in this order.
void add_attention_linears(tensor_layout& layout, model_config const& c, bias_rule qkv, bias_rule o,
                           std::vector<std::string> const& names);
void add_mlp_linears(tensor_layout& layout, model_config const& c, bias_rule rule, std::vector<std::string> const& names);
inline std::vector<std::string> const gguf_attention = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                                        "attn_output.weight"};
inline std::vector<std::string> const gguf_mlp = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};
inline std::vector<std::string> const hugging_face_attention = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                                                "self_attn.v_proj.weight", "self_attn.o_proj.weight"};
inline std::vector<std::string> const hugging_face_mlp = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"};

/// What a class of transformers has for keys that a config.json may leave out.
struct class_defaults {
  double norm_epsilon = 1e-6;
  index_t kv_heads = 0; ///< 0: as many as heads
  index_t head_dim = 0; ///< 0: hidden / heads
  index_t max_positions = 0;
  bool tied = false;
  char const* activation_key = "hidden_act";
  char const* activation = "silu";
};
/// An activation by transformers' name for it; refused if it is none of ours.
[[nodiscard]] activation_kind read_activation(config_reader& file, char const* key, char const* fallback);
/// Sizes, norm epsilon, tie flag and activation, which nearly all classes have under the same keys.
void read_common(config_reader& file, model_config& c, class_defaults const& defaults);

/// All blocks see `window` tokens.
void set_window(config_reader& file, model_config& c, index_t window);
/// Blocks that `layer_types` calls "sliding_attention" see `window` tokens; without the key those for which `slides(n)` holds.
template <class Slides>
void read_windows(config_reader& file, model_config& c, std::optional<index_t> window, Slides const& slides) {
  auto types = file.texts("layer_types");
  if (types.empty())
    for (index_t n = 0; n < c.layers; ++n) types.push_back(window && slides(n) ? "sliding_attention" : "full_attention");
  if (static_cast<index_t>(types.size()) != c.layers)
    return file.fail(slim::message("'layer_types' names ", types.size(), " blocks, the model has ", c.layers));
  c.attention.resize(types.size());
  for (std::size_t n = 0; n < types.size(); ++n) {
    if (types[n] == "full_attention") continue;
    if (types[n] != "sliding_attention")
      return file.fail("'layer_types' names '" + types[n] + "'; full_attention and sliding_attention are known");
    if (!window || *window < 1)
      return file.fail(
          "'layer_types' names sliding_attention, but there is no window ('sliding_window', 'use_sliding_window')");
    c.attention[n].window = *window;
  }
}

} // namespace slim_llm::common
