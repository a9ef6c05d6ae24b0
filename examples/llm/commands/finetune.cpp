#include "commands.hpp"
#include "formats/patched_gguf.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"
#include "training/distill.hpp"
#include "training/trained_file.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

namespace slim_llm {
namespace {

evaluation evaluated(model const& m, std::span<int const> tokens, index_t window, char const* what) {
  progress_line line(std::string("evaluating the ") + what + " model", "block");
  return evaluate(m, tokens, {.context = window}, {}, [&](index_t done, index_t total) { line.show(done, total); });
}

/// Everything that the command reads and writes, checked.
void check_files(finetune_command const& command) {
  if (is_slim_path(command.compressed) != is_slim_path(command.out))
    throw input_error("--out " + command.out.string() + ": must be a " + (is_slim_path(command.compressed) ? ".slim" : "GGUF") +
                      " file, as " + command.compressed.string());
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--compressed", command.compressed);
  files.reads_file("--calib", calibration_file(command.text));
  files.reads_file("--text", evaluation_file(command.text));
  files.writes_file("--out", command.out);
  files.writes_file("--state", command.state);
  files.writes_text("--json", command.json);
  files.check();
}

} // namespace

void finetune_command::run() const {
  auto const parts = parse_trained_parts(train);
  auto const kind = parse_training_loss(loss);
  if (!std::isfinite(rate) || rate < 0) throw input_error(slim::message("--rate ", rate, ": a number from 0 on is needed"));
  if (steps < 0) throw input_error(slim::message("--steps ", steps, ": a number from 0 on is needed"));
  if (tokens_per_step < 1) throw input_error(slim::message("--tokens-per-step ", tokens_per_step, ": at least 1"));
  require_context(text.context);
  check_files(*this);
  workspace const work(model);
  note_long_context(text.context, work.weights.config);
  text_tokens const tokens = load_text_tokens(work.words, text);
  note_shortened(tokens, text);
  workspace const given(compressed);
  auto const* const slim_file = given.file.container();
  auto const* const gguf = given.file.gguf();
  if (!slim_file && !gguf) throw input_error(compressed.string() + ": is neither a .slim file nor a GGUF file");
  if (gguf && !parts.scales) throw input_error("--train " + train + ": of a GGUF file the scales train");
  require_form_of(work, given);

  student trained = gguf ? student(given.weights, *gguf) : student(given.weights, slim_file->linears()->all(), parts);
  index_t numbers = 0;
  for (trained_tensor const& t : trained.trained().tensors()) numbers += std::ssize(t.values);
  std::printf("%s: %td numbers train on %zu tokens, %td tokens to choose by\n", compressed.string().c_str(), numbers,
              tokens.fitted().size(), tokens.held_out);
  std::fflush(stdout);
  distill_config const config{.context = text.context,
                              .tokens_per_step = tokens_per_step,
                              .steps = steps,
                              .learning_rate = rate,
                              .loss = kind,
                              .state = state,
                              .run_name =
                                  slim::message(work.file.fingerprint(), " ", given.file.fingerprint(), " ", train, " ", loss,
                                                " rate ", rate, " steps ", steps, " of ", tokens_per_step, " tokens of ",
                                                tokens.fitted().size(), " in windows of ", text.context)};
  distillation result;
  {
    progress_line line("training", "step");
    result = distill(trained, work.weights, tokens.fitted(),
                     std::span(tokens.calibration).last(static_cast<std::size_t>(tokens.held_out)), config, {},
                     [&](index_t done, index_t total) { line.show(done, total); });
  }
  if (gguf) {
    write_with_tensors(*gguf, trained.trained().blocks(), out);
  } else {
    trained_file writer(given, out, "finetune --train " + train + " --loss " + loss);
    packed_weights const layers = trained.layers();
    for (index_t n = 0; n < given.weights.config.layers; ++n) writer.add(n, layers);
    writer.finish();
  }

  auto const dense = evaluated(work.weights, tokens.evaluation, text.context, "dense");
  auto const first = evaluated(given.weights, tokens.evaluation, text.context, "compressed");
  auto const last = evaluated(workspace(out).weights, tokens.evaluation, text.context, "trained");
  table shown({"", "perplexity", "nll", "excess nll", "loss on the choosing text"});
  auto const add = [&](char const* name, evaluation const& e, std::string const& chosen) {
    shown.add({name, fixed(e.perplexity, 3), fixed(e.nll, 4), fixed(e.nll - dense.nll, 4), chosen});
  };
  add("dense", dense, "");
  add("compressed", first, fixed(result.before, 5));
  add("trained", last, fixed(result.after, 5));
  std::printf("\n%s\nBest after step %td of %td, %.0f s, peak memory %s. %s holds the trained model.\n", shown.text().c_str(),
              result.best_step, result.steps, result.seconds, readable_bytes(peak_memory()).c_str(), out.string().c_str());
  if (json.empty()) return;
  write_json(json, {{"numbers", numbers},
                    {"steps", result.steps},
                    {"best_step", result.best_step},
                    {"choosing_loss_before", result.before},
                    {"choosing_loss_after", result.after},
                    {"losses", result.losses},
                    {"dense_nll", dense.nll},
                    {"nll_before", first.nll},
                    {"nll_after", last.nll},
                    {"eval_tokens", last.tokens},
                    {"seconds", result.seconds},
                    {"peak_bytes", peak_memory()}});
}

} // namespace slim_llm
