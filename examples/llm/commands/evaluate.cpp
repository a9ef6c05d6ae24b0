#include "evaluate/evaluate.hpp"
#include "commands.hpp"
#include "evaluate/divergence.hpp"
#include "evaluate/multiple_choice.hpp"
#include "formats/packed_weights.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/workspace.hpp"

#include "slim/quantization/input_quantizer.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <optional>

namespace slim_llm {
namespace {

template <slim::input_quantizer Rounding>
void round_inputs(model& m, Rounding const& rounding) {
  m.read_block = [read = m.read_block, rounding](index_t number, context const& ctx) {
    block b = read(number, ctx);
    for (linear& l : b.linears) l.round_input = [rounding](matrix_view<float> x) { rounding.round_inplace(x); };
    return b;
  };
}

/// The precision of inputs if linears are to run on their codes.
std::optional<slim::input_precision> precision_on_codes(evaluate_command const& command) {
  if (!is_slim_path(command.model) || (command.inputs != "int8" && command.inputs != "int16")) return std::nullopt;
  return packed_precision(command.inputs);
}

void set_inputs(workspace& work, std::string const& inputs) {
  model& m = work.weights;
  bool const is_slim = work.file.container() != nullptr;
  if (inputs == "fp8")
    round_inputs(m, slim::fp8_input());
  else if (inputs == "int8" && !is_slim)
    round_inputs(m, slim::int8_input());
  else if (inputs != "float" && !inputs.empty() && !(is_slim && (inputs == "int8" || inputs == "int16")))
    throw input_error("--inputs " + inputs + ": possible are float, fp8, int8" + (is_slim ? ", int16" : ""));
}

/// What linears saw of their inputs, for the result.
std::string shown_inputs(evaluate_command const& command) { return command.inputs.empty() ? "float" : command.inputs; }

void require_sense(evaluate_command const& command, bool base_is_file) {
  require_context(command.context);
  if (command.max_tokens < 0 || command.max_tokens == 1)
    throw input_error(slim::message("--max-tokens ", command.max_tokens, ": 2 or more are needed, or 0 for all"));
  if (command.text.empty() && !base_is_file)
    throw input_error("--text: is needed, unless --kl is a file of predictions, or there are --choices");
  if (!command.text.empty() && base_is_file)
    throw input_error("--kl " + command.base.string() + ": holds the tokens that it was made of; leave --text out");
  if (!command.save_logits.empty() && (base_is_file || command.protocol != "llama.cpp"))
    throw input_error("--save-logits: the file is one of --protocol llama.cpp, on a --text");
}

/// Says what a user would not expect of the windows.
void print_notes_on_windows(evaluate_command const& command, model_config const& config, index_t tokens, bool as_llama_cpp) {
  note_long_context(command.context, config);
  if (tokens < command.context)
    std::fprintf(stderr, "note: %s has %td tokens, fewer than --context %td: they are one window\n", command.text.c_str(),
                 tokens, command.context);
  if (as_llama_cpp && tokens < 2 * command.context)
    std::fprintf(stderr, "note: llama-perplexity refuses texts of less than two windows; this one has %td tokens\n", tokens);
}

/// All blocks of a model, with a line of progress.
void run_all(block_evaluation& run, model const& m, char const* what) {
  progress_line line(what, "block");
  for (index_t n = 0; n < m.config.layers; ++n) {
    with_block(m, n, {}, [&](block const& b) { run.advance(b); });
    line.show(n + 1, m.config.layers);
  }
}

/// Tokens of the text as the protocol has them.
std::vector<int> evaluated_tokens(evaluate_command const& command, workspace const& work, bool as_llama_cpp) {
  auto tokens = as_llama_cpp ? llama_cpp_tokens_of(work.words, command.text) : tokens_of(work.words, command.text);
  print_notes_on_windows(command, work.weights.config, static_cast<index_t>(tokens.size()), as_llama_cpp);
  if (auto const wanted = static_cast<std::size_t>(command.max_tokens);
      command.last && command.max_tokens > 0 && tokens.size() > wanted)
    tokens.erase(tokens.begin(), tokens.end() - command.max_tokens);
  return tokens;
}

nlohmann::json interval_as_json(paired_difference const& d) {
  return {{"mean", d.mean}, {"stderr", d.standard_error}, {"low", d.low}, {"high", d.high}};
}

void print_divergence(divergence const& d, std::filesystem::path const& base) {
  auto const line = [](char const* what, paired_difference const& x, double unit, char const* suffix) {
    std::printf("%-28s %10.6f%s +- %.6f   [%.6f, %.6f]\n", what, unit * x.mean, suffix, unit * x.standard_error, unit * x.low,
                unit * x.high);
  };
  std::printf("against %s, %td tokens, %td windows; 95%% intervals over windows:\n", base.c_str(), d.tokens, d.windows);
  line("KL divergence", d.kl, 1, "");
  line("same likeliest token", d.same_top, 100, " %");
  line("delta p", d.delta_p, 100, " %");
  line("excess nll", d.excess_nll, 1, "");
  std::printf("root mean square of delta p %.4f %%; KL median %.6f, 99%% %.6f, largest %.6f\n", 100 * d.rms_delta_p,
              d.kl_median, d.kl_99, d.kl_largest);
}

nlohmann::json divergence_as_json(divergence const& d, std::filesystem::path const& base) {
  return {{"base", base.string()},
          {"kl", interval_as_json(d.kl)},
          {"same_top", interval_as_json(d.same_top)},
          {"delta_p", interval_as_json(d.delta_p)},
          {"excess_nll", interval_as_json(d.excess_nll)},
          {"rms_delta_p", d.rms_delta_p},
          {"kl_median", d.kl_median},
          {"kl_99", d.kl_99},
          {"kl_largest", d.kl_largest},
          {"base_nll", d.base_nll},
          {"window_kl", d.window_kl}};
}

} // namespace

void evaluate_command::run_choices() const {
  if (!text.empty() || !base.empty() || !save_logits.empty())
    throw input_error("--choices: is evaluated in place of a text; leave --text, --kl and --save-logits out");
  if (kv_cache != "fp32") throw input_error("--choices: is evaluated with keys and values in fp32; leave --kv-cache out");
  file_plan files;
  files.reads_model(model);
  files.reads_file("--choices", choices);
  files.writes_text("--json", json);
  files.check();
  workspace work(model, precision_on_codes(*this));
  set_inputs(work, inputs);
  index_t const positions = work.weights.config.max_positions;
  auto const questions = read_questions(work.words, choices, positions > 0 ? positions : largest_context);
  index_t longest = 0, tokens = 0;
  for (auto const& question : questions)
    for (auto const& choice : question.choices) {
      longest = std::max(longest, std::ssize(choice.tokens));
      tokens += std::ssize(choice.tokens);
    }
  double const limit = memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit);
  memory_plan const plan = plan_memory(work.weights, {.window = longest, .evaluated_tokens = tokens, .evaluations = 1}, limit);
  require_room({plan.scratch_room()});
  std::vector<std::vector<double>> likelihoods;
  {
    progress_line line("answering", "block");
    likelihoods = choice_likelihoods(work.weights, questions, plan.states_on_disk, {},
                                     [&](index_t done, index_t total) { line.show(done, total); });
  }
  choice_accuracy const found = accuracy_of(questions, likelihoods);
  auto const print = [](char const* what, paired_difference const& x) {
    std::printf("%-10s %6.2f %% +- %.2f   [%.2f, %.2f]\n", what, 100 * x.mean, 100 * x.standard_error, 100 * x.low,
                100 * x.high);
  };
  std::printf("%zu questions; 95%% intervals over questions:\n", questions.size());
  print("acc", found.acc);
  print("acc_norm", found.acc_norm);
  if (!json.empty())
    write_json(json, {{"questions", questions.size()},
                      {"acc", interval_as_json(found.acc)},
                      {"acc_norm", interval_as_json(found.acc_norm)},
                      {"log_likelihoods", likelihoods},
                      {"inputs", shown_inputs(*this)}});
}

