#include "compress/compress_model.hpp"
#include "compress/rank_plan.hpp"
#include "formats/export_model.hpp"
#include "run/context_length.hpp"
#include "run/help_text.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <functional>
#include <optional>

namespace slim_llm {
namespace {

evaluation evaluate_dense(model const& m, text_tokens const& text, evaluation_config const& config) {
  progress_line line("evaluating the dense model", "block");
  return evaluate(m, text.evaluation, config, {}, [&](index_t done, index_t total) { line.show(done, total); });
}

/// What is done with every block as soon as it is compressed: it is evaluated and kept for the files.
class block_results {
public:
  block_results(compress_command const& command, workspace const& work, text_tokens const& text,
                evaluation_config const& config, std::string const& recipe) {
    if (command.max_blocks > 0) return; // a trial
    bool const packs = !command.packed.empty();
    file_.emplace(work.file, command.out, recipe);
    if (packs) packed_file_.emplace(command.packed, recipe, work.file.fingerprint());
    if (!command.with_evaluation) return;
    compressed_.emplace(work.weights, text.evaluation, config);
    if (!packs) return;
    on_int8_.emplace(work.weights, text.evaluation, config);
    on_floats_.emplace(work.weights, text.evaluation, config);
  }

  /// The block is evaluated as it is written: rounded first. Returns what was lost by that.
  std::vector<std::string> add(block& b, packed_weights const& layers) {
    std::vector<std::string> warnings;
    if (file_) warnings = file_->add(b);
    if (compressed_) compressed_->advance(b);
    if (packed_file_) packed_file_->add(layers);
    if (!on_int8_) return warnings;
    use_packed(b, layers, slim::input_precision::int8);
    on_int8_->advance(b);
    for (linear& l : b.linears) l.packed_inputs = slim::input_precision::exact;
    on_floats_->advance(b);
    return warnings;
  }

  /// Perplexities and file sizes of a whole model.
  struct totals {
    evaluation compressed, on_int8, on_floats; ///< the latter two: on the packed codes, by the inputs' precision
    double written_bytes = 0, packed_bytes = 0;
  };

