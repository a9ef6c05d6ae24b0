#pragma once
/// @file
/// The tokens a model is compressed with and judged by, cut from one or two texts so that they never overlap.

#include "commands.hpp"
#include "run/workspace.hpp"

#include <span>

namespace slim_llm {

/// The texts that the options name, or the default ones. @throws input_error if a default text is not there.
[[nodiscard]] std::filesystem::path calibration_file(text_options const& options);
[[nodiscard]] std::filesystem::path evaluation_file(text_options const& options);

struct text_tokens {
  std::vector<int> calibration; ///< tokens of the calibration text, those held out behind those fitted to
  std::ptrdiff_t held_out = 0;  ///< how many are held out: as asked, or what the text has left
  std::vector<int> evaluation;  ///< last whole windows of the evaluation text

  /// The calibration tokens that may be fitted to.
  [[nodiscard]] std::span<int const> fitted() const {
    return std::span(calibration).first(calibration.size() - static_cast<std::size_t>(held_out));
  }
};

/// The `draw`-th stretch (from 1) of calibration and held-out tokens, and the evaluation tokens. @throws input_error if a text
/// cannot be read or is too short, or if both come from one file and would overlap.
[[nodiscard]] text_tokens load_text_tokens(tokenizer const& words, text_options const& options, std::ptrdiff_t draw = 1);

/// Tells standard error which of the options asked for more tokens than the texts have.
void note_shortened(text_tokens const& tokens, text_options const& options);

} // namespace slim_llm
