#include "compress/recipe_file.hpp"
#include "compress/recipe_parts.hpp"
#include "run/nearest.hpp"

#include "slim/quantization/input_quantizer.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <regex>

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

std::optional<slim::range_rule> range_modifier(std::string const& name) {
  if (name == "minmax") return slim::range_rule::min_max;
  if (name == "percentile") return slim::range_rule::percentile;
  if (name == "dobi" || name == "output") return slim::range_rule::dobi;
  return std::nullopt;
}

/// Reads "damp0.1"; 0 if it is nothing of the kind.
double damping_modifier(std::string const& modifier) {
  double damping = 0;
  auto const end = modifier.data() + modifier.size();
  if (!modifier.starts_with("damp")) return 0.0;
  auto const [stop, error] = std::from_chars(modifier.data() + 4, end, damping);
  return error == std::errc() && stop == end && damping > 0.0 && damping <= 1e6 ? damping : 0.0;
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
    if (!parts.has_groups()) return meaningless("has groups of its own, or none");
    if (parts.is_system() && modifier == "channel") return meaningless("needs groups of columns");
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
  } else if (modifier.starts_with("range=")) {
    auto const rule = range_modifier(modifier.substr(6));
    if (parts.codes.searched) return meaningless("has searched scales already");
    if (!rule) return slim::message("modifier @", modifier, ": possible ranges are minmax, percentile, dobi, output");
    if (parts.codes.method != code_method::absmax) return meaningless("does not round to nearest on uniform codes");
    parts.codes.method = code_method::range;
    parts.codes.range = *rule;
    parts.codes.by_output = modifier == "range=output";
  } else if (auto const damping = damping_modifier(modifier); damping > 0.0) {
    if (!parts.has_solver() || parts.codes.method == code_method::joint || parts.codes.method == code_method::alternating ||
        parts.codes.method == code_method::squeeze_llm || parts.codes.method == code_method::kmeans)
      return meaningless("has no error feedback of its own");
    parts.codes.damping = damping;
  } else if (modifier == "search") {
    bool const uniform = parts.codes.method == code_method::absmax || parts.codes.method == code_method::gptq;
    if (!uniform) return meaningless("does not take its scales from the largest weights");
    if (parts.codes.block.rows != 1) return meaningless("has a scale that rows share");
    parts.codes.searched = true;
  } else if (modifier == "no-target") {
    if (!parts.has_target()) return meaningless("aims at the weights anyway");
    parts.aims_at_weights = true;
  } else if ((modifier == "fp8" || modifier == "int8") && parts.input_bits > 0) {
    return meaningless("rounds its inputs already");
  } else if (modifier == "bf16-products") {
    if (!parts.has_solver()) return meaningless("has no solver, which is where the time goes");
    parts.bf16_products = true;
  } else if (modifier == "guided") {
    if (!parts.changes_weights()) return meaningless("changes no weights");
    parts.guided = true;
  } else if (modifier == "kl" || modifier == "refine") {
    if (parts.codes.method == code_method::none) return meaningless("quantizes nothing");
    (modifier == "kl" ? parts.distilled : parts.refined) = true;
  } else if (modifier == "fp8") {
    inputs = rounding_by(slim::fp8_input());
  } else if (modifier == "int8") {
    inputs = rounding_by(slim::int8_input());
  } else {
    return slim::message(
        "modifier @", modifier,
        " is not known; there are @50 @channel @gN @rR @bf16-scales @dampD @search @range=RULE @prune-first @no-target @bf16-products @guided @refine @kl @fp8 @int8");
  }
  return {};
}

struct named_parts {
  recipe_parts parts;
  input_rounding inputs;
};

