#pragma once
/// @file
/// The linears of a compressed model as packed bytes, and the file they are kept in: safetensors with one U8 tensor per
/// weight in a format of slim/packing, under the weight's name; factors of its adapter under the name + ".left" and ".right",
/// packed too if they have codes, else as matrices. Everything else of the model stays in the file it came from.

#include "models/model.hpp"

#include "slim/core/result.hpp"
#include "slim/pipeline/any.hpp"

#include <filesystem>
#include <map>

namespace slim_llm {

using slim::context;

/// One compressed linear.
struct packed_layer {
  std::vector<std::byte> weight;
  std::vector<std::byte> left, right;                     ///< of the adapter (d_in x r, r x d_out), if it has codes
  matrix<float> left_values, right_values;                ///< ... if it has none
  slim::number_format format = slim::number_format::bf16; ///< of those

  [[nodiscard]] double bytes() const;
};

/// By tensor name.
using packed_weights = std::map<std::string, packed_layer>;

/// 2:4 codes, dense codes, or those of another mask. @throws slim::config_error if the layer has no integer codes.
[[nodiscard]] packed_layer pack(std::string const& name, slim::any_layer const& layer, context const& ctx = {});

/// @throws input_error if the file cannot be written.
void save_packed(packed_weights const& weights, std::filesystem::path const& path, std::string const& recipe);
/// @throws input_error naming file, tensor and reason.
[[nodiscard]] packed_weights open_packed(std::filesystem::path const& path);

/// "int8" (or nothing), "int16" or "float". @throws input_error
[[nodiscard]] slim::input_precision packed_precision(std::string const& inputs);

/// A linear gets the values of its packed layer, and runs on its codes. @throws input_error if there is no such layer, or one
/// of another shape, or if bytes do not decode; slim::config_error if no kernel runs the layer's format.
void use_packed(linear& l, packed_weights const& weights, slim::input_precision inputs, context const& ctx = {});
/// The same for all linears of a model's blocks.
void use_packed(model& m, packed_weights const& weights, slim::input_precision inputs, context const& ctx = {});

} // namespace slim_llm
