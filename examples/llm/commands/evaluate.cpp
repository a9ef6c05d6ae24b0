#include "evaluate/evaluate.hpp"
#include "commands.hpp"
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

void set_inputs(workspace& work, std::filesystem::path const& packed, std::string const& inputs) {
  model& m = work.weights;
  if (!packed.empty())
    read_packed(m, packed_beside(work.file, packed), packed_precision(inputs));
  else if (inputs == "fp8")
    round_inputs(m, slim::fp8_input());
  else if (inputs == "int8")
    round_inputs(m, slim::int8_input());
  else if (inputs != "float" && !inputs.empty())
    throw input_error("--inputs " + inputs + ": possible are float, fp8, int8");
}

void require_sense(evaluate_command const& command) {
  require_context(command.context);
  if (command.max_tokens < 0 || command.max_tokens == 1)
    throw input_error(slim::message("--max-tokens ", command.max_tokens, ": 2 or more are needed, or 0 for all"));
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

} // namespace

void evaluate_command::run() const {
  require_sense(*this);
  auto const chosen = required(find_protocol(protocol));
  file_plan files;
  files.reads_model(model);
  files.reads_file("--text", text);
  files.reads_file("--packed", packed);
  files.writes_text("--json", json);
  files.check();
  workspace work(model);
  set_inputs(work, packed, inputs);
  bool const as_llama_cpp = chosen == slim_llm::protocol::llama_cpp;
  auto tokens = as_llama_cpp ? llama_cpp_tokens_of(work.words, text) : tokens_of(work.words, text);
  print_notes_on_windows(*this, work.weights.config, static_cast<index_t>(tokens.size()), as_llama_cpp);
  if (auto const wanted = static_cast<std::size_t>(max_tokens); last && max_tokens > 0 && tokens.size() > wanted)
    tokens.erase(tokens.begin(), tokens.end() - max_tokens);
  evaluation_config config{.context = context, .max_tokens = max_tokens, .protocol = chosen};
  if (as_llama_cpp && work.words.adds_bos()) config.first_token = work.words.bos();
  double const limit = memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit);
  index_t const evaluated = block_evaluation::tokens_in_windows(config, static_cast<index_t>(tokens.size()));
  memory_plan const plan = plan_memory(
      work.weights, {.window = std::min(context, evaluated), .evaluated_tokens = evaluated, .evaluations = 1}, limit);
  require_room({plan.scratch_room()});
  config.states_on_disk = plan.states_on_disk;
  evaluation found;
  {
    progress_line line("evaluating", "block");
    found = evaluate(work.weights, tokens, config, {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  std::printf("perplexity %.4f, nll %.5f +- %.5f over %td tokens (%zu windows of %td, protocol %s)\n", found.perplexity,
              found.nll, found.nll_stderr, found.tokens, found.window_nll.size(), found.window, protocol.c_str());
  if (json.empty()) return;
  nlohmann::json const result = {
      {"perplexity", found.perplexity}, {"nll", found.nll},
      {"nll_stderr", found.nll_stderr}, {"tokens", found.tokens},
      {"window_nll", found.window_nll}, {"context", found.window},
      {"protocol", protocol},           {"inputs", inputs.empty() ? (packed.empty() ? "float" : "int8") : inputs}};
  write_json(json, result);
}

} // namespace slim_llm
