// Gradients of whole models: what golden/gradient_oracle.py does not compare. Same bits for every executor and with and without
// recomputing; what adjoint lists must have; refusals.

#include "compress/token_energies.hpp"
#include "llm/random_model.hpp"
#include "models/backward.hpp"

#include "slim/testing/executors.hpp"
#include "slim/training/fisher.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;
using Catch::Matchers::Contains;

namespace {

/// All numbers of a backward pass, in the order in which they come.
struct everything {
  std::vector<float> linears;
  std::vector<double> others;
  friend bool operator==(everything const&, everything const&) = default;
};

everything gradients_of(model const& m, std::vector<int> const& ids, index_t window, bool recompute, context const& ctx) {
  everything all;
  matrix<float> const head = m.output_head().to_float();
  auto const next = next_tokens(ids, window);
  auto const add = [&](norm_gradient const& g) {
    all.others.insert(all.others.end(), g.weight.begin(), g.weight.end());
    all.others.insert(all.others.end(), g.bias.begin(), g.bias.end());
  };
  auto const found = differentiate(
      m, window, ids,
      [&](matrix_view<float const> h, matrix_view<float> dh) {
        return slim::cross_entropy_into(head_of(m.config, head), h, next, dh, 1.0f, ctx);
      },
      [&](linear const&, matrix_view<float const> x, matrix_view<float const> dy) {
        for (auto const view : {x, dy})
          for (index_t i = 0; i < view.rows(); ++i)
            all.linears.insert(all.linears.end(), view.row(i), view.row(i) + view.cols());
      },
      {.recompute = recompute}, ctx);
  for (auto const& block : found.norms)
    for (auto const& g : block) add(g);
  add(found.final_norm);
  all.others.insert(all.others.end(), found.losses.begin(), found.losses.end());
  all.linears.insert(all.linears.end(), found.embedded.data(), found.embedded.data() + found.embedded.size());
  return all;
}

} // namespace

TEST_CASE("gradients have the same bits on every executor, with and without recomputing") {
  auto models = random_families();
  models.emplace_back("opt", random_opt());
  models.emplace_back("opt-350m", random_opt(true));
  models.emplace_back("qwen", random_qwen());
  for (auto const& [name, m] : models) {
    INFO(name);
    index_t const window = 40;
    auto const ids = random_tokens(2 * window, m.config.vocab);
    auto const want = gradients_of(m, ids, window, true, {});
    CHECK(gradients_of(m, ids, window, false, {}) == want);
    for (int const threads : {1, 2, 3, 8}) {
      slim::testing::thread_team_executor const team{threads};
      CHECK(gradients_of(m, ids, window, true, slim::testing::on(team)) == want);
    }
    slim::testing::backwards_executor const backwards;
    CHECK(gradients_of(m, ids, window, true, slim::testing::on(backwards)) == want);
  }
}

TEST_CASE("gradients through a block in two parts are those through the whole block, bit for bit") {
  model const m = random_qwen();
  forward_pass const forward(m, 20);
  backward_pass const backward(m, forward);
  block const& b = m.blocks[0];
  block_state state;
  state.hidden = forward.embed(random_tokens(40, m.config.vocab));
  auto const whole = backward.record(b, state), first = backward.record(b, state, {0, 2}),
             second = backward.record(b, first.after, {2, 4});
  CHECK(second.after.hidden == whole.after.hidden);
  std::vector<matrix<float>> want, have;
  auto const keep_in = [](std::vector<matrix<float>>& all) {
    return [&all](linear const&, matrix_view<float const>, matrix_view<float const> dy) { all.emplace_back(dy); };
  };
  block_gradient one, two;
  one.hidden = two.hidden = random_matrix(40, m.config.hidden, 7);
  backward.run_block(b, whole, one, keep_in(want));
  backward.run_block(b, second, two, keep_in(have));
  CHECK(have.size() == 3);
  two.carried.clear();
  backward.run_block(b, first, two, keep_in(have));
  CHECK(have == want);
  CHECK(two.hidden == one.hidden);
  CHECK(two.norms[0].weight == one.norms[0].weight);
}

