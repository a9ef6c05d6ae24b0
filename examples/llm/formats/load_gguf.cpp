/// @file
/// GGUF file -> model. Keys and tensor names: gguf-py/gguf/constants.py of llama.cpp.

#include "formats/load.hpp"

#include "formats/assemble.hpp"
#include "formats/load_formats.hpp"

#include "slim/io/gguf.hpp"

namespace slim_llm {
namespace {

/// Metadata with the first failure kept, so that a configuration is read in one go.
class metadata_reader {
public:
  explicit metadata_reader(slim::gguf_file const& file) : file_(file) {}

  template <class T>
  [[nodiscard]] T get(std::string const& key) {
    return keep(file_.get<T>(key));
  }
  template <class T>
  [[nodiscard]] T get_or(std::string const& key, T fallback) {
    return keep(file_.get_or<T>(key, fallback));
  }
  void fail(std::string const& reason) {
    if (why_.empty()) why_ = file_.path().string() + ": " + reason;
  }
  [[nodiscard]] std::string const& why() const { return why_; }

private:
  template <class T>
  [[nodiscard]] T keep(slim::result<T> const& read) {
    if (read) return *read;
    if (why_.empty()) why_ = read.why();
    return T{};
  }

  slim::gguf_file const& file_;
  std::string why_;
};

tensor_names gguf_names() {
  tensor_names n;
  n.embedding = "token_embd.weight";
  n.final_norm = "output_norm.weight";
  n.head = "output.weight";
  n.block_prefix = "blk.";
  n.attention_norm = "attn_norm.weight";
  n.mlp_norm = "ffn_norm.weight";
  n.q_norm = "attn_q_norm.weight";
  n.k_norm = "attn_k_norm.weight";
  n.q = "attn_q.weight";
  n.k = "attn_k.weight";
  n.v = "attn_v.weight";
  n.o = "attn_output.weight";
  n.gate = "ffn_gate.weight";
  n.up = "ffn_up.weight";
  n.down = "ffn_down.weight";
  return n;
}

model_config read_config(metadata_reader& data, tensor_source const& source, tensor_names const& names) {
  model_config c;
  c.name = data.get<std::string>("general.architecture");
  if (c.name != "llama" && c.name != "qwen2" && c.name != "qwen3") {
    data.fail("architecture '" + c.name + "' is not known; llama, qwen2 and qwen3 are");
    return c;
  }
  std::string const p = c.name + ".";
  c.rope = c.name == "llama" ? rope_style::adjacent_pairs : rope_style::rotate_half;
  c.layers = data.get<index_t>(p + "block_count");
  c.hidden = data.get<index_t>(p + "embedding_length");
  c.embedding_dim = c.hidden;
  c.intermediate = data.get<index_t>(p + "feed_forward_length");
  c.heads = data.get<index_t>(p + "attention.head_count");
  c.kv_heads = data.get_or<index_t>(p + "attention.head_count_kv", c.heads);
  c.head_dim = data.get_or<index_t>(p + "attention.key_length", c.heads > 0 ? c.hidden / c.heads : 0);
  if (index_t const size = data.get_or<index_t>(p + "attention.value_length", c.head_dim); size != c.head_dim)
    data.fail(slim::message("heads of keys have ", c.head_dim, " elements, of values ", size, "; they must be equal"));
  c.max_positions = data.get_or<index_t>(p + "context_length", 0);
  c.norm_epsilon = data.get<double>(p + "attention.layer_norm_rms_epsilon");
  c.sliding_window = data.get_or<index_t>(p + "attention.sliding_window", 0);
  c.tied_embeddings = !source.has(names.head);
  auto const shape = source.shape_of(names.embedding);
  c.vocab = shape.empty() ? data.get_or<index_t>(p + "vocab_size", 0) : shape[0];
  // What llama.cpp does when the file is silent: SentencePiece and Llama 3 vocabularies begin with BOS.
  std::string const pre = data.get_or<std::string>("tokenizer.ggml.pre", "");
  bool const by_default = data.get_or<std::string>("tokenizer.ggml.model", "") == "llama" || pre == "llama3" ||
                          pre == "llama-v3" || pre == "llama-bpe";
  c.add_bos = data.get_or<bool>("tokenizer.ggml.add_bos_token", by_default);
  c.bos = data.get_or<int>("tokenizer.ggml.bos_token_id", -1);
  if (data.get_or<index_t>(p + "expert_count", 0) > 0) data.fail("models with experts are not supported");
  return c;
}

rope_settings read_rope(metadata_reader& data, model_config const& c) {
  std::string const p = c.name + ".rope.";
  rope_settings rope;
  rope.theta = data.get_or<double>(p + "freq_base", 10000.0);
  if (index_t const size = data.get_or<index_t>(p + "dimension_count", c.head_dim); size != c.head_dim)
    data.fail(slim::message("rotates ", size, " of ", c.head_dim, " elements of a head; only all of them are supported"));
  std::string const kind = data.get_or<std::string>(p + "scaling.type", "none");
  rope.factor = data.get_or<double>(p + "scaling.factor", data.get_or<double>(p + "scale_linear", 1.0));
  if (kind == "linear" || (kind == "none" && rope.factor != 1.0)) rope.kind = rope_settings::scaling::linear;
  if (kind != "none" && kind != "linear") data.fail("rotary scaling '" + kind + "' is not known; none, linear and llama3 are");
  if (!(rope.theta > 0) || !(rope.factor > 0))
    data.fail(slim::message("rotary base ", rope.theta, " and factor ", rope.factor, " must be positive"));
  return rope;
}

} // namespace

slim::result<model> load_gguf(std::filesystem::path const& path) {
  auto const file = slim::gguf_file::open(path);
  if (!file) return slim::failure{file.why()};
  tensor_source source(path.string());
  source.add(file->tensors());
  auto const names = gguf_names();
  metadata_reader data(*file);
  auto const config = read_config(data, source, names);
  auto const rope = read_rope(data, config);
  if (!data.why().empty()) return slim::failure{data.why()};
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{path.string() + ": " + why};
  expectations expected;
  expected.qkv_bias = config.name == "qwen2";
  expected.head_norms = config.name == "qwen3";
  auto frequencies = rope_frequencies(rope, config.head_dim);
  if (source.has("rope_freqs.weight")) { // llama3 scaling, computed by the converter
    auto const divisors = source.take_vector("rope_freqs.weight", config.head_dim / 2);
    for (std::size_t j = 0; j < divisors.size(); ++j) frequencies[j] /= static_cast<double>(divisors[j]);
  }
  auto m = assemble(config, names, expected, source);
  if (m) m->rope_frequencies = std::move(frequencies);
  return m;
}

} // namespace slim_llm
