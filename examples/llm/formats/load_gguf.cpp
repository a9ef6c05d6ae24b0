/// @file
/// GGUF file -> model. Keys and tensor names: gguf-py/gguf/constants.py of llama.cpp.

#include "formats/assemble.hpp"
#include "formats/load_formats.hpp"
#include "formats/rope.hpp"

#include "slim/io/gguf/reader.hpp"

#include <algorithm>
#include <string_view>

namespace slim_llm {
namespace {

/// Metadata as a configuration.
class metadata_reader final : public config_reader {
public:
  explicit metadata_reader(slim::gguf_file const& file) : file_(file) {}

  [[nodiscard]] bool has(std::string const& key) override {
    used(key);
    return file_.has(key);
  }
  [[nodiscard]] index_t whole(std::string const& key) override { return get<index_t>(key); }
  [[nodiscard]] index_t whole(std::string const& key, index_t fallback) override { return get_or(key, fallback); }
  [[nodiscard]] std::optional<index_t> whole_or_none(std::string const& key, std::optional<index_t> fallback) override {
    return has(key) ? get<index_t>(key) : fallback;
  }
  [[nodiscard]] double number(std::string const& key) override { return get<double>(key); }
  [[nodiscard]] double number(std::string const& key, double fallback) override { return get_or(key, fallback); }
  [[nodiscard]] std::optional<double> number_or_none(std::string const& key, std::optional<double> fallback) override {
    return has(key) ? get<double>(key) : fallback;
  }
  [[nodiscard]] bool flag(std::string const& key, bool fallback) override { return get_or(key, fallback); }
  [[nodiscard]] std::string text(std::string const& key) override { return get<std::string>(key); }
  [[nodiscard]] std::string text(std::string const& key, std::string const& fallback) override { return get_or(key, fallback); }
  [[nodiscard]] std::vector<double> numbers(std::string const& key) override { return list<double>(key); }
  [[nodiscard]] std::vector<bool> flags(std::string const& key) override { return list<bool>(key); }
  [[nodiscard]] std::vector<std::string> texts(std::string const& key) override { return list<std::string>(key); }

  /// Names the keys of the model that nobody asked for; those that change results in some architecture are a failure.
  void settle_unused(std::string const& architecture);

protected:
  [[nodiscard]] std::string place() const override { return file_.path().string(); }

private:
  template <class T>
  [[nodiscard]] T get(std::string const& key) {
    used(key);
    return value_of(file_.get<T>(key));
  }
  template <class T>
  [[nodiscard]] T get_or(std::string const& key, T fallback) {
    used(key);
    return value_of(file_.get_or<T>(key, fallback));
  }
  /// Empty also if the key holds a single value.
  template <class T>
  [[nodiscard]] std::vector<T> list(std::string const& key) {
    used(key);
    auto const* const entry = file_.find_entry(key);
    return entry && entry->is_array ? value_of(file_.get<std::vector<T>>(key)) : std::vector<T>();
  }
  template <class T>
  [[nodiscard]] T value_of(slim::result<T> const& read) {
    if (read) return *read;
    keep_failure(read.why());
    return T{};
  }

