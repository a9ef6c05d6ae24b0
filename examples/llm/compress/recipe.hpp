#pragma once
/// @file
/// Recipes by name: `slim`, `slim-quant-wanda@50`, `slim@g128@fp8`. A name is a base, which says what the steps are, and
/// modifiers behind `@`, which say in which granularity, pattern and input precision.

#include "slim/core/result.hpp"
#include "slim/io/tensor.hpp"
#include "slim/joint/feedback_adapter.hpp"
#include "slim/pipeline/any.hpp"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace slim_llm {

struct recipe;

/// Another recipe for some tensors.
struct recipe_rule {
  std::string match;                          ///< regular expression (ECMAScript) that the whole name of a tensor fits
  std::shared_ptr<recipe const> how;          ///< null: the tensor stays as it is
  std::optional<slim::tensor_type> type = {}; ///< how embedding or head are stored; then the rule is not about linears
};

/// What to do with every linear layer of a model.
struct recipe {
  std::string name;
  std::function<slim::any_chain(slim::adapter_rank)> chain; ///< for adapters of that rank; empty: the weights stay as they are
  /// The same with codes of so many bits; empty: they have one width.
  std::function<slim::any_chain(slim::adapter_rank, int bits)> chain_of_bits;
  /// The same with codes on the grid of a ggml type; empty: the recipe is none of those that solve on such grids.
  std::function<slim::any_chain(slim::tensor_type)> chain_of_type;
  std::string preset;                             ///< what decides the types, see stock_types.hpp
  std::map<std::string, slim::tensor_type> types; ///< by tensor name, once they are decided
  std::map<std::string, std::string> fallbacks;   ///< why a tensor has another type than the preset says
  /// A layer d_out x d_in that takes the bytes of any that the chain makes, with numbers of no meaning; empty if `makes_codes`
  /// is false.
  std::function<slim::any_layer(slim::index_t d_out, slim::index_t d_in, slim::adapter_rank)> blank;
  slim::adapter_rank rank = {};                    ///< of the adapters, where `ranks` says nothing else
  std::map<std::string, slim::adapter_rank> ranks; ///< by tensor name, or by role (q, k, ... down)
  std::map<std::string, int> bits;                 ///< of the codes by tensor name, if a budget says so
  std::vector<recipe_rule> rules;                  ///< the first that fits a tensor takes the place of this recipe
  std::optional<slim::adapter_format> stored;      ///< how adapters are stored; none: there is no adapter
  bool makes_codes = false;                        ///< every weight becomes an integer code: the layers can be exported
  bool packs = false;                              ///< every weight becomes a code that packed formats hold
  bool needs_hessian = false;                      ///< solves with X^T X, which takes memory
  bool towards_dense = false;                      ///< needs the uncompressed model's outputs as targets
  bool bf16_products = false;                      ///< products read bf16 where the CPU multiplies it faster
  bool guided = false;                             ///< tokens count as much as the end loss cares for them
  bool distilled = false;                          ///< scales and adapters train towards the dense model after that
  bool refined = false;                            ///< ... and before, those of each block towards the dense model's states
  std::vector<std::string> steps;                  ///< what each step is, in order, for people
  std::function<void(slim::matrix_view<float>)> round_input; ///< empty: inputs stay float
  /// Inputs are rounded on the scales of the codes' channels, and only the codes read them rounded, not the adapter (SVDQuant).
  bool rounds_for_codes = false;
  slim::index_t samples = 0; ///< inputs of so many tokens are kept for each layer

  [[nodiscard]] slim::adapter_rank rank_of(std::string const& tensor, std::string const& role) const;
  /// The recipe for a tensor: that of a rule, or this; null: the tensor stays as it is.
  [[nodiscard]] recipe const* of(std::string const& tensor) const;
  /// The chain of one linear that does not stay as it is: its rank, its bits.
  [[nodiscard]] slim::any_chain chain_for(std::string const& tensor, std::string const& role) const;
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

/// The recipe of a name, or of a file whose name ends in .json (compress/recipe_file.hpp); or a sentence that says what is
/// wrong with it and what would be possible.
[[nodiscard]] slim::result<recipe> find_recipe(std::string const& name);

/// Splits "a,b,c"; fails on the first name that is no recipe.
[[nodiscard]] slim::result<std::vector<recipe>> find_recipes(std::string const& comma_separated);

} // namespace slim_llm
