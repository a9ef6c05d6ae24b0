#pragma once
/// @file
/// What a recipe says of embedding and head.

#include "compress/recipe.hpp"
#include "formats/rounded_matrix.hpp"

namespace slim_llm {

/// By the first rule that fits the name and has a type, or skips; without one the default. @throws input_error if a rule with a
/// type fits neither embedding nor head, or if rows are no whole blocks of the type
[[nodiscard]] side_types side_types_of(recipe const& how, model const& m);

} // namespace slim_llm
