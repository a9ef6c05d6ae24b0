#include "compress/recipe_file.hpp"

#include "compress/recipe_parts.hpp"
#include "run/nearest.hpp"

#include "slim/io/json.hpp"

#include <algorithm>
#include <cctype>
#include <regex>

namespace slim_llm {
namespace {

using nlohmann::json;

/// What is wrong with a file. Caught where it is read.
struct unusable_recipe {
  std::string why;
};

/// What embedding and head can be rounded to.
constexpr slim::tensor_type side_type_choices[] = {slim::tensor_type::f16,  slim::tensor_type::bf16, slim::tensor_type::q8_0,
                                                   slim::tensor_type::q6_k, slim::tensor_type::q5_k, slim::tensor_type::q5_1,
                                                   slim::tensor_type::q5_0, slim::tensor_type::q4_k, slim::tensor_type::q4_1,
                                                   slim::tensor_type::q4_0, slim::tensor_type::q3_k, slim::tensor_type::q2_k};

void require(bool condition, std::string const& why) {
  if (!condition) throw unusable_recipe{why};
}

template <class T>
T required_of(slim::result<T> found) {
  require(found.has_value(), found.why());
  return std::move(found).value();
}

void require_known_keys(json const& object, std::vector<std::string> const& known) {
  std::string all;
  for (auto const& key : known) all += (all.empty() ? "" : ", ") + key;
  for (auto const& [key, value] : object.items()) {
    bool const is_known = std::find(known.begin(), known.end(), key) != known.end();
    std::string const nearest = did_you_mean(key, known);
    require(is_known, "key '" + key + "' is not known" + nearest + (nearest.empty() ? "; there" : " There") + " are " + all);
  }
}

std::string text_at(json const& object, char const* key) {
  require(object.at(key).is_string(), slim::message("'", key, "' is not a text"));
  return object.at(key).get<std::string>();
}

bool flag_at(json const& object, char const* key) {
  require(object.at(key).is_boolean(), slim::message("'", key, "' is neither true nor false"));
  return object.at(key).get<bool>();
}

int whole_at(json const& object, char const* key, int least, int most) {
  json const& value = object.at(key);
  require(value.is_number_integer() && value >= least && value <= most,
          slim::message("'", key, "' is ", value.dump(), "; possible are ", least, " to ", most));
  return value.get<int>();
}

void set_pattern(recipe_parts& parts, std::string const& pattern) {
  require(pattern == "dense" || pattern == "2:4" || pattern == "50%",
          "'pattern' is '" + pattern + "'; possible are dense, 2:4, 50%");
  if (pattern == "dense")
    parts.mask = {};
  else if (parts.mask.method == mask_method::none)
    parts.mask.method = parts.has_solver() ? mask_method::solver : mask_method::wanda;
  parts.mask.unstructured = pattern == "50%";
}

void set_rank(recipe_parts& parts, json const& rank) {
  require(rank.is_number(), "'rank' is not a number");
  require(parts.adapter.method != adapter_method::none, "'rank': the recipe has no adapter");
  parts.adapter.rank = required_of(parse_rank(rank.dump()));
}

/// The parts of a rule: those of its recipe, changed by its other keys.
recipe_parts parts_of_rule(json const& rule, std::string const& base) {
  recipe_parts parts = required_of(find_parts(rule.contains("recipe") ? text_at(rule, "recipe") : base));
  require(parts.codes.method != code_method::none, "its recipe makes no codes");
  require(!parts.is_stock(), "its recipe solves a whole model for a GGUF file");
  if (rule.contains("bits")) parts.codes.bits = whole_at(rule, "bits", 2, 8);
  if (rule.contains("group")) parts.codes.block = slim::per_group(whole_at(rule, "group", 1, 1 << 24));
  if (rule.contains("symmetric")) parts.codes.symmetric = flag_at(rule, "symmetric");
  if (rule.contains("pattern")) set_pattern(parts, text_at(rule, "pattern"));
  if (rule.contains("rank")) set_rank(parts, rule.at("rank"));
  return parts;
}

/// "q8_0", "bf16".
slim::tensor_type type_of_name(std::string const& name) {
  std::vector<std::string> names;
  for (auto const type : side_type_choices) {
    std::string lower(slim::name_of(type));
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (lower == name) return type;
    names.push_back(lower);
  }
  std::string all;
  for (auto const& each : names) all += (all.empty() ? "" : ", ") + each;
  throw unusable_recipe{"'type' is '" + name + "'" + did_you_mean(name, names) + "; possible are " + all};
}

recipe_rule rule_of(json const& rule, std::string const& base) {
  require(rule.is_object(), "is not an object");
  require_known_keys(rule, {"match", "skip", "type", "recipe", "bits", "group", "symmetric", "pattern", "rank"});
  require(rule.contains("match"), "has no 'match'");
  recipe_rule made{text_at(rule, "match"), nullptr, {}};
  try {
    (void)std::regex(made.match);
  } catch (std::regex_error const&) {
    require(false, "'match' is no regular expression: " + made.match);
  }
  bool const skips = rule.contains("skip") && flag_at(rule, "skip");
  require(!skips || rule.size() == 2, "skips tensors and changes how they are compressed; it can do one of them");
  if (skips) return made;
  if (rule.contains("type")) {
    require(rule.size() == 2, "has a 'type', which is for embedding and head, and keys for linears");
    made.type = type_of_name(text_at(rule, "type"));
    return made;
  }
  json changes = rule;
  changes.erase("match");
  changes.erase("skip");
  made.how = std::make_shared<recipe const>(recipe_of(base + " " + changes.dump(), parts_of_rule(rule, base)));
  return made;
}

recipe recipe_of_document(json const& document) {
  require(document.is_object(), "is not an object");
  require_known_keys(document, {"recipe", "rules"});
  require(document.contains("recipe"), "has no 'recipe', the name of one to begin with");
  std::string const base = text_at(document, "recipe");
  recipe made = required_of(find_recipe(base));
  require(made.makes_codes, "'recipe': " + base + " makes no codes; rules can skip tensors instead");
  json const rules = document.value("rules", json::array());
  require(rules.is_array(), "'rules' is not a list");
  for (std::size_t k = 0; k < rules.size(); ++k) {
    try {
      made.rules.push_back(rule_of(rules[k], base));
    } catch (unusable_recipe const& problem) {
      throw unusable_recipe{slim::message("rule ", k + 1, ": ", problem.why)};
    }
    auto const& how = made.rules.back().how;
    if (!how) continue;
    made.needs_hessian = made.needs_hessian || how->needs_hessian;
    made.towards_dense = made.towards_dense || how->towards_dense;
  }
  return made;
}

} // namespace

slim::result<recipe> read_recipe_file(std::filesystem::path const& file) {
  auto const document = slim::read_json(file);
  if (!document) return slim::failure{document.why()};
  try {
    return recipe_of_document(*document);
  } catch (unusable_recipe const& problem) {
    return slim::failure{file.string() + ": " + problem.why};
  }
}

} // namespace slim_llm
