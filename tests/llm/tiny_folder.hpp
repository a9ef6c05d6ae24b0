#pragma once
/// @file
/// A small random model as a Hugging Face folder with a byte tokenizer.

#include "random_model.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/io/safetensors/writer.hpp"

#include <nlohmann/json.hpp>

namespace slim_llm::testing {

/// Writes random_llama, or Qwen3-MoE, with 256 tokens, one per byte, every tensor in one type: "F32", "F16" or "BF16".
/// `stacked`: in the family's other form.
inline void write_tiny_folder(std::filesystem::path const& folder, model const& m, std::string const& dtype = "F32",
                              bool stacked = false) {
  std::filesystem::create_directories(folder);
  auto const& c = m.config;
  auto const type = dtype == "F16"    ? slim::tensor_type::f16
                    : dtype == "BF16" ? slim::tensor_type::bf16
                                      : slim::tensor_type::f32;
  std::vector<slim::outgoing_tensor> tensors = {
      slim::outgoing_vector("model.norm.weight", type, m.final_norm.weight),
      slim::outgoing_matrix("model.embed_tokens.weight", type, m.embedding.in_memory()->view())};
  auto const& format = c.family->hugging_face;
  auto const layout = (stacked ? format.stacked_tensors : format.tensors)(c, "model.");
  for (std::size_t n = 0; n < m.blocks.size(); ++n)
    for (auto& tensor : tensors_of_block(layout, m.blocks[n], static_cast<index_t>(n), type))
      tensors.push_back(std::move(tensor));
  if (auto const done = slim::save_safetensors(folder / "model.safetensors", std::move(tensors)); !done)
    throw std::runtime_error(done.why());
  nlohmann::json config = {{"model_type", "llama"},
                           {"architectures", {"LlamaForCausalLM"}},
                           {"num_hidden_layers", c.layers},
                           {"hidden_size", c.hidden},
                           {"intermediate_size", c.intermediate},
                           {"num_attention_heads", c.heads},
                           {"num_key_value_heads", c.kv_heads},
                           {"head_dim", c.head_dim},
                           {"vocab_size", c.vocab},
                           {"max_position_embeddings", 256},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 10000.0},
                           {"tie_word_embeddings", true},
                           {"hidden_act", "silu"},
                           {"torch_dtype", dtype == "F16"    ? "float16"
                                           : dtype == "BF16" ? "bfloat16"
                                                             : "float32"}};
  if (c.experts > 0)
    config.update({{"model_type", "qwen3_moe"},
                   {"architectures", {"Qwen3MoeForCausalLM"}},
                   {"num_experts", c.experts},
                   {"num_experts_per_tok", c.experts_per_token},
                   {"moe_intermediate_size", c.intermediate},
                   {"norm_topk_prob", c.normalize_expert_weights}});
  slim_test::write_file(folder / "config.json", config.dump());
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[printable_byte(byte)] = byte;
  nlohmann::json const words = {
      {"version", "1.0"},
      {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  slim_test::write_file(folder / "tokenizer.json", words.dump());
}

} // namespace slim_llm::testing
