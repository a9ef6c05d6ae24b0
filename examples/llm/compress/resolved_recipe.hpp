#pragma once
/// @file
/// A recipe with everything that it is applied to, as a .slim file and a run folder keep it.

#include "compress/rank_plan.hpp"
#include "text/calibration_text.hpp"

#include <nlohmann/json.hpp>

namespace slim_llm {

/// The recipe that --for names: "size", "speed", or a format of export. @throws input_error
[[nodiscard]] std::string default_recipe(std::string const& aim);

/// If --for names a format of export: that it will hold what the recipe makes of the model, exactly. @throws input_error with
/// the linear, the reason, and a recipe that would do; if --for names nothing that is known.
void require_exportable(recipe const& how, model const& m, std::string const& aim);

/// FNV-1a of a file's content. @throws input_error
[[nodiscard]] std::string hash_of_file(std::filesystem::path const& file);

/// Ranks of `how.ranks`: whole numbers, or ratios below 1; and back.
[[nodiscard]] nlohmann::json ranks_as_json(recipe const& how);
void set_ranks(recipe& how, nlohmann::json const& ranks);

/// Name, steps, rules, ranks, tokens, hash of the text, seed. Nothing in it depends on the machine or on where files lie.
[[nodiscard]] nlohmann::json resolved_recipe(text_options const& text, recipe const& how, text_tokens const& tokens);

} // namespace slim_llm
