#pragma once
/// @file
/// What a recipe consists of, as data: a row of the table of recipes, and what the modifiers behind a recipe's name change.

#include "compress/recipe.hpp"

#include "slim/io/tensor.hpp"
#include "slim/quantization/range_search.hpp"

#include <span>

namespace slim_llm {

/// How codes are chosen. From `error_feedback` on, a solver chooses mask and codes together.
enum class code_method {
  none,
  absmax,         ///< scale from the largest weight, rounded to nearest
  range,          ///< ends of the range searched, rounded to nearest
  slim_quant,     ///< scale of least expected error
  slim_quant_o,   ///< the same, with input channels of outliers scaled
  slim_repo,      ///< the scale search of SLiM's published code
  error_feedback, ///< GPTQ and SparseGPT
  gptq,           ///< GPTQ with act-order
  alternating,    ///< error feedback and exact adapter in turn
  joint,          ///< mask, codes and adapter together
  targeted,       ///< error feedback and descent on searched scales, towards the dense model's outputs
  stock,          ///< the same on the grids of ggml's block types
  // Other systems, see recipe_systems.cpp
  squeeze_llm,   ///< books per row by weighted k-means, perhaps with weights apart
  kmeans,        ///< the same by k-means without weights
  spqr,          ///< second-level groups, outliers in the loop
  balanced_bits, ///< SliM-LLM's allocation
  bits_2_4_16,   ///< 4 bits for some groups, outliers in the others
  smooth_quant,  ///< input channels scaled for rounded weights and inputs
  svdquant,      ///< the same beside a low-rank branch
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
  int scale_digits = 0;                            ///< targeted: significant bits of scales; 0: as the format has
  bool apart = false;                              ///< squeeze_llm: some weights are stored as numbers
  double damping = 0.0;                            ///< of error feedback; 0: the method's own
  slim::range_rule range = slim::range_rule::dobi; ///< of the method `range`
  bool by_output = false;                          ///< ranges are judged by the output's error
  bool full_range = false;                         ///< absmax: all codes share the range, as GPTQ's code has it
  bool searched = false; ///< scales by a search under the weights of the inputs, of either sign where codes are symmetric
  char const* preset = nullptr; ///< of the method stock: what decides the type of each tensor, see stock_types.hpp
  slim::tensor_type type = slim::tensor_type::q4_0; ///< of the method stock, once it is decided
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
  int input_bits = 0;           ///< of inputs per token and 64 channels; 0: inputs stay float
  bool aims_at_weights = false; ///< of those methods that otherwise aim at the dense model's outputs
  bool distilled = false;       ///< scales and adapters train when the whole model is compressed
  bool bf16_products = false;   ///< products of the compression read bf16 where the CPU multiplies it faster
  bool guided = false;          ///< calibration weighs tokens by gradients of the end loss
  bool refined = false;         ///< scales and adapters train block by block, before `distilled`

  [[nodiscard]] bool is_stock() const { return codes.method == code_method::stock; }
  /// Whether codes are chosen for the outputs that the dense model has, if nothing else is said.
  [[nodiscard]] bool has_target() const {
    return codes.method == code_method::joint || codes.method == code_method::targeted || is_stock();
  }
  [[nodiscard]] bool towards_dense() const { return has_target() && !aims_at_weights; }
  [[nodiscard]] bool is_system() const { return codes.method >= code_method::squeeze_llm; }
  [[nodiscard]] bool needs_samples() const {
    return codes.method == code_method::smooth_quant || codes.method == code_method::svdquant;
  }
  [[nodiscard]] bool has_solver() const { return codes.method >= code_method::error_feedback; }
  /// Whether codes have groups of columns, whose size may be asked for.
  [[nodiscard]] bool has_groups() const {
    return codes.method != code_method::none && !is_stock() && codes.method != code_method::squeeze_llm &&
           codes.method != code_method::kmeans && codes.method != code_method::spqr && !needs_samples();
  }
  /// Whether codes have one width, which another may take the place of.
  [[nodiscard]] bool has_width() const {
    return codes.method != code_method::none && !is_stock() && codes.method != code_method::balanced_bits &&
           codes.method != code_method::bits_2_4_16 && !needs_samples();
  }
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

/// The parts that a recipe's name says, without its rounding of inputs; or what is wrong with the name.
[[nodiscard]] slim::result<recipe_parts> find_parts(std::string const& name);

/// A recipe of these parts under any name. Inputs stay float.
[[nodiscard]] recipe recipe_of(std::string const& name, recipe_parts const& parts);

/// The library's chain for these parts, with adapters of that rank. The parts must change the weights.
[[nodiscard]] slim::any_chain chain_of(recipe_parts const& parts, slim::adapter_rank rank);
/// The chain of one of the other systems.
[[nodiscard]] slim::any_chain chain_of_system(code_part const& codes);

/// A layer of the kind that this chain makes: codes, mask and adapter of the same formats. The parts must make codes.
[[nodiscard]] slim::any_layer blank_layer(recipe_parts const& parts, slim::index_t d_out, slim::index_t d_in,
                                          slim::adapter_rank rank);

} // namespace slim_llm
