#pragma once
/// @file
/// Recipes as JSON files: a named recipe, and rules that change it for some tensors. The first rule whose expression fits the
/// whole name of a tensor holds.
///
///     {"recipe": "int3-lr",
///      "rules": [{"match": ".*\\.0\\..*", "skip": true},
///                {"match": ".*(down|ffn_down).*", "bits": 4, "group": 64, "rank": 0.05},
///                {"match": ".*attn_k.*", "recipe": "gptq-int4", "symmetric": true, "pattern": "dense"}]}

#include "compress/recipe.hpp"

#include <filesystem>

namespace slim_llm {

/// The recipe of a file, or a sentence with the file, the rule and the key: an unknown key gets the nearest known one as a
/// suggestion.
[[nodiscard]] slim::result<recipe> read_recipe_file(std::filesystem::path const& file);

} // namespace slim_llm
