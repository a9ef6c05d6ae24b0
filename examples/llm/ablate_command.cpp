#include "calibration_text.hpp"
#include "compress_model.hpp"
#include "file_output.hpp"
#include "progress_line.hpp"
#include "table.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>

namespace slim_llm {
namespace {

/// One recipe, measured.
struct ablation_row {
  std::string recipe;
  evaluation measured;
  paired_difference excess; ///< over the dense model, windows paired
  compression cost;
  double peak_bytes = 0;
};

/// Compresses a copy of the model and evaluates it.
ablation_row measure(workspace const& work, recipe const& how, text_tokens const& text, ablate_command const& command,
                     evaluation const* dense) {
  reset_peak_memory();
  ablation_row row{.recipe = how.name, .measured = {}, .excess = {}, .cost = {}};
  model copy = work.weights;
  {
    progress_line line("compressing with " + how.name, "block");
    row.cost = compress_model(copy, text.calibration, how,
                              {.context = command.text.context, .calib_tokens = command.text.calib_tokens}, work.source_bits,
                              {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  {
    progress_line line("evaluating " + how.name, "window");
    row.measured = evaluate(copy, text.evaluation, {.context = command.text.context}, {},
                            [&](index_t done, index_t total) { line.show(done, total); });
  }
  if (dense) row.excess = compare(row.measured, *dense);
  row.peak_bytes = peak_memory();
  return row;
}

std::vector<std::string> cells_of(ablation_row const& row) {
  return {row.recipe,
          fixed(row.measured.perplexity, 3),
          fixed(row.measured.nll, 4),
          fixed(row.excess.mean, 4),
          fixed(row.excess.standard_error, 4),
          fixed(row.cost.bits_per_weight, 3),
          fixed(row.cost.layer_error, 4),
          fixed(row.cost.seconds, 1),
          readable_bytes(row.peak_bytes)};
}

nlohmann::json json_of(ablation_row const& row) {
  return {{"recipe", row.recipe},
          {"perplexity", row.measured.perplexity},
          {"nll", row.measured.nll},
          {"nll_stderr", row.measured.nll_stderr},
          {"excess_nll", row.excess.mean},
          {"excess_stderr", row.excess.standard_error},
          {"bits_per_weight", row.cost.bits_per_weight},
          {"layer_error", row.cost.layer_error},
          {"seconds", row.cost.seconds},
          {"peak_bytes", row.peak_bytes},
          {"notes", row.cost.notes}};
}

/// What each recipe loses less (or more) than one of them, on the same windows.
void print_against(std::vector<ablation_row> const& rows, ablation_row const& other) {
  table compared({"against " + other.recipe, "nll difference", "+-", "excess nll less by"});
  for (auto const& row : rows) {
    if (row.recipe == other.recipe) continue;
    auto const difference = compare(row.measured, other.measured);
    std::string const share = other.excess.mean > 0 ? fixed(100 * (1 - row.excess.mean / other.excess.mean), 1) + " %" : "";
    compared.add({row.recipe, fixed(difference.mean, 4), fixed(difference.standard_error, 4), share});
  }
  std::printf("\n%s", compared.text().c_str());
}

} // namespace

void ablate_command::run() const {
  auto const grid = required(find_recipes(recipes));
  auto const named = [](std::string const& name) { return [&name](auto const& item) { return item.name == name; }; };
  if (!against.empty() && std::none_of(grid.begin(), grid.end(), named(against)))
    throw input_error("--against " + against + ": is not among --recipes");
  workspace const work(model);
  text_tokens const tokens = load_text_tokens(work.words, text);
  std::printf("%s: %zu tokens to calibrate, %zu to evaluate, windows of %td\n", model.string().c_str(),
              tokens.calibration.size(), tokens.evaluation.size(), text.context);
  std::fflush(stdout);

  std::vector<std::string> const header = {"recipe",      "perplexity",  "nll",     "excess nll", "+-",
                                           "bits/weight", "layer error", "seconds", "peak memory"};
  table shown(header);
  table raw({"recipe", "perplexity", "nll", "nll_stderr", "excess_nll", "excess_stderr", "bits_per_weight", "layer_error",
             "seconds", "peak_bytes"});
  nlohmann::json result = {{"model", model.string()},
                           {"calib_tokens", tokens.calibration.size()},
                           {"eval_tokens", tokens.evaluation.size()},
                           {"context", text.context},
                           {"rows", nlohmann::json::array()}};
  auto const dense_recipe = required(find_recipe("dense"));
  ablation_row const dense = measure(work, dense_recipe, tokens, *this, nullptr);
  std::vector<ablation_row> rows;
  for (recipe const& how : grid) {
    rows.push_back(how.name == "dense" ? dense : measure(work, how, tokens, *this, &dense.measured));
    ablation_row const& row = rows.back();
    shown.add(cells_of(row));
    raw.add({row.recipe, fixed(row.measured.perplexity, 6), fixed(row.measured.nll, 6), fixed(row.measured.nll_stderr, 6),
             fixed(row.excess.mean, 6), fixed(row.excess.standard_error, 6), fixed(row.cost.bits_per_weight, 5),
             fixed(row.cost.layer_error, 6), fixed(row.cost.seconds, 2), fixed(row.peak_bytes, 0)});
    result["rows"].push_back(json_of(row));
    std::fprintf(stderr, "%s: perplexity %.3f, %.3f bits, layer error %.4f\n", row.recipe.c_str(), row.measured.perplexity,
                 row.cost.bits_per_weight, row.cost.layer_error);
    // After every recipe, so that an interrupted grid keeps what it has.
    if (!csv.empty()) write_file(csv, raw.csv());
    if (!json.empty()) write_file(json, result.dump(2) + "\n");
    if (!layers_csv.empty() && !row.cost.layers.empty())
      write_layer_csv(row.cost.layers, layers_csv.string() + "." + row.recipe + ".csv");
  }
  std::printf("\n%s", shown.text().c_str());
  for (auto const& row : rows)
    if (row.recipe == against) print_against(rows, row);
}

} // namespace slim_llm
