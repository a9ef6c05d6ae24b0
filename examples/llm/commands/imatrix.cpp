#include "commands.hpp"
#include "compress/rank_plan.hpp"
#include "formats/imatrix_file.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace slim_llm {

void imatrix_command::run() const {
  require_context(context);
  if (max_tokens < 0 || max_tokens == 1)
    throw input_error(slim::message("--max-tokens ", max_tokens, ": 2 or more are needed, or 0 for all"));
  file_plan files;
  files.reads_model(model);
  files.reads_file("--text", text);
  files.writes_file("--out", out);
  files.writes_text("--json", json);
  files.check();
  workspace const work(model);
  note_long_context(context, work.weights.config);
  auto const places = imatrix_places(work.file, work.weights);
  auto tokens = llama_cpp_tokens_of(work.words, text);
  if (max_tokens > 0 && std::ssize(tokens) > max_tokens) tokens.resize(static_cast<std::size_t>(max_tokens));
  index_t const window = std::min(context, std::ssize(tokens)), windows = std::ssize(tokens) / window;
  tokens.resize(static_cast<std::size_t>(windows * window));
  if (work.words.adds_bos())
    for (index_t w = 0; w < windows; ++w) tokens[static_cast<std::size_t>(w * window)] = *work.words.bos();
  std::map<std::string, slim::calibration> sums;
  {
    progress_line line("summing squares", "block");
    for_each_dense_linear(
        work.weights, tokens, window, {}, [&](linear const& l, slim::calibration const& calib) { sums.emplace(l.name, calib); },
        {}, [&](index_t done, index_t total) { line.show(done, total); });
  }
  write_imatrix(out, places, sums, {text.filename().string(), windows, window});
  std::printf("%s: sums of squares of %zu linears over %td windows of %td tokens; peak memory %s\n", out.c_str(), sums.size(),
              windows, window, readable_bytes(peak_memory()).c_str());
  if (!json.empty())
    write_json(json, {{"out", out.string()},
                      {"linears", sums.size()},
                      {"windows", windows},
                      {"context", window},
                      {"peak_bytes", peak_memory()}});
}

} // namespace slim_llm
