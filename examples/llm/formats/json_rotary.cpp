#include "formats/json_rotary.hpp"

#include "formats/rope.hpp"

namespace slim_llm {
namespace {

using nlohmann::json;

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
  rope.rotated = at.why().empty() ? static_cast<index_t>(static_cast<double>(c.head_dim) * part) : 2;
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

  if (!nested)
    for (std::string const name : {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"})
      if (flat.has(name) && config.has(name) && object.at(name) != config.object().at(name))
        config.note(slim::message("'", name, "' is in '", key, "' and beside it and differs; the one ",
                                  name == "original_max_position_embeddings" ? "beside it" : "in it",
                                  " is used, as transformers does"));

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
