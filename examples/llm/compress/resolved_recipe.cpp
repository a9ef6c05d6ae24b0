#include "compress/resolved_recipe.hpp"

#include "run/fnv_hash.hpp"
#include "run/input_error.hpp"

#include "slim/core/context.hpp"

namespace slim_llm {

std::string default_recipe(std::string const& aim) {
  if (aim == "size") return "int3-lr";
  if (aim == "speed") return "joint-q";
  throw input_error("--for " + aim + ": possible are size (dense codes of few bits) and speed (2:4 sparsity)");
}

std::string hash_of_file(std::filesystem::path const& file) {
  fnv_hash hash;
  std::string const content = read_text(file);
  hash.add(std::as_bytes(std::span(content)));
  return hash.text();
}

nlohmann::json ranks_as_json(recipe const& how) {
  auto ranks = nlohmann::json::object();
  for (auto const& [name, rank] : how.ranks)
    ranks[name] = rank.number >= 0 ? nlohmann::json(rank.number) : nlohmann::json(rank.ratio);
  return ranks;
}

void set_ranks(recipe& how, nlohmann::json const& ranks) {
  for (auto const& [name, rank] : ranks.items())
    how.ranks[name] = rank.is_number_integer() ? slim::adapter_rank{.number = rank.get<index_t>()}
                                               : slim::adapter_rank{.ratio = rank.get<double>()};
}

nlohmann::json resolved_recipe(text_options const& text, recipe const& how, text_tokens const& tokens) {
  auto rules = nlohmann::json::array();
  for (recipe_rule const& rule : how.rules)
    rules.push_back({{"match", rule.match}, {"recipe", rule.how ? nlohmann::json(rule.how->name) : nlohmann::json()}});
  return {{"name", how.name},
          {"steps", how.steps},
          {"rules", rules},
          {"ranks", ranks_as_json(how)},
          {"context", text.context},
          {"calib_tokens", tokens.fitted().size()},
          {"held_out_tokens", tokens.held_out},
          {"calib_text", hash_of_file(calibration_file(text))},
          {"seed", slim::context().seed}};
}

} // namespace slim_llm
