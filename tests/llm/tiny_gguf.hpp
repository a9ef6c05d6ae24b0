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
    for (norm_tensor const& tensor : layout.norms)
      file.add(slim::outgoing_vector(prefix + tensor.name, slim::tensor_type::f32, b.find_norm(tensor.role)->weight));
    for (linear_tensor const& tensor : layout.kept)
      file.add(slim::outgoing_matrix(prefix + tensor.name, slim::tensor_type::f32, b.find_kept(tensor.role).weight.view()));
    std::vector<std::pair<std::string, std::vector<linear const*>>> tensors; // stacked ones hold several linears
    for (linear_tensor const& tensor : layout.linears) {
      linear& l = b[tensor.role];
      l.name = prefix + tensor.name;
      auto at = std::find_if(tensors.begin(), tensors.end(), [&](auto const& entry) { return entry.first == l.name; });
      if (at == tensors.end()) at = tensors.insert(at, {l.name, {}});
      at->second.push_back(&l);
      if (tensor.slice >= 0) l.name += "[" + std::to_string(tensor.slice) + "]";
    }
    for (auto const& [name, slices] : tensors) {
      index_t const rows = slices[0]->d_out(), cols = slices[0]->d_in(), count = static_cast<index_t>(slices.size());
      matrix<float> all(rows * count, cols);
      for (index_t k = 0; k < count; ++k)
        std::copy_n(slices[static_cast<std::size_t>(k)]->weight.data(), rows * cols, all.row(k * rows));
      slim::outgoing_tensor out{
          name, slim::tensor_type::f32, {}, {rows, cols}, std::function<matrix<float>()>([all] { return all; })};
      if (slices[0]->name != name) out.shape = {count, rows, cols};
      file.add(std::move(out));
    }
  }
  if (change) change(file);
  if (auto const done = file.write(path); !done) throw std::runtime_error(done.why());
}

} // namespace slim_llm::testing
