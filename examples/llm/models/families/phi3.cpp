/// @file
/// Phi-3 and Phi-4: as Llama, with q, k and v in one linear, gate and up in another; a part of each head may be rotated.

#include "models/families/common_stages.hpp"
#include "models/families/families.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

matrix<float> columns(matrix<float> const& m, index_t first, index_t count) {
  return matrix<float>(m.view().block(0, first, m.rows(), count));
}

void attend(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> fused) {
  auto const& c = pass.config();
  index_t const q = c.q_size(), kv = c.kv_size();
  common::attend(pass, b, state, {columns(fused[0], 0, q), columns(fused[0], q, kv), columns(fused[0], q + kv, kv)});
}

void gate(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> fused) {
  index_t const half = pass.config().intermediate;
  common::gate(pass, b, state, {columns(fused[0], 0, half), columns(fused[0], half, half)});
}

/// Matrices side by side, as the output of one linear.
std::vector<matrix<float>> fused(std::vector<matrix<float>> const& parts) {
  index_t cols = 0;
  for (auto const& part : parts) cols += part.cols();
  std::vector<matrix<float>> all(1, matrix<float>(parts[0].rows(), cols));
  index_t first = 0;
  for (auto const& part : parts) {
    for (index_t i = 0; i < part.rows(); ++i) std::copy_n(part.row(i), part.cols(), all[0].row(i) + first);
    first += part.cols();
  }
  return all;
}

std::vector<matrix<float>> attend_adjoint(adjoint_scope const& at, block_gradient& g) {
  auto const& c = at.pass.forward().config();
  auto const& qkv = at.record.outputs[0];
  index_t const q = c.q_size(), kv = c.kv_size();
  stage_record const parted{
      .hidden = {}, .x = {}, .outputs = {columns(qkv, 0, q), columns(qkv, q, kv), columns(qkv, q + kv, kv)}, .added = {}};
  return fused(common::attend_adjoint({at.pass, at.b, parted, at.carried}, g));
}

std::vector<matrix<float>> gate_adjoint(adjoint_scope const& at, block_gradient& g) {
  index_t const half = at.pass.forward().config().intermediate;
  auto const& both = at.record.outputs[0];
  stage_record const parted{.hidden = {}, .x = {}, .outputs = {columns(both, 0, half), columns(both, half, half)}, .added = {}};
  return fused(common::gate_adjoint({at.pass, at.b, parted, at.carried}, g));
}

std::vector<stage> stages(model_config const&) {
  return {{.linears = {"qkv"},
           .input = common::attention_input,
           .combine = attend,
           .adjoint = {common::attention_input_adjoint, attend_adjoint}},
          {.linears = {"o"}, .input = common::mixed_input, .adjoint = {common::mixed_input_adjoint}},
          {.linears = {"gate_up"},
           .input = common::mlp_input,
           .combine = gate,
           .adjoint = {common::mlp_input_adjoint, gate_adjoint}},
          {.linears = {"down"}, .input = common::mixed_input, .adjoint = {common::mixed_input_adjoint}}};
}

tensor_layout& with_block(tensor_layout& layout, model_config const& c, std::vector<std::string> const& names) {
  layout.norms = {{"attention_norm", names[0], c.hidden}, {"mlp_norm", names[1], c.hidden}};
  layout.linears = {{"qkv", names[2], c.q_size() + 2 * c.kv_size(), c.hidden},
                    {"o", names[3], c.hidden, c.q_size()},
                    {"gate_up", names[4], 2 * c.intermediate, c.hidden},
                    {"down", names[5], c.hidden, c.intermediate}};
  return layout;
}

tensor_layout gguf_tensors(model_config const& c, std::string const&) {
  tensor_layout layout = common::gguf_names();
  return with_block(
      layout, c,
      {"attn_norm.weight", "ffn_norm.weight", "attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"});
}

tensor_layout hugging_face_tensors(model_config const& c, std::string const& root) {
  tensor_layout layout = common::hugging_face_names(root);
  return with_block(layout, c,
                    {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.qkv_proj.weight",
                     "self_attn.o_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight"});
}

/// llama.cpp reads the window of these files and does not use it; transformers does.
void read_gguf(config_reader& file, model_config& c, rope_defaults& rope) {
  c.norm_epsilon = file.number("phi3.attention.layer_norm_rms_epsilon");
  rope.may_rotate_a_part = true;
  if (index_t const window = file.whole("phi3.attention.sliding_window", 0); window > 0) common::set_window(file, c, window);
}

/// Phi3Config of transformers 5.24.
void read_hugging_face(config_reader& file, model_config& c, rope_defaults& rope) {
  common::read_common(file, c, {.norm_epsilon = 1e-5, .max_positions = 4096});
  rope.may_rotate_a_part = rope.yarn_means_longrope = true;
  rope.original_context = 4096;
  if (auto const window = file.whole_or_none("sliding_window", std::nullopt)) common::set_window(file, c, *window);
}

} // namespace

model_family const phi3_family = {
    .name = "phi3",
    .norm = norm_kind::rms,
    .positions = position_kind::rotary,
    .stages = stages,
    .gguf = {.names = {"phi3"}, .read_config = read_gguf, .tensors = gguf_tensors},
    .hugging_face = {
        .names = {"phi3"}, .read_config = read_hugging_face, .tensors = hugging_face_tensors, .roots = {"model.", ""}}};

} // namespace slim_llm
