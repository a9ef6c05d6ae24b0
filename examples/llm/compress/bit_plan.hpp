#pragma once
/// @file
/// Bits of the codes, layer by layer, from a common budget.

#include "compress/recipe.hpp"
#include "evaluate/evaluate.hpp"

namespace slim_llm {

/// Sets the bits of `how` and prints who got what. Every linear of `m` is compressed with codes of 2, 3 and 4 bits on the
/// calibration tokens, as the uncompressed model sees them; what that loses of the layer's output, relative to the output,
/// shares out `bits` per weight, scales and all else included. @throws slim::error or std::runtime_error if the recipe has no
/// codes of one width, or takes more bits with the smallest.
void plan_bits(recipe& how, double bits, model const& m, std::span<int const> tokens, index_t context_tokens,
               context const& ctx = {}, progress const& report = {});

} // namespace slim_llm
