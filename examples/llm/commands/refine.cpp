#include "training/refine.hpp"
#include "commands.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"
#include "training/trained_file.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

namespace slim_llm {
namespace {

/// Everything that the command reads and writes, checked.
void check_files(refine_command const& command) {
  for (auto const& [option, path] : {std::pair("--compressed", command.compressed), {"--out", command.out}})
    if (!is_slim_path(path)) throw input_error(std::string(option) + " " + path.string() + ": give a .slim file");
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--compressed", command.compressed);
  files.reads_file("--calib", calibration_file(command.text));
  files.reads_file("--text", evaluation_file(command.text));
  files.writes_file("--out", command.out);
  files.writes_text("--json", command.json);
  files.check();
}

evaluation evaluated(model const& m, text_tokens const& tokens, index_t context, std::string const& what) {
  progress_line line("evaluating the " + what + " model", "block");
  return evaluate(m, tokens.evaluation, {.context = context}, {}, [&](index_t done, index_t total) { line.show(done, total); });
}

} // namespace

void refine_command::run() const {
  refine_config const config{.context = text.context,
                             .tokens_per_step = tokens_per_step,
                             .passes = passes,
                             .learning_rate = rate,
                             .parts = parse_trained_parts(train)};
  if (!std::isfinite(rate) || rate < 0) throw input_error(slim::message("--rate ", rate, ": a number from 0 on is needed"));
  if (passes < 0) throw input_error(slim::message("--passes ", passes, ": a number from 0 on is needed"));
  if (tokens_per_step < 1) throw input_error(slim::message("--tokens-per-step ", tokens_per_step, ": at least 1"));
  require_context(text.context);
  check_files(*this);
  workspace const work(model);
  note_long_context(text.context, work.weights.config);
  text_tokens const tokens = load_text_tokens(work.words, text);
  note_shortened(tokens, text);
  workspace const given(compressed);
  require_form_of(work, given);
  auto const& linears = *given.file.container()->linears();

  refinement result;
  {
    trained_file writer(given, out, "refine --train " + train);
    progress_line line("refining", "block");
    result = refine(
        work.weights, given.weights,
        [&](std::string const& name) {
          return linears.names().contains(name) ? std::optional(linears.layer(name)) : std::nullopt;
        },
        tokens.fitted(), std::span(tokens.calibration).last(static_cast<std::size_t>(tokens.held_out)), config,
        [&](index_t n, packed_weights const& layers) { writer.add(n, layers); }, {},
        [&](index_t done, index_t total) { line.show(done, total); });
    writer.finish();
  }
  table parts({"block", "linears", "error before", "after", "best pass"});
  nlohmann::json rows = nlohmann::json::array();
  for (refined_part const& part : result.parts) {
    parts.add({std::to_string(part.block), part.linears, fixed(part.before, 6), fixed(part.after, 6),
               std::to_string(part.best_pass)});
    rows.push_back({{"block", part.block},
                    {"linears", part.linears},
                    {"error_before", part.before},
                    {"error_after", part.after},
                    {"best_pass", part.best_pass}});
  }
  auto const dense = evaluated(work.weights, tokens, text.context, "dense");
  auto const first = evaluated(given.weights, tokens, text.context, "compressed");
  auto const last = evaluated(workspace(out).weights, tokens, text.context, "refined");
  table shown({"", "perplexity", "nll", "excess nll"});
  auto const add = [&](char const* name, evaluation const& e) {
    shown.add({name, fixed(e.perplexity, 3), fixed(e.nll, 4), fixed(e.nll - dense.nll, 4)});
  };
  add("dense", dense);
  add("compressed", first);
  add("refined", last);
  std::printf("%s\n%s\n%td numbers trained on %zu tokens, chosen by %td others, %.0f s, peak memory %s. %s holds the refined "
              "model.\n",
              parts.text().c_str(), shown.text().c_str(), result.numbers, tokens.fitted().size(), tokens.held_out,
              result.seconds, readable_bytes(peak_memory()).c_str(), out.string().c_str());
  if (json.empty()) return;
  write_json(json, {{"numbers", result.numbers},
                    {"parts", rows},
                    {"dense_nll", dense.nll},
                    {"nll_before", first.nll},
                    {"nll_after", last.nll},
                    {"eval_tokens", last.tokens},
                    {"seconds", result.seconds},
                    {"peak_bytes", peak_memory()}});
}

} // namespace slim_llm
