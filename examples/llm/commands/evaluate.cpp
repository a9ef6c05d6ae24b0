#include "evaluate/evaluate.hpp"
#include "commands.hpp"
#include "formats/packed_weights.hpp"
#include "run/file_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
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

void set_inputs(model& m, std::filesystem::path const& packed, std::string const& inputs) {
  if (!packed.empty())
    read_packed(m, std::make_shared<packed_file const>(packed), packed_precision(inputs));
  else if (inputs == "fp8")
    round_inputs(m, slim::fp8_input());
  else if (inputs == "int8")
    round_inputs(m, slim::int8_input());
  else if (inputs != "float" && !inputs.empty())
    throw input_error("--inputs " + inputs + ": possible are float, fp8, int8");
}

} // namespace

void evaluate_command::run() const {
  auto const chosen = required(find_protocol(protocol));
  workspace work(model);
  set_inputs(work.weights, packed, inputs);
  auto tokens = tokens_of(work.words, text, chosen == slim_llm::protocol::llama_cpp);
  if (auto const wanted = static_cast<std::size_t>(max_tokens); last && max_tokens > 0 && tokens.size() > wanted)
    tokens.erase(tokens.begin(), tokens.end() - max_tokens);
  evaluation_config config{.context = context, .max_tokens = max_tokens, .protocol = chosen};
  double const limit = memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit);
  index_t const evaluated = block_evaluation::tokens_in_windows(config, static_cast<index_t>(tokens.size()));
  config.states_on_disk =
      plan_memory(work.weights, {.window = std::min(context, evaluated), .evaluated_tokens = evaluated, .evaluations = 1},
                  limit)
          .states_on_disk;
  evaluation found;
  {
    progress_line line("evaluating", "block");
    found = evaluate(work.weights, tokens, config, {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  std::printf("perplexity %.4f, nll %.5f +- %.5f over %td tokens (%zu windows of %td, protocol %s)\n", found.perplexity,
              found.nll, found.nll_stderr, found.tokens, found.window_nll.size(), context, protocol.c_str());
  if (json.empty()) return;
  nlohmann::json const result = {
      {"perplexity", found.perplexity}, {"nll", found.nll},
      {"nll_stderr", found.nll_stderr}, {"tokens", found.tokens},
      {"window_nll", found.window_nll}, {"context", context},
      {"protocol", protocol},           {"inputs", inputs.empty() ? (packed.empty() ? "float" : "int8") : inputs}};
  write_file(json, result.dump(2) + "\n");
}

} // namespace slim_llm
