#include "evaluate/evaluate.hpp"
#include "formats/load.hpp"
#include "support/skip.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

using namespace slim_llm;

namespace {

/// SLIM_MODEL, or where examples/fetch_model.sh puts the model; empty if there is no file.
std::filesystem::path model_path() {
  auto const variable = [](char const* name) { return std::filesystem::path(std::getenv(name) ? std::getenv(name) : ""); };
  auto const cache = variable("SLIM_CACHE").empty() ? variable("HOME") / ".cache/slim" : variable("SLIM_CACHE");
  auto const file = variable("SLIM_MODEL").empty() ? cache / "SmolLM2-135M-Instruct.Q4_1.gguf" : variable("SLIM_MODEL");
  return std::filesystem::exists(file) ? file : std::filesystem::path();
}

struct golden_logits {
  index_t position = 0;
  double largest = 0;
  std::vector<std::pair<index_t, double>> entries;
};

struct golden_file {
  std::vector<int> tokens;
  std::vector<double> nll;
  std::vector<golden_logits> logits;
};

golden_file read_golden() {
  golden_file golden;
  std::ifstream file(SLIM_GOLDEN_DIR "/smollm2_logits.txt");
  for (std::string line, what; std::getline(file, line);) {
    std::istringstream words(line);
    words >> what;
    if (what == "tokens")
      for (int id = 0; words >> id;) golden.tokens.push_back(id);
    if (what == "nll")
      for (double x = 0; words >> x;) golden.nll.push_back(x);
    if (what != "logits") continue;
    golden_logits row;
    words >> row.position >> row.largest;
    char colon = 0;
    double value = 0;
    for (index_t entry = 0; words >> entry >> colon >> value;) row.entries.emplace_back(entry, value);
    golden.logits.push_back(std::move(row));
  }
  return golden;
}

} // namespace

TEST_CASE("SmolLM2-135M: logits and losses agree with the float64 forward pass in NumPy") {
  auto const path = model_path();
  if (path.empty()) return slim_test::skip("SmolLM2-135M-Instruct.Q4_1.gguf is not there; run examples/fetch_model.sh");
  auto const golden = read_golden();
  REQUIRE(golden.tokens.size() == 64);
  REQUIRE(golden.nll.size() == 63);
  REQUIRE(golden.logits.size() == 8);
  auto const m = load_model(path).value();
  CHECK(m.config.rope == rope_style::adjacent_pairs);
  CHECK(linear_weight_count(m) == 106168320);
  forward_pass const pass(m, 64);
  auto hidden = pass.embed(golden.tokens);
  for (index_t n = 0; n < m.config.layers; ++n) with_block(m, n, {}, [&](block const& b) { pass.run_block(b, hidden); });
  auto const head_in = pass.head_input(hidden);
  matrix<float> logits(64, m.config.vocab);
  pass.logits_into(head_in, 0, logits);
  for (auto const& row : golden.logits) {
    double worst = 0;
    for (auto const& [entry, value] : row.entries)
      worst = std::max(worst, std::abs(double(logits(row.position, entry)) - value));
    CHECK(row.entries.size() > 48);
    CHECK(worst / row.largest < 1e-4); // 30 blocks in float: about 1e-5
  }
  auto const nll = pass.token_nll(head_in.view().middle_rows(0, 63), std::span(golden.tokens).subspan(1));
  for (std::size_t t = 0; t < nll.size(); ++t) CHECK(nll[t] == Approx(golden.nll[t]).margin(1e-3));
  auto const whole = evaluate(m, golden.tokens, {.context = 64});
  double mean = 0;
  for (double const x : golden.nll) mean += x / 63;
  CHECK(whole.nll == Approx(mean).margin(1e-4));
}
