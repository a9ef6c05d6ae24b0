#include "calibration_text.hpp"

#include <algorithm>

namespace slim_llm {

text_tokens load_text_tokens(tokenizer const& words, text_options const& options) {
  if (options.calib_tokens < 1 || options.context < 2 || options.max_tokens < 2)
    throw input_error(slim::message("--calib-tokens ", options.calib_tokens, ", --context ", options.context, ", --max-tokens ",
                                    options.max_tokens, ": at least 1, 2 and 2"));
  auto const calib_file = options.calib.empty() ? default_text("jargon.first.txt") : options.calib;
  auto const text_file = options.text.empty() ? default_text("jargon.last.txt") : options.text;
  text_tokens out{tokens_of(words, calib_file), tokens_of(words, text_file)};
  std::size_t const all = out.evaluation.size();
  auto const window = std::min(static_cast<std::size_t>(options.context), all);
  std::size_t const wanted = std::min(static_cast<std::size_t>(options.max_tokens), all);
  std::size_t const evaluated = std::max(wanted / window * window, std::min(window, wanted));
  std::size_t const calibrated = std::min(static_cast<std::size_t>(options.calib_tokens), out.calibration.size());
  if (std::error_code ignored; std::filesystem::equivalent(calib_file, text_file, ignored) && calibrated + evaluated > all)
    throw input_error(slim::message(calib_file.string(), ": has ", all, " tokens, too few for ", calibrated,
                                    " to calibrate and ", evaluated,
                                    " others to evaluate; lower --calib-tokens or --max-tokens, or give another --text"));
  out.calibration.resize(calibrated);
  out.evaluation.erase(out.evaluation.begin(), out.evaluation.end() - static_cast<std::ptrdiff_t>(evaluated));
  return out;
}

} // namespace slim_llm
