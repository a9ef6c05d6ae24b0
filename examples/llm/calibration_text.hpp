#pragma once
/// @file
/// The tokens a model is compressed with and judged by, cut from one or two texts so that they never overlap.

#include "commands.hpp"
#include "workspace.hpp"

namespace slim_llm {

struct text_tokens {
  std::vector<int> calibration; ///< first tokens of the calibration text
  std::vector<int> evaluation;  ///< last whole windows of the evaluation text
};

/// @throws input_error if a text cannot be read or is too short, or if both come from one file and would overlap.
[[nodiscard]] text_tokens load_text_tokens(tokenizer const& words, text_options const& options);

} // namespace slim_llm