recipe make_recipe(std::string const& name, recipe_parts const& parts, input_rounding const& inputs) {
  recipe made;
  made.name = name;
  made.rank = parts.adapter.rank;
  if (parts.adapter.method != adapter_method::none)
    made.stored = slim::adapter_format{.bits = parts.adapter.bits, .scale_format = parts.adapter.scale_format};
  made.makes_codes = parts.codes.method != code_method::none && !parts.is_system() && !parts.is_stock();
  made.packs = made.makes_codes || (parts.is_system() && !inputs.round && !parts.needs_samples());
  made.needs_hessian = parts.has_solver() || parts.adapter.method == adapter_method::exact;
  made.towards_dense = parts.towards_dense();
  made.bf16_products = parts.bf16_products;
  made.guided = parts.guided;
  made.refined = parts.refined;
  made.distilled = parts.distilled;
  made.round_input = inputs.round;
  made.rounds_for_codes = parts.needs_samples();
  if (parts.needs_samples()) made.samples = 256;
  if (parts.changes_weights()) {
    made.chain = [parts](slim::adapter_rank rank) { return chain_of(parts, rank); };
    made.steps = made.chain(made.rank).steps();
    if (parts.has_width())
      made.chain_of_bits = [parts](slim::adapter_rank rank, int bits) {
        recipe_parts other = parts;
        other.codes.bits = bits;
        return chain_of(other, rank);
      };
  }
  if (parts.is_stock()) {
    made.preset = parts.codes.preset;
    made.steps.back() = slim::message("error feedback and descent on the grids of gguf:", made.preset, ", types by tensor");
    made.chain_of_type = [parts](slim::tensor_type type) {
      recipe_parts other = parts;
      other.codes.type = type;
      return chain_of(other, {});
    };
  }
  if (made.makes_codes)
    made.blank = [parts](slim::index_t d_out, slim::index_t d_in, slim::adapter_rank rank) {
      return blank_layer(parts, d_out, d_in, rank);
    };
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

slim::result<named_parts> read_name(std::string const& name) {
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
  named_parts read{base->parts, {}};
  if (read.parts.input_bits > 0) read.inputs = rounding_by(slim::group_input({.bits = read.parts.input_bits, .group = 64}));
  for (std::size_t k = 1; k < words.size(); ++k)
    if (auto const wrong = apply_modifier(read.parts, read.inputs, words[k], words[0]); !wrong.empty())
      return slim::failure{wrong};
  return read;
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
          {"@dampD",
           "error feedback with damping D of the mean diagonal of X^T X, e.g. @damp1; without it 0.01, of the other systems 1"},
          {"@search",
           "scales of rtn-* and gptq-* by a search under the weights of the inputs, of either sign where codes are symmetric; "
           "without it from the largest weight of each group"},
          {"@range=RULE",
           "ends of the codes' range by minmax, percentile (99.9), dobi (2DQuant's search) or output (the same search by the "
           "output's error), for recipes that round to nearest"},
          {"@no-target", "towards the weights, not towards the dense model's outputs"},
          {"@bf16-products",
           "products of forward passes, sums over tokens and solvers read bf16, up to twice as fast on CPUs with AVX512-BF16"},
          {"@guided", "tokens count by the squared gradients of the end loss (GuidedQuant); one backward pass more"},
          {"@refine",
           "then scales and adapters of attention and MLP of each block train towards the dense model's states, codes frozen; "
           "in ablate only"},
          {"@kl", "then scales and adapters train towards the dense model, codes frozen; in ablate only"},
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

recipe const* recipe::of(std::string const& tensor) const {
  for (recipe_rule const& rule : rules)
    if (!rule.type && std::regex_match(tensor, std::regex(rule.match))) return rule.how.get();
  return this;
}

slim::any_chain recipe::chain_for(std::string const& tensor, std::string const& role) const {
  recipe const& how = *of(tensor);
  if (auto const type = types.find(tensor); type != types.end()) return how.chain_of_type(type->second);
  auto const rank_here = ranks.contains(tensor) ? rank_of(tensor, role) : how.rank_of(tensor, role);
  auto const found = bits.find(tensor);
  return found == bits.end() ? how.chain(rank_here) : how.chain_of_bits(rank_here, found->second);
}

slim::result<recipe> find_recipe(std::string const& name) {
  if (name.ends_with(".json")) return read_recipe_file(name);
  auto const read = read_name(name);
  if (!read) return slim::failure{read.why()};
  return make_recipe(name, read->parts, read->inputs);
}

slim::result<recipe_parts> find_parts(std::string const& name) {
  auto const read = read_name(name);
  if (!read) return slim::failure{read.why()};
  return read->parts;
}

recipe recipe_of(std::string const& name, recipe_parts const& parts) { return make_recipe(name, parts, {}); }

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
