/// @file
/// Hugging Face folder -> model. Keys: the configuration classes of transformers 4 and 5. What changed in 5:
/// `rope_parameters` holds what `rope_theta` and `rope_scaling` held before.

#include "formats/assemble.hpp"
#include "formats/load_formats.hpp"

#include "slim/io/json.hpp"
#include "slim/io/safetensors/reader.hpp"

namespace slim_llm {
namespace {

using nlohmann::json;

/// A JSON object as a configuration. Missing and null are the same.
class json_reader final : public config_reader {
public:
  json_reader(std::string file, json object) : file_(std::move(file)), object_(std::move(object)) {}

  [[nodiscard]] bool has(std::string const& key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  [[nodiscard]] json const& at(std::string const& key) const { return object_.at(key); }

  [[nodiscard]] index_t whole(std::string const& key) override { return require(key) ? whole(key, 0) : 0; }
  [[nodiscard]] index_t whole(std::string const& key, index_t fallback) override {
    if (!has(key)) return fallback;
    if (at(key).is_number_integer()) return at(key).get<index_t>();
    return wrong<index_t>(key, "a whole number");
  }
  [[nodiscard]] double number(std::string const& key) override { return require(key) ? number(key, 0.0) : 0.0; }
  [[nodiscard]] double number(std::string const& key, double fallback) override {
    if (!has(key)) return fallback;
    return at(key).is_number() ? at(key).get<double>() : wrong<double>(key, "a number");
  }
  [[nodiscard]] bool flag(std::string const& key, bool fallback) override {
    if (!has(key)) return fallback;
    return at(key).is_boolean() ? at(key).get<bool>() : wrong<bool>(key, "true or false");
  }
  [[nodiscard]] std::string text(std::string const& key) override { return require(key) ? text(key, "") : ""; }
  [[nodiscard]] std::string text(std::string const& key, std::string const& fallback) override {
    if (!has(key)) return fallback;
    return at(key).is_string() ? at(key).get<std::string>() : wrong<std::string>(key, "a text");
  }
  /// The object behind a key; hand its failure back with fail_as.
  [[nodiscard]] json_reader inside(std::string const& key) const { return {file_ + ": " + key, at(key)}; }
  void fail_as(json_reader const& inner) {
    if (!inner.why().empty()) keep_failure(inner.why());
  }

protected:
  [[nodiscard]] std::string place() const override { return file_; }

private:
  [[nodiscard]] bool require(std::string const& key) {
    if (!has(key)) fail(slim::message("'", key, "' is missing"));
    return has(key);
  }
  template <class T>
  [[nodiscard]] T wrong(std::string const& key, char const* wanted) {
    fail(slim::message("'", key, "' is not ", wanted));
    return T{};
  }

  std::string file_;
  json object_;
};

rope_settings read_rope(json_reader& config) {
  rope_settings rope;
  rope.theta = config.number("rope_theta", 10000.0);
  char const* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(key)) return rope;
  if (!config.at(key).is_object()) {
    config.fail(slim::message("'", key, "' is not an object"));
    return rope;
  }
  json_reader settings = config.inside(key);
  rope.theta = settings.number("rope_theta", rope.theta);
  std::string const kind = settings.text("rope_type", settings.text("type", "default"));
  if (kind == "linear") rope.kind = rope_settings::scaling::linear;
  if (kind == "llama3") rope.kind = rope_settings::scaling::llama3;
  if (kind != "default" && rope.kind == rope_settings::scaling::none)
    settings.fail("rotary scaling '" + kind + "' is not known; default, linear and llama3 are");
  for (auto const& [name, value] : config.at(key).items())
    if (value.is_object()) settings.fail("rotary settings per kind of layer ('" + name + "') are not supported");
  rope.factor = settings.number("factor", 1.0);
  rope.low_frequency_factor = settings.number("low_freq_factor", rope.low_frequency_factor);
  rope.high_frequency_factor = settings.number("high_freq_factor", rope.high_frequency_factor);
  rope.original_context = settings.number("original_max_position_embeddings", rope.original_context);
  if (!(rope.theta > 0) || !(rope.factor > 0) || !(rope.high_frequency_factor > rope.low_frequency_factor) ||
      !(rope.original_context > 0))
    settings.fail("theta, factor and original context must be positive, high_freq_factor above low_freq_factor");
  config.fail_as(settings);
  return rope;
}

model_config read_config(json_reader& config) {
  model_config c;
  c.name = config.text("model_type", "");
  c.layers = config.whole("num_hidden_layers");
  c.hidden = config.whole("hidden_size");
  c.heads = config.whole("num_attention_heads");
  c.vocab = config.whole("vocab_size");
  c.max_positions = config.whole("max_position_embeddings", 0);
  if (config.has("bos_token_id") && config.at("bos_token_id").is_number_integer()) c.bos = config.at("bos_token_id").get<int>();
  if (config.has("quantization_config"))
    config.fail("the folder holds a quantized model ('quantization_config'); give the dense one");
  c.family = find_family(&model_family::hugging_face, c.name);
  if (c.family)
    c.family->hugging_face.read_config(config, c);
  else
    config.fail("model type '" + c.name + "' is not known; " + known_types(&model_family::hugging_face) + " are");
  return c;
}

/// Checkpoints of the bare decoder lack the outer prefixes.
tensor_layout layout_in(tensor_source const& source, model_config const& config) {
  auto const& format = config.family->hugging_face;
  for (std::string const& root : format.roots)
    if (auto layout = format.tensors(config, root); source.has(layout.embedding)) return layout;
  return format.tensors(config, format.roots.front());
}

/// The tokenizer, not the model, says whether texts begin with BOS.
bool wants_bos(std::filesystem::path const& folder) {
  auto const settings = slim::read_json(folder / "tokenizer_config.json");
  return settings && settings->is_object() && settings->value("add_bos_token", json()) == true;
}

} // namespace

slim::result<model> load_hugging_face(std::filesystem::path const& folder) {
  std::string const file = (folder / "config.json").string();
  auto object = slim::read_json(file);
  if (!object) return slim::failure{object.why()};
  if (!object->is_object()) return slim::failure{file + ": is not a JSON object"};
  json_reader reader(file, std::move(*object));
  model_config config = read_config(reader);
  rope_settings const rope = read_rope(reader);
  if (!reader.why().empty()) return slim::failure{reader.why()};
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{file + ": " + why};
  config.add_bos = wants_bos(folder);

  auto opened = slim::safetensors_folder::open(folder);
  if (!opened) return slim::failure{opened.why()};
  auto const parts = std::make_shared<slim::safetensors_folder const>(std::move(*opened));
  tensor_source source(folder.string());
  source.add(parts->tensors());
  auto const layout = layout_in(source, config);
  for (index_t number = 0; number < config.layers; ++number) // buffers of old checkpoints
    source.ignore(layout.block_prefix + std::to_string(number) + ".self_attn.rotary_emb.inv_freq");
  bool const rotary = config.family->positions == position_kind::rotary;
  index_t const head_dim = config.head_dim;
  auto m = assemble(std::move(config), layout, source, parts);
  if (m && rotary) m->rope_frequencies = rope_frequencies(rope, head_dim);
  return m;
}

} // namespace slim_llm
