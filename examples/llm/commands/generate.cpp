#include "evaluate/generate.hpp"
#include "commands.hpp"
#include "evaluate/evaluate.hpp"
#include "formats/packed_weights.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/workspace.hpp"
#include "text/json_lines.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>

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

/// A text that is being written, or is.
struct written_text {
  std::string prompt, answer;
  std::vector<token_id> prompt_tokens;
  std::ptrdiff_t tokens = 0;
  growing_text state = {};
};

/// Texts written side by side.
struct written_texts {
  std::vector<written_text> texts;
  double prompt_seconds = 0, seconds = 0; ///< for the prompts, which bring the first tokens, and for the tokens behind those

  [[nodiscard]] std::ptrdiff_t prompt_tokens() const {
    return count([](written_text const& t) { return std::ssize(t.prompt_tokens); });
  }
  [[nodiscard]] std::ptrdiff_t tokens() const {
    return count([](written_text const& t) { return t.tokens; });
  }
  [[nodiscard]] double prompt_tokens_per_second() const { return static_cast<double>(prompt_tokens()) / prompt_seconds; }
  [[nodiscard]] double tokens_per_second() const {
    auto const later = count([](written_text const& t) { return std::max<std::ptrdiff_t>(t.tokens - 1, 0); });
    return seconds > 0 ? static_cast<double>(later) / seconds : 0.0;
  }

private:
  template <class F>
  [[nodiscard]] std::ptrdiff_t count(F const& f) const {
    return std::transform_reduce(texts.begin(), texts.end(), std::ptrdiff_t{0}, std::plus<>(), f);
  }
};

void show(std::string const& text) {
  std::printf("%s", text.c_str());
  std::fflush(stdout);
}

/// Writes texts, up to `batch` at a time: a text that ends makes room for the next prompt.
class text_writer {
public:
  text_writer(generate_command const& command, workspace const& work, generation const& engine, written_texts& all, bool shown)
      : command_(command), words_(work.words), engine_(engine), all_(all), shown_(shown) {}

  void run() {
    while (begun_ < all_.texts.size() || !active_.empty()) {
      while (begun_ < all_.texts.size() && std::ssize(active_) < command_.batch) begin(all_.texts[begun_++]);
      if (!active_.empty()) write_on();
    }
  }

private:
  struct writing {
    written_text* text;
    token_id last;
  };

  void begin(written_text& text) {
    if (shown_ && only_one() && !command_.chat) show(text.prompt);
    auto const start = std::chrono::steady_clock::now();
    text.state = engine_.begin(std::ssize(text.prompt_tokens) + command_.max_tokens);
    auto const logits = engine_.append(text.state, text.prompt_tokens);
    all_.prompt_seconds += seconds_since(start);
    if (token_id next; take(text, {logits.data(), static_cast<std::size_t>(logits.cols())}, next))
      active_.push_back({&text, next});
    show_finished();
  }

  /// A token more of every text.
  void write_on() {
    auto const start = std::chrono::steady_clock::now();
    std::vector<appended_tokens> parts;
    for (writing const& w : active_) parts.push_back({&w.text->state, {&w.last, 1}});
    auto const logits = engine_.append(parts);
    std::vector<writing> rest;
    for (std::size_t k = 0; k < active_.size(); ++k) {
      std::span<float const> const row{logits.row(static_cast<std::ptrdiff_t>(k)), static_cast<std::size_t>(logits.cols())};
      if (token_id next; take(*active_[k].text, row, next)) rest.push_back({active_[k].text, next});
    }
    active_ = std::move(rest);
    all_.seconds += seconds_since(start);
    show_finished();
  }

  /// Chooses the next token of a text; false if that ends it.
  bool take(written_text& text, std::span<float const> logits, token_id& next) {
    sampling const how{.temperature = command_.temperature, .seed = command_.seed};
    next = choose_token(logits, how, static_cast<std::uint64_t>(text.tokens));
    bool goes_on = command_.ignore_end || !is_end(words_, command_.chat, next);
    if (goes_on) {
      std::string const piece = words_.decode(std::span(&next, 1));
      if (shown_ && only_one()) show(piece);
      text.answer += piece;
      goes_on = ++text.tokens < command_.max_tokens;
    }
    if (!goes_on) text.state = {};
    return goes_on;
  }

  /// Of many texts: each when it and those before it are written.
  void show_finished() {
    auto const is_active = [&](written_text const& text) {
      return std::any_of(active_.begin(), active_.end(), [&](writing const& w) { return w.text == &text; });
    };
    for (; shown_ && !only_one() && finished_ < begun_ && !is_active(all_.texts[finished_]); ++finished_) {
      written_text const& text = all_.texts[finished_];
      show(slim::message("[", finished_ + 1, "] ", command_.chat ? "" : text.prompt, text.answer, "\n\n"));
    }
  }

  [[nodiscard]] bool only_one() const { return command_.prompts.empty(); }

  generate_command const& command_;
  tokenizer const& words_;
  generation const& engine_;
  written_texts& all_;
  bool shown_;
  std::size_t begun_ = 0, finished_ = 0;
  std::vector<writing> active_;
};

