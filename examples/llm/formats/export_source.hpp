#pragma once
/// @file
/// What files for other software are made of: a model, and the codes and the adapter of each of its linears, read one at a
/// time.

#include "formats/packed_weights.hpp"
#include "run/workspace.hpp"

#include <functional>
#include <string>
#include <vector>

namespace slim_llm {

/// A compressed linear. Codes of weights that are not kept are the zero point, so that they stand for 0 without a mask.
struct export_layer {
  linear_info info;
  slim::integer_codes codes; ///< d_out x d_in
  slim::adapter adapter;     ///< of rank 0 if there is none
};

/// Decodes a linear. @throws input_error if it is not packed, or pruned without a code for 0
[[nodiscard]] export_layer layer_of(packed_file const& packed, linear_info const& l);

/// A model with compressed linears. What it refers to must live as long.
struct export_source {
  checkpoint const* file = nullptr;
  model const* dense = nullptr;
  std::vector<linear_info> linears;                              ///< of all blocks, in order
  std::function<export_layer(linear_info const&)> read;          ///< decodes a linear. @throws input_error
  std::function<slim::adapter(linear_info const&)> read_adapter; ///< its adapter alone. @throws input_error
};

/// A `.slim` file, and the model that was loaded from it. @throws input_error if it is none, or if a linear is not packed.
[[nodiscard]] export_source source_of(checkpoint const& file, model const& dense);

/// Row order[k] of the codes, and output order[k] of the adapter, come to place k; an empty order changes nothing. @throws
/// input_error if several share scales.
[[nodiscard]] export_layer with_rows(export_layer layer, std::vector<index_t> const& order);
[[nodiscard]] slim::adapter with_outputs(slim::adapter a, std::vector<index_t> const& order, std::string const& name);

} // namespace slim_llm
