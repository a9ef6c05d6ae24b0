#pragma once
/// @file
/// Rotary positions as configurations describe them -> the angles that the forward pass uses. Source of all formulas:
/// transformers 5.24, modeling_rope_utils.py.

#include "models/model.hpp"

#include <optional>
#include <string>
#include <vector>

namespace slim_llm {

/// How positions are turned into angles.
struct rope_settings {
  enum class scaling { none, linear, dynamic, llama3, yarn, longrope };
  double theta = 10000;
  scaling kind = scaling::none;
  index_t rotated = 0;         ///< elements of a head that are rotated
  double factor = 1;           ///< positions (or low frequencies) are divided by this
  double original_context = 0; ///< tokens that the model was first trained on (llama3, yarn, longrope)
  double low_frequency_factor = 1, high_frequency_factor = 4; ///< llama3
  double beta_fast = 32, beta_slow = 1;                       ///< yarn
  bool whole_pairs = true;                                    ///< yarn: its ramp begins and ends at whole pairs
  double attention_factor = 0;                                ///< yarn, longrope; 0: as the formulas have it
  double multi_scale = 0, multi_scale_all = 0;                ///< yarn: mscale and mscale_all_dim; both or none
  std::vector<double> short_factors = {}, long_factors = {};  ///< longrope: of each pair
  index_t max_positions = 0;                                  ///< dynamic: longest window without scaling
};

/// "default, linear, ...": the kinds of scaling that can be read.
[[nodiscard]] std::string known_scalings();
/// The kind of that name; "default" and "none" are none. Nothing if it is not known.
[[nodiscard]] std::optional<rope_settings::scaling> find_scaling(std::string const& name);

/// What is wrong with the numbers; empty if nothing is.
[[nodiscard]] std::string why_not_valid(rope_settings const& rope);

/// The table of valid settings.
[[nodiscard]] rotary_table rotary_of(rope_settings const& rope);

} // namespace slim_llm
