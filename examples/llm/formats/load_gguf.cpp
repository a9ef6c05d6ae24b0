/// @file
/// GGUF file -> model. Keys and tensor names: gguf-py/gguf/constants.py of llama.cpp.

#include "formats/load.hpp"

#include "formats/assemble.hpp"
#include "formats/load_formats.hpp"

#include "slim/io/gguf/reader.hpp"

#include <limits>

namespace slim_llm {
namespace {

/// Metadata as a configuration.
class metadata_reader final : public config_reader {
public:
  explicit metadata_reader(slim::gguf_file const& file) : file_(file) {}

  [[nodiscard]] index_t whole(std::string const& key) override { return get<index_t>(key); }
  [[nodiscard]] index_t whole(std::string const& key, index_t fallback) override { return get_or(key, fallback); }
  [[nodiscard]] double number(std::string const& key) override { return get<double>(key); }
  [[nodiscard]] double number(std::string const& key, double fallback) override { return get_or(key, fallback); }
  [[nodiscard]] bool flag(std::string const& key, bool fallback) override { return get_or(key, fallback); }
  [[nodiscard]] std::string text(std::string const& key) override { return get<std::string>(key); }
  [[nodiscard]] std::string text(std::string const& key, std::string const& fallback) override { return get_or(key, fallback); }

protected:
  [[nodiscard]] std::string place() const override { return file_.path().string(); }

private:
  template <class T>
  [[nodiscard]] T get(std::string const& key) {
    return value_of(file_.get<T>(key));
  }
  template <class T>
  [[nodiscard]] T get_or(std::string const& key, T fallback) {
    return value_of(file_.get_or<T>(key, fallback));
  }
  template <class T>
  [[nodiscard]] T value_of(slim::result<T> const& read) {
    if (read) return *read;
    keep_failure(read.why());
    return T{};
  }

  slim::gguf_file const& file_;
};

model_config read_config(metadata_reader& data) {
  model_config c;
  c.name = data.text("general.architecture");
  c.family = find_family(&model_family::gguf, c.name);
  if (!c.family) {
    data.fail("architecture '" + c.name + "' is not known; " + known_types(&model_family::gguf) + " are");
    return c;
  }
  std::string const p = c.name + ".";
  c.layers = data.whole(p + "block_count");
  c.hidden = data.whole(p + "embedding_length");
  c.embedding_dim = c.hidden;
  c.intermediate = data.whole(p + "feed_forward_length");
  c.heads = data.whole(p + "attention.head_count");
  c.kv_heads = data.whole(p + "attention.head_count_kv", c.heads);
  c.head_dim = data.whole(p + "attention.key_length", c.heads > 0 ? c.hidden / c.heads : 0);
  if (index_t const size = data.whole(p + "attention.value_length", c.head_dim); size != c.head_dim)
    data.fail(slim::message("heads of keys have ", c.head_dim, " elements, of values ", size, "; they must be equal"));
  c.max_positions = data.whole(p + "context_length", 0);
  // What llama.cpp does when the file is silent: SentencePiece and Llama 3 vocabularies begin with BOS.
  std::string const pre = data.text("tokenizer.ggml.pre", "");
  bool const by_default =
      data.text("tokenizer.ggml.model", "") == "llama" || pre == "llama3" || pre == "llama-v3" || pre == "llama-bpe";
  c.add_bos = data.flag("tokenizer.ggml.add_bos_token", by_default);
  index_t const bos = data.whole("tokenizer.ggml.bos_token_id", -1);
  if (bos > std::numeric_limits<int>::max()) data.fail(slim::message("begin-of-text token ", bos, " is too large"));
  c.bos = static_cast<int>(bos);
  c.family->gguf.read_config(data, c);
  return c;
}

rope_settings read_rope(metadata_reader& data, model_config const& c) {
  std::string const p = c.name + ".rope.";
  rope_settings rope;
  rope.theta = data.number(p + "freq_base", 10000.0);
  if (index_t const size = data.whole(p + "dimension_count", c.head_dim); size != c.head_dim)
    data.fail(slim::message("rotates ", size, " of ", c.head_dim, " elements of a head; only all of them are supported"));
  std::string const kind = data.text(p + "scaling.type", "none");
  rope.factor = data.number(p + "scaling.factor", data.number(p + "scale_linear", 1.0));
  if (kind == "linear" || (kind == "none" && rope.factor != 1.0)) rope.kind = rope_settings::scaling::linear;
  if (kind != "none" && kind != "linear") data.fail("rotary scaling '" + kind + "' is not known; none, linear and llama3 are");
  if (!(rope.theta > 0) || !(rope.factor > 0))
    data.fail(slim::message("rotary base ", rope.theta, " and factor ", rope.factor, " must be positive"));
  return rope;
}

} // namespace

slim::result<model> load_gguf(std::filesystem::path const& path) {
  auto opened = slim::gguf_file::open(path);
  if (!opened) return slim::failure{opened.why()};
  auto const file = std::make_shared<slim::gguf_file const>(std::move(*opened));
  tensor_source source(path.string());
  source.add(file->tensors());
  metadata_reader data(*file);
  model_config config = read_config(data);
  if (!data.why().empty()) return slim::failure{data.why()};
  auto const layout = config.family->gguf.tensors(config, "");
  config.tied_embeddings = !source.has(layout.head);
  auto const shape = source.shape_of(layout.embedding);
  config.vocab = shape.empty() ? data.whole(config.name + ".vocab_size", 0) : shape[0];
  std::vector<double> frequencies;
  bool const rotary = config.family->positions == position_kind::rotary;
  rope_settings const rope = rotary ? read_rope(data, config) : rope_settings{};
  if (!data.why().empty()) return slim::failure{data.why()};
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{path.string() + ": " + why};
  if (rotary) frequencies = rope_frequencies(rope, config.head_dim);
  if (source.has("rope_freqs.weight")) { // llama3 scaling, computed by the converter
    auto const divisors = source.read_vector("rope_freqs.weight", static_cast<index_t>(frequencies.size()));
    for (std::size_t j = 0; j < divisors.size(); ++j) frequencies[j] /= static_cast<double>(divisors[j]);
  }
  auto m = assemble(std::move(config), layout, source, file);
  if (m) m->rope_frequencies = std::move(frequencies);
  return m;
}

} // namespace slim_llm