  slim::gguf_file const& file_;
};

/// Keys behind the architecture's name that llama.cpp computes with in some architecture (as of llama-cpp-python
/// 0.3.36), and that must be 0 or false in those that do not ask for them.
constexpr std::string_view telling_keys[] = {
    "expert_count",           "expert_used_count",        "expert_shared_count",       "leading_dense_block_count",
    "attention.clamp_kqv",    "attention.max_alibi_bias", "attention.scale",           "attention.sliding_window",
    "attention.chunk_size",   "attn_logit_softcapping",   "final_logit_softcapping",   "attention.temperature_length",
    "use_parallel_residual",  "residual_scale",           "embedding_scale",           "logit_scale",
    "attention.output_scale", "nextn_predict_layers",     "interleave_moe_layer_step", "rope.scaling.yarn_log_multiplier",
    "rope.scaling.alpha"};

void metadata_reader::settle_unused(std::string const& architecture) {
  std::string const prefix = architecture + ".";
  std::string unknown;
  for (auto const& entry : file_.metadata()) {
    if (!entry.key.starts_with(prefix) || was_used(entry.key)) continue;
    std::string_view const key = std::string_view(entry.key).substr(prefix.size());
    if (key == "rope.scaling.finetuned" || key == "tensor_data_layout") continue; // they change nothing
    if (std::find(std::begin(telling_keys), std::end(telling_keys), key) == std::end(telling_keys)) {
      unknown += (unknown.empty() ? "'" : ", '") + entry.key + "'";
      continue;
    }
    auto const number = file_.get<double>(entry.key);
    auto const flag = file_.get<bool>(entry.key);
    if (!(number && *number == 0) && !(flag && !*flag))
      fail(slim::message("metadata key '", entry.key, "' is set; models of this architecture are not read with it"));
  }
  if (!unknown.empty()) note("metadata keys " + unknown + " are not known and not used");
}

model_config read_config(metadata_reader& data, rope_defaults& rope) {
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
  if (c.layers < 1 || c.layers > 4096)
    data.fail(slim::message("'", p, "block_count' is ", c.layers, ", allowed are 1 .. 4096"));
  c.heads = data.whole(p + "attention.head_count");
  c.kv_heads = data.whole(p + "attention.head_count_kv", c.heads);
  c.head_dim = data.whole(p + "attention.key_length", c.heads > 0 ? c.hidden / c.heads : 0);
  if (index_t const size = data.whole(p + "attention.value_length", c.head_dim); size != c.head_dim)
    data.fail(slim::message("heads of keys have ", c.head_dim, " elements, of values ", size, "; they must be equal"));
  c.max_positions = data.whole(p + "context_length", 0);
  c.activation = c.family->gguf.activation;
  if (data.why().empty()) c.family->gguf.read_config(data, c, rope);
  return c;
}

/// Names of the kinds: LLAMA_ROPE_SCALING_TYPES in llama.cpp. llama3 has none: its converter writes what
/// it does to each pair.
rope_settings read_rope(metadata_reader& data, model_config const& c, rope_defaults const& defaults, bool has_factors) {
  using scaling = rope_settings::scaling;
  std::string const p = c.name + ".rope.";
  rope_settings rope;
  rope.theta = data.number(p + "freq_base", 10000.0);
  rope.rotated = data.whole(p + "dimension_count", c.head_dim);
  if (rope.rotated != c.head_dim && !defaults.may_rotate_a_part)
    data.fail(slim::message("rotates ", rope.rotated, " of ", c.head_dim,
                            " elements of a head; models of this architecture rotate all"));
  if (rope.rotated < 2 || rope.rotated > c.head_dim || rope.rotated % 2 != 0)
    data.fail(slim::message("rotates ", rope.rotated, " of ", c.head_dim, " elements of a head"));
  std::string const kind = data.text(p + "scaling.type", "none");
  if (kind != "none" && kind != "linear" && kind != "yarn" && kind != "longrope")
    data.fail("rotary scaling '" + kind + "' is not known; none, linear, yarn, longrope and the tensor rope_freqs.weight are");
  rope.kind = find_scaling(kind).value_or(scaling::none);
  rope.factor = data.number(p + "scaling.factor", data.number(p + "scale_linear", 1.0));
  data.used(p + "scale_linear");
  if (kind == "none" && rope.factor != 1.0) rope.kind = scaling::linear;
  if (has_factors && rope.kind != scaling::none && rope.kind != scaling::longrope)
    data.fail("has rope_factors_short.weight, which is longrope's, and rotary scaling '" + kind + "'");
  if (has_factors) rope.kind = scaling::longrope; // Phi-3's files do not name it
  auto const positions = static_cast<double>(c.max_positions);
  rope.original_context = data.number(p + "scaling.original_context_length", positions);
  double const attention_factor = data.number(p + "scaling.attn_factor", 1.0);
  if (rope.kind == scaling::longrope) rope.attention_factor = attention_factor;
  if (rope.kind == scaling::yarn) {
    rope.beta_fast = data.number(p + "scaling.yarn_beta_fast", 32);
    rope.beta_slow = data.number(p + "scaling.yarn_beta_slow", 1);
    rope.attention_factor = data.number(p + "scaling.yarn_attn_factor", 0.0);
    if (data.number(p + "scaling.yarn_ext_factor", 1.0) != 1.0)
      data.fail("'" + p + "scaling.yarn_ext_factor' other than 1 is not supported");
  }
  if (rope.kind != scaling::longrope && attention_factor != 1)
    data.fail(slim::message("'", p, "scaling.attn_factor' is ", attention_factor, ", which is known of longrope only"));
  return rope;
}

/// Factors of longrope, which lie in tensors.
std::vector<double> read_factors(tensor_source& source, std::string const& name, index_t count) {
  auto const factors = source.read_vector(name, count);
  return {factors.begin(), factors.end()};
}

/// The rotary tables of a model.
std::vector<rotary_table> read_rotary(metadata_reader& data, tensor_source& source, model_config const& c,
                                      rope_defaults const& defaults) {
  bool const has_factors = source.has("rope_factors_short.weight");
  rope_settings rope = read_rope(data, c, defaults, has_factors);
  if (has_factors) {
    rope.short_factors = read_factors(source, "rope_factors_short.weight", rope.rotated / 2);
    rope.long_factors = read_factors(source, "rope_factors_long.weight", rope.rotated / 2);
  }
  if (std::string const why = why_not_valid(rope); data.why().empty() && !why.empty()) data.fail(why);
  if (!data.why().empty() || source.failed()) return {};
  std::vector<rotary_table> tables = {rotary_of(rope)};
  if (source.has("rope_freqs.weight")) { // llama3 scaling, computed by the converter
    auto& frequencies = tables[0].frequencies;
    auto const divisors = source.read_vector("rope_freqs.weight", static_cast<index_t>(frequencies.size()));
    for (std::size_t j = 0; j < divisors.size(); ++j) frequencies[j] /= static_cast<double>(divisors[j]);
  }
  if (defaults.local_theta > 0) tables.push_back(rotary_of({.theta = defaults.local_theta, .rotated = rope.rotated}));
  return tables;
}

/// The number of tokens, which a file says up to three times.
void check_vocabulary(metadata_reader& data, slim::gguf_file const& file, model_config const& c) {
  index_t const said = data.whole(c.name + ".vocab_size", c.vocab);
  if (said != c.vocab)
    data.fail(slim::message("'", c.name, ".vocab_size' is ", said, ", the embedding has ", c.vocab, " rows"));
  auto const* const tokens = file.find_entry("tokenizer.ggml.tokens");
  if (!tokens || !tokens->is_array) return;
  auto const count = static_cast<index_t>(tokens->count);
  if (count > c.vocab)
    data.fail(slim::message("'tokenizer.ggml.tokens' lists ", count, " tokens, the embedding has ", c.vocab, " rows"));
  if (count < c.vocab)
    data.note(slim::message("'tokenizer.ggml.tokens' lists ", count, " tokens, the embedding has ", c.vocab,
                            " rows; the others are never read"));
}

} // namespace

slim::result<model> model_of_gguf(slim::gguf_file const& file, model_tensors const& tensors) {
  tensor_source source(file.path().string());
  source.add(tensors.list);
  metadata_reader data(file);
  rope_defaults defaults;
  model_config config = read_config(data, defaults);
  if (!data.why().empty()) return slim::failure{data.why()};
  auto const layout = config.family->gguf.tensors(config, "");
  config.tied_embeddings = !source.has(layout.head);
  auto const shape = source.shape_of(layout.embedding);
  config.vocab = shape.empty() ? data.whole(config.name + ".vocab_size", 0) : shape[0];
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{file.path().string() + ": " + why};
  check_vocabulary(data, file, config);
  std::vector<rotary_table> rotary;
  if (config.family->positions == position_kind::rotary) rotary = read_rotary(data, source, config, defaults);
  data.settle_unused(config.name);
  if (!data.why().empty()) return slim::failure{data.why()};
  auto m = assemble(std::move(config), layout, source, tensors.file);
  if (!m) return m;
  m->rotary = std::move(rotary);
  m->notes.insert(m->notes.begin(), data.notes().begin(), data.notes().end());
  return m;
}

} // namespace slim_llm
