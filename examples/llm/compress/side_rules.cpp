#include "compress/side_rules.hpp"

#include "run/input_error.hpp"

#include <algorithm>
#include <regex>

namespace slim_llm {

side_types side_types_of(recipe const& how, model const& m) {
  side_types types = default_side_types(m);
  std::vector<slim::tensor_info const*> sides;
  for (stored_matrix const* const side : {&m.embedding, &m.head})
    if (side->tensor()) sides.push_back(side->tensor());
  auto const fits = [](recipe_rule const& rule, slim::tensor_info const* tensor) {
    return std::regex_match(tensor->name, std::regex(rule.match));
  };
  for (recipe_rule const& rule : how.rules)
    if (rule.type && std::none_of(sides.begin(), sides.end(), [&](auto const* tensor) { return fits(rule, tensor); })) {
      std::string names;
      for (auto const* tensor : sides) names += (names.empty() ? "" : ", ") + tensor->name;
      throw input_error("recipe " + how.name + ": the rule for '" + rule.match +
                        "' gives a type, which is for embedding and head (" + names + "), and fits neither");
    }
  for (auto const* tensor : sides)
    for (recipe_rule const& rule : how.rules) {
      if ((!rule.type && rule.how) || !fits(rule, tensor)) continue;
      types.erase(tensor->name);
      if (rule.type) {
        (void)bytes_in(*tensor, *rule.type);
        types[tensor->name] = *rule.type;
      }
      break;
    }
  return types;
}

} // namespace slim_llm
