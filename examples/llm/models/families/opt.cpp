/// @file
/// OPT (and Galactica): LayerNorm, learned positions, a plain MLP, biases everywhere. OPT-350M normalizes after each residual
/// addition.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

namespace slim_llm {
namespace {

matrix<float> normalized_before(forward_pass const& pass, norm const& n, matrix<float> const& hidden) {
  return pass.config().norm_before ? pass.normalized(n, hidden) : hidden;
}

void normalize_after(forward_pass const& pass, norm const& n, matrix<float>& hidden) {
  if (!pass.config().norm_before) pass.normalize_inplace(n, hidden);
}

matrix<float> attention_input(forward_pass const& pass, block const& b, block_state& state) {
  return normalized_before(pass, *b.find_norm("attention_norm"), state.hidden);
}

void after_attention(forward_pass const& pass, block const& b, block_state& state) {
  normalize_after(pass, *b.find_norm("attention_norm"), state.hidden);
}

matrix<float> mlp_input(forward_pass const& pass, block const& b, block_state& state) {
  return normalized_before(pass, *b.find_norm("mlp_norm"), state.hidden);
}

void after_mlp(forward_pass const& pass, block const& b, block_state& state) {
  normalize_after(pass, *b.find_norm("mlp_norm"), state.hidden);
}

void activate(forward_pass const& pass, block const&, block_state& state, std::vector<matrix<float>> up) {
  state.carry(common::mixed) = pass.activated(std::move(up[0]));
}

void attention_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g) {
  bool const before = at.pass.forward().config().norm_before;
  (before ? common::attention_input_adjoint : common::hidden_input_adjoint)(at, std::move(dx), g);
}

void mlp_input_adjoint(adjoint_scope const& at, matrix<float> dx, block_gradient& g) {
  bool const before = at.pass.forward().config().norm_before;
  (before ? common::mlp_input_adjoint : common::hidden_input_adjoint)(at, std::move(dx), g);
}

void normalize_after_adjoint(adjoint_scope const& at, char const* norm_role, block_gradient& g) {
  if (at.pass.forward().config().norm_before) return;
  matrix<float> dx(g.hidden.rows(), g.hidden.cols());
  at.pass.add_norm_adjoint(at, norm_role, at.record.added, g.hidden, dx.view(), g);
  g.hidden = std::move(dx);
}

void after_attention_adjoint(adjoint_scope const& at, block_gradient& g) { normalize_after_adjoint(at, "attention_norm", g); }

void after_mlp_adjoint(adjoint_scope const& at, block_gradient& g) { normalize_after_adjoint(at, "mlp_norm", g); }

std::vector<matrix<float>> activate_adjoint(adjoint_scope const& at, block_gradient& g) {
  auto const& up = at.record.outputs[0];
  std::vector<matrix<float>> d;
  d.push_back(at.pass.activated_adjoint(up, common::take_carried(g, common::mixed, up.rows(), up.cols())));
  return d;
}

/// OPT itself calls `up` fc1 and `down` fc2.
std::vector<stage> stages(model_config const&) {
  return {{.linears = {"q", "k", "v"},
           .input = attention_input,
           .combine = common::attend,
           .adjoint = {attention_input_adjoint, common::attend_adjoint}},
          {.linears = {"o"},
           .input = common::mixed_input,
           .after_addition = after_attention,
           .adjoint = {common::mixed_input_adjoint, {}, after_attention_adjoint}},
          {.linears = {"up"}, .input = mlp_input, .combine = activate, .adjoint = {mlp_input_adjoint, activate_adjoint}},
          {.linears = {"down"},
           .input = common::mixed_input,
           .after_addition = after_mlp,
           .adjoint = {common::mixed_input_adjoint, {}, after_mlp_adjoint}}};
}

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout;
  layout.embedding = root + "embed_tokens.weight";
  layout.positions = root + "embed_positions.weight";
  layout.final_norm = root + "final_layer_norm.weight";
  layout.head = "lm_head.weight";
  layout.project_in = root + "project_in.weight";
  layout.project_out = root + "project_out.weight";
  layout.block_prefix = root + "layers.";
  layout.norms = {{"attention_norm", "self_attn_layer_norm.weight", c.hidden},
                  {"mlp_norm", "final_layer_norm.weight", c.hidden}};
  bias_rule const biased = c.has.qkv_bias ? bias_rule::required : bias_rule::none;
  layout.linears = {{"q", "self_attn.q_proj.weight", c.hidden, c.hidden, biased},
                    {"k", "self_attn.k_proj.weight", c.hidden, c.hidden, biased},
                    {"v", "self_attn.v_proj.weight", c.hidden, c.hidden, biased},
                    {"o", "self_attn.out_proj.weight", c.hidden, c.hidden, biased},
                    {"up", "fc1.weight", c.intermediate, c.hidden, biased},
                    {"down", "fc2.weight", c.hidden, c.intermediate, biased}};
  return layout;
}

/// OPTConfig of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults&) {
  c.max_positions = file.whole("max_position_embeddings", 2048);
  c.kv_heads = c.heads;
  c.head_dim = c.heads > 0 ? c.hidden / c.heads : 0;
  if (c.head_dim * c.heads != c.hidden) file.fail(slim::message(c.heads, " heads do not divide ", c.hidden, " elements"));
  c.embedding_dim = file.whole("word_embed_proj_dim", c.hidden);
  c.intermediate = file.whole("ffn_dim");
  c.norm_epsilon = 1e-5; // torch.nn.LayerNorm's; OPT's configuration does not name it
  c.norm_before = file.flag("do_layer_norm_before", true);
  c.tied_embeddings = file.flag("tie_word_embeddings", true);
  c.activation = common::read_activation(file, "activation_function", "relu");
  c.has.qkv_bias = c.has.o_bias = c.has.mlp_bias = file.flag("enable_bias", true);
  c.has.norm_weights = file.flag("layer_norm_elementwise_affine", true);
  bool const without_final_norm = file.flag("_remove_final_layer_norm", false);
  c.has.final_norm = c.norm_before && !without_final_norm;
}

} // namespace

model_family const opt_family = {.name = "opt",
                                 .norm = norm_kind::layer,
                                 .positions = position_kind::learned,
                                 .stages = stages,
                                 .hugging_face = {.names = {"opt"},
                                                  .read_config = read_hugging_face,
                                                  .tensors = hugging_face_tensors,
                                                  .roots = {"model.decoder.", "decoder."}}};

} // namespace slim_llm
