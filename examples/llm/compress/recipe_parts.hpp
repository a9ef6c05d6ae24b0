#pragma once
/// @file
/// What recipe.cpp (one step after the other) and joint_recipes.cpp (all together) share.

#include "compress/recipe.hpp"

#include <optional>

namespace slim_llm {

/// What stands behind the @ signs of a recipe's name.
struct modifiers {
  bool unstructured = false;
  bool prune_first = false;
  bool targets = true;
  std::optional<slim::scale_block> block; ///< granularity of the weight scales, if it was named
  std::optional<slim::adapter_rank> rank;
  std::function<void(slim::matrix_view<float>)> round_input;
  std::string input_text;
};

/// What a base recipe can be modified in.
struct recipe_traits {
  bool quantizes = false;
  bool prunes = false;
  bool has_order = false; ///< quantizes and prunes in separate steps
  bool has_adapter = false;
  bool has_targets = false;
};

/// Base recipes of methods that solve sparsity, codes and adapters together, or propagate errors.
[[nodiscard]] std::vector<recipe_summary> joint_recipes();
/// What `base` can be modified in; none if there is no such joint recipe.
[[nodiscard]] std::optional<recipe_traits> joint_recipe_traits(std::string const& base);
[[nodiscard]] recipe make_joint_recipe(std::string const& name, std::string const& base, modifiers const& m);

} // namespace slim_llm
