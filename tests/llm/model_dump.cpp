/// @file
/// For tests written in other languages: reads a model and token ids, writes numbers as text.
///
///     model_dump MODEL logits CONTEXT ID...                 tokens x vocab logits, a row per line
///     model_dump MODEL nll PROTOCOL CONTEXT MAX_TOKENS FILE  window NLLs; FILE holds ids separated by white space
///     model_dump MODEL config                               name and sizes

#include "evaluate/evaluate.hpp"
#include "formats/load.hpp"

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

} // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto const m = load_model(argv[1]);
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
    } else if (what == "nll" && argc == 7)
      print_nll(*m, argv[3], std::atoi(argv[4]), std::atoi(argv[5]), argv[6]);
    else
      return 2;
  } catch (slim::error const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
