#include "compress/compress_model.hpp"
#include "compress/rank_plan.hpp"
#include "formats/export_model.hpp"
#include "run/file_output.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace slim_llm {
namespace {

evaluation evaluate_with_progress(model const& m, text_tokens const& text, text_options const& options, char const* what) {
  progress_line line(std::string("evaluating ") + what, "window");
  return evaluate(m, text.evaluation, {.context = options.context}, {},
                  [&](index_t done, index_t total) { line.show(done, total); });
}

compression compress_with_progress(workspace& work, text_tokens const& text, recipe const& how, text_options const& options,
                                   bool keep_packed) {
  progress_line line("compressing with " + how.name, "block");
  return compress_model(work.weights, text.calibration, how,
                        {.context = options.context,
                         .calib_tokens = options.calib_tokens,
                         .held_out_tokens = options.held_out_tokens,
                         .keep_packed = keep_packed},
                        work.source_bits, {}, [&](index_t done, index_t total) { line.show(done, total); });
}

/// What the layers' codes, positions, scales and adapters would take, plus everything else as it is in the source.
double compact_bytes(workspace const& work, double source_linear_bits, double bits_per_weight, double linear_weights) {
  return work.file.tensor_bytes() + (bits_per_weight - source_linear_bits) * linear_weights / 8.0;
}

double bytes_of(packed_weights const& packed) {
  double bytes = 0;
  for (auto const& [name, layer] : packed) bytes += layer.bytes();
  return bytes;
}

/// The model on its packed codes.
struct packed_evaluation {
  evaluation int8, exact;
};

packed_evaluation evaluate_packed(model& m, packed_weights const& packed, text_tokens const& text,
                                  text_options const& options) {
  packed_evaluation found;
  use_packed(m, packed, slim::input_precision::int8);
  found.int8 = evaluate_with_progress(m, text, options, "the packed model");
  use_packed(m, packed, slim::input_precision::exact);
  found.exact = evaluate_with_progress(m, text, options, "the packed model, inputs not rounded");
  return found;
}

void print_notes(std::vector<std::string> const& notes) {
  constexpr std::size_t shown = 5;
  for (std::size_t k = 0; k < std::min(shown, notes.size()); ++k) std::printf("note: %s\n", notes[k].c_str());
  if (notes.size() > shown) std::printf("note: and %zu more; --layers-csv has them all\n", notes.size() - shown);
}

void print_next_steps(compress_command const& command) {
  std::string const model = command.model.string();
  std::printf(
      "\nWorth trying next:\n"
      "  slim-llm compress %s --for speed --out sparse.gguf   # 2:4 sparsity in place of dense 3-bit codes\n"
      "  slim-llm ablate %s --recipes dense,slim-q,eora,joint-q,int3-lr --svg frontier.svg   # what each part is worth\n"
      "  slim-llm eval %s --text YOUR_TEXT --context 1024   # on a text of yours\n",
      model.c_str(), model.c_str(), command.out.string().c_str());
}

std::string default_recipe(std::string const& aim) {
  if (aim == "size") return "int3-lr";
  if (aim == "speed") return "joint-q";
  throw input_error("--for " + aim + ": possible are size (dense codes of few bits) and speed (2:4 sparsity)");
}

} // namespace