void evaluate_command::run() const {
  if (!choices.empty()) return run_choices();
  bool const base_is_file = !base.empty() && is_logits_file(base);
  require_sense(*this, base_is_file);
  auto const chosen = base_is_file ? slim_llm::protocol::llama_cpp : required(find_protocol(protocol));
  file_plan files;
  files.reads_model(model);
  files.reads_file("--text", text);
  if (base_is_file) files.reads_file("--kl", base);
  if (!base.empty() && !base_is_file) files.reads_model(base);
  files.writes_text("--json", json);
  files.writes_file("--save-logits", save_logits);
  files.check();
  workspace work(model, precision_on_codes(*this));
  set_inputs(work, inputs);
  bool const as_llama_cpp = chosen == slim_llm::protocol::llama_cpp;
  std::optional<logits_file> predictions;
  if (base_is_file) predictions.emplace(required(logits_file::open(base)));
  auto const tokens = predictions ? predictions->tokens() : evaluated_tokens(*this, work, as_llama_cpp);
  evaluation_config config{
      .context = predictions ? predictions->window() : context, .max_tokens = predictions ? 0 : max_tokens, .protocol = chosen};
  config.kv_cache = required(find_kv_cache(kv_cache));
  if (as_llama_cpp && work.words.adds_bos()) config.first_token = work.words.bos();
  double const limit = memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit);
  index_t const evaluated = block_evaluation::tokens_in_windows(config, static_cast<index_t>(tokens.size()));
  bool const two_models = !base.empty() && !base_is_file;
  memory_plan const plan = plan_memory(
      work.weights,
      {.window = std::min(config.context, evaluated), .evaluated_tokens = evaluated, .evaluations = two_models ? 2 : 1}, limit);
  require_room({plan.scratch_room()});
  config.states_on_disk = plan.states_on_disk;
  block_evaluation run(work.weights, tokens, config);
  run_all(run, work.weights, "evaluating");
  std::optional<divergence> found_divergence;
  if (predictions) found_divergence = diverge(*predictions, run);
  if (two_models) {
    workspace const other(base);
    config.kv_cache = slim::number_format::fp32;
    block_evaluation base_run(other.weights, tokens, config);
    run_all(base_run, other.weights, "evaluating the base");
    found_divergence = diverge(base_run, run);
  }
  if (!save_logits.empty()) slim_llm::save_logits(run, tokens, save_logits);
  evaluation const found = run.finish();
  std::printf("perplexity %.4f, nll %.5f +- %.5f over %td tokens (%zu windows of %td, protocol %s)\n", found.perplexity,
              found.nll, found.nll_stderr, found.tokens, found.window_nll.size(), found.window,
              as_llama_cpp ? "llama.cpp" : "windows");
  if (found_divergence) print_divergence(*found_divergence, base);
  if (json.empty()) return;
  nlohmann::json result = {{"perplexity", found.perplexity},
                           {"nll", found.nll},
                           {"nll_stderr", found.nll_stderr},
                           {"tokens", found.tokens},
                           {"window_nll", found.window_nll},
                           {"context", found.window},
                           {"protocol", as_llama_cpp ? "llama.cpp" : "windows"},
                           {"inputs", shown_inputs(*this)}};
  if (found_divergence) result["divergence"] = divergence_as_json(*found_divergence, base);
  write_json(json, result);
}

} // namespace slim_llm
