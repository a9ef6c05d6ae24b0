#include "commands.hpp"
#include "models/backward.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include "slim/io/safetensors/writer.hpp"
#include "slim/training/fisher.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <map>

namespace slim_llm {
namespace {

/// What gradients say of one linear.
struct linear_fisher {
  std::string role;
  index_t d_in = 0;
  std::vector<float> energies;                   ///< of the tokens
  std::optional<slim::fisher_diagonal> diagonal; ///< of the weights, if it is wanted
};

void write_diagonals(std::filesystem::path const& file, std::map<std::string, linear_fisher> const& all) {
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& [name, of] : all) {
    auto const& diagonal = *of.diagonal;
    tensors.push_back({name, slim::tensor_type::f32, {}, {diagonal.sum().rows(), diagonal.sum().cols()}, [&diagonal] {
                         matrix<float> mean(diagonal.sum());
                         auto const count = static_cast<float>(diagonal.sequences());
                         for (index_t k = 0; k < mean.size(); ++k) mean.data()[k] /= count;
                         return mean;
                       }});
  }
  auto const done = slim::save_safetensors(file, std::move(tensors), {{"format", "slim"}, {"holds", "fisher"}});
  if (!done) throw input_error(done.why());
}

} // namespace

void fisher_command::run() const {
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
  auto tokens = tokens_of(work.words, text);
  if (max_tokens > 0 && std::ssize(tokens) > max_tokens) tokens.resize(static_cast<std::size_t>(max_tokens));
  index_t const window = std::min(context, std::ssize(tokens)), windows = std::ssize(tokens) / window;

  matrix<float> const head = work.weights.output_head().to_float();
  std::map<std::string, linear_fisher> all;
  auto const start = std::chrono::steady_clock::now();
  double nll = 0;
  {
    progress_line line("gradients of the text", "window");
    for (index_t w = 0; w < windows; ++w) {
      auto const part =
          std::span<int const>(tokens).subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window));
      auto const next = next_tokens(part, window);
      auto const found = differentiate(
          work.weights, window, part,
          [&](matrix_view<float const> h, matrix_view<float> dh) {
            return slim::cross_entropy_into(head_of(work.weights.config, head), h, next, dh, 1.0f);
          },
          [&](linear const& l, matrix_view<float const> x, matrix_view<float const> dy) {
            linear_fisher& of = all[l.name];
            of.role = l.role;
            of.d_in = l.d_in();
            auto const energy = slim::token_energy(dy);
            of.energies.insert(of.energies.end(), energy.begin(), energy.end());
            if (out.empty()) return;
            if (!of.diagonal) of.diagonal.emplace(l.d_out(), l.d_in());
            of.diagonal->observe(x, dy);
          });
      for (double const loss : found.losses) nll += loss;
      line.show(w + 1, windows);
    }
  }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!out.empty()) write_diagonals(out, all);

  table shown({"tensor", "mean squared gradient", "effective tokens", "weighted by @guided"});
  nlohmann::json layers = nlohmann::json::array();
  for (auto const& [name, of] : all) {
    double sum = 0;
    for (float const e : of.energies) sum += static_cast<double>(e);
    double const mean = of.energies.empty() ? 0 : sum / static_cast<double>(of.energies.size());
    double const effective = slim::effective_tokens(of.energies);
    double const weighted = slim::effective_tokens(slim::token_weights(of.energies, of.d_in));
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.3e", mean);
    shown.add({name, digits, fixed(effective, 0), fixed(weighted, 0)});
    layers.push_back({{"tensor", name}, {"mean_square", mean}, {"effective_tokens", effective}, {"weighted_tokens", weighted}});
  }
  double const predicted = static_cast<double>(windows * (window - 1));
  std::printf("%s\n%td windows of %td tokens, nll %.5f, %.0f s, peak memory %s\n", shown.text().c_str(), windows, window,
              nll / predicted, seconds, readable_bytes(peak_memory()).c_str());
  if (json.empty()) return;
  write_json(json, {{"windows", windows},
                    {"context", window},
                    {"nll", nll / predicted},
                    {"seconds", seconds},
                    {"peak_bytes", peak_memory()},
                    {"layers", layers}});
}

} // namespace slim_llm