void require_sense(generate_command const& command) {
  constexpr std::ptrdiff_t most = std::ptrdiff_t{1} << 24;
  if (command.prompt.empty() == command.prompts.empty())
    throw input_error(command.prompt.empty() ? "generate: --prompt TEXT or --prompts FILE is needed, and not empty"
                                             : "--prompts: takes the place of --prompt; give one of them");
  if (command.batch < 1) throw input_error(slim::message("--batch ", command.batch, ": at least 1 is needed"));
  if (command.max_tokens < 1 || command.max_tokens > most)
    throw input_error(slim::message("--max-tokens ", command.max_tokens, ": possible are 1 to ", most));
  if (!(command.temperature >= 0))
    throw input_error(slim::message("--temperature ", command.temperature, ": 0 or more is needed"));
  if (command.repetitions < 1)
    throw input_error(slim::message("--repetitions ", command.repetitions, ": at least 1 is needed"));
}

std::vector<std::string> prompts_of(generate_command const& command) {
  if (command.prompts.empty()) return {command.prompt};
  std::string const content = read_text(command.prompts);
  std::vector<std::string> prompts;
  if (is_json_lines(command.prompts)) {
    prompts = required(prompts_of_json_lines(content, command.prompts));
  } else {
    (void)visit_lines(content, [&](int, std::string_view line) {
      prompts.emplace_back(line.ends_with('\r') ? line.substr(0, line.size() - 1) : line);
      return std::string();
    });
  }
  if (prompts.empty()) throw input_error(command.prompts.string() + ": holds no prompt");
  return prompts;
}

written_text begun_with(generate_command const& command, tokenizer const& words, std::string prompt) {
  written_text text;
  auto const whole = command.chat ? as_chat(words, prompt) : prompt;
  auto& tokens = text.prompt_tokens = words.encode(whole, {.special = command.chat, .add_bos = words.adds_bos()});
  if (tokens.empty()) throw input_error("a prompt is empty");
  auto const wanted = command.prompt_tokens, have = std::ssize(tokens);
  if (wanted < 0 || wanted > have)
    throw input_error(slim::message("--prompt-tokens ", wanted, ": the prompt has ", have, " tokens"));
  if (wanted > 0) tokens.resize(static_cast<std::size_t>(wanted));
  text.prompt = wanted > 0 ? words.decode(tokens) : std::move(prompt);
  return text;
}

/// Says what a user would not expect of texts of these lengths.
void print_notes(generate_command const& command, model const& m, std::ptrdiff_t shortest, std::ptrdiff_t longest) {
  if (m.config.max_positions > 0 && longest > m.config.max_positions)
    std::fprintf(stderr, "note: with --max-tokens %td the text may have %td tokens, the model was made for %td\n",
                 command.max_tokens, longest, m.config.max_positions);
  for (rotary_table const& rotary : m.rotary)
    if (!rotary.long_frequencies.empty() && shortest <= rotary.original_context && longest > rotary.original_context)
      std::fprintf(stderr,
                   "note: --prompts: the longest text may have %td tokens, so longrope's long factors are used for all, also "
                   "for those that would have the short ones alone\n",
                   longest);
}

} // namespace

void generate_command::run() const {
  require_sense(*this);
  auto const kv_format = required(find_kv_cache(kv_cache));
  file_plan files;
  files.reads_model(model);
  files.reads_file("--prompts", prompts);
  files.writes_text("--json", json);
  files.check();
  workspace work(model, packed_precision(inputs));
  bool const on_codes = work.file.container() != nullptr;
  if (on_codes)
    load_blocks(work.weights);
  else
    load_into_memory(work.weights);
  written_texts begun;
  for (std::string& text : prompts_of(*this)) begun.texts.push_back(begun_with(*this, work.words, std::move(text)));
  auto const [shortest, longest] =
      std::minmax_element(begun.texts.begin(), begun.texts.end(),
                          [](auto const& a, auto const& b) { return a.prompt_tokens.size() < b.prompt_tokens.size(); });
  auto const room = std::ssize(longest->prompt_tokens) + max_tokens;
  print_notes(*this, work.weights, std::ssize(shortest->prompt_tokens) + max_tokens, room);
  generation const engine(work.weights, room, {.packed_head = on_codes, .kv_cache = kv_format});
  for (std::ptrdiff_t k = 1; k < repetitions; ++k) {
    written_texts untimed = begun;
    text_writer(*this, work, engine, untimed, false).run();
  }
  text_writer(*this, work, engine, begun, true).run();
  std::printf("%s: %td tokens, %.1f per second; generation: %td tokens, %.1f per second\n",
              prompts.empty() ? "\n\nprompt" : "prompts", begun.prompt_tokens(), begun.prompt_tokens_per_second(),
              begun.tokens(), begun.tokens_per_second());
  if (json.empty()) return;
  nlohmann::json result = {{"prompt_tokens", begun.prompt_tokens()},
                           {"prompt_seconds", begun.prompt_seconds},
                           {"prompt_tokens_per_second", begun.prompt_tokens_per_second()},
                           {"tokens", begun.tokens()},
                           {"seconds", begun.seconds},
                           {"tokens_per_second", begun.tokens_per_second()}};
  if (prompts.empty()) {
    result["prompt"] = prompt;
    result["answer"] = begun.texts[0].answer;
  } else {
    for (written_text const& text : begun.texts)
      result["texts"].push_back({{"prompt", text.prompt},
                                 {"answer", text.answer},
                                 {"prompt_tokens", text.prompt_tokens.size()},
                                 {"tokens", text.tokens}});
  }
  write_json(json, result);
}

} // namespace slim_llm
