#include "compress/resolved_recipe.hpp"

#include "formats/export_gguf.hpp"
#include "formats/export_names.hpp"
#include "formats/export_plan.hpp"
#include "run/fnv_hash.hpp"
#include "run/input_error.hpp"

#include "slim/core/context.hpp"

#include <set>
#include <tuple>

namespace slim_llm {
namespace {

/// The first linear that a format does not hold as a recipe makes it, and why; empty: it holds all.
std::string why_not_exportable(recipe const& how, model const& m, std::string const& to) {
  if (!how.makes_codes) return "makes no integer codes";
  std::vector<std::string> names;
  std::vector<slim::any_layer> blanks;
  std::set<std::tuple<index_t, index_t, recipe const*>> seen;
  for (linear_info const& l : linears_of(m)) {
    recipe const* const mine = how.of(l.name);
    if (!mine || !mine->makes_codes)
      return l.name + ": has no codes by the recipe's rules, which no format of export leaves out";
    if (!seen.emplace(l.d_out, l.d_in, mine).second) continue;
    names.push_back(l.name);
    blanks.push_back(mine->blank(l.d_out, l.d_in, {.number = 1}));
  }
  auto const planned = plan_export(to, std::move(blanks));
  for (std::size_t k = 0; k < planned.size(); ++k)
    if (!planned[k].why_not.empty()) return names[k] + ": " + planned[k].why_not;
  return {};
}

/// A sentence that names a recipe near this one whose codes the format holds, if there is one.
std::string nearest_exportable(std::string const& name, model const& m, std::string const& to) {
  for (std::string const& other :
       {name + "@bf16-scales", name + "@g64", name + "@g64@bf16-scales", std::string("int3-lr@bf16-scales"),
        std::string("joint-q@g128@bf16-scales"), std::string("rtn-int4@bf16-scales")})
    if (auto const how = find_recipe(other); how && why_not_exportable(*how, m, to).empty())
      return "; --recipe " + other + " would do";
  return "; export --allow-lossy rounds what can be rounded";
}

} // namespace

std::string default_recipe(std::string const& aim) {
  if (aim == "size") return "int3-lr";
  if (aim == "speed") return "joint-q";
  if (is_export_format(aim)) return "int3-lr@bf16-scales"; // exact in all of them, adapters in 16 bits
  throw input_error("--for " + aim +
                    ": possible are size (dense codes of few bits), speed (2:4 sparsity), and formats of export: ct, gptq, "
                    "gptq:v1, gptq:v2, mlx, gguf, and gguf: with " +
                    gguf_types());
}

void require_exportable(recipe const& how, model const& m, std::string const& aim) {
  (void)default_recipe(aim); // is known
  if (!is_export_format(aim)) return;
  if (aim == "gguf" || aim.starts_with("gguf:")) (void)gguf_architecture(m.config);
  if (std::string const why = why_not_exportable(how, m, aim); !why.empty())
    throw input_error("--for " + aim + ": recipe " + how.name + ": " + why + nearest_exportable(how.name, m, aim));
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
  for (recipe_rule const& rule : how.rules) {
    rules.push_back({{"match", rule.match}});
    if (rule.type)
      rules.back()["type"] = std::string(slim::name_of(*rule.type));
    else
      rules.back()["recipe"] = rule.how ? nlohmann::json(rule.how->name) : nlohmann::json();
  }
  nlohmann::json resolved = {{"name", how.name},
                             {"steps", how.steps},
                             {"rules", rules},
                             {"ranks", ranks_as_json(how)},
                             {"context", text.context},
                             {"calib_tokens", tokens.fitted().size()},
                             {"held_out_tokens", tokens.held_out},
                             {"calib_text", hash_of_file(calibration_file(text))},
                             {"seed", slim::context().seed}};
  if (!how.bits.empty()) resolved["bits"] = how.bits;
  return resolved;
}

} // namespace slim_llm