void compress_command::run() const {
  recipe how = required(find_recipe(recipe_name.empty() ? default_recipe(aim) : recipe_name));
  workspace work(model);
  text_tokens const tokens = load_text_tokens(work.words, text);
  {
    progress_line line("planning ranks of " + how.name, "block");
    plan_ranks(how, ranks, work.weights, tokens.fitted(), text.context, {},
               [&](index_t done, index_t total) { line.show(done, total); });
  }
  auto const linear_weights = static_cast<double>(linear_weight_count(work.weights));
  std::printf("%s: %s, %td blocks, %.1f M weights in linear layers at %.2f bits\n", model.string().c_str(),
              work.weights.config.name.c_str(), work.weights.config.layers, linear_weights / 1e6, work.source_bits);
  for (std::size_t k = 0; k < how.steps.size(); ++k) std::printf("step %zu: %s\n", k + 1, how.steps[k].c_str());
  std::fflush(stdout);

  evaluation dense;
  if (with_evaluation) dense = evaluate_with_progress(work.weights, tokens, text, "the dense model");
  compression const cost = compress_with_progress(work, tokens, how, text, !packed.empty());
  if (!layers_csv.empty()) write_layer_csv(cost.layers, layers_csv);
  evaluation compressed;
  if (with_evaluation) compressed = evaluate_with_progress(work.weights, tokens, text, "the compressed model");
  double const written = export_model(work, out, how.name);
  packed_evaluation on_codes;
  if (!packed.empty()) save_packed(cost.packed, packed, how.name);
  if (!packed.empty() && with_evaluation) on_codes = evaluate_packed(work.weights, cost.packed, tokens, text);

  double const compact = compact_bytes(work, work.source_bits, cost.bits_per_weight, linear_weights);
  table summary({"", "dense", how.name});
  if (with_evaluation) {
    summary.add({"perplexity", fixed(dense.perplexity, 3), fixed(compressed.perplexity, 3)});
    summary.add({"nll per token", fixed(dense.nll, 4) + " +- " + fixed(dense.nll_stderr, 4),
                 fixed(compressed.nll, 4) + " +- " + fixed(compressed.nll_stderr, 4)});
  }
  if (!packed.empty() && with_evaluation) {
    summary.add({"perplexity on packed codes, int8 inputs", "", fixed(on_codes.int8.perplexity, 3)});
    summary.add({"perplexity on packed codes, float inputs", "", fixed(on_codes.exact.perplexity, 3)});
  }
  if (!packed.empty()) summary.add({"bytes of the packed linears, written", "", readable_bytes(bytes_of(cost.packed))});
  summary.add({"bits per weight of the linears", fixed(work.source_bits, 3), fixed(cost.bits_per_weight, 3)});
  summary.add({"bytes, packed", readable_bytes(work.file.tensor_bytes()), readable_bytes(compact)});
  summary.add({"bytes of the file written now", "", readable_bytes(written)});
  summary.add({"mean layer output error", "0", fixed(cost.layer_error, 4)});
  if (cost.held_out_error > 0) summary.add({"the same on tokens held out", "0", fixed(cost.held_out_error, 4)});
  summary.add({"seconds to compress", "", fixed(cost.seconds, 1)});
  summary.add({"peak memory", "", readable_bytes(peak_memory())});
  std::printf("\n%s", summary.text().c_str());
  if (with_evaluation)
    std::printf("\n%td tokens of text to calibrate, %td predicted tokens to evaluate, windows of %td.\n", cost.calib_tokens,
                dense.tokens, text.context);
  std::printf("%s holds the compressed weights with the adapters merged, as F16: it runs in stock software but is not small.\n",
              out.string().c_str());
  if (!packed.empty())
    std::printf("%s holds the packed linears: slim-llm eval and generate run on them with --packed, beside %s.\n",
                packed.string().c_str(), model.string().c_str());
  print_notes(cost.notes);
  print_next_steps(*this);

  if (json.empty()) return;
  nlohmann::json result = {{"model", model.string()},
                           {"recipe", how.name},
                           {"out", out.string()},
                           {"bits_per_weight", cost.bits_per_weight},
                           {"source_bits_per_weight", work.source_bits},
                           {"packed_bytes", compact},
                           {"written_bytes", written},
                           {"layer_error", cost.layer_error},
                           {"held_out_error", cost.held_out_error},
                           {"seconds", cost.seconds},
                           {"peak_bytes", peak_memory()},
                           {"calib_tokens", cost.calib_tokens},
                           {"notes", cost.notes}};
  if (!packed.empty()) result["packed_linear_bytes"] = bytes_of(cost.packed);
  if (!packed.empty() && with_evaluation)
    result.update(
        {{"packed_int8_perplexity", on_codes.int8.perplexity}, {"packed_exact_perplexity", on_codes.exact.perplexity}});
  if (with_evaluation)
    result.update({{"dense_perplexity", dense.perplexity},
                   {"dense_nll", dense.nll},
                   {"perplexity", compressed.perplexity},
                   {"nll", compressed.nll},
                   {"nll_stderr", compressed.nll_stderr},
                   {"tokens", compressed.tokens}});
  write_file(json, result.dump(2) + "\n");
}

} // namespace slim_llm
