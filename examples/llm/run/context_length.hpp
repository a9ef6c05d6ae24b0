#pragma once
/// @file
/// The option --context: how many tokens a window has.

#include "models/model.hpp"

namespace slim_llm {

constexpr index_t largest_context = index_t{1} << 24;

/// @throws input_error below 2 and above largest_context.
void require_context(index_t context);

/// Tells standard error if windows are longer than the model was made for.
void note_long_context(index_t context, model_config const& config);

} // namespace slim_llm
