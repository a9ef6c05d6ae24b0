/// @file
/// For tests written in other languages: reads a model and token ids, writes numbers as text.
///
///     model_dump MODEL logits CONTEXT ID...                 tokens x vocab logits, a row per line
///     model_dump MODEL nll PROTOCOL CONTEXT MAX_TOKENS FILE  window NLLs; FILE holds ids separated by white space
///     model_dump MODEL config                               name and sizes
///     model_dump MODEL gradients TEACHER CONTEXT keep|recompute ID...
///         cross entropy (TEACHER is -) or divergence from another model, every linear with a random adapter of rank 2: lines
///         "what name rows columns numbers". what: loss, left and right (the adapters), and gradients: d_weight, d_bias,
///         d_left, d_right, d_norm, d_norm_bias, d_embedded

#include "evaluate/evaluate.hpp"
#include "formats/load.hpp"
#include "models/backward.hpp"

#include "slim/core/random.hpp"
#include "slim/training/linear_gradient.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>

namespace {

using namespace slim_llm;

void print_logits(model const& m, std::vector<int> const& ids, index_t window) {
  forward_pass const pass(m, window);
  auto hidden = pass.embed(ids);
  for (index_t n = 0; n < m.config.layers; ++n) with_block(m, n, {}, [&](block const& b) { pass.run_block(b, hidden); });
  matrix<float> logits(hidden.rows(), m.config.vocab);
  pass.logits_into(pass.head_input(hidden), 0, logits);
  for (index_t i = 0; i < logits.rows(); ++i) {
    for (index_t j = 0; j < logits.cols(); ++j) std::printf("%.9g ", static_cast<double>(logits(i, j)));
    std::printf("\n");
  }
}

void print_nll(model const& m, char const* rule, index_t window, index_t max_tokens, char const* file) {
  std::ifstream stream(file);
  std::vector<int> const ids{std::istream_iterator<int>(stream), {}};
  evaluation_config config;
  config.context = window;
  config.max_tokens = max_tokens;
  config.protocol = std::string(rule) == "llama_cpp" ? protocol::llama_cpp : protocol::windows;
  auto const start = std::chrono::steady_clock::now();
  auto const result = evaluate(m, ids, config);
  for (double const nll : result.window_nll) std::printf("%.12g ", nll);
  std::printf("\n");
  std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - start;
  std::fprintf(stderr, "perplexity %.6f nll %.6f +- %.6f over %ld tokens, %.1f s\n", result.perplexity, result.nll,
               result.nll_stderr, static_cast<long>(result.tokens), seconds.count());
}

template <class Numbers>
void print_numbers(char const* what, std::string const& name, index_t rows, index_t cols, Numbers const& numbers) {
  std::printf("%s %s %td %td", what, name.c_str(), rows, cols);
  for (index_t k = 0; k < rows * cols; ++k) std::printf(" %.9g", static_cast<double>(numbers[k]));
  std::printf("\n");
}

void print_matrix(char const* what, std::string const& name, matrix<float> const& m) {
  print_numbers(what, name, m.rows(), m.cols(), m.data());
}

void print_norm(std::string const& name, norm_gradient const& g) {
  print_numbers("d_norm", name, 1, std::ssize(g.weight), g.weight.data());
  if (!g.bias.empty()) print_numbers("d_norm_bias", name, 1, std::ssize(g.bias), g.bias.data());
}

matrix<float> random_factor(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = static_cast<float>(0.3 * slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return m;
}

/// What head_input of all tokens is.
matrix<float> head_inputs(model const& m, std::vector<int> const& ids, index_t window) {
  forward_pass const pass(m, window);
  auto hidden = pass.embed(ids);
  for (block const& b : m.blocks) pass.run_block(b, hidden);
  return pass.head_input(hidden);
}

void print_gradients(model m, char const* teacher_file, index_t window, bool recompute, std::vector<int> const& ids) {
  load_into_memory(m);
  std::uint64_t seed = 40;
  for (block& b : m.blocks)
    for (linear& l : b.linears) {
      l.L = random_factor(l.d_in(), 2, ++seed);
      l.R = random_factor(2, l.d_out(), ++seed);
      print_matrix("left", l.name, l.L);
      print_matrix("right", l.name, l.R);
    }
  std::vector<int> const next = next_tokens(ids, window);
  head_loss loss = [&](matrix_view<float const> h, matrix_view<float> dh) {
    return slim::cross_entropy_into(head_of(m.config, *m.output_head().in_memory()), h, next, dh, 1.0f);
  };
  model teacher;
  matrix<float> teacher_h;
  if (std::string(teacher_file) != "-") {
    auto read = load_model(teacher_file);
    if (!read) throw slim::config_error(read.why());
    teacher = std::move(*read);
    load_into_memory(teacher);
    teacher_h = head_inputs(teacher, ids, window);
    loss = [&](matrix_view<float const> h, matrix_view<float> dh) {
      return slim::divergence_into(head_of(m.config, *m.output_head().in_memory()), h,
                                   head_of(teacher.config, *teacher.output_head().in_memory()), teacher_h, dh, 1.0f);
    };
  }
  auto const found = differentiate(m, window, ids, loss,
                                   [](linear const& l, matrix_view<float const> x, matrix_view<float const> dy) {
                                     matrix<float> dw(l.d_out(), l.d_in()), dl(l.d_in(), 2), dr(2, l.d_out());
                                     std::vector<double> db(l.bias.size());
                                     slim::add_linear_gradients(
                                         {l.weight.view(), l.L.view(), l.R.view()}, x, dy,
                                         {.x = {}, .weight = dw.view(), .left = dl.view(), .right = dr.view(), .bias = db});
                                     print_matrix("d_weight", l.name, dw);
                                     print_matrix("d_left", l.name, dl);
                                     print_matrix("d_right", l.name, dr);
                                     if (!db.empty()) print_numbers("d_bias", l.name, 1, std::ssize(db), db.data());
                                   },
                                   {.recompute = recompute});
  print_numbers("loss", "-", 1, std::ssize(found.losses), found.losses.data());
  for (std::size_t n = 0; n < found.norms.size(); ++n)
    for (std::size_t k = 0; k < found.norms[n].size(); ++k) print_norm(m.blocks[n].norms[k].name, found.norms[n][k]);
  if (!found.final_norm.weight.empty()) print_norm(m.final_norm.name, found.final_norm);
  print_matrix("d_embedded", "-", found.embedded);
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto m = load_model(argv[1]);
  if (!m) {
    std::fprintf(stderr, "%s\n", m.why().c_str());
    return 1;
  }
  for (std::string const& note : m->notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  std::string const what = argv[2];
  try {
    if (what == "config")
      std::printf("%s layers %ld hidden %ld heads %ld/%ld vocab %ld\n", m->config.name.c_str(),
                  static_cast<long>(m->config.layers), static_cast<long>(m->config.hidden), static_cast<long>(m->config.heads),
                  static_cast<long>(m->config.kv_heads), static_cast<long>(m->config.vocab));
    else if (what == "logits" && argc > 4) {
      std::vector<int> ids;
      for (int k = 4; k < argc; ++k) ids.push_back(std::atoi(argv[k]));
      print_logits(*m, ids, std::atoi(argv[3]));
    } else if (what == "gradients" && argc > 6) {
      std::vector<int> ids;
      for (int k = 6; k < argc; ++k) ids.push_back(std::atoi(argv[k]));
      print_gradients(std::move(*m), argv[3], std::atoi(argv[4]), std::string(argv[5]) == "recompute", ids);
    } else if (what == "nll" && argc == 7)
      print_nll(*m, argv[3], std::atoi(argv[4]), std::atoi(argv[5]), argv[6]);
    else
      return 2;
  } catch (slim::error const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
