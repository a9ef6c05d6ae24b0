#include "formats/json_config.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace slim_llm {
namespace {

using nlohmann::json;

/// Keys that change no result, whatever their value is: of transformers' base class (PreTrainedConfig, 4.57 and 5.24) and of
/// text generation, of training, and of the classes of the model types that are read.
constexpr std::string_view harmless[] = {
    // the folder and who wrote it
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "auto_map",
    "custom_pipelines",
    "unsloth_version",
    "unsloth_fixed",
    "transformers.js_config",
    "_flash_attn_2_enabled",
    "base_model_name_or_path",
    "task_specific_params",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "tokenizer_class",
    "prefix",
    "title",
    // how transformers computes, not what
    "use_cache",
    "cache_implementation",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "output_router_logits",
    "tie_last_hidden_states",
    "chunk_size_feed_forward",
    "pretraining_tp",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "torchscript",
    "use_return_dict",
    "use_flash_attn",
    "_use_flash_attn",
    "gradient_checkpointing",
    "mlp_implementation",
    // training
    "initializer_range",
    "init_std",
    "attention_dropout",
    "attn_dropout",
    "hidden_dropout",
    "dropout",
    "layerdrop",
    "activation_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "aux_loss_alpha",
    "classifier_dropout",
    "label_smoothing",
    "z_loss_coefficient",
    "torch_compile",
    // tokens and generation
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "stop_token_ids",
    "chat_template",
    "generation_config",
};

/// Keys that change results in some class of transformers or in code that comes with a folder. A model type that knows such a
/// key asks for it; in any other it must hold nothing, false, 0, 1 (of a factor), or what stands here.
struct telling_key {
  std::string_view name;
  std::string_view neutral = {}; ///< one more value that changes nothing
};
constexpr telling_key telling[] = {
    {"quantization_config"},
    {"compression_config"},
    {"sparsity_config"},
    {"pruned_heads"},
    {"per_layer_config"},
    {"text_config"},
    // attention and positions
    {"alibi"},
    {"attention_bias"},
    {"attention_chunk_size"},
    {"attention_multiplier"},
    {"attention_sink"},
    {"attention_sinks"},
    {"attn_logit_softcapping"},
    {"attn_scale"},
    {"attn_temperature_tuning"},
    {"clip_qkv"},
    {"cross_attention_hidden_size"},
    {"is_causal", "true"},
    {"is_decoder", "true"},
    {"is_encoder_decoder"},
    {"add_cross_attention"},
    {"kv_lora_rank"},
    {"layer_types"},
    {"max_window_layers"},
    {"multi_query"},
    {"no_rope_layers"},
    {"nope_layers"},
    {"num_kv_shared_layers"},
    {"partial_rotary_factor"},
    {"position_embedding_type", "rope"},
    {"q_lora_rank"},
    {"qk_layernorm"},
    {"qk_norm"},
    {"qkv_bias"},
    {"query_pre_attn_scalar"},
    {"rope_local_base_freq"},
    {"rope_interleaved"},
    {"rotary_pct"},
    {"rotary_emb_base"},
    {"sliding_window"},
    {"sliding_window_pattern"},
    {"use_bidirectional_attention"},
    {"use_mrope"},
    {"use_qk_norm"},
    {"use_sliding_window"},
    {"window_size"},
    // norms, MLPs, embeddings, head
    {"decoder_sparse_step"},
    {"dim_model_base"},
    {"embedding_multiplier"},
    {"embedding_scale"},
    {"final_logit_softcapping"},
    {"ffn_bias"},
    {"hidden_activation", "silu"},
    {"layer_norm_type"},
    {"lm_head_bias"},
    {"logit_scale"},
    {"logits_scaling"},
    {"mlp_bias"},
    {"mlp_only_layers"},
    {"moe_intermediate_size"},
    {"mup_scale"},
    {"n_routed_experts"},
    {"num_experts"},
    {"num_local_experts"},
    {"num_nextn_predict_layers"},
    {"norm_type"},
    {"num_shared_experts"},
    {"parallel_attn"},
    {"residual_multiplier"},
    {"scale_depth"},
    {"scale_emb"},
    {"scale_embedding"},
    {"shared_expert_intermediate_size"},
    {"use_bias"},
    {"use_parallel_residual"},
    {"use_post_norm"},
    {"word_embed_proj_dim"},
};

bool is_neutral(json const& value, std::string_view also) {
  if (value.is_null() || value == false || value == 0 || value == 1 || value == "") return true;
  if (value.is_array() || value.is_object()) return value.empty();
  if (value.is_boolean()) return also == "true";
  return value.is_string() && !also.empty() && value.get_ref<std::string const&>() == also;
}

std::string quoted(std::vector<std::string> const& names) {
  std::string text;
  for (std::string const& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

} // namespace

json_config json_config::inside(std::string const& key) {
  used(key);
  return {place_ + ": " + key, object_.at(key)};
}

void json_config::take_from(json_config const& inner) {
  if (!inner.why().empty()) keep_failure(inner.why());
  keep_notes(inner.notes());
}

bool json_config::has(std::string const& key) {
  used(key);
  return object_.contains(key) && !object_.at(key).is_null();
}

bool json_config::require(std::string const& key) {
  if (!has(key)) fail(slim::message("'", key, "' is missing"));
  return has(key);
}

template <class T>
T json_config::wrong(std::string const& key, char const* wanted) {
  std::string value = object_.at(key).dump();
  if (value.size() > 40) value = value.substr(0, 40) + "...";
  fail(slim::message("'", key, "' is ", value, ", not ", wanted));
  return T{};
}

index_t json_config::whole(std::string const& key) { return require(key) ? whole(key, 0) : 0; }
index_t json_config::whole(std::string const& key, index_t fallback) {
  if (!has(key)) return fallback;
  json const& value = object_.at(key);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62)
    return wrong<index_t>(key, "a possible size");
  if (value.is_number_integer()) return value.get<index_t>();
  return wrong<index_t>(key, "a whole number");
}

std::optional<index_t> json_config::whole_or_none(std::string const& key, std::optional<index_t> fallback) {
  used(key);
  if (!object_.contains(key)) return fallback;
  if (object_.at(key).is_null()) return std::nullopt;
  return whole(key, 0);
}

double json_config::number(std::string const& key) { return require(key) ? number(key, 0.0) : 0.0; }
double json_config::number(std::string const& key, double fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_number() ? object_.at(key).get<double>() : wrong<double>(key, "a number");
}

std::optional<double> json_config::number_or_none(std::string const& key, std::optional<double> fallback) {
  used(key);
  if (!object_.contains(key)) return fallback;
  if (object_.at(key).is_null()) return std::nullopt;
  return number(key, 0.0);
}

bool json_config::flag(std::string const& key, bool fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_boolean() ? object_.at(key).get<bool>() : wrong<bool>(key, "true or false");
}

std::string json_config::text(std::string const& key) { return require(key) ? text(key, "") : ""; }
std::string json_config::text(std::string const& key, std::string const& fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_string() ? object_.at(key).get<std::string>() : wrong<std::string>(key, "a text");
}

template <class T, class Is>
std::vector<T> json_config::list(std::string const& key, char const* wanted, Is const& is) {
  if (!has(key)) return {};
  json const& value = object_.at(key);
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is)) return wrong<std::vector<T>>(key, wanted);
  std::vector<T> elements;
  for (json const& element : value)
    if constexpr (std::is_same_v<T, bool>)
      elements.push_back(element == true || element == 1);
    else
      elements.push_back(element.get<T>());
  return elements;
}

