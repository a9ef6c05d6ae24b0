#include "evaluate/generate.hpp"
#include "commands.hpp"
#include "formats/packed_weights.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/workspace.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace slim_llm {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The prompt as a user's turn, the model's turn opened: ChatML, the form of SmolLM2 and Qwen.
std::string as_chat(tokenizer const& words, std::string const& prompt) {
  if (!words.find("<|im_start|>") || !words.find("<|im_end|>"))
    throw input_error("--chat: the vocabulary has no <|im_start|> and <|im_end|>; only ChatML is known");
  return "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n";
}

/// What ends a text: the vocabulary's end, or the end of a turn.
bool is_end(tokenizer const& words, bool chat, int token) {
  return words.eos() == token || (chat && words.find("<|im_end|>") == token);
}

/// A text written once, and how long it took.
struct written_text {
  std::string answer;
  std::ptrdiff_t tokens = 0;
  double prompt_seconds = 0, seconds = 0;

  /// The first token came with the prompt.
  [[nodiscard]] double tokens_per_second() const {
    return seconds > 0 ? static_cast<double>(std::max<std::ptrdiff_t>(tokens - 1, 0)) / seconds : 0.0;
  }
};

bool on_codes(generate_command const& command) { return !command.packed.empty() || is_slim_path(command.model); }

written_text write_text(generate_command const& command, workspace const& work, std::span<token_id const> prompt, bool show) {
  generation state(work.weights, static_cast<std::ptrdiff_t>(prompt.size()) + command.max_tokens, on_codes(command));
  written_text text;
  auto const start = std::chrono::steady_clock::now();
  std::vector<float> logits = state.append(prompt);
  text.prompt_seconds = seconds_since(start);
  sampling const how{.temperature = command.temperature, .seed = command.seed};
  while (text.tokens < command.max_tokens) {
    token_id const next = choose_token(logits, how, static_cast<std::uint64_t>(text.tokens));
    if (!command.ignore_end && is_end(work.words, command.chat, next)) break;
    std::string const piece = work.words.decode(std::span(&next, 1));
    if (show) {
      std::printf("%s", piece.c_str());
      std::fflush(stdout);
    }
    text.answer += piece;
    if (++text.tokens == command.max_tokens) break;
    logits = state.append(std::span(&next, 1));
  }
  text.seconds = seconds_since(start) - text.prompt_seconds;
  return text;
}

void require_sense(generate_command const& command) {
  constexpr std::ptrdiff_t most = std::ptrdiff_t{1} << 24;
  if (command.max_tokens < 1 || command.max_tokens > most)
    throw input_error(slim::message("--max-tokens ", command.max_tokens, ": possible are 1 to ", most));
  if (!(command.temperature >= 0))
    throw input_error(slim::message("--temperature ", command.temperature, ": 0 or more is needed"));
  if (command.repetitions < 1)
    throw input_error(slim::message("--repetitions ", command.repetitions, ": at least 1 is needed"));
}

std::vector<token_id> prompt_of(generate_command const& command, tokenizer const& words) {
  auto const text = command.chat ? as_chat(words, command.prompt) : command.prompt;
  auto tokens = words.encode(text, {.special = command.chat, .add_bos = words.adds_bos()});
  if (tokens.empty()) throw input_error("--prompt: is empty");
  auto const wanted = command.prompt_tokens, have = static_cast<std::ptrdiff_t>(tokens.size());
  if (wanted < 0 || wanted > have)
    throw input_error(slim::message("--prompt-tokens ", wanted, ": the prompt has ", have, " tokens"));
  if (wanted > 0) tokens.resize(static_cast<std::size_t>(wanted));
  return tokens;
}

} // namespace

void generate_command::run() const {
  require_sense(*this);
  file_plan files;
  files.reads_model(model);
  files.reads_file("--packed", packed);
  files.writes_text("--json", json);
  files.check();
  workspace work(model, packed_precision(inputs));
  if (!packed.empty()) read_packed(work.weights, packed_beside(work.file, work.weights, packed), packed_precision(inputs));
  load_into_memory(work.weights);
  auto const tokens = prompt_of(*this, work.words);
  auto const longest = static_cast<std::ptrdiff_t>(tokens.size()) + max_tokens;
  if (auto const made_for = work.weights.config.max_positions; made_for > 0 && longest > made_for)
    std::fprintf(stderr, "note: with --max-tokens %td the text may have %td tokens, the model was made for %td\n", max_tokens,
                 longest, made_for);
  if (!chat) std::printf("%s", (prompt_tokens > 0 ? work.words.decode(tokens) : prompt).c_str());
  for (std::ptrdiff_t k = 1; k < repetitions; ++k) (void)write_text(*this, work, tokens, false);
  auto const text = write_text(*this, work, tokens, true);
  auto const prompt_size = static_cast<std::ptrdiff_t>(tokens.size());
  double const prompt_speed = static_cast<double>(prompt_size) / text.prompt_seconds;
  std::printf("\n\nprompt: %td tokens, %.1f per second; generation: %td tokens, %.1f per second\n", prompt_size, prompt_speed,
              text.tokens, text.tokens_per_second());
  if (json.empty()) return;
  nlohmann::json const result = {{"prompt", prompt},
                                 {"answer", text.answer},
                                 {"prompt_tokens", prompt_size},
                                 {"prompt_seconds", text.prompt_seconds},
                                 {"prompt_tokens_per_second", prompt_speed},
                                 {"tokens", text.tokens},
                                 {"seconds", text.seconds},
                                 {"tokens_per_second", text.tokens_per_second()}};
  write_json(json, result);
}

} // namespace slim_llm
