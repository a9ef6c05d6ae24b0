#include "compress/compress_model.hpp"
#include "compress/rank_plan.hpp"
#include "evaluate/divergence.hpp"
#include "run/context_length.hpp"
#include "run/file_output.hpp"
#include "run/frontier_plot.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"
#include "training/distill.hpp"
#include "training/refine.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <sstream>
#include <utility>

namespace slim_llm {
namespace {

/// One recipe on one calibration draw, measured.
struct measurement {
  evaluation measured;
  divergence from_dense; ///< of the predictions
  compression cost;
  double peak_bytes = 0;
};

/// One recipe: the means over all draws.
struct ablation_row {
  std::string recipe;
  std::vector<measurement> draws;
  std::vector<double> window_nll; ///< mean over draws
  double nll = 0, perplexity = 0, nll_stderr = 0;
  paired_difference excess; ///< over the dense model, windows paired
  paired_difference kl;     ///< from the dense model, per window the mean over draws
  double same_top = 0;      ///< share of positions
  double bits_per_weight = 0, layer_error = 0, held_out_error = 0, seconds = 0, peak_bytes = 0;
};

/// The tokens that nothing is fitted to, to choose by.
std::span<int const> held_out_of(text_tokens const& text) {
  return std::span(text.calibration).last(static_cast<std::size_t>(text.held_out));
}

/// Trains what stands beside the codes of each block, on the tokens that were fitted to. Returns the seconds that it took.
double refine_layers(workspace const& work, recipe const& how, packed_weights& layers, text_tokens const& text) {
  packed_weights refined;
  progress_line line("refining " + how.name, "block");
  auto const result = refine(
      work.weights, work.weights,
      [&](std::string const& name) {
        auto const found = layers.find(name);
        return found == layers.end() ? std::nullopt : std::optional(found->second);
      },
      text.fitted(), held_out_of(text), {},
      [&](index_t, packed_weights const& block) { refined.insert(block.begin(), block.end()); }, {},
      [&](index_t done, index_t total) { line.show(done, total); });
  layers = std::move(refined);
  return result.seconds;
}

/// Trains what stands beside the codes on the tokens that were fitted to, four times each. Returns the seconds that it took.
double distill_layers(workspace const& work, recipe const& how, packed_weights& layers, text_tokens const& text) {
  student trained(work.weights, layers, {});
  auto const fitted = text.fitted();
  distill_config config{.state = {}, .run_name = how.name};
  constexpr index_t passes = 4;
  config.steps = std::max<index_t>(1, passes * std::ssize(fitted) / config.tokens_per_step);
  distillation result;
  {
    progress_line line("training " + how.name, "step");
    result = distill(trained, work.weights, fitted, held_out_of(text), config, {},
                     [&](index_t done, index_t total) { line.show(done, total); });
  }
  std::fprintf(stderr, "%s: divergence on the tokens held out %.5f, trained %.5f (step %td of %td)\n", how.name.c_str(),
               result.before, result.after, result.best_step, result.steps);
  layers = trained.layers();
  return result.seconds;
}

/// Evaluates what is packed.
void advance_packed(workspace const& work, packed_weights const& layers, block_evaluation& run) {
  for (index_t n = 0; n < work.weights.config.layers; ++n) {
    block b = load_block(work.weights, n);
    use_packed(b, layers, slim::input_precision::exact);
    run.advance(b);
  }
}

/// How all models of the table are evaluated. The dense one stays in memory beside each of them.
evaluation_config evaluation_of(workspace const& work, recipe const& how, text_tokens const& text,
                                ablate_command const& command) {
  evaluation_config config{.context = command.text.context, .protocol = required(find_protocol(command.protocol))};
  if (config.protocol == protocol::llama_cpp && work.words.adds_bos()) config.first_token = work.words.bos();
  config.states_on_disk =
      plan_memory(work.weights, planned_compression(text, command.text, command.ranks, how, 2), 0).states_on_disk;
  return config;
}

/// Compresses the model and evaluates it, block by block; `dense` is the dense model behind its last block.
measurement measure(workspace const& work, recipe how, text_tokens const& text, ablate_command const& command,
                    block_evaluation& dense) {
  reset_peak_memory();
  measurement found;
  {
    progress_line line("planning ranks of " + how.name, "block");
    plan_ranks(how, command.ranks, work.weights, text.fitted(), command.text.context, {},
               [&](index_t done, index_t total) { line.show(done, total); });
  }
  evaluation_config const config = evaluation_of(work, how, text, command);
  block_evaluation run(work.weights, text.evaluation, config);
  bool const refines = std::exchange(how.refined, false), distills = std::exchange(how.distilled, false);
  bool const trains = refines || distills;
  packed_weights layers;
  {
    progress_line line("compressing and evaluating " + how.name, "block");
    found.cost = compress_model(
        work.weights, text.calibration, how,
        {.context = command.text.context,
         .calib_tokens = command.text.calib_tokens,
         .held_out_tokens = command.text.held_out_tokens,
         .keep_packed = trains,
         .states_on_disk = config.states_on_disk},
        work.source_bits,
        [&](index_t, block& b, packed_weights& packed) {
          if (trains)
            layers.merge(packed);
          else
            run.advance(b);
        },
        {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  if (refines) found.cost.seconds += refine_layers(work, how, layers, text);
  if (distills) found.cost.seconds += distill_layers(work, how, layers, text);
  if (trains) advance_packed(work, layers, run);
  found.measured = run.finish();
  found.from_dense = diverge(dense, run);
  found.peak_bytes = peak_memory();
  return found;
}

/// The dense model through all its blocks.
measurement measure_dense(workspace const& work, block_evaluation& run) {
  reset_peak_memory();
  measurement found;
  progress_line line("evaluating the dense model", "block");
  for (index_t n = 0; n < work.weights.config.layers; ++n) {
    with_block(work.weights, n, {}, [&](block const& b) { run.advance(b); });
    line.show(n + 1, work.weights.config.layers);
  }
  found.measured = run.finish();
  found.from_dense.same_top.mean = 1;
  found.from_dense.window_kl.assign(found.measured.window_nll.size(), 0.0);
  found.cost.bits_per_weight = work.source_bits;
  found.peak_bytes = peak_memory();
  return found;
}

/// Means of what has been measured so far.
void summarise(ablation_row& row, ablation_row const& dense) {
  auto const count = static_cast<double>(row.draws.size());
  row.window_nll.assign(row.draws.front().measured.window_nll.size(), 0.0);
  std::vector<double> window_kl(row.window_nll.size(), 0.0);
  row.bits_per_weight = row.layer_error = row.held_out_error = row.seconds = row.peak_bytes = row.same_top = 0;
  for (measurement const& m : row.draws) {
    for (std::size_t w = 0; w < row.window_nll.size(); ++w) row.window_nll[w] += m.measured.window_nll[w] / count;
    for (std::size_t w = 0; w < window_kl.size(); ++w) window_kl[w] += m.from_dense.window_kl[w] / count;
    row.same_top += m.from_dense.same_top.mean / count;
    row.bits_per_weight += m.cost.bits_per_weight / count;
    row.layer_error += m.cost.layer_error / count;
    row.held_out_error += m.cost.held_out_error / count;
    row.seconds += m.cost.seconds / count;
    row.peak_bytes = std::max(row.peak_bytes, m.peak_bytes);
  }
  auto const own = compare(row.window_nll, std::vector<double>(row.window_nll.size(), 0.0));
  row.nll = own.mean;
  row.nll_stderr = own.standard_error;
  row.perplexity = std::exp(row.nll);
  row.kl = summarise_windows(window_kl);
  if (&row != &dense) row.excess = compare(row.window_nll, dense.window_nll);
}

std::vector<std::string> cells_of(ablation_row const& row) {
  return {row.recipe,
          fixed(row.perplexity, 3),
          fixed(row.nll, 4),
          fixed(row.excess.mean, 4),
          fixed(row.excess.standard_error, 4),
          fixed(row.excess.low, 4) + " .. " + fixed(row.excess.high, 4),
          fixed(row.kl.mean, 4),
          fixed(row.kl.standard_error, 4),
          fixed(100 * row.same_top, 2) + " %",
          fixed(row.bits_per_weight, 3),
          fixed(row.layer_error, 4),
          fixed(row.held_out_error, 4),
          fixed(row.seconds, 1),
          readable_bytes(row.peak_bytes)};
}

/// A line of the CSV: one recipe on one draw.
std::vector<std::string> raw_cells(ablation_row const& row, ablation_row const& dense, std::size_t draw,
                                   std::ptrdiff_t number) {
  measurement const& m = row.draws[draw];
  auto const excess = compare(m.measured.window_nll, dense.window_nll);
  return {row.recipe,
          std::to_string(number),
          fixed(m.measured.perplexity, 6),
          fixed(m.measured.nll, 6),
          fixed(m.measured.nll_stderr, 6),
          fixed(excess.mean, 6),
          fixed(excess.standard_error, 6),
          fixed(excess.low, 6),
          fixed(excess.high, 6),
          fixed(m.from_dense.kl.mean, 6),
          fixed(m.from_dense.kl.standard_error, 6),
          fixed(m.from_dense.same_top.mean, 6),
          fixed(m.cost.bits_per_weight, 5),
          fixed(m.cost.layer_error, 6),
          fixed(m.cost.held_out_error, 6),
          fixed(m.cost.seconds, 2),
          fixed(m.peak_bytes, 0)};
}

nlohmann::json json_of(ablation_row const& row, ablation_row const& dense) {
  nlohmann::json draws = nlohmann::json::array(), notes = nlohmann::json::array();
  for (measurement const& m : row.draws) {
    draws.push_back({{"nll", m.measured.nll},
                     {"excess_nll", compare(m.measured.window_nll, dense.window_nll).mean},
                     {"kl", m.from_dense.kl.mean},
                     {"same_top", m.from_dense.same_top.mean},
                     {"layer_error", m.cost.layer_error},
                     {"held_out_error", m.cost.held_out_error},
                     {"seconds", m.cost.seconds},
                     {"window_nll", m.measured.window_nll}});
    for (auto const& note : m.cost.notes) notes.push_back(note);
  }
  return {{"recipe", row.recipe},
          {"perplexity", row.perplexity},
          {"nll", row.nll},
          {"nll_stderr", row.nll_stderr},
          {"excess_nll", row.excess.mean},
          {"excess_stderr", row.excess.standard_error},
          {"excess_low", row.excess.low},
          {"excess_high", row.excess.high},
          {"kl", row.kl.mean},
          {"kl_stderr", row.kl.standard_error},
          {"same_top", row.same_top},
          {"bits_per_weight", row.bits_per_weight},
          {"layer_error", row.layer_error},
          {"held_out_error", row.held_out_error},
          {"seconds", row.seconds},
          {"peak_bytes", row.peak_bytes},
          {"draws", draws},
          {"notes", notes}};
}

/// What each recipe loses less (or more) than one of them, on the same windows.
void print_against(std::vector<ablation_row> const& rows, ablation_row const& other) {
  table compared({"against " + other.recipe, "nll difference", "+-", "95% interval", "excess nll less by"});
  for (auto const& row : rows) {
    if (row.recipe == other.recipe) continue;
    auto const difference = compare(row.window_nll, other.window_nll);
    std::string const share = other.excess.mean > 0 ? fixed(100 * (1 - row.excess.mean / other.excess.mean), 1) + " %" : "";
    compared.add({row.recipe, fixed(difference.mean, 4), fixed(difference.standard_error, 4),
                  fixed(difference.low, 4) + " .. " + fixed(difference.high, 4), share});
  }
  std::printf("\n%s", compared.text().c_str());
}

/// Points from elsewhere: lines "label,bits,excess" behind a header.
std::vector<frontier_point> read_points(std::filesystem::path const& file) {
  std::vector<frontier_point> points;
  std::istringstream lines(read_text(file));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::size_t const first = line.find(','), second = line.find(',', first + 1);
    if (line.empty()) continue;
    try {
      points.push_back(
          {line.substr(0, first), std::stod(line.substr(first + 1)), std::stod(line.substr(second + 1)), 0, 0, false});
    } catch (std::logic_error const&) {
      throw input_error(file.string() + ": '" + line + "' is no label,bits,excess");
    }
  }
  return points;
}

/// Everything so far, as JSON and as a picture.
void write_results(ablate_command const& command, std::vector<ablation_row> const& rows, ablation_row const& dense,
                   text_tokens const& tokens, std::vector<frontier_point> const& others) {
  nlohmann::json result = {{"model", command.model.string()},
                           {"calib_tokens", command.text.calib_tokens},
                           {"held_out_tokens", command.text.held_out_tokens},
                           {"eval_tokens", tokens.evaluation.size()},
                           {"context", command.text.context},
                           {"protocol", command.protocol},
                           {"draws", command.draws},
                           {"rows", nlohmann::json::array()}};
  std::vector<frontier_point> points = others;
  for (auto const& row : rows) {
    if (row.draws.empty()) continue;
    result["rows"].push_back(json_of(row, dense));
    points.push_back({row.recipe, row.bits_per_weight, row.excess.mean, row.excess.low, row.excess.high, true});
  }
  if (!command.json.empty()) write_json(command.json, result);
  if (!command.svg.empty())
    write_file(command.svg,
               frontier_svg(points, command.model.filename().string() + ", " + std::to_string(tokens.evaluation.size()) +
                                        " tokens, windows of " + std::to_string(command.text.context)));
}

/// Layers of a recipe on a draw.
std::filesystem::path layers_file(ablate_command const& command, std::string const& recipe, std::ptrdiff_t draw) {
  std::string const behind = draw > 1 ? slim::message(".", draw) : std::string();
  return slim::message(command.layers_csv.string(), ".", recipe, behind, ".csv");
}

/// Everything that the command reads and writes, checked.
void check_files(ablate_command const& command, std::vector<recipe> const& grid) {
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--calib", calibration_file(command.text));
  files.reads_file("--text", evaluation_file(command.text));
  files.reads_file("--compare-with", command.compare_with);
  files.writes_text("--json", command.json);
  files.writes_text("--csv", command.csv);
  files.writes_text("--svg", command.svg);
  std::set<std::filesystem::path> layers; // a recipe may be asked for twice
  for (recipe const& how : grid)
    for (std::ptrdiff_t draw = command.first_draw; draw < command.first_draw + command.draws; ++draw)
      if (!command.layers_csv.empty()) layers.insert(layers_file(command, how.name, draw));
  for (auto const& file : layers) files.writes_text("--layers-csv", file);
  files.check();
}

} // namespace

void ablate_command::run() const {
  auto const grid = required(find_recipes(recipes));
  auto const named = [](std::string const& name) { return [&name](auto const& item) { return item.name == name; }; };
  if (!against.empty() && std::none_of(grid.begin(), grid.end(), named(against)))
    throw input_error("--against " + against + ": is not among --recipes");
  (void)required(find_protocol(protocol));
  if (draws < 1 || first_draw < 1) throw input_error("--draws and --first-draw: at least 1");
  require_context(text.context);
  check_files(*this, grid);
  auto const others = compare_with.empty() ? std::vector<frontier_point>() : read_points(compare_with);
  workspace const work(model);
  note_long_context(text.context, work.weights.config);
  text_tokens tokens = load_text_tokens(work.words, text, first_draw);
  note_shortened(tokens, text);
  std::printf("%s: %zu tokens to calibrate, %td held out, %zu to evaluate, windows of %td, %td draws\n", model.string().c_str(),
              tokens.fitted().size(), tokens.held_out, tokens.evaluation.size(), text.context, draws);
  std::fflush(stdout);

  ablation_row dense{.recipe = "dense", .draws = {}, .window_nll = {}, .excess = {}, .kl = {}};
  recipe const untouched = required(find_recipe("dense"));
  block_evaluation dense_run(work.weights, tokens.evaluation, evaluation_of(work, untouched, tokens, *this));
  dense.draws.push_back(measure_dense(work, dense_run));
  summarise(dense, dense);
  std::vector<ablation_row> rows;
  for (recipe const& how : grid) rows.push_back({.recipe = how.name, .draws = {}, .window_nll = {}, .excess = {}, .kl = {}});
  table raw({"recipe", "draw", "perplexity", "nll", "nll_stderr", "excess_nll", "excess_stderr", "excess_low", "excess_high",
             "kl", "kl_stderr", "same_top", "bits_per_weight", "layer_error", "held_out_error", "seconds", "peak_bytes"});

  for (std::ptrdiff_t draw = first_draw; draw < first_draw + draws; ++draw) {
    if (draw > first_draw) tokens = load_text_tokens(work.words, text, draw);
    for (std::size_t k = 0; k < grid.size(); ++k) {
      ablation_row& row = rows[k];
      if (row.recipe == "dense" && draw > first_draw) continue; // nothing in it depends on the draw
      row.draws.push_back(row.recipe == "dense" ? dense.draws.front() : measure(work, grid[k], tokens, *this, dense_run));
      summarise(row, dense);
      raw.add(raw_cells(row, dense, row.draws.size() - 1, draw));
      std::fprintf(stderr, "%s: perplexity %.3f, %.3f bits, layer error %.4f\n", row.recipe.c_str(), row.perplexity,
                   row.bits_per_weight, row.layer_error);
      // After every recipe, so that an interrupted grid keeps what it has.
      if (!csv.empty()) write_file(csv, raw.csv());
      write_results(*this, rows, dense, tokens, others);
      compression const& cost = row.draws.back().cost;
      if (!layers_csv.empty() && !cost.layers.empty()) write_layer_csv(cost.layers, layers_file(*this, row.recipe, draw));
    }
  }
  table shown({"recipe", "perplexity", "nll", "excess nll", "+-", "95% interval", "kl", "+-", "same top", "bits/weight",
               "layer error", "held out", "seconds", "peak memory"});
  for (auto const& row : rows) shown.add(cells_of(row));
  std::printf("\n%s", shown.text().c_str());
  for (auto const& row : rows)
    if (row.recipe == against) print_against(rows, row);
}

} // namespace slim_llm
