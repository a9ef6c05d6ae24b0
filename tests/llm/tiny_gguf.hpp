#pragma once
/// @file
/// A small random model as a GGUF file with a byte tokenizer: enough for the whole program to run on.

#include "random_model.hpp"

#include "slim/io/gguf/writer.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>

namespace slim_llm::testing {

/// GPT-2's printable form of a byte.
inline std::string printable_byte(int byte) {
  bool const itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  int code = byte;
  if (!itself) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255)) ? 1 : 0;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
}

/// The tensors of a block as a layout has them; stacked ones hold several linears.
inline std::vector<slim::outgoing_tensor> tensors_of_block(tensor_layout const& layout, block const& b, index_t number,
                                                           slim::tensor_type type) {
  std::string const prefix = layout.block_prefix + std::to_string(number) + ".";
  std::vector<slim::outgoing_tensor> tensors;
  for (norm_tensor const& t : layout.norms)
    tensors.push_back(slim::outgoing_vector(prefix + t.name, type, b.find_norm(t.role)->weight));
  for (linear_tensor const& t : layout.kept)
    tensors.push_back(slim::outgoing_matrix(prefix + t.name, type, b.find_kept(t.role).weight.view()));
  for (linear_tensor const& t : layout.linears) {
    if (t.slice < 0) tensors.push_back(slim::outgoing_matrix(prefix + t.name, type, b[t.role].weight.view()));
    if (t.slice != 0) continue;
    matrix<float> all(t.slices * t.d_out, t.d_in);
    for (linear_tensor const& part : layout.linears)
      if (part.name == t.name) std::copy_n(b[part.role].weight.data(), t.d_out * t.d_in, all.row(part.slice * t.d_out));
    tensors.push_back(
        {prefix + t.name, type, {}, {t.slices / t.below, t.below * t.d_out, t.d_in}, std::function<matrix<float>()>([all] {
           return all;
         })});
  }
  return tensors;
}

/// Writes random_llama, or a model with experts, with 256 tokens, one per byte. `m` names its tensors as the file does
/// afterwards. `change` may add metadata.
inline void write_tiny_gguf(std::filesystem::path const& path, model& m,
                            std::function<void(slim::gguf_writer&)> const& change = {}) {
  slim::gguf_writer file;
  auto const& c = m.config;
  auto const u32 = [](index_t value) { return static_cast<std::uint32_t>(value); };
  std::string const arch = c.experts > 0 ? "qwen3moe" : "llama";
  file.set("general.architecture", arch);
  if (c.experts > 0) {
    file.set(arch + ".expert_count", u32(c.experts));
    file.set(arch + ".expert_used_count", u32(c.experts_per_token));
    file.set(arch + ".expert_feed_forward_length", u32(c.intermediate));
  }
  file.set(arch + ".block_count", u32(c.layers));
  file.set(arch + ".context_length", std::uint32_t{256});
  file.set(arch + ".embedding_length", u32(c.hidden));
  file.set(arch + ".feed_forward_length", u32(c.intermediate));
  file.set(arch + ".attention.head_count", u32(c.heads));
  file.set(arch + ".attention.head_count_kv", u32(c.kv_heads));
  file.set(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  file.set(arch + ".rope.dimension_count", u32(c.head_dim));
  file.set(arch + ".rope.freq_base", 10000.0f);
  file.set("tokenizer.ggml.model", std::string("gpt2"));
  file.set("tokenizer.ggml.pre", std::string("gpt-2"));
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(printable_byte(byte));
  file.set("tokenizer.ggml.tokens", tokens);
  file.set("tokenizer.ggml.token_type", std::vector<std::int32_t>(256, 1));
  file.set("tokenizer.ggml.merges", std::vector<std::string>{});

  file.add(slim::outgoing_matrix("token_embd.weight", slim::tensor_type::f32, m.embedding.in_memory()->view()));
  file.add(slim::outgoing_vector("output_norm.weight", slim::tensor_type::f32, m.final_norm.weight));
  for (std::size_t n = 0; n < m.blocks.size(); ++n) {
    block& b = m.blocks[n];
    std::string const prefix = "blk." + std::to_string(n) + ".";
    auto const layout = c.family->gguf.tensors(c, "");
    for (auto& tensor : tensors_of_block(layout, b, static_cast<index_t>(n), slim::tensor_type::f32))
      file.add(std::move(tensor));
    for (linear_tensor const& tensor : layout.linears)
      b[tensor.role].name = tensor.slice < 0 ? prefix + tensor.name : slice_name(prefix + tensor.name, tensor.slice);
  }
  if (change) change(file);
  if (auto const done = file.write(path); !done) throw std::runtime_error(done.why());
}

} // namespace slim_llm::testing
