#include "commands.hpp"
#include "models/forward.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

namespace slim_llm {
namespace {

/// ||a - b||_F / ||a||_F; 0 if both are 0.
double relative_difference(matrix_view<float const> a, matrix_view<float const> b) {
  double change = 0, all = 0;
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) {
      double const x = static_cast<double>(a(i, j)), d = x - static_cast<double>(b(i, j));
      change += d * d;
      all += x * x;
    }
  return change == 0 ? 0.0 : std::sqrt(change / all);
}

struct layer_difference {
  std::string name;
  index_t d_out = 0, d_in = 0, differing = 0; ///< weights that are not equal
  double weights = 0, outputs = 0;
};

/// @throws input_error unless both models have the same linears in the same order.
void require_same_linears(diff_command const& command, workspace const& a, workspace const& b) {
  auto const of_a = linears_of(a.weights), of_b = linears_of(b.weights);
  std::string const models = command.a.string() + " and " + command.b.string();
  if (of_a.size() != of_b.size())
    throw input_error(slim::message(models, ": one has ", of_a.size(), " linears, the other ", of_b.size()));
  for (std::size_t k = 0; k < of_a.size(); ++k) {
    if (of_a[k].d_out != of_b[k].d_out || of_a[k].d_in != of_b[k].d_in || of_a[k].role != of_b[k].role)
      throw input_error(slim::message(models, ": '", of_a[k].name, "' is ", of_a[k].d_out, " x ", of_a[k].d_in, ", '",
                                      of_b[k].name, "' is ", of_b[k].d_out, " x ", of_b[k].d_in));
    if (of_a[k].name != of_b[k].name)
      throw input_error(models + ": '" + of_a[k].name + "' and '" + of_b[k].name +
                        "': files of two kinds order rows of a weight differently; compare models of one kind");
  }
}

class block_differences {
public:
  block_differences(workspace const& a, workspace const& b, std::span<int const> tokens)
      : a_(a), b_(b), pass_(a.weights, std::max<index_t>(1, static_cast<index_t>(tokens.size()))), has_text_(!tokens.empty()) {
    if (has_text_) hidden_ = pass_.embed(tokens);
  }

  /// Block `number` of both; the text moves on through that of the first model.
  void add(index_t number, std::vector<layer_difference>& all) {
    block const of_a = load_block(a_.weights, number), of_b = load_block(b_.weights, number);
    std::size_t const first = all.size();
    for (linear const& l : of_a.linears) {
      matrix<float> const& other = of_b[l.role].weight;
      layer_difference found{l.name, l.d_out(), l.d_in(), 0, relative_difference(l.weight.view(), other.view()), NAN};
      for (index_t k = 0; k < l.weight.size(); ++k) found.differing += l.weight.data()[k] != other.data()[k] ? 1 : 0;
      all.push_back(found);
    }
    if (!has_text_) return;
    pass_.run_block(of_a, hidden_, [&](stage const& s, matrix_view<float const> x) {
      for (std::size_t k = 0; k < of_a.linears.size(); ++k) {
        linear const& l = of_a.linears[k];
        if (std::find(s.linears.begin(), s.linears.end(), l.role) == s.linears.end()) continue;
        all[first + k].outputs = relative_difference(apply(l, x).view(), apply(of_b[l.role], x).view());
      }
    });
  }

private:
  workspace const &a_, &b_;
  forward_pass pass_;
  bool has_text_;
  matrix<float> hidden_;
};

} // namespace

void diff_command::run() const {
  if (max_tokens < 1) throw input_error(slim::message("--max-tokens ", max_tokens, ": at least 1 is needed"));
  file_plan files;
  files.reads_model(a);
  files.reads_model(b);
  files.reads_file("--text", text);
  files.writes_text("--json", json);
  files.check();
  workspace const first(a), second(b);
  require_same_linears(*this, first, second);
  std::vector<int> tokens;
  if (!text.empty()) tokens = tokens_of(first.words, text);
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(max_tokens)));
  std::vector<layer_difference> layers;
  {
    progress_line line("comparing", "block");
    block_differences blocks(first, second, tokens);
    for (index_t n = 0; n < first.weights.config.layers; ++n) {
      blocks.add(n, layers);
      line.show(n + 1, first.weights.config.layers);
    }
  }
  table rows({"linear", "shape", "weights that differ", "relative difference of weights", "of outputs"});
  auto list = nlohmann::json::array();
  index_t equal = 0;
  for (auto const& layer : layers) {
    equal += layer.differing == 0 ? 1 : 0;
    rows.add({layer.name, std::to_string(layer.d_out) + " x " + std::to_string(layer.d_in), std::to_string(layer.differing),
              fixed(layer.weights, 6), tokens.empty() ? "" : fixed(layer.outputs, 6)});
    list.push_back({{"name", layer.name},
                    {"differing", layer.differing},
                    {"weights", layer.weights},
                    {"outputs", tokens.empty() ? nlohmann::json() : nlohmann::json(layer.outputs)}});
  }
  std::printf("%s%zu linears, %td of them equal\n", rows.text().c_str(), layers.size(), equal);
  if (!json.empty()) write_json(json, {{"a", a.string()}, {"b", b.string()}, {"equal", equal}, {"layers", list}});
}

} // namespace slim_llm
