#include "commands.hpp"
#include "formats/export_adapter.hpp"
#include "formats/export_folder.hpp"
#include "formats/export_gguf.hpp"
#include "formats/export_plan.hpp"
#include "formats/load.hpp"
#include "formats/slim_writer.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>

namespace slim_llm {
namespace {

bool is_slim(std::string const& to) { return to == "slim"; }
bool is_gguf(std::string const& to) { return to == "gguf" || to.starts_with("gguf:"); }
std::string gguf_type_of(std::string const& to) { return to == "gguf" ? "" : to.substr(std::string_view("gguf:").size()); }

/// What is done with adapters, where the user does not say.
std::string adapter_of(export_command const& command) {
  if (!command.adapter.empty()) return command.adapter;
  if (is_slim(command.to)) return "none"; // it holds them
  if (is_gguf(command.to)) return "gguf";
  if (command.to == "hf") return "merge";
  return command.to == "mlx" ? "mlx" : "peft";
}

/// Beside the output, so that both are found together.
std::filesystem::path adapter_path(export_command const& command, std::string const& adapter) {
  std::string base = command.out.string();
  while (base.size() > 1 && base.back() == '/') base.pop_back();
  if (base.ends_with(".gguf")) base.resize(base.size() - std::string_view(".gguf").size());
  return adapter == "gguf" ? base + "-lora.gguf" : base + "-adapter";
}

void require_known(export_command const& command, std::string const& adapter) {
  bool const known = command.to == "hf" || is_slim(command.to) || find_layer_format(command.to) ||
                     (is_gguf(command.to) && command.to != "gguf:" && is_gguf_type(gguf_type_of(command.to)));
  if (!known)
    throw input_error("--to " + command.to + ": possible are slim, ct, gptq, gptq:v1, gptq:v2, mlx, hf, gguf, and gguf: with " +
                      gguf_types());
  if (adapter != "peft" && adapter != "mlx" && adapter != "gguf" && adapter != "merge" && adapter != "none")
    throw input_error("--adapter " + adapter + ": possible are peft, mlx, gguf, merge and none");
  if (adapter == "merge" && command.to != "hf")
    throw input_error("--adapter merge: would quantize the merged weights again, which this command never does; possible with "
                      "--to hf");
  (void)embedding_type("--embeddings", command.embeddings);
  if (is_slim(command.to) && !is_slim_path(command.out))
    throw input_error("--to slim: --out " + command.out.string() + ": give a name that ends with .slim");
  if (is_slim(command.to) &&
      (!command.adapter.empty() || !command.embeddings.empty() || command.allow_lossy || command.max_rank > 0))
    throw input_error("--to slim: keeps everything as it is; leave --adapter, --embeddings, --allow-lossy and --max-rank out");
  if (command.entropy_coded && !is_slim(command.to))
    throw input_error("--entropy-coded: is for --to slim; other programs do not decode it");
  if (!command.embeddings.empty() && is_gguf(command.to))
    throw input_error("--embeddings: is for folders; a GGUF file has embedding and head as the .slim file, where a rule of the "
                      "recipe file gives their type");
}

/// One format and its files.
struct planned_file {
  export_command command; ///< of this format alone
  std::string adapter;    ///< what is done with adapters
  std::filesystem::path adapter_out;
};

/// A format with its file or folder; of several, each has a name of its own in the folder of --out.
std::vector<planned_file> planned_files(export_command const& command) {
  std::vector<planned_file> all;
  std::istringstream formats(command.to);
  bool const several = command.to.find(',') != std::string::npos;
  for (std::string to; std::getline(formats, to, ',');) {
    planned_file one{command, {}, {}};
    one.command.to = to;
    if (several) {
      std::string name = to;
      std::replace(name.begin(), name.end(), ':', '-');
      one.command.out = command.out / (is_gguf(to) ? name + ".gguf" : is_slim(to) ? "model.slim" : name);
      if (!is_slim(to)) one.command.entropy_coded = false;
      if (!is_gguf(to)) one.command.base.clear();
    }
    one.adapter = adapter_of(one.command);
    require_known(one.command, one.adapter);
    if (one.adapter == "peft" || one.adapter == "mlx" || one.adapter == "gguf")
      one.adapter_out = adapter_path(one.command, one.adapter);
    all.push_back(std::move(one));
  }
  if (!command.base.empty() && std::none_of(all.begin(), all.end(), [](auto const& one) { return is_gguf(one.command.to); }))
    throw input_error("--base: is used with --to gguf only");
  return all;
}

void check_files(export_command const& command, std::vector<planned_file> const& all) {
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--base", command.base);
  for (planned_file const& one : all) {
    if (is_gguf(one.command.to) || is_slim(one.command.to))
      files.writes_file("--out", one.command.out);
    else
      files.writes_folder("--out", one.command.out, {"model.safetensors", "config.json"});
    if (one.adapter_out.extension() == ".gguf")
      files.writes_file("--adapter", one.adapter_out);
    else if (!one.adapter_out.empty())
      files.writes_folder("--adapter", one.adapter_out, {"adapter_config.json"});
  }
  files.writes_text("--json", command.json);
  files.check();
}

bool has_adapters(export_source const& source) {
  for (linear_info const& l : source.linears)
    if (source.read_adapter(l).rank() > 0) return true;
  return false;
}

/// The same model in another .slim file. Returns what was written, as data.
nlohmann::json write_slim(export_command const& command, checkpoint const& file, model const& dense) {
  auto const begin = std::chrono::steady_clock::now();
  linear_bytes const bytes = recode_slim(*file.container(), command.out, command.entropy_coded);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  auto const weights = static_cast<double>(linear_weight_count(dense));
  auto const written = static_cast<double>(std::filesystem::file_size(command.out));
  std::printf("%s: slim, %s\nlinears: %.3f bits per weight resident, %.3f in the file\n%.1f s, peak memory %s\n",
              command.out.c_str(), readable_bytes(written).c_str(), 8 * bytes.resident / weights, 8 * bytes.in_file / weights,
              seconds, readable_bytes(peak_memory()).c_str());
  return {{"out", command.out.string()},
          {"format", "slim"},
          {"entropy_coded", command.entropy_coded},
          {"linear_bytes_resident", bytes.resident},
          {"linear_bytes_in_file", bytes.in_file},
          {"written_bytes", written},
          {"seconds", seconds}};
}

/// Writes one format. Returns what was written, as data.
nlohmann::json write_format(planned_file const& file, export_source const& source, bool adapted) {
  export_command const& command = file.command;
  auto const begin = std::chrono::steady_clock::now();
  export_options const options{embedding_type("--embeddings", command.embeddings), command.allow_lossy, command.max_rank};
  export_report report;
  if (is_gguf(command.to))
    export_gguf(source, gguf_type_of(command.to), command.base, command.out, options, report);
  else if (command.to == "hf")
    export_dense_folder(source, file.adapter == "merge", command.out, options, report);
  else
    export_folder(source, *find_layer_format(command.to), command.out, options, report);
  if (adapted && file.adapter == "peft") export_peft(source, command.out, file.adapter_out, options, report);
  if (adapted && file.adapter == "mlx") export_mlx_adapter(source, file.adapter_out, options, report);
  if (adapted && file.adapter == "gguf") export_lora_gguf(source, file.adapter_out, options, report);
  if (adapted && file.adapter == "none")
    report.notes.push_back("adapters were left out: this is another model than the one that was evaluated");
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  auto const weights = static_cast<double>(linear_weight_count(*source.dense));
  auto const bits = [&](double bytes) { return fixed(8 * bytes / weights, 3); };
  double const both = report.linear_bytes + report.adapter_bytes;
  table summary({"", "bytes", "bits per weight of the linears"});
  summary.add({"linears", readable_bytes(report.linear_bytes), bits(report.linear_bytes)});
  if (report.adapter_bytes > 0) {
    summary.add({"adapters", readable_bytes(report.adapter_bytes), bits(report.adapter_bytes)});
    summary.add({"both", readable_bytes(both), bits(both)});
  }
  summary.add({"everything else", readable_bytes(report.other_bytes)});
  if (report.embedding_bytes > 0) summary.add({"- of it embedding and head", readable_bytes(report.embedding_bytes)});
  std::printf("%s: %s\n%s", command.out.c_str(), command.to.c_str(), summary.text().c_str());
  if (report.adapter_bytes > 0) std::printf("adapters: %s\n", file.adapter_out.c_str());
  if (report.rounded_layers == 0)
    std::printf("All %zu linears were read back: they are the packed ones, bit for bit.\n", source.linears.size());
  else
    std::printf("%td of %zu linears were rounded; the most, by %.2g of its size: %s.\n", report.rounded_layers,
                source.linears.size(), report.largest_change, report.most_changed.c_str());
  for (std::string const& note : report.notes) std::printf("note: %s\n", note.c_str());
  std::printf("%.1f s, peak memory %s\n", seconds, readable_bytes(peak_memory()).c_str());
  return {{"out", command.out.string()},
          {"format", command.to},
          {"adapter", report.adapter_bytes > 0 ? file.adapter_out.string() : ""},
          {"linear_bytes", report.linear_bytes},
          {"adapter_bytes", report.adapter_bytes},
          {"other_bytes", report.other_bytes},
          {"embedding_bytes", report.embedding_bytes},
          {"bits_per_weight", 8 * both / weights},
          {"rounded_layers", report.rounded_layers},
          {"largest_change", report.largest_change},
          {"most_changed", report.most_changed},
          {"notes", report.notes},
          {"seconds", seconds},
          {"peak_bytes", peak_memory()}};
}

} // namespace

void export_command::run() const {
  auto const files = planned_files(*this);
  if (files.size() > 1) {
    file_plan folder;
    folder.writes_folder("--out", out, {});
    folder.check();
    std::filesystem::create_directory(out);
  }
  check_files(*this, files);
  checkpoint const file(model);
  slim_llm::model const dense = required(load_model(model));
  for (std::string const& note : dense.notes) std::cerr << "note: " << note << "\n";
  export_source const source = source_of(file, dense);
  bool const adapted = has_adapters(source);
  auto written = nlohmann::json::array();
  for (planned_file const& one : files)
    written.push_back(is_slim(one.command.to) ? write_slim(one.command, file, dense) : write_format(one, source, adapted));
  if (!json.empty()) write_json(json, files.size() == 1 ? written.front() : nlohmann::json{{"exports", written}});
}

} // namespace slim_llm
