#pragma once
/// @file
/// What compressing or evaluating a model takes of memory, part by part, before it begins.

#include "compress/recipe.hpp"
#include "models/model.hpp"
#include "run/output_files.hpp"
#include "text/calibration_text.hpp"

namespace slim_llm {

struct memory_part {
  std::string what;
  double bytes = 0;
};

/// The work to plan. Nothing in it depends on the number of blocks.
struct planned_work {
  index_t window = 0;           ///< tokens that run together
  index_t calib_tokens = 0;     ///< fitted to; 0: nothing is compressed
  index_t held_out_tokens = 0;  ///< measured on
  index_t evaluated_tokens = 0; ///< in windows of evaluation
  index_t evaluations = 0;      ///< that run beside each other
  bool shares_bits = false;     ///< every linear is compressed once before, to share out a budget of bits or ranks
  recipe const* how = nullptr;
};

/// Compressing with a recipe, with so many evaluations beside it.
[[nodiscard]] planned_work planned_compression(text_tokens const& tokens, text_options const& options,
                                               rank_options const& ranks, recipe const& how, index_t evaluations);

struct memory_plan {
  std::vector<memory_part> parts;
  bool states_on_disk = false;
  double state_bytes = 0; ///< of the hidden states, in memory or in the scratch file

  [[nodiscard]] double total() const;
  /// Room for the scratch file of hidden states, if there is one.
  [[nodiscard]] needed_room scratch_room() const;
};

/// The plan. Hidden states go to a scratch file if with them the sum is above the limit, or, without a limit, above half of the
/// machine's memory. @throws input_error with the sum and its parts if even then a limit is too low.
[[nodiscard]] memory_plan plan_memory(model const& m, planned_work const& work, double limit);

} // namespace slim_llm
