#include "evaluate/divergence.hpp"

#include "random_model.hpp"
#include "run/input_error.hpp"
#include "support/temporary_folder.hpp"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

constexpr index_t window_size = 12, windows = 4, vocab = 61;

/// log softmax of every position of a window, in double.
std::vector<std::vector<double>> log_probabilities(model const& m, std::vector<int> const& ids) {
  auto const logits = all_logits(m, ids, window_size);
  std::vector<std::vector<double>> all;
  for (index_t t = 0; t < logits.rows(); ++t) {
    double sum = 0;
    for (index_t j = 0; j < vocab; ++j) sum += std::exp(static_cast<double>(logits(t, j)));
    all.emplace_back();
    for (index_t j = 0; j < vocab; ++j) all.back().push_back(static_cast<double>(logits(t, j)) - std::log(sum));
  }
  return all;
}

block_evaluation evaluated(model const& m, std::vector<int> const& ids, protocol how) {
  block_evaluation run(m, ids, {.context = window_size, .protocol = how});
  for (block const& b : m.blocks) run.advance(b);
  return run;
}

model other_model() {
  model m = random_llama();
  for (linear* l : all_linears(m))
    for (index_t k = 0; k < l->weight.size(); ++k)
      l->weight.data()[k] += 0.05f * static_cast<float>(slim::random_normal(3, static_cast<std::uint64_t>(k)));
  return m;
}

/// What the definitions give for positions `first` and on of every window; the base says nothing below `depth` under its
/// likeliest token.
struct expected_divergence {
  double kl = 0, same = 0, delta = 0, squares = 0, excess = 0;
  std::vector<double> window_kl;

  expected_divergence(model const& base, model const& measured, std::vector<int> const& ids, index_t first,
                      double depth = INFINITY) {
    auto const p = log_probabilities(base, ids), q = log_probabilities(measured, ids);
    double count = 0;
    for (index_t w = 0; w < windows; ++w) {
      double in_window = 0;
      for (index_t k = first; k + 1 < window_size; ++k) {
        auto const t = static_cast<std::size_t>(w * window_size + k), next = static_cast<std::size_t>(ids[t + 1]);
        double here = 0;
        for (std::size_t j = 0; j < vocab; ++j) here += std::exp(p[t][j]) * (p[t][j] - q[t][j]);
        kl += here;
        in_window += here;
        auto const top = [](std::vector<double> const& x) { return std::max_element(x.begin(), x.end()) - x.begin(); };
        same += top(p[t]) == top(q[t]) ? 1 : 0;
        double const said = std::max(p[t][next], *std::max_element(p[t].begin(), p[t].end()) - depth);
        double const d = std::exp(q[t][next]) - std::exp(said);
        delta += d;
        squares += d * d;
        excess += said - q[t][next];
        ++count;
      }
      window_kl.push_back(in_window / static_cast<double>(window_size - 1 - first));
    }
    for (double* const x : {&kl, &same, &delta, &squares, &excess}) *x /= count;
  }
};

void check(divergence const& found, expected_divergence const& expected, double margin) {
  CHECK(found.kl.mean == Approx(expected.kl).margin(margin));
  CHECK(found.same_top.mean == Approx(expected.same).margin(1e-12));
  CHECK(found.delta_p.mean == Approx(expected.delta).margin(margin));
  CHECK(found.rms_delta_p == Approx(std::sqrt(expected.squares)).margin(margin));
  CHECK(found.excess_nll.mean == Approx(expected.excess).margin(margin));
  REQUIRE(found.window_kl.size() == expected.window_kl.size());
  for (std::size_t w = 0; w < expected.window_kl.size(); ++w)
    CHECK(found.window_kl[w] == Approx(expected.window_kl[w]).margin(margin));
  CHECK(found.kl.low <= found.kl.mean);
  CHECK(found.kl.high >= found.kl.mean);
}

} // namespace