  totals finish() {
    totals all;
    if (compressed_) all.compressed = compressed_->finish();
    if (on_int8_) all.on_int8 = on_int8_->finish();
    if (on_floats_) all.on_floats = on_floats_->finish();
    if (file_) all.written_bytes = file_->finish();
    if (!packed_file_) return all;
    all.packed_bytes = packed_file_->bytes();
    packed_file_->finish();
    return all;
  }

private:
  std::optional<model_writer> file_;
  std::optional<packed_writer> packed_file_;
  std::optional<block_evaluation> compressed_, on_int8_, on_floats_;
};

/// What the layers' codes, positions, scales and adapters would take, plus everything else as it is in the source.
double compact_bytes(workspace const& work, double source_linear_bits, double bits_per_weight, double linear_weights) {
  return work.file.tensor_bytes() + (bits_per_weight - source_linear_bits) * linear_weights / 8.0;
}

void print_notes(char const* kind, std::vector<std::string> const& notes, char const* where) {
  constexpr std::size_t shown = 5;
  for (std::size_t k = 0; k < std::min(shown, notes.size()); ++k) std::printf("%s: %s\n", kind, notes[k].c_str());
  if (notes.size() > shown) std::printf("%s: and %zu more; %s has them all\n", kind, notes.size() - shown, where);
}

/// Everything that the command reads and writes, checked.
void check_files(compress_command const& command) {
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--calib", calibration_file(command.text));
  files.reads_file("--text", evaluation_file(command.text));
  if (command.max_blocks == 0) {
    files.writes_model("--out", command.out, command.model);
    files.writes_file("--packed", command.packed);
  }
  files.writes_text("--json", command.json);
  files.writes_text("--layers-csv", command.layers_csv);
  files.check();
}

/// Scratch files and what is made of them are there at one time.
void check_room(compress_command const& command, workspace const& work, memory_plan const& plan) {
  auto const weights = static_cast<double>(linear_weight_count(work.weights));
  constexpr double written_bytes = 2, packed_bits = 5; // F16; what most recipes need, with their scales and adapters
  double const kept = work.file.tensor_bytes() - work.source_bits * weights / 8;
  std::vector<needed_room> needs = {plan.scratch_room()};
  if (command.max_blocks == 0) needs.push_back({"--out", command.out, kept + 2 * written_bytes * weights});
  if (command.max_blocks == 0 && !command.packed.empty())
    needs.push_back({"--packed", command.packed, 2 * packed_bits * weights / 8});
  require_room(needs);
}

/// What lost more than compression should, under --strict.
void refuse_losses(std::vector<std::string> const& warnings) {
  if (warnings.empty()) return;
  std::string const more = warnings.size() > 1 ? " (and " + std::to_string(warnings.size() - 1) + " more)" : "";
  throw input_error("--strict: " + warnings.front() + more + "; no model was written");
}

void print_next_steps(compress_command const& command) {
  std::string const model = shell_quoted(command.model.string()), file = shell_quoted(command.out.string());
  std::printf(
      "\nWorth trying next:\n"
      "  slim-llm compress %s --for speed --out sparse.gguf   # 2:4 sparsity in place of dense 3-bit codes\n"
      "  slim-llm ablate %s --recipes dense,slim-q,eora,joint-q,int3-lr --svg frontier.svg   # what each part is worth\n"
      "  slim-llm eval %s --text YOUR_TEXT --context 1024   # on a text of yours\n",
      model.c_str(), model.c_str(), file.c_str());
}

std::string default_recipe(std::string const& aim) {
  if (aim == "size") return "int3-lr";
  if (aim == "speed") return "joint-q";
  throw input_error("--for " + aim + ": possible are size (dense codes of few bits) and speed (2:4 sparsity)");
}

} // namespace

void compress_command::run() const {
  recipe how = required(find_recipe(recipe_name.empty() ? default_recipe(aim) : recipe_name));
  require_context(text.context);
  check_files(*this);
  bool const whole = max_blocks == 0, evaluates = whole && with_evaluation, packs = whole && !packed.empty();
  workspace const work(model);
  note_long_context(text.context, work.weights.config);
  text_tokens const tokens = load_text_tokens(work.words, text);
  note_shortened(tokens, text);
  memory_plan const plan = plan_memory(work.weights,
                                       planned_compression(tokens, text, how,
                                                           !evaluates ? 0
                                                           : packs    ? 3
                                                                      : 1),
                                       memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit));
  check_room(*this, work, plan);
  {
    progress_line line("planning ranks of " + how.name, "block");
    plan_ranks(how, ranks, work.weights, tokens.fitted(), text.context, {},
               [&](index_t done, index_t total) { line.show(done, total); });
  }
  auto const blocks = work.weights.config.layers;
  auto const linear_weights = static_cast<double>(linear_weight_count(work.weights));
  std::printf("%s: %s, %td blocks, %.1f M weights in linear layers at %.2f bits\n", model.string().c_str(),
              work.weights.config.name.c_str(), blocks, linear_weights / 1e6, work.source_bits);
  for (std::size_t k = 0; k < how.steps.size(); ++k) std::printf("step %zu: %s\n", k + 1, how.steps[k].c_str());
  std::fflush(stdout);