std::vector<double> json_config::numbers(std::string const& key) {
  return list<double>(key, "a list of numbers", [](json const& e) { return e.is_number(); });
}
std::vector<bool> json_config::flags(std::string const& key) {
  return list<bool>(key, "a list of flags", [](json const& e) { return e.is_boolean() || e == 0 || e == 1; });
}
std::vector<std::string> json_config::texts(std::string const& key) {
  return list<std::string>(key, "a list of texts", [](json const& e) { return e.is_string(); });
}

void json_config::settle_unused() {
  std::vector<std::string> unknown;
  for (auto const& [key, value] : object_.items()) {
    if (was_used(key) || std::find(std::begin(harmless), std::end(harmless), key) != std::end(harmless)) continue;
    auto const* const known =
        std::find_if(std::begin(telling), std::end(telling), [&key = key](telling_key const& k) { return k.name == key; });
    if (known == std::end(telling))
      unknown.push_back(key);
    else if (!is_neutral(value, known->neutral))
      fail(slim::message("'", key, "' is ", value.dump().substr(0, 60), "; models of this type are not read with it"));
  }
  if (!unknown.empty())
    note(slim::message(unknown.size() == 1 ? "key " : "keys ", quoted(unknown), unknown.size() == 1 ? " is" : " are",
                       " not known and not used, as in transformers"));
}