TEST_CASE("divergence from a model is what its definition gives in double, by both protocols, for any number of threads") {
  model const base = random_llama(), measured = other_model();
  auto const ids = random_tokens(window_size * windows, vocab);
  for (auto const& [how, first] : {std::pair(protocol::windows, index_t{0}), std::pair(protocol::llama_cpp, window_size / 2)}) {
    auto a = evaluated(base, ids, how), b = evaluated(measured, ids, how);
    auto const found = diverge(a, b);
    check(found, expected_divergence(base, measured, ids, first), 1e-5);
    CHECK(found.kl.mean > 1e-3);
    CHECK(found.tokens == windows * (window_size - 1 - first));
    CHECK(found.nll == Approx(b.finish().nll).epsilon(1e-6));
    CHECK(found.base_nll == Approx(a.finish().nll).epsilon(1e-6));
    context one;
    one.where = slim::detail::shared_serial_executor;
    auto c = evaluated(base, ids, how), d = evaluated(measured, ids, how);
    CHECK(diverge(c, d, one).kl.mean == found.kl.mean);
  }
  auto a = evaluated(base, ids, protocol::windows), b = evaluated(base, ids, protocol::windows);
  auto const itself = diverge(a, b);
  CHECK(itself.kl.mean == 0.0);
  CHECK(itself.same_top.mean == 1.0);
}

TEST_CASE("a file of predictions has llama-perplexity's bytes, and gives the divergence within its rounding") {
  slim_test::temporary_folder const folder;
  model const base = random_llama(), measured = other_model();
  auto const ids = random_tokens(window_size * windows, vocab);
  auto a = evaluated(base, ids, protocol::llama_cpp), b = evaluated(measured, ids, protocol::llama_cpp);
  auto const path = folder / "predictions";
  save_logits(a, ids, path);
  REQUIRE(is_logits_file(path));

  std::string const bytes = slim_test::read_file(path); // read as llama-perplexity does
  constexpr std::size_t rows = window_size - 1 - window_size / 2, row = 2 * (2 * ((vocab + 1) / 2) + 4);
  REQUIRE(bytes.size() == 8 + 12 + 4 * ids.size() + windows * rows * row);
  std::int32_t numbers[3];
  std::memcpy(numbers, bytes.data() + 8, 12);
  CHECK((numbers[0] == window_size && numbers[1] == vocab && numbers[2] == windows));
  CHECK(std::memcmp(bytes.data() + 20, ids.data(), 4 * ids.size()) == 0);
  auto const expected = log_probabilities(base, ids);
  for (std::size_t w = 0; w < windows; ++w)
    for (std::size_t k = 0; k < rows; ++k) {
      char const* const at = bytes.data() + 20 + 4 * ids.size() + (w * rows + k) * row;
      float step = 0, lowest = 0;
      std::memcpy(&step, at, 4);
      std::memcpy(&lowest, at + 4, 4);
      auto const& position = expected[w * window_size + window_size / 2 + k];
      for (std::size_t j = 0; j < vocab; ++j) {
        std::uint16_t code = 0;
        std::memcpy(&code, at + 8 + 2 * j, 2);
        double const read = static_cast<double>(lowest) + static_cast<double>(step) * code;
        double const deepest = *std::max_element(position.begin(), position.end()) - 16;
        REQUIRE(read == Approx(std::max(position[j], deepest)).margin(static_cast<double>(step) / 2 + 2e-5));
      }
    }
  auto const file = logits_file::open(path).value();
  CHECK(file.tokens() == ids);
  check(diverge(file, b), expected_divergence(base, measured, ids, window_size / 2, 16), 2e-4);
  CHECK(diverge(file, a).kl.mean == Approx(0).margin(1e-4));

  auto const refused = [&](std::string const& content, char const* reason) {
    slim_test::write_file(folder / "bad", content);
    auto const opened = logits_file::open(folder / "bad");
    CHECK(!opened);
    INFO(opened.why());
    CHECK(opened.why().find(reason) != std::string::npos);
  };
  refused(bytes.substr(0, 15), "cut off inside its header");
  refused(bytes.substr(0, bytes.size() - 1), "bytes behind its header");
  refused("_nothing_", "is not a file of predictions");
  std::string changed = bytes;
  changed[20 + 3] = 1; // a token of 2^24 and more
  refused(changed, "outside its vocabulary");
  model small = random_llama(40);
  auto c = evaluated(small, random_tokens(window_size * windows, 40), protocol::llama_cpp);
  CHECK_THROWS_AS(diverge(file, c), input_error);
  auto d = evaluated(measured, random_tokens(window_size * (windows - 1), vocab), protocol::llama_cpp);
  CHECK_THROWS_AS(diverge(file, d), input_error);
}