TEST_CASE("windows are differentiated as if each were alone, to rounding") {
  model m = random_qwen();
  name_linears(m);
  auto const ids = random_tokens(60, m.config.vocab);
  auto const both = token_energies(m, ids, 30), first = token_energies(m, std::span(ids).first(30), 30);
  for (auto const& [name, energy] : first) {
    INFO(name);
    REQUIRE(both.at(name).values.size() == 60);
    for (std::size_t t = 0; t < 30; ++t) CHECK(both.at(name).values[t] == Approx(energy.values[t]).epsilon(1e-4));
  }
}

TEST_CASE("every stage of every family says how gradients pass it") {
  model_config config = random_llama().config;
  config.experts = 3;
  for (model_family const* family : families())
    for (stage const& s : family->stages(config)) {
      INFO(family->name << ": " << s.linears.front());
      CHECK(s.adjoint.input);
      CHECK((s.combine != nullptr) == (s.adjoint.combine != nullptr));
      CHECK((s.after_addition != nullptr) == (s.adjoint.after_addition != nullptr));
    }
}

TEST_CASE("what cannot be differentiated is refused by name") {
  model m = random_llama();
  auto const ids = random_tokens(8, m.config.vocab);
  model_family silent = llama_family;
  silent.name = "newcomer";
  silent.stages = [](model_config const& c) {
    auto stages = llama_family.stages(c);
    for (stage& s : stages) s.adjoint = {};
    return stages;
  };
  m.config.family = &silent;
  CHECK_THROWS_WITH(token_energies(m, ids, 8), Contains("newcomer"));
  for (auto const& [name, other] : random_families())
    if (name == "experts") CHECK_THROWS_WITH(token_energies(other, ids, 8), Contains("experts"));
  m = random_llama();
  m.blocks[1]["up"].weight(0, 0) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(token_energies(m, ids, 8), Contains("block 1"));
}

TEST_CASE("@guided weighs tokens: nothing changes where all count alike, and errors move to where they matter less") {
  model m = random_llama();
  name_linears(m);
  auto const ids = random_tokens(512, m.config.vocab);
  auto const how = find_recipe("gptq-int3@guided");
  REQUIRE(how);
  CHECK(how->guided);
  CHECK(find_recipe("dense@guided").why().find("changes no weights") != std::string::npos);
  compress_config const config{.context = 32, .calib_tokens = 384, .held_out_tokens = 128};
  model guided = m, plain = m;
  compress_in_place(guided, ids, *how, config);
  compress_in_place(plain, ids, *find_recipe("gptq-int3"), config);
  // The energy of the error, weighted by the end loss, in the first block, whose inputs are the same in both models.
  auto const energies = token_energies(m, std::span(ids).first(384), 32);
  forward_pass const pass(m, 32);
  block_state state;
  state.hidden = pass.embed(std::span(ids).first(384));
  double with = 0, without = 0;
  stage const& s = pass.stages().front();
  auto const x = pass.input(s, m.blocks[0], state);
  for (std::string const& role : s.linears) {
    linear const& dense = m.blocks[0][role];
    auto const weights = slim::token_weights(energies.at(dense.name).values, dense.d_in());
    auto const loss = [&](model const& compressed) {
      auto const y = apply(dense, x), other = apply(compressed.blocks[0][role], x);
      double sum = 0;
      for (index_t t = 0; t < y.rows(); ++t)
        for (index_t j = 0; j < y.cols(); ++j)
          sum += static_cast<double>(weights[static_cast<std::size_t>(t)]) *
                 std::pow(static_cast<double>(y(t, j) - other(t, j)), 2);
      return sum;
    };
    with += loss(guided);
    without += loss(plain);
  }
  CHECK(with < without);
}
