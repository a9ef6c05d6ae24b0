#pragma once
/// @file
/// What a recipe consists of, as data: a row of the table of recipes, and what the modifiers behind a recipe's name change.

#include "compress/recipe.hpp"

#include <span>

namespace slim_llm {

/// How codes are chosen. From `error_feedback` on, a solver chooses mask and codes together.
enum class code_method {
  none,
  absmax,         ///< scale from the largest weight, rounded to nearest
  slim_quant,     ///< scale of least expected error
  slim_quant_o,   ///< the same, with input channels of outliers scaled
  slim_repo,      ///< the scale search of SLiM's published code
  error_feedback, ///< GPTQ and SparseGPT
  gptq,           ///< GPTQ with act-order
  alternating,    ///< error feedback and exact adapter in turn
  joint,          ///< mask, codes and adapter together
};

/// What decides which weights are pruned. `solver`: the method of the codes.
enum class mask_method { none, magnitude, wanda, solver };

/// How the low-rank adapter is computed. `solver`: by the method of the codes.
enum class adapter_method { none, svd, l2qer, slim, slim_repo, exact, solver };

struct code_part {
  code_method method = code_method::none;
  int bits = 4;
  slim::scale_block block = slim::per_tensor;
  bool symmetric = true;
  slim::number_format scale_format = slim::number_format::fp16;
};

struct mask_part {
  mask_method method = mask_method::none;
  bool unstructured = false; ///< 50% of every row instead of 2:4
};

struct adapter_part {
  adapter_method method = adapter_method::none;
  slim::adapter_rank rank = {};
  int bits = 0;                                                 ///< of its codes; 0: bf16 numbers
  slim::number_format scale_format = slim::number_format::fp16; ///< of its codes
};

struct recipe_parts {
  code_part codes = {};
  mask_part mask = {};
  adapter_part adapter = {};
  bool prune_first = false;     ///< if pruning is a step of its own
  bool aims_at_weights = false; ///< joint only, which otherwise aims at the dense model's outputs

  [[nodiscard]] bool towards_dense() const { return codes.method == code_method::joint && !aims_at_weights; }
  [[nodiscard]] bool has_solver() const { return codes.method >= code_method::error_feedback; }
  [[nodiscard]] bool changes_weights() const { return codes.method != code_method::none || mask.method != mask_method::none; }
};

/// A row of the table.
struct base_recipe {
  char const* name;
  char const* text;
  recipe_parts parts = {};
};

/// All recipes, in the order of the papers' tables.
[[nodiscard]] std::span<base_recipe const> recipe_table();

/// The library's chain for these parts, with adapters of that rank. The parts must change the weights.
[[nodiscard]] slim::any_chain chain_of(recipe_parts const& parts, slim::adapter_rank rank);

} // namespace slim_llm
