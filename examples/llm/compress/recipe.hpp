#pragma once
/// @file
/// Recipes by name: `slim`, `slim-quant-wanda@50`, `slim@g128@fp8`. A name is a base, which says what the steps are, and
/// modifiers behind `@`, which say in which granularity, pattern and input precision.

#include "slim/core/result.hpp"
#include "slim/joint/feedback_adapter.hpp"
#include "slim/pipeline/any.hpp"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace slim_llm {

/// What to do with every linear layer of a model.
struct recipe {
  std::string name;
  std::function<slim::any_chain(slim::adapter_rank)> chain;  ///< for adapters of that rank; empty: the weights stay as they are
  slim::adapter_rank rank = {};                              ///< of the adapters, where `ranks` says nothing else
  std::map<std::string, slim::adapter_rank> ranks;           ///< by tensor name, or by role (q, k, ... down)
  std::optional<slim::adapter_format> stored;                ///< how adapters are stored; none: there is no adapter
  bool needs_hessian = false;                                ///< solves with X^T X, which takes memory
  bool towards_dense = false;                                ///< needs the uncompressed model's outputs as targets
  bool guided = false;                                       ///< tokens count as much as the end loss cares for them
  std::vector<std::string> steps;                            ///< what each step is, in order, for people
  std::function<void(slim::matrix_view<float>)> round_input; ///< empty: inputs stay float

  [[nodiscard]] slim::adapter_rank rank_of(std::string const& tensor, std::string const& role) const;
};

/// Name and one line about every base recipe, in the order of the papers' tables.
struct recipe_summary {
  std::string name;
  std::string text;
};
[[nodiscard]] std::vector<recipe_summary> base_recipes();
[[nodiscard]] std::vector<recipe_summary> recipe_modifiers();

/// "0.075" is a ratio, "32" a number.
[[nodiscard]] slim::result<slim::adapter_rank> parse_rank(std::string const& text);

/// The recipe of a name, or a sentence that says what is wrong with it and what would be possible.
[[nodiscard]] slim::result<recipe> find_recipe(std::string const& name);

/// Splits "a,b,c"; fails on the first name that is no recipe.
[[nodiscard]] slim::result<std::vector<recipe>> find_recipes(std::string const& comma_separated);

} // namespace slim_llm
