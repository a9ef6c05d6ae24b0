#include "commands.hpp"
#include "compress/run_folder.hpp"
#include "formats/code_statistics.hpp"
#include "run/file_output.hpp"
#include "run/html_page.hpp"
#include "run/input_error.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <map>

namespace slim_llm {
namespace {

using nlohmann::json;

/// What a run has left: its results, and what it was made of.
struct finished_run {
  json result, settings;
  std::vector<layer_result> layers;
};

/// @throws input_error if there is no run, or if it is not complete.
finished_run read_run(std::filesystem::path const& folder) {
  std::error_code ignored;
  if (!std::filesystem::exists(folder / "run.json", ignored)) throw input_error(folder.string() + ": holds no run");
  if (!std::filesystem::exists(folder / "result.json", ignored))
    throw input_error(folder.string() + ": the run is not complete; go on with it by slim-llm compress --resume");
  finished_run run{required(slim::read_json(folder / "result.json")), required(slim::read_json(folder / "run.json")), {}};
  try {
    run.layers = layers_of_json(run.result.at("layers"));
  } catch (json::exception const&) {
    throw input_error((folder / "result.json").string() + ": is not what a run leaves");
  }
  return run;
}

/// A number of the results with so many digits behind the point, or nothing.
std::string number_at(json const& object, char const* key, int digits) {
  auto const found = object.find(key);
  return found != object.end() && found->is_number() ? fixed(found->get<double>(), digits) : std::string();
}

std::string bytes_at(json const& object, char const* key) {
  auto const found = object.find(key);
  return found != object.end() && found->is_number() ? readable_bytes(found->get<double>()) : std::string();
}

std::string text_at(json const& object, char const* key) {
  auto const found = object.find(key);
  return found == object.end() ? std::string() : found->is_string() ? found->get<std::string>() : found->dump();
}

/// Rows of the comparison with the dense model: what, dense, compressed. Only what was measured.
std::vector<std::vector<std::string>> summary_of(json const& result) {
  std::vector<std::vector<std::string>> rows;
  auto const add = [&](char const* what, std::string dense, std::string compressed) {
    if (!compressed.empty()) rows.push_back({what, std::move(dense), std::move(compressed)});
  };
  add("perplexity", number_at(result, "dense_perplexity", 3), number_at(result, "perplexity", 3));
  add("perplexity on the codes, int8 inputs", "", number_at(result, "packed_int8_perplexity", 3));
  add("nll per token", number_at(result, "dense_nll", 4), number_at(result, "nll", 4));
  add("bits per weight of the linears", number_at(result, "source_bits_per_weight", 3),
      number_at(result, "bits_per_weight", 3));
  add("bytes of the file", bytes_at(result, "source_bytes"), bytes_at(result, "written_bytes"));
  add("mean output error of the linears", "0", number_at(result, "layer_error", 4));
  add("the same on tokens held out", "0", number_at(result, "held_out_error", 4));
  add("seconds to compress", "", number_at(result, "seconds", 0));
  add("peak memory", "", bytes_at(result, "peak_bytes"));
  return rows;
}

std::string list_of(json const& result, char const* key, char const* title) {
  auto const found = result.find(key);
  if (found == result.end() || !found->is_array() || found->empty()) return {};
  std::string out = "<h2>" + std::string(title) + "</h2><ul>\n";
  for (json const& line : *found)
    out += "<li>" + html_text(line.is_string() ? line.get<std::string>() : line.dump()) + "</li>\n";
  return out + "</ul>\n";
}

/// A line per role over the blocks.
std::vector<line_series> errors_by_role(std::vector<layer_result> const& layers, double slim::step_report::*error) {
  std::map<std::string, std::size_t> at;
  std::vector<line_series> series;
  for (auto const& layer : layers) {
    auto const [found, is_new] = at.emplace(layer.role, series.size());
    if (is_new) series.push_back({layer.role, {}});
    auto& values = series[found->second].values;
    values.resize(std::max(values.size(), static_cast<std::size_t>(layer.block) + 1), NAN);
    values[static_cast<std::size_t>(layer.block)] = layer.report.last().*error;
  }
  return series;
}

/// Pictures of the codes, if the source is still what the run was made of.
std::string pictures_of_codes(finished_run const& run) {
  std::filesystem::path const source = text_at(run.result, "model"), compressed = text_at(run.result, "out");
  std::error_code ignored;
  if (!is_slim_path(compressed) || !std::filesystem::exists(compressed, ignored) || !std::filesystem::exists(source, ignored) ||
      checkpoint(source).fingerprint() != text_at(run.settings, "model"))
    return "<p class=\"dim\">No pictures of weights and codes: the source, or the file that was made of it, is not where the run "
           "had it.</p>\n";
  std::vector<line_series> levels, spectra;
  std::vector<std::vector<std::string>> rows;
  for (code_statistics const& one : statistics_of_worst(run.layers, source, compressed)) {
    levels.push_back({one.role, one.shares});
    spectra.push_back({one.role + ", rank " + std::to_string(one.rank), one.singular});
    double left = 1;
    for (std::size_t k = 0; k < std::min(one.singular.size(), static_cast<std::size_t>(one.rank)); ++k)
      left -= one.singular[k] * one.singular[k];
    rows.push_back({one.name, std::to_string(one.lowest) + " to " + std::to_string(one.highest), fixed(100 * one.clipped, 3),
                    std::to_string(one.rank), fixed(std::sqrt(std::max(left, 0.0)), 4)});
  }
  return "<h2>Weights on the levels of their codes</h2>\n<p>Of every role the linear with the largest output error: the share of "
         "weights by level, in steps of the codes. What lies beyond the lowest and the highest code is clipped.</p>\n" +
         line_chart("share of weights by level", "level", levels,
                    [](std::size_t k) {
                      return fixed(code_statistics::first_level + code_statistics::bin * static_cast<double>(k), 0);
                    }) +
         "<h2>Spectrum of what the codes leave</h2>\n<p>Singular values of W - W_codes relative to its norm. An adapter of rank r "
         "can take the first r away from the weights; this run's adapters were fitted to outputs.</p>\n" +
         line_chart("singular values", "component", spectra) +
         html_table({"linear", "codes", "clipped, %", "rank", "of the error's norm behind the rank"}, rows);
}

std::string layer_rows(std::vector<layer_result> const& layers) {
  std::vector<std::vector<std::string>> rows;
  for (auto const& layer : layers)
    for (auto const& step : layer.report.steps) {
      auto const shown = [](double x) { return std::isfinite(x) ? fixed(x, 4) : std::string("-"); };
      rows.push_back({layer.name, step.step, shown(step.output_error), shown(step.held_out_error), shown(step.relative_error),
                      fixed(step.bits_per_weight, 3), std::to_string(step.rank), fixed(step.seconds, 2)});
    }
  return html_table({"linear", "step", "output error", "held out", "weight error", "bits", "rank", "seconds"}, rows);
}

std::string page_of(finished_run const& run) {
  json const& result = run.result;
  std::string body = html_table({"", "dense", "compressed"}, summary_of(result));
  double const source = result.value("source_bytes", 0.0), written = result.value("written_bytes", 0.0);
  if (source > 0)
    body += "<h2>Size</h2>\n" + bar_chart("bytes of the files", {{"source", source}, {"compressed", written}},
                                          {readable_bytes(source), readable_bytes(written)});
  body += "<h2>Output error of every linear, by block</h2>\n" +
          line_chart("output error by block", "block", errors_by_role(run.layers, &slim::step_report::output_error));
  if (result.value("held_out_error", 0.0) > 0)
    body += "<h2>The same on tokens held out</h2>\n" +
            line_chart("held-out error by block", "block", errors_by_role(run.layers, &slim::step_report::held_out_error));
  body += pictures_of_codes(run);
  body += list_of(result, "warnings", "Warnings") + list_of(result, "notes", "Notes");
  body += "<h2>What was done</h2>\n";
  std::vector<std::vector<std::string>> about = {{"model", text_at(result, "model")}, {"recipe", text_at(result, "recipe")}};
  for (auto const& [key, value] : run.settings.items())
    if (key != "recipe" && key != "model") about.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  about.push_back({"fingerprint of the model", text_at(run.settings, "model")});
  body += html_table({"", ""}, about);
  body += "<h2>Linears and steps</h2>\n" + layer_rows(run.layers);
  body += "<p class=\"dim\">Errors are relative: ||X (W - W')^T|| / ||X W^T|| of outputs, ||W - W'|| / ||W|| of weights.</p>\n";
  return html_page("slim-llm: " + text_at(result, "recipe") + " on " +
                       std::filesystem::path(text_at(result, "model")).filename().string(),
                   body);
}

std::string card_of(finished_run const& run) {
  json const& result = run.result;
  std::string const name = std::filesystem::path(text_at(result, "out")).filename().string();
  std::string const source = std::filesystem::path(text_at(result, "model")).filename().string();
  table rows({"", "dense", "compressed"});
  for (auto const& row : summary_of(result)) rows.add(row);
  std::string out = "# " + name + "\n\n" + source + ", compressed with slim-llm " + text_at(run.settings, "version") +
                    ", recipe `" + text_at(result, "recipe") + "`.\n\n" + rows.text() + "\n";
  if (result.contains("perplexity"))
    out += "Perplexity over " + text_at(result, "tokens") + " tokens of a text that nothing was fitted to, in windows of " +
           text_at(run.settings, "--context") + ".\n";
  out += "All numbers were measured by the run that wrote the file. The source's fingerprint is " +
         text_at(run.settings, "model") + ".\n\n```\nslim-llm generate " + name + " --prompt \"Once upon a time\"\n```\n";
  return out;
}

void write_page(std::filesystem::path const& folder, std::filesystem::path const& wanted, char const* name,
                std::string (*make)(finished_run const&)) {
  auto const run = read_run(folder);
  auto const out = wanted.empty() ? folder / name : wanted;
  file_plan files;
  files.writes_text("--out", out);
  files.check();
  write_file(out, make(run));
  std::printf("%s is written\n", out.c_str());
}

} // namespace

void report_command::run() const { write_page(folder, out, "report.html", page_of); }

void card_command::run() const { write_page(folder, out, "README.md", card_of); }

} // namespace slim_llm
