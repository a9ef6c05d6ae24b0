#pragma once
/// @file
/// Ranks of the adapters, layer by layer: as the command line names them, or from a common budget of bits.

#include "commands.hpp"
#include "compress/recipe.hpp"
#include "evaluate/evaluate.hpp"

namespace slim_llm {

/// Sets the ranks of `how`, and before them the bits of its codes, if the options have a budget of bits (bit_plan.hpp). With a
/// budget every linear of `m` is compressed once without adapter on the calibration tokens, as the uncompressed model sees
/// them; the spectra of what that leaves, relative to the layers' outputs, share the bits.
/// @throws slim::error or std::runtime_error if an option makes no sense or the recipe has no adapter.
void plan_ranks(recipe& how, rank_options const& options, model const& m, std::span<int const> tokens, index_t context_tokens,
                context const& ctx = {}, progress const& report = {});

/// `visit(linear, calibration)` for every linear of `m`, with what it reads of the tokens in the uncompressed model;
/// `collected` says what of it.
void for_each_dense_linear(model const& m, std::span<int const> tokens, index_t window,
                           slim::calibration_config const& collected,
                           std::function<void(linear const&, slim::calibration const&)> const& visit, context const& ctx = {},
                           progress const& report = {});

} // namespace slim_llm
