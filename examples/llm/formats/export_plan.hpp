#pragma once
/// @file
/// What files for other software will hold of a model that is not compressed yet: whether they can, and in how many bytes.

#include "models/model.hpp"

#include "slim/pipeline/any.hpp"

#include <string>
#include <vector>

namespace slim_llm {

/// What an export makes of one linear.
struct planned_export {
  std::string why_not;      ///< what the format does not hold exactly; empty: it holds everything
  double linear_bytes = 0;  ///< of codes, scales and zero points, to the byte
  double adapter_bytes = 0; ///< of both factors in the file beside it, to the byte
};

/// Whether `to` is a format that `export` writes compressed linears in: ct, gptq, gptq:v1, gptq:v2, mlx, gguf, gguf:TYPE.
[[nodiscard]] bool is_export_format(std::string const& to);

/// For each layer what the export to a format makes of it. Layers are `recipe::blank` ones, one of every kind in the model:
/// groups are cut to what all of them allow. Their numbers are replaced by the hardest that the layers could hold (scales with
/// all significant bits, the widest levels), so that no refusal comes as a surprise after the work. @throws input_error if `to`
/// is no such format.
[[nodiscard]] std::vector<planned_export> plan_export(std::string const& to, std::vector<slim::any_layer> layers);

/// "f16", "bf16", "f32"; nothing if the text is empty. @throws input_error naming the option
[[nodiscard]] std::optional<slim::tensor_type> embedding_type(std::string const& option, std::string const& text);

/// Bytes that a matrix which is no linear (embedding, head) has in an export to a format, if a `.slim` file holds it in
/// `stored`: in folders `wanted`, or else at most F32, which is what numbers of block types need.
[[nodiscard]] double side_bytes_in(std::string const& to, index_t rows, index_t cols, slim::tensor_type stored,
                                   std::optional<slim::tensor_type> wanted);

/// Ranks are filled up to a multiple of this number (LoRA GGUF: 32), or (mlx-lm: 0) to the largest of all.
[[nodiscard]] index_t rank_step_of(std::string const& to);

} // namespace slim_llm
