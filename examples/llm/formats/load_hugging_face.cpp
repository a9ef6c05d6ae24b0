/// @file
/// Hugging Face folder -> model. Keys: the configuration classes of transformers 4 and 5. What changed in 5:
/// `rope_parameters` holds what `rope_theta` and `rope_scaling` held before.

#include "formats/assemble.hpp"
#include "formats/load_formats.hpp"

#include "slim/io/json.hpp"
#include "slim/io/safetensors.hpp"

namespace slim_llm {
namespace {

using nlohmann::json;

/// Typed access to a JSON object with the first failure kept. Missing and null are the same.
class json_reader {
public:
  json_reader(std::string file, json object) : file_(std::move(file)), object_(std::move(object)) {}

  [[nodiscard]] bool has(char const* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  [[nodiscard]] json const& at(char const* key) const { return object_.at(key); }

  [[nodiscard]] index_t whole(char const* key) { return require(key) ? whole(key, 0) : 0; }
  [[nodiscard]] index_t whole(char const* key, index_t fallback) {
    if (!has(key)) return fallback;
    if (at(key).is_number_integer()) return at(key).get<index_t>();
    return wrong<index_t>(key, "a whole number");
  }
  [[nodiscard]] double number(char const* key, double fallback) {
    if (!has(key)) return fallback;
    return at(key).is_number() ? at(key).get<double>() : wrong<double>(key, "a number");
  }
  [[nodiscard]] bool flag(char const* key, bool fallback) {
    if (!has(key)) return fallback;
    return at(key).is_boolean() ? at(key).get<bool>() : wrong<bool>(key, "true or false");
  }
  [[nodiscard]] std::string text(char const* key, std::string const& fallback) {
    if (!has(key)) return fallback;
    return at(key).is_string() ? at(key).get<std::string>() : wrong<std::string>(key, "a text");
  }
  /// The object behind a key; hand its failure back with fail_as.
  [[nodiscard]] json_reader inside(char const* key) const { return {file_ + ": " + key, at(key)}; }
  void fail_as(json_reader const& inner) {
    if (why_.empty()) why_ = inner.why_;
  }

  void fail(std::string const& reason) {
    if (why_.empty()) why_ = file_ + ": " + reason;
  }
  [[nodiscard]] std::string const& why() const { return why_; }

private:
  [[nodiscard]] bool require(char const* key) {
    if (!has(key)) fail(slim::message("'", key, "' is missing"));
    return has(key);
  }
  template <class T>
  [[nodiscard]] T wrong(char const* key, char const* wanted) {
    fail(slim::message("'", key, "' is not ", wanted));
    return T{};
  }

  std::string file_;
  json object_;
  std::string why_;
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

void read_llama(json_reader& config, model_config& c, expectations& expected) {
  c.embedding_dim = c.hidden;
  c.intermediate = config.whole("intermediate_size");
  c.kv_heads = config.whole("num_key_value_heads", c.heads);
  c.head_dim = config.whole("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  c.norm_epsilon = config.number("rms_norm_eps", 1e-6);
  c.tied_embeddings = config.flag("tie_word_embeddings", false);
  if (std::string const act = config.text("hidden_act", "silu"); act != "silu")
    config.fail("activation '" + act + "' is not known; silu is");
  if (config.number("partial_rotary_factor", 1.0) != 1.0) config.fail("partial_rotary_factor other than 1 is not supported");
  bool const slides = c.name == "mistral" || config.flag("use_sliding_window", false);
  if (slides) c.sliding_window = config.whole("sliding_window", 0);
  expected.qkv_bias = c.name == "qwen2" || config.flag("attention_bias", false);
  expected.o_bias = c.name != "qwen2" && config.flag("attention_bias", false);
  expected.mlp_bias = config.flag("mlp_bias", false);
  expected.head_norms = c.name == "qwen3";
}

void read_opt(json_reader& config, model_config& c, expectations& expected) {
  c.family = architecture::opt;
  c.kv_heads = c.heads;
  c.head_dim = c.heads > 0 ? c.hidden / c.heads : 0;
  if (c.head_dim * c.heads != c.hidden) config.fail(slim::message(c.heads, " heads do not divide ", c.hidden, " elements"));
  c.embedding_dim = config.whole("word_embed_proj_dim", c.hidden);
  c.intermediate = config.whole("ffn_dim");
  c.norm_epsilon = 1e-5; // torch.nn.LayerNorm's; OPT's configuration does not name it
  c.norm_before = config.flag("do_layer_norm_before", true);
  c.tied_embeddings = config.flag("tie_word_embeddings", true);
  if (std::string const act = config.text("activation_function", "relu"); act != "relu")
    config.fail("activation '" + act + "' is not known; relu is");
  bool const biased = config.flag("enable_bias", true);
  expected.qkv_bias = expected.o_bias = expected.mlp_bias = biased;
  expected.norms_have_weights = config.flag("layer_norm_elementwise_affine", true);
  expected.final_norm = c.norm_before && !config.flag("_remove_final_layer_norm", false);
}

model_config read_config(json_reader& config, expectations& expected) {
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
  if (c.name == "opt")
    read_opt(config, c, expected);
  else if (c.name == "llama" || c.name == "mistral" || c.name == "qwen2" || c.name == "qwen3")
    read_llama(config, c, expected);
  else
    config.fail("model type '" + c.name + "' is not known; llama, mistral, qwen2, qwen3 and opt are");
  return c;
}

tensor_names llama_names(std::string const& root) {
  tensor_names n;
  n.embedding = root + "embed_tokens.weight";
  n.final_norm = root + "norm.weight";
  n.head = "lm_head.weight";
  n.block_prefix = root + "layers.";
  n.attention_norm = "input_layernorm.weight";
  n.mlp_norm = "post_attention_layernorm.weight";
  n.q_norm = "self_attn.q_norm.weight";
  n.k_norm = "self_attn.k_norm.weight";
  n.q = "self_attn.q_proj.weight";
  n.k = "self_attn.k_proj.weight";
  n.v = "self_attn.v_proj.weight";
  n.o = "self_attn.o_proj.weight";
  n.gate = "mlp.gate_proj.weight";
  n.up = "mlp.up_proj.weight";
  n.down = "mlp.down_proj.weight";
  return n;
}

tensor_names opt_names(std::string const& root) {
  tensor_names n = llama_names(root);
  n.positions = root + "embed_positions.weight";
  n.final_norm = root + "final_layer_norm.weight";
  n.project_in = root + "project_in.weight";
  n.project_out = root + "project_out.weight";
  n.attention_norm = "self_attn_layer_norm.weight";
  n.mlp_norm = "final_layer_norm.weight";
  n.o = "self_attn.out_proj.weight";
  n.gate.clear();
  n.up = "fc1.weight";
  n.down = "fc2.weight";
  return n;
}

/// Checkpoints of the bare decoder lack the outer prefixes.
tensor_names names_in(tensor_source const& source, architecture family) {
  bool const opt = family == architecture::opt;
  for (std::string const root : {opt ? "model.decoder." : "model.", opt ? "decoder." : ""})
    if (source.has(root + "embed_tokens.weight")) return opt ? opt_names(root) : llama_names(root);
  return opt ? opt_names("model.decoder.") : llama_names("model.");
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
  expectations expected;
  model_config config = read_config(reader, expected);
  rope_settings const rope = read_rope(reader);
  if (!reader.why().empty()) return slim::failure{reader.why()};
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{file + ": " + why};
  config.add_bos = wants_bos(folder);

  auto const parts = slim::safetensors_folder::open(folder);
  if (!parts) return slim::failure{parts.why()};
  tensor_source source(folder.string());
  source.add(parts->tensors());
  auto const names = names_in(source, config.family);
  for (index_t number = 0; number < config.layers; ++number) // buffers of old checkpoints
    source.ignore(names.block_prefix + std::to_string(number) + ".self_attn.rotary_emb.inv_freq");
  bool const rotary = config.family == architecture::llama;
  index_t const head_dim = config.head_dim;
  auto m = assemble(std::move(config), names, expected, source);
  if (m && rotary) m->rope_frequencies = rope_frequencies(rope, head_dim);
  return m;
}

} // namespace slim_llm
