#pragma once
/// @file
/// The rotary settings of a config.json.

#include "formats/json_config.hpp"
#include "models/family.hpp"

namespace slim_llm {

/// The rotary tables of a model. Both spellings, in the order in which transformers 5.24 lets one of them win: the object
/// `rope_scaling` (transformers 4) before `rope_parameters` (5); a `rope_theta` or `partial_rotary_factor` in it before one
/// beside it; an `original_max_position_embeddings` beside it before one in it, and the number of positions if there is none.
[[nodiscard]] std::vector<rotary_table> read_rotary(json_config& config, model_config const& c, rope_defaults const& defaults);

} // namespace slim_llm
