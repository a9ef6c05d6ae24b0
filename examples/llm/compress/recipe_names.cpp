#include "compress/recipe_parts.hpp"
#include "run/nearest.hpp"

#include "slim/quantization/input_quantizer.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace slim_llm {
namespace {

/// How inputs are rounded at evaluation.
struct input_rounding {
  std::function<void(slim::matrix_view<float>)> round;
  std::string text;
};

template <slim::input_quantizer Rounding>
input_rounding rounding_by(Rounding const& rounding) {
  return {[rounding](slim::matrix_view<float> x) { rounding.round_inplace(x); }, rounding.describe()};
}

/// Reads "g128" and the like; 0 if it is nothing of the kind.
slim::index_t group_size(std::string const& modifier) {
  if (modifier.size() < 2 || modifier[0] != 'g') return 0;
  slim::index_t size = 0;
  auto const end = modifier.data() + modifier.size();
  auto const [stop, error] = std::from_chars(modifier.data() + 1, end, size);
  return error == std::errc() && stop == end && size > 0 ? size : 0;
}

/// Reads "r0.075" (a ratio) or "r32" (a number).
std::optional<slim::adapter_rank> rank_modifier(std::string const& modifier) {
  if (modifier.size() < 2 || modifier[0] != 'r') return std::nullopt;
  auto const rank = parse_rank(modifier.substr(1));
  return rank ? std::optional(*rank) : std::nullopt;
}

/// An empty string, or what is wrong.
std::string apply_modifier(recipe_parts& parts, input_rounding& inputs, std::string const& modifier, std::string const& base) {
  auto const meaningless = [&](char const* why) {
    return slim::message("recipe ", base, " ", why, ", so @", modifier, " has no meaning");
  };
  if (modifier == "50") {
    if (parts.mask.method == mask_method::none) return meaningless("prunes nothing");
    parts.mask.unstructured = true;
  } else if (modifier == "channel" || group_size(modifier) > 0) {
    if (parts.codes.method == code_method::none) return meaningless("quantizes nothing");
    parts.codes.block = modifier == "channel" ? slim::per_channel : slim::per_group(group_size(modifier));
  } else if (auto const rank = rank_modifier(modifier)) {
    if (parts.adapter.method == adapter_method::none) return meaningless("has no adapter");
    parts.adapter.rank = *rank;
  } else if (modifier == "bf16-scales") {
    if (parts.codes.method == code_method::none) return meaningless("quantizes nothing");
    parts.codes.scale_format = parts.adapter.scale_format = slim::number_format::bf16;
  } else if (modifier == "prune-first") {
    bool const in_steps = parts.codes.method != code_method::none && parts.mask.method != mask_method::none &&
                          !parts.has_solver() && parts.adapter.method != adapter_method::slim_repo;
    if (!in_steps) return meaningless("does not both quantize and prune in steps of their own");
    parts.prune_first = true;
  } else if (modifier == "no-target") {
    if (parts.codes.method != code_method::joint) return meaningless("aims at the weights anyway");
    parts.aims_at_weights = true;
  } else if (modifier == "fp8") {
    inputs = rounding_by(slim::fp8_input());
  } else if (modifier == "int8") {
    inputs = rounding_by(slim::int8_input());
  } else {
    return slim::message("modifier @", modifier,
                         " is not known; there are @50 @channel @gN @rR @bf16-scales @prune-first @no-target @fp8 @int8");
  }
  return {};
}

recipe make_recipe(std::string const& name, recipe_parts const& parts, input_rounding const& inputs) {
  recipe made;
  made.name = name;
  made.rank = parts.adapter.rank;
  if (parts.adapter.method != adapter_method::none)
    made.stored = slim::adapter_format{.bits = parts.adapter.bits, .scale_format = parts.adapter.scale_format};
  made.needs_hessian = parts.has_solver() || parts.adapter.method == adapter_method::exact;
  made.towards_dense = parts.towards_dense();
  made.round_input = inputs.round;
  if (parts.changes_weights()) {
    made.chain = [parts](slim::adapter_rank rank) { return chain_of(parts, rank); };
    made.steps = made.chain(made.rank).steps();
  }
  if (!inputs.text.empty()) made.steps.push_back(inputs.text);
  return made;
}

std::vector<std::string> split(std::string const& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

} // namespace

std::vector<recipe_summary> base_recipes() {
  std::vector<recipe_summary> all;
  for (auto const& base : recipe_table()) all.push_back({base.name, base.text});
  return all;
}

std::vector<recipe_summary> recipe_modifiers() {
  return {{"@50", "50% unstructured sparsity instead of 2:4"},
          {"@channel", "a weight scale per output channel instead of one per tensor"},
          {"@gN", "a weight scale per N input channels of a row, e.g. @g128"},
          {"@rR", "adapters of rank ratio R if it is below 1, else of rank R, e.g. @r0.075, @r32"},
          {"@bf16-scales",
           "scales of 8 significant bits: times a zero point or a code of an adapter they are numbers of F16, which "
           "exports to MLX and 16-bit adapters want"},
          {"@no-target", "towards the weights, not towards the dense model's outputs"},
          {"@prune-first", "prune, then quantize what is left; without it the papers' order, quantize, then prune"},
          {"@fp8", "inputs of the linear layers rounded to FP8, one scale per tensor"},
          {"@int8", "inputs rounded to int8, one scale per tensor"}};
}

slim::result<slim::adapter_rank> parse_rank(std::string const& text) {
  double value = 0;
  auto const end = text.data() + text.size();
  auto const [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= 0.0) || value > 1e6 || (value >= 1.0 && value != std::floor(value)))
    return slim::failure{slim::message("rank '", text, "': a ratio below 1 or a whole number is needed")};
  if (value < 1.0) return slim::adapter_rank{.ratio = value};
  return slim::adapter_rank{.number = static_cast<slim::index_t>(value)};
}

slim::adapter_rank recipe::rank_of(std::string const& tensor, std::string const& role) const {
  if (auto const by_tensor = ranks.find(tensor); by_tensor != ranks.end()) return by_tensor->second;
  if (auto const by_role = ranks.find(role); by_role != ranks.end()) return by_role->second;
  return rank;
}

slim::result<recipe> find_recipe(std::string const& name) {
  auto const words = split(name, '@');
  auto const table = recipe_table();
  auto const base = std::find_if(table.begin(), table.end(), [&](base_recipe const& row) { return row.name == words[0]; });
  if (base == table.end()) {
    std::string known;
    for (auto const& row : table) known += std::string(" ") + row.name;
    std::vector<std::string> names;
    for (auto const& row : table) names.emplace_back(row.name);
    std::string const nearest = did_you_mean(words[0], names);
    return slim::failure{
        slim::message("recipe '", words[0], "' is not known", nearest, nearest.empty() ? "; there" : " There", " are", known)};
  }
  recipe_parts parts = base->parts;
  input_rounding inputs;
  for (std::size_t k = 1; k < words.size(); ++k)
    if (auto const wrong = apply_modifier(parts, inputs, words[k], words[0]); !wrong.empty()) return slim::failure{wrong};
  return make_recipe(name, parts, inputs);
}

slim::result<std::vector<recipe>> find_recipes(std::string const& comma_separated) {
  std::vector<recipe> all;
  for (auto const& name : split(comma_separated, ',')) {
    auto found = find_recipe(name);
    if (!found) return slim::failure{found.why()};
    all.push_back(std::move(*found));
  }
  return all;
}

} // namespace slim_llm
