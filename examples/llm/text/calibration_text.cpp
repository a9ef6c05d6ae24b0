#include "text/calibration_text.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace slim_llm {

std::filesystem::path calibration_file(text_options const& options) {
  return options.calib.empty() ? default_text("jargon.first.txt") : options.calib;
}

std::filesystem::path evaluation_file(text_options const& options) {
  return options.text.empty() ? default_text("jargon.last.txt") : options.text;
}

text_tokens load_text_tokens(tokenizer const& words, text_options const& options, std::ptrdiff_t draw) {
  if (options.calib_tokens < 1 || options.held_out_tokens < 0 || options.context < 2 || options.max_tokens < 2 || draw < 1)
    throw input_error(slim::message("--calib-tokens ", options.calib_tokens, ", --held-out-tokens ", options.held_out_tokens,
                                    ", --context ", options.context, ", --max-tokens ", options.max_tokens, ", draw ", draw,
                                    ": at least 1, 0, 2, 2 and 1"));
  for (auto const& [option, value] :
       {std::pair{"--calib-tokens", options.calib_tokens}, std::pair{"--held-out-tokens", options.held_out_tokens},
        std::pair{"--max-tokens", options.max_tokens}, std::pair{"the number of a draw", draw}})
    if (constexpr std::ptrdiff_t most = std::ptrdiff_t{1} << 31; value > most)
      throw input_error(slim::message(option, " ", value, ": at most ", most, " are possible"));
  auto const calib_file = calibration_file(options), text_file = evaluation_file(options);
  text_tokens out{tokens_of(words, calib_file), 0, tokens_of(words, text_file)};
  std::size_t const all = out.evaluation.size();
  auto const window = std::min(static_cast<std::size_t>(options.context), all);
  std::size_t const wanted = std::min(static_cast<std::size_t>(options.max_tokens), all);
  std::size_t const evaluated = std::max(wanted / window * window, std::min(window, wanted));
  auto const fitted = static_cast<std::size_t>(options.calib_tokens);
  std::size_t const stretch = fitted + static_cast<std::size_t>(options.held_out_tokens);
  std::size_t const begin = stretch * static_cast<std::size_t>(draw - 1);
  std::error_code ignored;
  bool const one_file = std::filesystem::equivalent(calib_file, text_file, ignored);
  std::size_t const available = one_file ? all - evaluated : out.calibration.size();
  if (begin + fitted > available && (one_file || draw > 1))
    throw input_error(slim::message(calib_file.string(), ": has ", all, " tokens, too few for ", begin + fitted,
                                    " to calibrate", one_file ? slim::message(" and ", evaluated, " others to evaluate") : "",
                                    "; lower --calib-tokens, --max-tokens or --draws, or give another --text"));
  std::size_t const end = std::min(begin + stretch, available);
  out.held_out = end > begin + fitted ? static_cast<std::ptrdiff_t>(end - begin - fitted) : 0;
  out.calibration.resize(end);
  out.calibration.erase(out.calibration.begin(), out.calibration.begin() + static_cast<std::ptrdiff_t>(begin));
  out.evaluation.erase(out.evaluation.begin(), out.evaluation.end() - static_cast<std::ptrdiff_t>(evaluated));
  return out;
}

void note_shortened(text_tokens const& tokens, text_options const& options) {
  auto const note = [](char const* option, std::ptrdiff_t asked, std::ptrdiff_t got) {
    if (got < asked) std::fprintf(stderr, "note: %s %td: the text has only %td\n", option, asked, got);
  };
  note("--calib-tokens", options.calib_tokens, static_cast<std::ptrdiff_t>(tokens.fitted().size()));
  note("--held-out-tokens", options.held_out_tokens, tokens.held_out);
  auto const evaluated = static_cast<std::ptrdiff_t>(tokens.evaluation.size());
  if (evaluated + options.context <= options.max_tokens || evaluated < std::min(options.context, options.max_tokens))
    note("--max-tokens", options.max_tokens, evaluated); // more than what does not fill a window
}

} // namespace slim_llm
