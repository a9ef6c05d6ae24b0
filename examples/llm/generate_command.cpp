#include "commands.hpp"
#include "file_output.hpp"
#include "generate.hpp"
#include "packed_weights.hpp"
#include "workspace.hpp"

#include <nlohmann/json.hpp>

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

} // namespace

void generate_command::run() const {
  if (max_tokens < 1) throw input_error(slim::message("--max-tokens ", max_tokens, ": at least 1 is needed"));
  if (!(temperature >= 0)) throw input_error(slim::message("--temperature ", temperature, ": 0 or more is needed"));
  workspace work(model);
  if (!packed.empty()) use_packed(work.weights, open_packed(packed), packed_precision(inputs));
  auto const text = chat ? as_chat(work.words, prompt) : prompt;
  auto tokens = work.words.encode(text, {.special = chat, .add_bos = work.words.adds_bos()});
  if (tokens.empty()) throw input_error("--prompt: is empty");
  auto const prompt_tokens = static_cast<std::ptrdiff_t>(tokens.size());
  generation state(work.weights, prompt_tokens + max_tokens, !packed.empty());

  if (!chat) std::printf("%s", prompt.c_str());
  auto const start = std::chrono::steady_clock::now();
  std::vector<float> logits = state.append(tokens);
  double const prompt_seconds = seconds_since(start);
  std::ptrdiff_t written = 0;
  std::string answer;
  while (written < max_tokens) {
    int const next = choose_token(logits, {.temperature = temperature, .seed = seed}, static_cast<std::uint64_t>(written));
    if (is_end(work.words, chat, next)) break;
    token_id const shown = next;
    std::string const piece = work.words.decode(std::span(&shown, 1));
    std::printf("%s", piece.c_str());
    std::fflush(stdout);
    answer += piece;
    if (++written == max_tokens) break;
    logits = state.append(std::span(&next, 1));
  }
  double const generation_seconds = seconds_since(start) - prompt_seconds;
  double const steps = static_cast<double>(std::max<std::ptrdiff_t>(written - 1, 0)); // the first came with the prompt
  std::printf("\n\nprompt: %td tokens, %.1f per second; generation: %td tokens, %.1f per second\n", prompt_tokens,
              static_cast<double>(prompt_tokens) / prompt_seconds, written,
              generation_seconds > 0 ? steps / generation_seconds : 0.0);
  if (json.empty()) return;
  nlohmann::json const result = {{"prompt", prompt},
                                 {"answer", answer},
                                 {"prompt_tokens", prompt_tokens},
                                 {"prompt_seconds", prompt_seconds},
                                 {"tokens", written},
                                 {"seconds", generation_seconds}};
  write_file(json, result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

} // namespace slim_llm
