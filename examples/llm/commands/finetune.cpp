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

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <optional>

namespace slim_llm {
namespace {

/// On the packed bytes, inputs as floats.
evaluation evaluate_packed(model const& m, packed_weights const& layers, std::span<int const> tokens, index_t window,
                           char const* what) {
  progress_line line(std::string("evaluating the ") + what + " model", "block");
  block_evaluation run(m, tokens, {.context = window});
  for (index_t n = 0; n < m.config.layers; ++n) {
    block b = load_block(m, n);
    use_packed(b, layers, slim::input_precision::exact);
    run.advance(b);
    line.show(n + 1, m.config.layers);
  }
  return run.finish();
}

/// The model of a GGUF file, as it is stored.
evaluation evaluate_blocks(model const& m, std::span<int const> tokens, index_t window, char const* what) {
  progress_line line(std::string("evaluating the ") + what + " model", "block");
  return evaluate(m, tokens, {.context = window}, {}, [&](index_t done, index_t total) { line.show(done, total); });
}

/// @throws input_error if a GGUF file cannot be the compressed form of a model
void require_same_shapes(workspace const& dense, workspace const& compressed) {
  auto const fail = [&](auto const&... why) {
    throw input_error(slim::message(compressed.file.path().string(), ": is no compressed form of ", dense.file.path().string(),
                                    ": ", why...));
  };
  auto const &a = dense.weights.config, &b = compressed.weights.config;
  if (a.embedding_dim != b.embedding_dim || a.layers != b.layers || a.vocab != b.vocab)
    fail(b.layers, " blocks of ", b.embedding_dim, " and ", b.vocab, " tokens; there ", a.layers, " of ", a.embedding_dim,
         " and ", a.vocab);
  auto const mine = linears_of(dense.weights), theirs = linears_of(compressed.weights);
  for (std::size_t k = 0; k < std::max(mine.size(), theirs.size()); ++k) {
    if (k >= mine.size() || k >= theirs.size()) fail(theirs.size(), " linears; there ", mine.size());
    if (mine[k].d_out != theirs[k].d_out || mine[k].d_in != theirs[k].d_in)
      fail("'", theirs[k].name, "' is ", theirs[k].d_out, " x ", theirs[k].d_in, "; there ", mine[k].d_out, " x ",
           mine[k].d_in);
  }
}

/// Everything that the command reads and writes, checked.
void check_files(finetune_command const& command) {
  if (command.packed.empty() == command.gguf.empty())
    throw input_error("finetune trains the packed linears of --packed, or the GGUF file of --gguf: give one of them");
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--packed", command.packed);
  files.reads_file("--gguf", command.gguf);
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
  std::filesystem::path const& compressed = gguf.empty() ? packed : gguf;
  std::optional<workspace> blocks;
  packed_weights before;
  if (gguf.empty()) {
    before = packed_beside(work.file, work.weights, packed)->all();
  } else {
    blocks.emplace(gguf);
    if (!blocks->file.gguf()) throw input_error(gguf.string() + ": is no GGUF file");
    if (!parts.scales) throw input_error("--train " + train + ": of a GGUF file the scales train");
    require_same_shapes(work, *blocks);
  }
  std::string const source = work.file.fingerprint();

  student trained = blocks ? student(blocks->weights, *blocks->file.gguf()) : student(work.weights, before, parts);
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
                              .run_name = slim::message(source, " ", blocks ? blocks->file.fingerprint() + " " : "",
                                                        compressed.filename().string(), " ", train, " ", loss, " rate ", rate,
                                                        " steps ", steps, " of ", tokens_per_step, " tokens of ",
                                                        tokens.fitted().size(), " in windows of ", text.context)};
  distillation result;
  {
    progress_line line("training", "step");
    result = distill(trained, work.weights, tokens.fitted(),
                     std::span(tokens.calibration).last(static_cast<std::size_t>(tokens.held_out)), config, {},
                     [&](index_t done, index_t total) { line.show(done, total); });
  }
  packed_weights const after = trained.layers();
  if (blocks) {
    write_with_tensors(*blocks->file.gguf(), trained.trained().blocks(), out);
  } else {
    packed_writer writer(out, "finetune --train " + train + " --loss " + loss, source);
    writer.add(after);
    writer.finish();
  }

  evaluation dense;
  {
    progress_line line("evaluating the dense model", "block");
    dense = evaluate(work.weights, tokens.evaluation, {.context = text.context}, {},
                     [&](index_t done, index_t total) { line.show(done, total); });
  }
  auto const first = blocks ? evaluate_blocks(blocks->weights, tokens.evaluation, text.context, "compressed")
                            : evaluate_packed(work.weights, before, tokens.evaluation, text.context, "compressed");
  auto const last = blocks ? evaluate_blocks(workspace(out).weights, tokens.evaluation, text.context, "trained")
                           : evaluate_packed(work.weights, after, tokens.evaluation, text.context, "trained");
  table shown({"", "perplexity", "nll", "excess nll", "loss on the choosing text"});
  auto const add = [&](char const* name, evaluation const& e, std::string const& chosen) {
    shown.add({name, fixed(e.perplexity, 3), fixed(e.nll, 4), fixed(e.nll - dense.nll, 4), chosen});
  };
  add("dense", dense, "");
  add("compressed", first, fixed(result.before, 5));
  add("trained", last, fixed(result.after, 5));
  std::printf("\n%s\nBest after step %td of %td, %.0f s, peak memory %s. %s holds the trained linears.\n", shown.text().c_str(),
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