  evaluation_config const evaluated{.context = text.context, .states_on_disk = plan.states_on_disk};
  evaluation dense;
  if (evaluates) dense = evaluate_dense(work.weights, tokens, evaluated);
  block_results results(*this, work, tokens, evaluated, how.name);
  compression cost;
  std::vector<std::string> warnings;
  {
    progress_line line("compressing with " + how.name, "block");
    cost = compress_model(
        work.weights, tokens.calibration, how,
        {.context = text.context,
         .calib_tokens = text.calib_tokens,
         .held_out_tokens = text.held_out_tokens,
         .keep_packed = packs,
         .max_blocks = max_blocks,
         .states_on_disk = plan.states_on_disk},
        work.source_bits,
        [&](index_t, block& b, packed_weights& layers) {
          for (auto& warning : results.add(b, layers)) warnings.push_back(std::move(warning));
          if (strict) refuse_losses(warnings);
        },
        {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  if (!layers_csv.empty()) write_layer_csv(cost.layers, layers_csv);
  warnings.insert(warnings.end(), cost.warnings.begin(), cost.warnings.end());
  if (strict) refuse_losses(warnings);
  auto const total = results.finish();

  double const compact = compact_bytes(work, work.source_bits, cost.bits_per_weight, linear_weights);
  double const seconds_for_all = cost.seconds * static_cast<double>(blocks) / static_cast<double>(cost.blocks);
  table summary({"", "dense", how.name});
  if (evaluates) {
    summary.add({"perplexity", fixed(dense.perplexity, 3), fixed(total.compressed.perplexity, 3)});
    summary.add({"nll per token", fixed(dense.nll, 4) + " +- " + fixed(dense.nll_stderr, 4),
                 fixed(total.compressed.nll, 4) + " +- " + fixed(total.compressed.nll_stderr, 4)});
  }
  if (packs && evaluates) {
    summary.add({"perplexity on packed codes, int8 inputs", "", fixed(total.on_int8.perplexity, 3)});
    summary.add({"perplexity on packed codes, float inputs", "", fixed(total.on_floats.perplexity, 3)});
  }
  if (packs) summary.add({"bytes of the packed linears, written", "", readable_bytes(total.packed_bytes)});
  summary.add({"bits per weight of the linears", fixed(work.source_bits, 3), fixed(cost.bits_per_weight, 3)});
  summary.add({"bytes, packed", readable_bytes(work.file.tensor_bytes()), readable_bytes(compact)});
  if (whole) summary.add({"bytes of the file written now", "", readable_bytes(total.written_bytes)});
  summary.add({"mean layer output error", "0", fixed(cost.layer_error, 4)});
  if (cost.held_out_error > 0) summary.add({"the same on tokens held out", "0", fixed(cost.held_out_error, 4)});
  summary.add({"seconds to compress", "", fixed(cost.seconds, 1)});
  if (!whole)
    summary.add({"seconds for all " + std::to_string(blocks) + " blocks at this pace", "", fixed(seconds_for_all, 0)});
  summary.add({"peak memory", "", readable_bytes(peak_memory())});
  std::printf("\n%s", summary.text().c_str());
  if (evaluates)
    std::printf("\n%td tokens of text to calibrate, %td predicted tokens to evaluate, windows of %td.\n", cost.calib_tokens,
                dense.tokens, dense.window);
  if (!whole)
    std::printf("\nA trial with %td of %td blocks: nothing was evaluated, and no model was written.\n", cost.blocks, blocks);
  else
    std::printf(
        "%s holds the compressed weights with the adapters merged, as F16: it runs in stock software but is not small.\n",
        out.string().c_str());
  if (packs)
    std::printf("%s holds the packed linears: slim-llm eval and generate run on them with --packed, beside %s.\n",
                packed.string().c_str(), model.string().c_str());
  print_notes("warning", warnings, "--json");
  print_notes("note", cost.notes, "--layers-csv");
  if (whole) print_next_steps(*this);

  if (json.empty()) return;
  nlohmann::json result = {{"model", model.string()},
                           {"recipe", how.name},
                           {"bits_per_weight", cost.bits_per_weight},
                           {"source_bits_per_weight", work.source_bits},
                           {"packed_bytes", compact},
                           {"layer_error", cost.layer_error},
                           {"held_out_error", cost.held_out_error},
                           {"seconds", cost.seconds},
                           {"blocks", cost.blocks},
                           {"peak_bytes", peak_memory()},
                           {"planned_bytes", plan.total()},
                           {"calib_tokens", cost.calib_tokens},
                           {"notes", cost.notes},
                           {"warnings", warnings}};
  if (whole)
    result.update({{"out", out.string()}, {"written_bytes", total.written_bytes}});
  else
    result["seconds_for_all_blocks"] = seconds_for_all;
  if (packs) result["packed_linear_bytes"] = total.packed_bytes;
  if (packs && evaluates)
    result.update(
        {{"packed_int8_perplexity", total.on_int8.perplexity}, {"packed_exact_perplexity", total.on_floats.perplexity}});
  if (evaluates)
    result.update({{"dense_perplexity", dense.perplexity},
                   {"dense_nll", dense.nll},
                   {"perplexity", total.compressed.perplexity},
                   {"nll", total.compressed.nll},
                   {"nll_stderr", total.compressed.nll_stderr},
                   {"tokens", total.compressed.tokens}});
  write_json(json, result);
}

} // namespace slim_llm