namespace {

rope_settings read_scaling(json_config& at, json_config& outside, model_config const& c, rope_defaults const& defaults,
                           double theta) {
  rope_settings rope;
  rope.theta = at.number("rope_theta", theta);
  std::string kind = at.text("rope_type", at.text("type", "default"));
  at.used("type"); // transformers 4's name, which counts only where the other is missing
  if (kind == "su" || (kind == "yarn" && defaults.yarn_means_longrope)) kind = "longrope";
  auto const known = find_scaling(kind);
  if (!known) at.fail("rotary scaling '" + kind + "' is not known; " + known_scalings() + " are");
  rope.kind = known.value_or(rope_settings::scaling::none);
  double const part = at.number("partial_rotary_factor", outside.number("partial_rotary_factor", 1.0));
  if (part != 1 && !defaults.may_rotate_a_part)
    at.fail(slim::message("partial_rotary_factor is ", part, "; models of this type rotate whole heads"));
  if (!(part > 0) || part > 1) at.fail(slim::message("partial_rotary_factor is ", part, ", allowed are numbers up to 1"));
  rope.rotated = static_cast<index_t>(static_cast<double>(c.head_dim) * part);
  if (rope.rotated % 2 != 0)
    at.fail(slim::message("an odd number of elements of a head, ", rope.rotated, ", cannot be rotated"));
  rope.max_positions = c.max_positions;

  using scaling = rope_settings::scaling;
  auto const positions = static_cast<double>(c.max_positions);
  rope.original_context = at.number("original_max_position_embeddings", positions);
  if (defaults.original_context > 0) rope.original_context = static_cast<double>(defaults.original_context);
  rope.original_context = outside.number("original_max_position_embeddings", rope.original_context);
  if (rope.kind == scaling::linear || rope.kind == scaling::llama3 || rope.kind == scaling::dynamic)
    rope.factor = at.number("factor");
  if (rope.kind == scaling::yarn || rope.kind == scaling::longrope) {
    rope.factor = at.number("factor", rope.original_context > 0 ? positions / rope.original_context : 1.0);
    rope.attention_factor = at.number("attention_factor", 0);
  }
  if (rope.kind == scaling::llama3) {
    rope.low_frequency_factor = at.number("low_freq_factor");
    rope.high_frequency_factor = at.number("high_freq_factor");
  }
  if (rope.kind == scaling::yarn) {
    rope.beta_fast = at.number("beta_fast", 32);
    rope.beta_slow = at.number("beta_slow", 1);
    rope.whole_pairs = at.flag("truncate", true);
    rope.multi_scale = at.number("mscale", 0);
    rope.multi_scale_all = at.number("mscale_all_dim", 0);
  }
  if (rope.kind == scaling::longrope) {
    rope.short_factors = at.numbers("short_factor");
    rope.long_factors = at.numbers("long_factor");
  }
  if (std::string const why = why_not_valid(rope); at.why().empty() && !why.empty()) at.fail(why);
  at.settle_unused();
  return rope;
}

} // namespace

std::vector<rotary_table> read_rotary(json_config& config, model_config const& c, rope_defaults const& defaults) {
  double const theta = config.number("rope_theta", defaults.theta);
  double const local_theta = config.number("rope_local_base_freq", defaults.local_theta);
  json none = json::object();
  json const old_object = config.has("rope_scaling") ? config.object().at("rope_scaling") : none;
  json const new_object = config.has("rope_parameters") ? config.object().at("rope_parameters") : none;
  for (auto const* object : {&old_object, &new_object})
    if (!object->is_object()) {
      config.fail(object == &old_object ? "'rope_scaling' is not an object" : "'rope_parameters' is not an object");
      return {};
    }
  if (!old_object.empty() && !new_object.empty() && old_object != new_object)
    config.note("'rope_scaling' and 'rope_parameters' are both there and differ; the first is used, as transformers does");
  char const* const key = old_object.empty() ? "rope_parameters" : "rope_scaling";
  json const& object = old_object.empty() ? new_object : old_object;
  json_config flat = object.empty() ? config.nothing_inside() : config.inside(key);
  bool const nested = object.contains("full_attention") || object.contains("sliding_attention");
  if (defaults.local_theta == 0 && nested)
    config.fail(slim::message("'", key, "' differs between kinds of blocks, which models of this type do not"));
  if (defaults.local_theta > 0 && !object.empty() && !nested && old_object.empty())
    config.fail("'rope_parameters' says nothing of 'full_attention' and 'sliding_attention'");

  auto const table = [&](json_config& at, double base) {
    rope_settings const rope = read_scaling(at, config, c, defaults, base);
    config.take_from(at);
    return config.why().empty() ? rotary_of(rope) : rotary_table{};
  };
  auto const part = [&](char const* kind) { return flat.has(kind) ? flat.inside(kind) : config.nothing_inside(); };
  if (defaults.local_theta == 0) return {table(flat, theta)};
  json_config global = nested ? part("full_attention") : std::move(flat);
  json_config local = nested ? part("sliding_attention") : config.nothing_inside();
  return {table(global, theta), table(local, local_theta)};
}

} // namespace slim_llm
