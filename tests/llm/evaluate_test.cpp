#include "evaluate/evaluate.hpp"

#include "llm/random_model.hpp"
#include "run/input_error.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

double nll_of(matrix_view<float const> logits, index_t row, int target) {
  double sum = 0;
  for (index_t j = 0; j < logits.cols(); ++j) sum += std::exp(double(logits(row, j)));
  return std::log(sum) - double(logits(row, target));
}

/// Mean NLL of targets first .. context - 1 of one window, from its logits.
double brute_force(model const& m, std::vector<int> const& window, std::size_t first) {
  auto const logits = all_logits(m, window, index_t(window.size()));
  double sum = 0;
  for (std::size_t t = first; t < window.size(); ++t) sum += nll_of(logits, index_t(t) - 1, window[t]);
  return sum / double(window.size() - first);
}

} // namespace

TEST_CASE("a model that knows nothing has a perplexity of the size of its vocabulary") {
  auto m = random_llama(50);
  m.embedding = matrix<float>(50, 24);
  auto const e = evaluate(m, random_tokens(100, 50), {.context = 20});
  CHECK(e.perplexity == Approx(50).epsilon(1e-6));
  CHECK(e.tokens == 5 * 19);
  CHECK(e.nll_stderr < 1e-7);
}

TEST_CASE("windows: every token but a window's first is predicted from its window alone; the tail is dropped") {
  auto const m = random_llama();
  auto const ids = random_tokens(3 * 17 + 16, 61);
  auto const e = evaluate(m, ids, {.context = 17});
  REQUIRE(e.window_nll.size() == 3);
  CHECK(e.tokens == 3 * 16);
  double sum = 0;
  for (int w = 0; w < 3; ++w) {
    double const want = brute_force(m, {ids.begin() + 17 * w, ids.begin() + 17 * w + 17}, 1);
    CHECK(e.window_nll[std::size_t(w)] == Approx(want).epsilon(1e-6));
    sum += want;
  }
  CHECK(e.nll == Approx(sum / 3).epsilon(1e-6));
  CHECK(e.perplexity == Approx(std::exp(sum / 3)).epsilon(1e-5));
  double squares = 0;
  for (double const x : e.window_nll) squares += (x - e.nll) * (x - e.nll);
  CHECK(e.nll_stderr == Approx(std::sqrt(squares / 2 / 3)));
}

TEST_CASE("llama.cpp: targets context/2 + 1 .. context - 1, a token in place of the first of a window") {
  auto const m = random_llama();
  auto const ids = random_tokens(40, 61);
  for (index_t context : {20, 19}) {
    std::vector<int> window(ids.begin(), ids.begin() + context);
    std::size_t const first = std::size_t(context) / 2 + 1;
    auto const plain = evaluate(m, ids, {.context = context, .protocol = protocol::llama_cpp});
    CHECK(plain.tokens == 2 * (context - index_t(first)));
    CHECK(plain.window_nll[0] == Approx(brute_force(m, window, first)).epsilon(1e-6));
    window[0] = 7;
    auto const with_bos = evaluate(m, ids, {.context = context, .protocol = protocol::llama_cpp, .first_token = 7});
    CHECK(with_bos.window_nll[0] == Approx(brute_force(m, window, first)).epsilon(1e-6));
    CHECK(with_bos.window_nll[0] != plain.window_nll[0]);
  }
}

TEST_CASE("what is not finite is an error that names its block or window") {
  auto const ids = random_tokens(40, 61);
  auto const why = [&](auto const& change) -> std::string {
    auto m = random_llama();
    name_linears(m);
    change(m);
    try {
      (void)evaluate(m, ids, {.context = 10});
    } catch (input_error const& error) {
      return error.what();
    }
    return "";
  };
  CHECK(why([](model&) {}).empty());
  CHECK_THAT(why([](model& m) { m.blocks[1]["up"].weight(3, 4) = std::nanf(""); }),
             Catch::Contains("block 1") && Catch::Contains("linear.7"));
  CHECK_THAT(why([](model& m) { m.final_norm.weight[2] = std::nanf(""); }), Catch::Contains("window 0"));
  CHECK_THAT(why([](model& m) { // finite logits that no likelihood survives
               for (float& w : m.final_norm.weight) w *= 1e6f;
             }),
             Catch::Contains("window 0"));
}

TEST_CASE("max_tokens bounds the tokens in windows; stride spreads windows; short texts are one window") {
  auto const m = random_llama();
  auto const ids = random_tokens(100, 61);
  auto const all = evaluate(m, ids, {.context = 10});
  auto const some = evaluate(m, ids, {.context = 10, .max_tokens = 39});
  REQUIRE(some.window_nll.size() == 3);
  CHECK(some.window == 10);
  CHECK(evaluate(m, std::span(ids).first(5), {.context = 64}).window == 5);
  CHECK(some.window_nll[2] == all.window_nll[2]);
  auto const spread = evaluate(m, ids, {.context = 10, .stride = 30});
  REQUIRE(spread.window_nll.size() == 4);
  CHECK(spread.window_nll[3] == Approx(all.window_nll[9]).epsilon(1e-6));
  CHECK(evaluate(m, std::span(ids).first(7), {.context = 10}).tokens == 6);
  CHECK(evaluate(m, ids, {.context = 10, .max_tokens = 5}).tokens == 4);
}

TEST_CASE("results do not depend on how many windows are computed together") {
  auto const m = random_llama();
  auto const ids = random_tokens(40 * 256, 61); // batches of 16 windows, the last one of 8
  index_t reports = 0, last = 0;
  auto const together = evaluate(m, ids, {.context = 256}, {}, [&](index_t done, index_t total) {
    ++reports;
    CHECK(total == 2); // blocks
    CHECK(done > last);
    last = done;
  });
  CHECK(reports == 2);
  CHECK(last == 2);
  for (std::size_t w : {std::size_t(0), std::size_t(15), std::size_t(16), std::size_t(39)}) {
    auto const alone = evaluate(m, std::span(ids).subspan(w * 256, 256), {.context = 256});
    CHECK(alone.nll == Approx(together.window_nll[w]).epsilon(1e-6));
  }
}

TEST_CASE("paired differences are those of the windows") {
  evaluation a, b;
  a.window_nll = {1, 2, 3};
  b.window_nll = {0.5, 1.0, 2.5};
  auto const d = compare(a, b); // 0.5, 1, 0.5
  CHECK(d.mean == Approx(2.0 / 3));
  CHECK(d.standard_error == Approx(1.0 / 6));
  b.window_nll.pop_back();
  CHECK_THROWS_AS(compare(a, b), slim::shape_error);
}

TEST_CASE("nothing to predict is refused") {
  auto const m = random_llama();
  auto const ids = random_tokens(10, 61);
  CHECK_THROWS_AS(evaluate(m, ids, {.context = 1}), slim::config_error);
  CHECK_THROWS_AS(evaluate(m, std::span(ids).first(1), {.context = 4}), slim::config_error);
  CHECK_THROWS_AS(evaluate(m, ids, {.context = 4, .stride = -1}), slim::config_error);
  CHECK_THROWS_AS(evaluate(m, ids, {.context = 2, .protocol = protocol::llama_cpp}), slim::config_error);
}
